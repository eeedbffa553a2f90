//! The constants of the breaker, their bounds, and where each default comes from.

use std::time::Duration;

use crate::offload::{seconds_within, share_within};
use crate::share::Share;

/// A mark, and how long a figure must be at or over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<T> {
    /// The mark.
    pub over: T,
    /// How long.
    pub sustained: Duration,
}

/// Constants of the breaker. Our own but for their anchors: no peer has a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Share of time in which all tasks wait. 40 % for 10 s: systemd-oomd kills at 60 % for 30 s,
    /// and the breaker must have acted by then. 10 to 100 %, 1 to 60 s.
    pub full: Mark<Share>,
    /// Pages that come back although they had only just gone out, as a share of swap-ins or
    /// swap-outs, whichever are more. 80 % for 20 s: above it swapping does nearly nothing but
    /// undo itself. 50 to 100 %, 5 to 120 s.
    pub refaults: Mark<Share>,
    /// "Only just". 60 s, half of g-swap's youngest cold page (120 s).
    pub refault_age: Duration,
    /// Refaults count only from so many swap-ins per second on. 200, the rate that wasp-agent's
    /// alert calls thrashing. From 1.
    pub swap_ins_per_s_min: u64,
    /// 99th percentile of a swap-in. 50 ms for 30 s, the mark of our alert on read latency.
    /// 1 ms to 10 s, 5 to 300 s.
    pub p99: Mark<Duration>,
    /// Whether swap limits stay at what is in use while it is open, so that the kernel sends
    /// nothing either. Off: who then reaches its limit is killed, with remote memory free
    /// (docs/pressure.md has the figures). For nodes where a kill is better than a slow device.
    pub hold_limits: bool,
    /// How long it is open the first time. 30 s. 5 to 300 s.
    pub open_min: Duration,
    /// And at most, when it opens again and again: each time doubles. 300 s. From `open_min` to
    /// 30 minutes.
    pub open_max: Duration,
    /// Quiet time of the half-open breaker before it closes. 20 s, so that each kernel average
    /// over 10 s has been replaced. 5 to 300 s.
    pub trial: Duration,
    /// How long after closing it forgets that it was open. 600 s. From 60 s.
    pub forget_after: Duration,
}

impl BreakerSettings {
    /// The same with each constant within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        let open_min = seconds_within(self.open_min, 5, 300);
        Self {
            full: Mark {
                over: share_within(self.full.over, 1_000, 10_000),
                sustained: seconds_within(self.full.sustained, 1, 60),
            },
            refaults: Mark {
                over: share_within(self.refaults.over, 5_000, 10_000),
                sustained: seconds_within(self.refaults.sustained, 5, 120),
            },
            refault_age: self.refault_age,
            swap_ins_per_s_min: self.swap_ins_per_s_min.max(1),
            p99: Mark {
                over: self
                    .p99
                    .over
                    .clamp(Duration::from_millis(1), Duration::from_secs(10)),
                sustained: seconds_within(self.p99.sustained, 5, 300),
            },
            hold_limits: self.hold_limits,
            open_min,
            open_max: self.open_max.clamp(open_min, Duration::from_secs(1_800)),
            trial: seconds_within(self.trial, 5, 300),
            forget_after: self.forget_after.max(Duration::from_secs(60)),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            full: Mark {
                over: Share::from_hundredths(4_000),
                sustained: Duration::from_secs(10),
            },
            refaults: Mark {
                over: Share::from_hundredths(8_000),
                sustained: Duration::from_secs(20),
            },
            refault_age: Duration::from_secs(60),
            swap_ins_per_s_min: 200,
            p99: Mark {
                over: Duration::from_millis(50),
                sustained: Duration::from_secs(30),
            },
            hold_limits: false,
            open_min: Duration::from_secs(30),
            open_max: Duration::from_secs(300),
            trial: Duration::from_secs(20),
            forget_after: Duration::from_secs(600),
        }
    }
}
