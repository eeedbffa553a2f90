//! How long an operation may be under way before its link is reset.
//!
//! A link carries its operations in their order, so one that is posted behind many bytes ends late
//! without anybody's fault: a burst of whole requests must not cost a slow link its connection. That
//! a peer is dead is noticed by its silence, which is the transport's to judge and no later for it.

use std::time::Duration;

use dynamicswap_types::PAGE_SIZE;

use crate::limits::LINK_BYTES_PER_SECOND_MIN;

/// The longest time of an operation that makes `pages` be under way on its link, its own among them:
/// what a single page gets, and as much more as the slowest link needs for their bytes.
pub(crate) fn time_max(least: Duration, pages: u32) -> Duration {
    let bytes = u64::from(pages) * PAGE_SIZE.get();
    // Whole microseconds: 2^32 pages are 2^64 of them at most.
    let more = bytes.saturating_mul(1_000_000) / LINK_BYTES_PER_SECOND_MIN;
    least + Duration::from_micros(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(300);

    #[test]
    fn time_grows_with_what_is_under_way_and_never_falls_below_its_floor() {
        assert_eq!(time_max(LEAST, 0), LEAST);
        assert!(time_max(LEAST, 1) <= LEAST + Duration::from_millis(2));
        let request = time_max(LEAST, 256);
        assert_eq!(request.as_millis(), 562);
        let burst = time_max(LEAST, 24 * 256);
        assert_eq!((burst - LEAST).as_micros(), 24 * (1 << 20) / 4);
        for pages in [0, 1, 255, 256, u32::MAX - 1] {
            assert!(time_max(LEAST, pages) <= time_max(LEAST, pages + 1));
        }
    }

    #[test]
    fn a_page_on_a_quiet_link_leaves_time_for_another_copy_within_a_second() {
        assert!(time_max(LEAST, 1) * 3 < Duration::from_secs(1));
    }
}
