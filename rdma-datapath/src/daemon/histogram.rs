//! A latency histogram with fixed buckets: recording is two atomic additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamicswap_proto::common::v1::LatencyReport;
use dynamicswap_types::MonotonicTime;

/// Buckets per power of two: a percentile is at most 1/8 too high.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Values below `SUB` have a bucket each; each power of two above has `SUB`.
const BUCKETS: usize = SUB + (u64::BITS - SUB_BITS) as usize * SUB;

/// Counts durations. Any thread may record.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    max_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
            max_nanos: AtomicU64::new(0),
        }
    }
}

/// The bucket of a value.
fn bucket(nanos: u64) -> usize {
    let power = nanos.checked_ilog2().unwrap_or_default();
    let Some(shift) = power.checked_sub(SUB_BITS) else {
        return usize::try_from(nanos).unwrap_or_default();
    };
    let sub = usize::try_from(nanos >> shift).unwrap_or_default() - SUB;
    SUB + shift as usize * SUB + sub
}

/// The highest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let value = u64::try_from(bucket).unwrap_or(u64::MAX);
    if bucket < SUB {
        return value;
    }
    let above = value - SUB as u64;
    let (shift, sub) = (above / SUB as u64, above % SUB as u64);
    let next = u128::from(SUB as u64 + sub + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.max_nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed))
    }

    /// A value that `per_mille` of 1000 do not exceed; at most 1/8 too high. Zero while empty.
    #[must_use]
    pub fn percentile(&self, per_mille: u64) -> Duration {
        percentile(self.counts(), self.count(), per_mille).min(self.max())
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_nanos.load(Ordering::Relaxed))
    }

    /// For the report, in microseconds.
    #[must_use]
    pub fn report(&self) -> LatencyReport {
        LatencyReport {
            count: self.count(),
            p50_us: micros(self.percentile(500)),
            p99_us: micros(self.percentile(990)),
            max_us: micros(self.max()),
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The upper bound of the bucket that holds this percentile of `all` values.
fn percentile(counts: impl Iterator<Item = u64>, all: u64, per_mille: u64) -> Duration {
    let wanted = (all * per_mille).div_ceil(1000).max(1);
    let mut seen = 0;
    for (index, count) in counts.enumerate() {
        seen += count;
        if seen >= wanted {
            return Duration::from_nanos(upper_bound(index));
        }
    }
    Duration::ZERO
}

/// Time after which what a [`Recent`] shows begins anew.
pub const RECENT_TURN: Duration = Duration::from_secs(10);

/// What a histogram has counted in the last one to two [`RECENT_TURN`]s.
#[derive(Debug)]
pub struct Recent {
    turned: MonotonicTime,
    /// Counts of two turns ago, and of the last one.
    older: Vec<u64>,
    newer: Vec<u64>,
}

impl Recent {
    /// From now on.
    #[must_use]
    pub fn new(now: MonotonicTime) -> Self {
        Self {
            turned: now,
            older: vec![0; BUCKETS],
            newer: vec![0; BUCKETS],
        }
    }

    /// For the report, in microseconds; the longest is as exact as the percentiles are.
    pub fn report(&mut self, histogram: &Histogram, now: MonotonicTime) -> LatencyReport {
        let counts: Vec<u64> = histogram.counts().collect();
        if now.since(self.turned) >= RECENT_TURN {
            self.turned = now;
            self.older = std::mem::replace(&mut self.newer, counts.clone());
        }
        let grown = || {
            let pairs = counts.iter().zip(&self.older);
            pairs.map(|(now, before)| now.saturating_sub(*before))
        };
        let all = grown().sum();
        let value = |per_mille| micros(percentile(grown(), all, per_mille));
        LatencyReport {
            count: all,
            p50_us: value(500),
            p99_us: value(990),
            max_us: value(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_value_lies_in_its_bucket_within_an_eighth(nanos in any::<u64>()) {
            let bound = upper_bound(bucket(nanos));
            prop_assert!(bound >= nanos);
            prop_assert!(bound - nanos <= nanos / 8);
        }
    }

    #[test]
    fn recent_values_are_those_of_the_last_turns() {
        let at = |seconds| MonotonicTime::ZERO.after(Duration::from_secs(seconds));
        let histogram = Histogram::default();
        let mut recent = Recent::new(at(0));
        histogram.record(Duration::from_millis(50));
        assert_eq!(recent.report(&histogram, at(1)).count, 1);
        assert_eq!(recent.report(&histogram, at(10)).count, 1);
        histogram.record(Duration::from_micros(100));
        assert_eq!(recent.report(&histogram, at(19)).count, 2);
        let report = recent.report(&histogram, at(20));
        assert_eq!((report.count, report.p99_us < 200), (1, true));
        assert_eq!(recent.report(&histogram, at(40)).count, 0);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile(500), Duration::ZERO);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let report = histogram.report();
        assert_eq!((report.count, report.max_us), (1000, 1000));
        assert!((500..=563).contains(&report.p50_us), "{report:?}");
        assert!((990..=1000).contains(&report.p99_us), "{report:?}");
    }
}
