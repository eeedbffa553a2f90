//! The law of offload: how much of one container goes out now.
//!
//! Three rules, the first that applies decides: room below the container's limit, its share of
//! what the node is short of, and probing at near-zero pressure, which is TMO's law with a term
//! for the device. Owns no state: what it needs of the past comes with the sight.

mod reason;
mod settings;
mod sight;

use std::time::Duration;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use crate::allow::Device;
use crate::breaker::Passage;
use crate::reason::Level;
use crate::share::Share;

pub use reason::{FloorBy, OffloadReason, ProbeFigures};
pub use settings::{AheadSettings, OffloadSettings, RECLAIM_MIN};
pub(crate) use settings::{seconds_within, share_within};
pub use sight::{Backend, Mode, Offload, OffloadDeed, OffloadSight, SinceProbe};

/// Decides on one container.
#[must_use]
pub fn offload(
    sight: &OffloadSight,
    backend: &Backend,
    mode: Mode,
    settings: &OffloadSettings,
) -> Offload {
    let settings = settings.bounded();
    let law = Law {
        sight,
        backend,
        settings: &settings,
    };
    let barred = match mode {
        Mode::Paused => Some(OffloadReason::Paused),
        Mode::Active | Mode::DryRun => law.barred(),
    };
    let ruling = match barred {
        Some(reason) => Err(reason),
        None => law
            .ahead()
            .or_else(|| law.node())
            .unwrap_or_else(|| law.probe()),
    };
    match ruling {
        Ok((bytes, reason)) => Offload {
            deed: match mode {
                Mode::Active => OffloadDeed::Reclaim(bytes),
                Mode::DryRun | Mode::Paused => OffloadDeed::WouldReclaim(bytes),
            },
            reason,
        },
        Err(reason) => Offload {
            deed: OffloadDeed::Hold,
            reason,
        },
    }
}

/// Bytes with their reason, or why none.
type Answer = Result<(Bytes, OffloadReason), OffloadReason>;

struct Law<'a> {
    sight: &'a OffloadSight,
    backend: &'a Backend,
    settings: &'a OffloadSettings,
}

impl Law<'_> {
    /// What bars every rule.
    fn barred(&self) -> Option<OffloadReason> {
        if self.sight.returning {
            return Some(OffloadReason::Returning);
        }
        if self.backend.device != Device::Open {
            return Some(OffloadReason::Device(self.backend.device));
        }
        if self.backend.passage == Passage::Blocked {
            return Some(OffloadReason::BreakerOpen);
        }
        if self.sight.swap_room < PAGE_SIZE {
            return Some(OffloadReason::NotAllowed);
        }
        (self.backend.free < PAGE_SIZE).then_some(OffloadReason::PoolFull {
            free: self.backend.free,
            reserve: Bytes::ZERO,
        })
    }

    /// Room below the limit. Only `memory.min` stands against it, which promises more than a
    /// limit of the same container can.
    fn ahead(&self) -> Option<Answer> {
        let limit = self.sight.limit?;
        let room = self.settings.ahead.room(limit, self.sight.growth_per_s);
        let used = self.sight.current.saturating_sub(self.sight.droppable);
        let missing = used.saturating_add(room).saturating_sub(limit);
        if missing == Bytes::ZERO {
            return None;
        }
        let reason = OffloadReason::Ahead { used, limit, room };
        let floor = (self.sight.min, FloorBy::Min);
        Some(self.take(missing.max(RECLAIM_MIN), floor, self.backend.free, reason))
    }

    /// The container's share of what the node is short of.
    fn node(&self) -> Option<Answer> {
        let asked = self.sight.asked;
        if asked == Bytes::ZERO {
            return None;
        }
        let floor = highest([
            (self.sight.min, FloorBy::Min),
            (self.sight.low, FloorBy::Low),
        ]);
        let reason = OffloadReason::NodeShort { asked };
        Some(self.take(asked, floor, self.backend.free, reason))
    }

    /// Probing: the ratio for the time since the last probe, times what each term leaves of it.
    fn probe(&self) -> Answer {
        let (sight, settings) = (self.sight, self.settings);
        if self.backend.passage == Passage::AheadOnly {
            return Err(OffloadReason::BreakerTrial);
        }
        if let Some(since) = sight.since_return.filter(|it| *it < settings.after_return) {
            let hold = settings.after_return;
            return Err(OffloadReason::JustReturned { since, hold });
        }
        let elapsed = sight.since_probe.elapsed;
        let not_due = OffloadReason::NotDue {
            elapsed,
            interval: settings.interval,
        };
        if elapsed < settings.interval {
            return Err(not_due);
        }
        let figures = self.figures()?;
        let step_max = settings.step_max.of_bytes(sight.current);
        let wanted = self.at_pace(&figures).min(step_max);
        if wanted < RECLAIM_MIN.min(step_max) {
            return Err(not_due);
        }
        let (max, per_s) = (settings.writes_per_s_max, self.backend.writes_per_s);
        let left = max.saturating_sub(per_s);
        if left == Bytes::ZERO {
            return Err(OffloadReason::WriteRate { per_s, max });
        }
        let (free, reserve) = (self.backend.free, settings.pool_reserve);
        let pool = free.saturating_sub(reserve);
        if pool < PAGE_SIZE {
            return Err(OffloadReason::PoolFull { free, reserve });
        }
        let bytes = wanted.min(times_seconds(left, elapsed));
        self.take(bytes, self.floor(), pool, OffloadReason::Probe(figures))
    }

    /// The terms of a probe, or the one that stops it.
    fn figures(&self) -> Result<ProbeFigures, OffloadReason> {
        let (sight, settings) = (self.sight, self.settings);
        let since = &sight.since_probe;
        let stall = sight.pressure.ok_or(OffloadReason::PressureUnknown)?.some;
        let grown = Share::of(since.stalled, since.elapsed);
        let pressure = grown.max(stall.avg10).max(stall.avg60);
        let max = settings.pressure_max;
        if pressure >= max || sight.level != Level::Calm {
            return Err(OffloadReason::Pressed { pressure, max });
        }
        let accuracy = Share::ratio(since.refaulted.get(), since.stolen.get()).rest();
        // Where nothing was taken, nothing tells how well it was chosen.
        let accuracy = if since.stolen.get() == 0 {
            Share::ALL
        } else {
            accuracy
        };
        let min = settings.accuracy_min;
        if accuracy < min {
            return Err(OffloadReason::Inaccurate { accuracy, min });
        }
        let efficiency = Share::ratio(since.stolen.get(), since.scanned.get());
        let by_efficiency = if efficiency < settings.efficiency_min {
            efficiency
        } else {
            Share::ALL
        };
        Ok(ProbeFigures {
            current: sight.current,
            elapsed: since.elapsed,
            pressure,
            by_pressure: Share::ratio(
                u64::from(max.hundredths() - pressure.hundredths()),
                u64::from(max.hundredths()),
            ),
            by_device: self.by_device()?,
            accuracy,
            by_efficiency,
        })
    }

    /// The term of the device: its reference p99 as a share of the measured one, nothing from a
    /// multiple on. A device that nobody reads from has no p99 and is not slow.
    fn by_device(&self) -> Result<Share, OffloadReason> {
        let reference = self.backend.reference_p99;
        let Some(p99) = self.backend.p99.filter(|p99| *p99 > reference) else {
            return Ok(Share::ALL);
        };
        let multiple_max = self.settings.latency_multiple_max;
        if p99 >= reference.saturating_mul(multiple_max) {
            return Err(OffloadReason::DeviceSlow {
                p99,
                reference,
                multiple_max,
            });
        }
        Ok(Share::of(reference, p99))
    }

    /// What the ratio and the terms come to for the time since the last probe.
    fn at_pace(&self, figures: &ProbeFigures) -> Bytes {
        let share = figures
            .by_pressure
            .times(figures.by_device)
            .times(figures.accuracy)
            .times(figures.by_efficiency);
        let per_interval = self.settings.ratio.of_bytes(figures.current);
        let elapsed = figures.elapsed.as_millis();
        let interval = self.settings.interval.as_millis().max(1);
        let bytes = u128::from(share.of_bytes(per_interval).get()).saturating_mul(elapsed);
        Bytes::new(u64::try_from(bytes / interval).unwrap_or(u64::MAX))
    }

    /// What a probe leaves in RAM in any case.
    fn floor(&self) -> (Bytes, FloorBy) {
        highest([
            (self.sight.min, FloorBy::Min),
            (self.sight.low, FloorBy::Low),
            (self.sight.working_set, FloorBy::WorkingSet),
            (self.settings.size_min, FloorBy::Size),
        ])
    }

    /// So much as floor, contents, swap limit and pool let go, in whole pages.
    fn take(
        &self,
        wanted: Bytes,
        floor: (Bytes, FloorBy),
        pool: Bytes,
        reason: OffloadReason,
    ) -> Answer {
        let current = self.sight.current;
        let above_floor = whole_pages(current.saturating_sub(floor.0));
        if above_floor == Bytes::ZERO {
            return Err(OffloadReason::AtFloor {
                current,
                floor: floor.0,
                by: floor.1,
            });
        }
        let swappable = self.sight.anon.min(self.sight.swap_room).min(pool);
        let content = swappable.saturating_add(self.sight.file);
        let bytes = whole_pages(wanted.min(above_floor).min(content));
        if bytes == Bytes::ZERO {
            return Err(OffloadReason::Nothing);
        }
        debug_assert!(current.saturating_sub(bytes) >= floor.0);
        Ok((bytes, reason))
    }
}

fn highest<const N: usize>(floors: [(Bytes, FloorBy); N]) -> (Bytes, FloorBy) {
    // The last of equals is taken by `max`; the first is the one with the better right.
    let best = floors.into_iter().rev().max_by_key(|(bytes, _)| *bytes);
    best.unwrap_or((Bytes::ZERO, FloorBy::Size))
}

fn whole_pages(bytes: Bytes) -> Bytes {
    Bytes::new(bytes.get() / PAGE_SIZE.get() * PAGE_SIZE.get())
}

/// What a rate comes to in a time.
pub(crate) fn times_seconds(per_s: Bytes, time: Duration) -> Bytes {
    let bytes = u128::from(per_s.get()).saturating_mul(time.as_millis()) / 1_000;
    Bytes::new(u64::try_from(bytes).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
