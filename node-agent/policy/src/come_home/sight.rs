//! What the law of return sees, and what it reads out of it: quiet, room, what may come home.

use std::time::Duration;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use super::settings::ReturnSettings;
use crate::share::Share;

/// How quiet a container or the node is.
///
/// A container whose pages are out waits for each of them, and those waits are pressure to the
/// kernel as well. Return ends them, so they must not forbid it: where the kernel reclaims
/// nothing, nothing is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rest {
    /// For how long its level has been Calm; none if it is not, or not known.
    pub calm_for: Option<Duration>,
    /// For how long the kernel has not scanned its pages by itself (`pgscan`, without what the
    /// agent asked for); none if the host does not say.
    pub unscanned_for: Option<Duration>,
    /// Total of `some` since the cgroup was made; zero if the host does not say.
    pub stalled: Duration,
}

impl Rest {
    /// For how long it has been calm, or has lacked nothing.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        let calm = self.calm_for.unwrap_or_default();
        calm.max(self.unscanned_for.unwrap_or_default())
    }

    /// A sign of pressure since the last step: the share of time that some task waited, all of it
    /// if the level says so.
    pub(super) fn sign(
        &self,
        stalled_before: Duration,
        elapsed: Duration,
        settings: &ReturnSettings,
    ) -> Option<Share> {
        if self.quiet_for() == Duration::ZERO {
            return Some(Share::ALL);
        }
        let unscanned = self.unscanned_for.is_some_and(|time| time >= elapsed);
        if unscanned || elapsed == Duration::ZERO {
            return None;
        }
        let share = Share::of(self.stalled.saturating_sub(stalled_before), elapsed);
        (share > settings.stall_max).then_some(share)
    }
}

/// The node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnNode {
    /// Its quiet.
    pub rest: Rest,
    /// `MemAvailable`.
    pub available: Bytes,
    /// `MemTotal`.
    pub total: Bytes,
}

/// A container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnSight {
    /// Whether its policy lets pages come home, is neither paused nor a dry run.
    pub enabled: bool,
    /// Its quiet.
    pub rest: Rest,
    /// In RAM, without what the kernel can drop.
    pub used: Bytes,
    /// The lower of `memory.max` and `memory.high`; none if neither is set.
    pub limit: Option<Bytes>,
    /// Swapped out.
    pub swapped: Bytes,
    /// Of that, what probing sent away ([`crate::SwapAccount`]).
    pub probed: Bytes,
    /// Pages that it swapped in during the last minute.
    pub swap_ins_per_min: u64,
}

impl ReturnSight {
    fn room(&self) -> Option<Bytes> {
        Some(self.limit?.saturating_sub(self.used))
    }

    /// Its room and the upper mark, if it is below it.
    pub(super) fn too_small(&self, settings: &ReturnSettings) -> Option<(Bytes, Bytes)> {
        let room = self.room()?;
        let start = settings.start_room(self.limit?);
        (room < start).then_some((room, start))
    }

    /// What fits above the lower mark; anything without a limit.
    pub(super) fn room_above_stop(&self, settings: &ReturnSettings) -> Bytes {
        let above = self
            .limit
            .map(|limit| self.used.saturating_add(settings.stop_room(limit)))
            .zip(self.limit)
            .map(|(taken, limit)| limit.saturating_sub(taken));
        above.unwrap_or(Bytes::new(u64::MAX))
    }

    /// What may come home: all that pressure took, and what probing sent only if the container
    /// reads so much of it back that it was not cold, and there is plenty of room.
    pub(super) fn returnable(&self, node_plenty: bool, settings: &ReturnSettings) -> Bytes {
        let swapped = self.swapped.get() / PAGE_SIZE.get();
        let wanted = swapped > 0
            && self.swap_ins_per_min >= settings.wanted_pages_min
            && Share::ratio(self.swap_ins_per_min, swapped) >= settings.wanted_per_min;
        let plenty = node_plenty
            && self.limit.is_none_or(|limit| {
                let start = settings.start_room(limit);
                self.room() >= Some(start.saturating_add(start))
            });
        if wanted && plenty {
            self.swapped
        } else {
            self.swapped.saturating_sub(self.probed)
        }
    }
}
