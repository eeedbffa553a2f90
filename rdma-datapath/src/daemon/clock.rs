//! The one place that reads `CLOCK_MONOTONIC` and the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use dynamicswap_types::MonotonicTime;
use rustix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_MONOTONIC`: the same in every process of the machine.
#[must_use]
pub fn monotonic_now() -> MonotonicTime {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    MonotonicTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Milliseconds since 1970, for people.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back() {
        let first = monotonic_now();
        assert!(monotonic_now() >= first);
        assert!(unix_ms() > 1_600_000_000_000);
    }
}
