//! The process's clocks: one monotonic for decisions, one of the calendar for events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dynamicswap_types::MonotonicTime;

/// Monotonic time since the process started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Now.
    pub fn now(self) -> MonotonicTime {
        MonotonicTime::ZERO.after(self.start.elapsed())
    }

    /// Time since the process started.
    pub fn uptime(self) -> Duration {
        self.start.elapsed()
    }

    /// How long it is until `time`.
    pub fn until(self, time: MonotonicTime) -> Duration {
        time.since(self.now())
    }
}

/// A length of time in whole milliseconds.
pub fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970: what certificates count in.
pub fn unix_s() -> u64 {
    unix_ms() / 1_000
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    as_millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
