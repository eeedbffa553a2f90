//! How long an operation may be under way before its link is reset.
//!
//! A link carries its operations in their order, so one that is posted behind many bytes ends late
//! without anybody's fault: a burst of whole requests must not cost a slow link its connection. That
//! a peer is dead is noticed by its silence, which is the transport's to judge and no later for it.
//!
//! A reset of a link that is merely slower than [`LINK_BYTES_PER_SECOND_MIN`] makes it slower yet:
//! everything that was under way is sent once more. So each operation that was overdue doubles the
//! time of those that follow, as a retransmission doubles its timer (RFC 6298, 5.5), and a link that
//! keeps up for a while takes one doubling back.

use std::time::Duration;

use dynamicswap_types::{MonotonicTime, PAGE_SIZE};

use crate::limits::{LINK_BYTES_PER_SECOND_MIN, PATIENCE_CALM, PATIENCE_DOUBLINGS_MAX};

/// The patience with one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// Doublings when an operation was last overdue.
    doublings: u32,
    /// When that was.
    overdue: Option<MonotonicTime>,
}

impl Patience {
    /// With a link that never was late.
    pub const NEW: Self = Self {
        doublings: 0,
        overdue: None,
    };

    /// How often the time is doubled now.
    #[must_use]
    pub fn doublings(&self, now: MonotonicTime) -> u32 {
        let calm = self.overdue.map_or(Duration::ZERO, |at| now.since(at));
        let back = calm.as_nanos() / PATIENCE_CALM.as_nanos();
        self.doublings
            .saturating_sub(u32::try_from(back).unwrap_or(u32::MAX))
    }

    /// Operations were overdue, one or more of them: once for each look at the deadlines.
    pub fn overdue(&mut self, now: MonotonicTime) {
        if self.overdue != Some(now) {
            self.doublings = PATIENCE_DOUBLINGS_MAX.min(self.doublings(now) + 1);
            self.overdue = Some(now);
        }
    }

    /// The longest time of an operation that makes `pages` be under way on the link, its own among
    /// them: what a single page gets, and as much more as the slowest link needs for their bytes.
    pub(crate) fn time_max(&self, least: Duration, pages: u32, now: MonotonicTime) -> Duration {
        let bytes = u64::from(pages) * PAGE_SIZE.get();
        // Whole microseconds: 2^32 pages are 2^64 of them at most.
        let more = bytes.saturating_mul(1_000_000) / LINK_BYTES_PER_SECOND_MIN;
        (least + Duration::from_micros(more)).saturating_mul(1 << self.doublings(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(300);
    const NOW: MonotonicTime = MonotonicTime::ZERO;

    fn first(pages: u32) -> Duration {
        Patience::NEW.time_max(LEAST, pages, NOW)
    }

    #[test]
    fn time_grows_with_what_is_under_way_and_never_falls_below_its_floor() {
        assert_eq!(first(0), LEAST);
        assert!(first(1) <= LEAST + Duration::from_millis(2));
        assert_eq!(first(256).as_millis(), 562);
        let burst = first(24 * 256);
        assert_eq!((burst - LEAST).as_micros(), 24 * (1 << 20) / 4);
        for pages in [0, 1, 255, 256, u32::MAX - 1] {
            assert!(first(pages) <= first(pages + 1));
        }
    }

    #[test]
    fn a_page_on_a_quiet_link_leaves_time_for_another_copy_within_a_second() {
        assert!(first(1) * 3 < Duration::from_secs(1));
    }

    #[test]
    fn each_late_operation_doubles_the_time_and_each_calm_while_takes_one_doubling_back() {
        let mut patience = Patience::NEW;
        let mut now = NOW;
        for doublings in [1, 2, 2, 2] {
            now = now.after(Duration::from_secs(1));
            patience.overdue(now);
            patience.overdue(now);
            assert_eq!(
                patience.doublings(now),
                doublings,
                "two in one look are one"
            );
        }
        assert_eq!(patience.time_max(LEAST, 0, now), LEAST * 4);
        let calm = now.after(PATIENCE_CALM);
        assert_eq!(patience.time_max(LEAST, 0, calm), LEAST * 2);
        patience.overdue(calm);
        assert_eq!(patience.doublings(calm), 2, "late again: from where it was");
        let long = calm.after(PATIENCE_CALM * 100);
        assert_eq!(patience.time_max(LEAST, 0, long), LEAST);
    }

    /// One that carries less than the least that is expected: without doublings its every burst
    /// would be cut short for ever.
    #[test]
    fn link_of_a_third_of_the_least_speed_is_not_reset_for_ever() {
        let pages = 512;
        let takes = Duration::from_micros(u64::from(pages) * 4096 / 4 * 3);
        let mut patience = Patience::NEW;
        let mut now = NOW;
        let mut resets = 0;
        while patience.time_max(LEAST, pages, now) < takes {
            now = now.after(patience.time_max(LEAST, pages, now));
            patience.overdue(now);
            resets += 1;
        }
        assert_eq!(resets, 1);
    }
}
