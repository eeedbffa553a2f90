//! What the law of offload sees, and what it answers.

use std::time::Duration;

use dynamicswap_types::{Bytes, PageCount};

use super::reason::OffloadReason;
use crate::allow::Device;
use crate::breaker::Passage;
use crate::observation::Pressure;
use crate::reason::Level;

/// What has happened to a container since it was last probed, or first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinceProbe {
    /// How long ago that was.
    pub elapsed: Duration,
    /// Growth of `some`'s total.
    pub stalled: Duration,
    /// Growth of `pgscan` in `memory.stat`.
    pub scanned: PageCount,
    /// Growth of `pgsteal`.
    pub stolen: PageCount,
    /// Growth of `workingset_refault_anon`.
    pub refaulted: PageCount,
}

/// What is seen of a container, as far as this law needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadSight {
    /// In RAM (`memory.current`).
    pub current: Bytes,
    /// The lower of `memory.max` and `memory.high`; none if neither is set.
    pub limit: Option<Bytes>,
    /// `memory.min`.
    pub min: Bytes,
    /// `memory.low`.
    pub low: Bytes,
    /// An estimate of its working set; zero if there is none.
    pub working_set: Bytes,
    /// What its swap limit still lets out.
    pub swap_room: Bytes,
    /// Anonymous memory in RAM.
    pub anon: Bytes,
    /// Page cache in RAM.
    pub file: Bytes,
    /// Of the page cache, what the kernel can drop without a write (`inactive_file` less dirty): it
    /// does not count as use of the limit.
    pub droppable: Bytes,
    /// How fast `current` grew of late, per second.
    pub growth_per_s: Bytes,
    /// What the node asks of it now ([`crate::ask`]).
    pub asked: Bytes,
    /// Its pressure; none if the host does not say.
    pub pressure: Option<Pressure>,
    /// Its level.
    pub level: Level,
    /// Since it was last probed.
    pub since_probe: SinceProbe,
    /// Whether its pages are coming home.
    pub returning: bool,
    /// How long ago the last of them came; none if none ever did.
    pub since_return: Option<Duration>,
}

/// What is known of where the pages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The device.
    pub device: Device,
    /// What the breaker lets through.
    pub passage: Passage,
    /// 99th percentile of a swap-in of late; none if too few were measured.
    pub p99: Option<Duration>,
    /// The same when the device was calm: the lowest that was measured over hours.
    pub reference_p99: Duration,
    /// Free in the pool, for this node.
    pub free: Bytes,
    /// What the node swaps out per second.
    pub writes_per_s: Bytes,
}

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are.
    #[default]
    Active,
    /// They are only told.
    DryRun,
    /// None is made.
    Paused,
}

/// What shall happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadDeed {
    /// Nothing.
    Hold,
    /// So much is written to `memory.reclaim`.
    Reclaim(Bytes),
    /// So much would be.
    WouldReclaim(Bytes),
}

impl OffloadDeed {
    /// What is, or would be, reclaimed.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        match self {
            Self::Hold => Bytes::ZERO,
            Self::Reclaim(bytes) | Self::WouldReclaim(bytes) => bytes,
        }
    }
}

/// A decision and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// What shall happen.
    pub deed: OffloadDeed,
    /// Why.
    pub reason: OffloadReason,
}

impl Offload {
    /// Whether the time since the last probe has been judged, so that the caller begins a new
    /// [`SinceProbe`].
    #[must_use]
    pub const fn is_look(&self) -> bool {
        matches!(
            self.reason,
            OffloadReason::Probe(_)
                | OffloadReason::Pressed { .. }
                | OffloadReason::Inaccurate { .. }
                | OffloadReason::DeviceSlow { .. }
                | OffloadReason::WriteRate { .. }
        )
    }
}
