//! The copies' budget: a token bucket that is filled by the time that passes.

use dynamicswap_types::{Bytes, MonotonicTime, PAGE_SIZE};

use crate::limits::COPY_PAGES_MAX;

/// Share of a second that the bucket holds: above a tick, so that a copy which is looked at once a
/// tick reaches its bandwidth, and short enough that no one feels what comes at once.
const BURST_DIVISOR: u64 = 20;
/// One copy job: the bucket holds it however low the bandwidth.
const BURST_MIN: u64 = COPY_PAGES_MAX as u64 * PAGE_SIZE.get();
const NANOS: u128 = 1_000_000_000;

/// What copies may still move now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CopyBudget {
    /// Bytes a second; none for as fast as it goes.
    per_second: Option<Bytes>,
    credit: u64,
    filled: MonotonicTime,
}

impl CopyBudget {
    /// Another bandwidth from now on. What has been saved up stays, as far as it may.
    pub(crate) fn set(&mut self, per_second: Option<Bytes>, now: MonotonicTime) {
        self.fill(now);
        if self.per_second.is_none() {
            self.filled = now;
        }
        self.per_second = per_second;
        self.credit = self.credit.min(self.burst());
    }

    /// Takes what a job of `pages` needs, if it is there.
    pub(crate) fn take(&mut self, pages: u32, now: MonotonicTime) -> bool {
        self.fill(now);
        if self.per_second.is_none() {
            return true;
        }
        let bytes = u64::from(pages) * PAGE_SIZE.get();
        let left = self.credit.checked_sub(bytes);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    fn burst(&self) -> u64 {
        let per_second = self.per_second.map_or(0, Bytes::get);
        BURST_MIN.max(per_second / BURST_DIVISOR)
    }

    fn fill(&mut self, now: MonotonicTime) {
        let Some(per_second) = self.per_second else {
            return;
        };
        let elapsed = now.since(self.filled).as_nanos();
        let gained = elapsed * u128::from(per_second.get()) / NANOS;
        // Less than a page would be cut off at each look: it goes on growing instead.
        if gained < u128::from(PAGE_SIZE.get()) {
            return;
        }
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.credit = self.credit.saturating_add(gained).min(self.burst());
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn without_a_bandwidth_nothing_waits() {
        let mut budget = CopyBudget::default();
        assert!((0..1_000).all(|_| budget.take(64, MonotonicTime::ZERO)));
    }

    #[test]
    fn bandwidth_is_reached_by_looking_once_a_tick() {
        let mut budget = CopyBudget::default();
        let mut now = MonotonicTime::from_nanos(7);
        let per_second = 256_u64 << 20;
        budget.set(Some(Bytes::new(per_second)), now);
        let mut moved = 0;
        for _ in 0..100 {
            now = now.after(crate::limits::TICK);
            while budget.take(64, now) {
                moved += BURST_MIN;
            }
        }
        let share = moved * 100 / (2 * per_second);
        assert!((95..=100).contains(&share), "{share} % of the bandwidth");
    }

    proptest! {
        /// Over any time, no more is moved than the bandwidth gives, and the burst.
        #[test]
        fn no_more_than_the_bandwidth_is_moved(
            per_second in (1_u64 << 20)..(1 << 32),
            looks in prop::collection::vec((0_u64..50_000_000, 1_u32..=64), 1..300),
        ) {
            let mut budget = CopyBudget::default();
            let begin = MonotonicTime::from_nanos(3);
            let mut now = begin;
            budget.set(Some(Bytes::new(per_second)), now);
            let mut moved = 0_u128;
            for (gap, pages) in looks {
                now = now.after(Duration::from_nanos(gap));
                if budget.take(pages, now) {
                    moved += u128::from(pages) * 4096;
                }
                let given = now.since(begin).as_nanos() * u128::from(per_second) / NANOS;
                prop_assert!(moved <= given);
            }
        }
    }
}
