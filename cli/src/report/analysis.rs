//! What a failure cost, from the workload's samples around it.

use super::series::WorkloadSample;

/// Time before a failure over which its normal throughput is taken.
const BEFORE_MS: u64 = 3000;
/// Time after a failure in which the longest stall counts as its own.
const AFTER_MS: u64 = 5000;
/// Throughput counts as back when it is so on average over this time.
const STEADY_MS: u64 = 500;

/// What a failure cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Operations a second before it.
    pub ops_before: f64,
    /// Longest single access in the seconds after it, in microseconds.
    pub worst_stall_us: u64,
    /// Milliseconds until throughput was back at 90 % of what it was.
    pub back_to_90_percent_ms: Option<u64>,
}

/// Looks at the samples around `t_ms`.
#[must_use]
pub fn cost_of(samples: &[WorkloadSample], t_ms: u64) -> Cost {
    let within = |from: u64, to: u64| {
        samples
            .iter()
            .filter(move |s| s.t_ms >= from && s.t_ms < to)
    };
    let mut before: Vec<f64> = within(t_ms.saturating_sub(BEFORE_MS), t_ms)
        .map(|s| s.ops_per_second)
        .collect();
    before.sort_by(f64::total_cmp);
    let ops_before = before.get(before.len() / 2).copied().unwrap_or(0.0);
    let stalls = within(t_ms, t_ms + AFTER_MS).map(|s| s.max_us);
    let mut after = samples.iter().filter(|s| s.t_ms >= t_ms);
    let back = after.find(|sample| {
        let steady: Vec<f64> = within(sample.t_ms, sample.t_ms + STEADY_MS)
            .map(|s| s.ops_per_second)
            .collect();
        let whole =
            sample.t_ms + STEADY_MS <= samples.last().map_or(0, |last| last.t_ms + STEADY_MS / 5);
        whole && mean(&steady) >= 0.9 * ops_before
    });
    Cost {
        ops_before,
        worst_stall_us: stalls.max().unwrap_or(0),
        back_to_90_percent_ms: back.map(|sample| sample.t_ms - t_ms),
    }
}

/// Operations a second at the end of the samples: the median of the last second.
#[must_use]
pub fn speed_at_end(samples: &[WorkloadSample]) -> f64 {
    let last = samples.last().map_or(0, |sample| sample.t_ms);
    let end = samples
        .iter()
        .filter(|sample| sample.t_ms + STEADY_MS * 2 > last);
    let mut end: Vec<f64> = end.map(|sample| sample.ops_per_second).collect();
    end.sort_by(f64::total_cmp);
    end.get(end.len() / 2).copied().unwrap_or(0.0)
}

/// Milliseconds from `t_ms`, when a load that had rested went on, until it was first at 90 % of `full`
/// operations a second; none if it was not yet.
#[must_use]
pub fn back_to(full: f64, samples: &[WorkloadSample], t_ms: u64) -> Option<u64> {
    let mut since = samples.iter().filter(|sample| sample.t_ms > t_ms);
    let back = since.find(|sample| sample.ops_per_second >= 0.9 * full);
    back.map(|sample| sample.t_ms - t_ms)
}

/// The mean; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a handful of samples")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ops: impl Fn(u64) -> f64) -> Vec<WorkloadSample> {
        (0..100)
            .map(|n| WorkloadSample {
                t_ms: n * 100,
                ops_per_second: ops(n * 100),
                max_us: if n == 52 { 700_000 } else { 1000 },
                ..WorkloadSample::default()
            })
            .collect()
    }

    #[test]
    fn dip_is_measured_from_the_failure_to_steady_throughput() {
        let dip = samples(|t| {
            if (5000..5800).contains(&t) {
                0.0
            } else {
                1000.0
            }
        });
        let cost = cost_of(&dip, 5000);
        assert!((cost.ops_before - 1000.0).abs() < 1e-9);
        assert_eq!(cost.worst_stall_us, 700_000);
        assert_eq!(cost.back_to_90_percent_ms, Some(800));
    }

    #[test]
    fn throughput_that_never_comes_back_is_said_so() {
        let lost = samples(|t| if t >= 5000 { 500.0 } else { 1000.0 });
        assert_eq!(cost_of(&lost, 5000).back_to_90_percent_ms, None);
    }

    #[test]
    fn failure_that_nobody_notices_costs_nothing() {
        let cost = cost_of(&samples(|_| 1000.0), 5000);
        assert_eq!(cost.back_to_90_percent_ms, Some(0));
    }

    #[test]
    fn load_is_back_once_it_does_what_it_does_in_memory() {
        let faulting = samples(|t| if t < 6000 { 100.0 } else { 9000.0 });
        let full = speed_at_end(&faulting);
        assert!((full - 9000.0).abs() < 1e-9);
        assert_eq!(back_to(full, &faulting, 5000), Some(1000));
        let home = samples(|t| if t < 5000 { 0.0 } else { 9000.0 });
        assert_eq!(back_to(full, &home, 5000), Some(100));
        assert_eq!(back_to(full, &samples(|_| 100.0), 5000), None);
        assert!(speed_at_end(&[]).abs() < 1e-9);
    }

    #[test]
    fn no_samples_are_no_cost() {
        assert_eq!(cost_of(&[], 5000), Cost::default());
    }
}
