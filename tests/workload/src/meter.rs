//! Counting while a workload runs: operations, checks and the latency of swap-ins.
//!
//! Owns one meter per worker, which records without waiting for anybody, and the sum over all of
//! them. Prints nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::line::{End, Phase, PhaseEnd, Progress};

/// Longest latency that is told apart from longer ones.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Latencies in microseconds, in memory of fixed size.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "the constructor refuses only bounds and digits that these constants are not"
        )]
        Self(
            Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
                .expect("1 <= bounds, and 3 digits are among 0 to 5"),
        )
    }
}

impl Latencies {
    /// Adds one; more than ten minutes counts as ten minutes.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.clamp(1, LATENCY_US_MAX));
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        // Fails only where the bounds differ, and all are made by `default`.
        let _same_bounds = self.0.add(&other.0);
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency below which a share of them lies, in microseconds; 0 if there are none.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        if self.0.is_empty() {
            0
        } else {
            self.0.value_at_quantile(quantile)
        }
    }

    /// The longest, in microseconds.
    #[must_use]
    pub fn max_us(&self) -> u64 {
        self.0.max()
    }
}

/// What one worker counts. Others only read.
#[derive(Debug)]
pub struct Meter {
    origin: Instant,
    ops: AtomicU64,
    bytes: AtomicU64,
    checked: AtomicU64,
    wrong: AtomicU64,
    /// Nanoseconds after the origin at which the access under way began; 0 for none.
    access_since: AtomicU64,
    /// Swap-ins since the last report.
    swap_ins: Mutex<Latencies>,
}

impl Meter {
    /// A meter whose clock starts at `origin`.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            ops: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            access_since: AtomicU64::new(0),
            swap_ins: Mutex::default(),
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// An access begins: a report made before it ends tells how long it lasts already.
    pub fn begin(&self) -> Instant {
        self.access_since
            .store(self.nanos().max(1), Ordering::Relaxed);
        Instant::now()
    }

    /// The access is over; `swap_in` tells its latency if it waited for the device.
    pub fn end(&self, bytes: u64, swap_in: Option<Duration>) {
        self.access_since.store(0, Ordering::Relaxed);
        self.ops.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(latency) = swap_in {
            self.lock().record(latency);
        }
    }

    /// Counts one check; returns how many were wrong before it.
    pub fn checked(&self, right: bool) -> u64 {
        self.checked.fetch_add(1, Ordering::Relaxed);
        self.wrong.fetch_add(u64::from(!right), Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Latencies> {
        self.swap_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sum over all meters of a run, and what the last report said.
#[derive(Debug)]
pub struct Totals<'a> {
    meters: &'a [Meter],
    origin: Instant,
    last: Instant,
    last_ops: u64,
    last_bytes: u64,
    interval: Latencies,
    all: Latencies,
    phases: Vec<PhaseSum>,
}

/// What one phase has come to.
#[derive(Debug)]
struct PhaseSum {
    phase: Phase,
    ops: u64,
    swap_ins: Latencies,
}

impl PhaseSum {
    fn end(&self) -> PhaseEnd {
        PhaseEnd {
            phase: self.phase,
            ops: self.ops,
            swap_ins: self.swap_ins.count(),
            p50_us: self.swap_ins.quantile_us(0.5),
            p99_us: self.swap_ins.quantile_us(0.99),
            max_us: self.swap_ins.max_us(),
        }
    }
}

impl<'a> Totals<'a> {
    /// The sum over `meters`, whose clocks started at `origin`.
    #[must_use]
    pub fn new(meters: &'a [Meter], origin: Instant) -> Self {
        Self {
            meters,
            origin,
            last: origin,
            last_ops: 0,
            last_bytes: 0,
            interval: Latencies::default(),
            all: Latencies::default(),
            phases: Vec::new(),
        }
    }

    fn sum(&self, field: impl Fn(&Meter) -> &AtomicU64) -> u64 {
        let loads = self.meters.iter().map(|m| field(m).load(Ordering::Relaxed));
        loads.sum()
    }

    fn take_swap_ins(&mut self) {
        self.interval.clear();
        for meter in self.meters {
            let mut latencies = meter.lock();
            self.interval.add(&latencies);
            latencies.clear();
        }
        self.all.add(&self.interval);
    }

    /// Adds the interval to its phase.
    fn add_to_phase(&mut self, phase: Phase, ops: u64) {
        let known = self.phases.iter().position(|sum| sum.phase == phase);
        let at = known.unwrap_or_else(|| {
            let swap_ins = Latencies::default();
            self.phases.push(PhaseSum {
                phase,
                ops: 0,
                swap_ins,
            });
            self.phases.len() - 1
        });
        if let Some(sum) = self.phases.get_mut(at) {
            sum.ops += ops;
            sum.swap_ins.add(&self.interval);
        }
    }

    fn waiting_us(&self) -> u64 {
        let since = self.meters.iter().filter_map(|meter| {
            let since = meter.access_since.load(Ordering::Relaxed);
            (since > 0).then(|| meter.nanos().saturating_sub(since) / 1000)
        });
        since.max().unwrap_or(0)
    }

    /// What happened since the last call.
    pub fn progress(&mut self, phase: Phase) -> Progress {
        self.take_swap_ins();
        let now = Instant::now();
        let interval = now.duration_since(self.last);
        let seconds = interval.as_secs_f64().max(1e-6);
        let ops_total = self.sum(|m| &m.ops);
        let bytes_total = self.sum(|m| &m.bytes);
        let ops = ops_total - self.last_ops;
        self.add_to_phase(phase, ops);
        let progress = Progress {
            phase: Some(phase),
            elapsed_ms: millis(now.duration_since(self.origin)),
            interval_ms: millis(interval),
            ops,
            ops_per_second: as_f64(ops) / seconds,
            mb_per_second: as_f64(bytes_total - self.last_bytes) / seconds / 1e6,
            swap_ins: self.interval.count(),
            p50_us: self.interval.quantile_us(0.5),
            p99_us: self.interval.quantile_us(0.99),
            max_us: self.interval.max_us(),
            waiting_us: self.waiting_us(),
            ops_total,
            pages_checked: self.sum(|m| &m.checked),
            wrong_pages: self.sum(|m| &m.wrong),
        };
        self.last = now;
        self.last_ops = ops_total;
        self.last_bytes = bytes_total;
        progress
    }

    /// The result, `pages_final` of which were checked in the last pass.
    pub fn end(&mut self, pages_final: u64) -> End {
        self.take_swap_ins();
        End {
            elapsed_ms: millis(self.origin.elapsed()),
            ops: self.sum(|m| &m.ops),
            pages_checked: self.sum(|m| &m.checked),
            pages_final,
            wrong_pages: self.sum(|m| &m.wrong),
            swap_ins: self.all.count(),
            p50_us: self.all.quantile_us(0.5),
            p99_us: self.all.quantile_us(0.99),
            max_us: self.all.max_us(),
            phases: self.phases.iter().map(PhaseSum::end).collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for people: 15 digits of a rate are enough"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_since_the_last_one_and_end_counts_all() {
        let origin = Instant::now();
        let meters = [Meter::new(origin), Meter::new(origin)];
        let mut totals = Totals::new(&meters, origin);
        meters[0].end(4096, Some(Duration::from_micros(100)));
        meters[1].end(4096, None);
        assert_eq!(meters[1].checked(false), 0);
        let first = totals.progress(Phase::Fill);
        assert_eq!((first.ops, first.swap_ins, first.p50_us), (2, 1, 100));
        meters[1].end(4096, Some(Duration::from_millis(3)));
        let second = totals.progress(Phase::Churn);
        assert_eq!((second.ops, second.ops_total, second.swap_ins), (1, 3, 1));
        let end = totals.end(9);
        assert_eq!((end.ops, end.swap_ins, end.pages_final), (3, 2, 9));
        assert_eq!((end.pages_checked, end.wrong_pages), (1, 1));
        assert!((3000..3010).contains(&end.max_us), "{}", end.max_us);
        let phases = end.phases.iter().map(|it| (it.phase, it.ops, it.swap_ins));
        let phases: Vec<_> = phases.collect();
        assert_eq!(phases, [(Phase::Fill, 2, 1), (Phase::Churn, 1, 1)]);
        assert_eq!(end.phases[0].max_us, 100);
    }

    #[test]
    fn access_under_way_is_reported_before_it_ends() {
        let origin = Instant::now();
        let meters = [Meter::new(origin)];
        let mut totals = Totals::new(&meters, origin);
        let began = meters[0].begin();
        while began.elapsed() < Duration::from_micros(50) {
            std::hint::spin_loop();
        }
        assert!(totals.progress(Phase::Churn).waiting_us >= 50);
        meters[0].end(0, None);
        assert_eq!(totals.progress(Phase::Churn).waiting_us, 0);
    }
}
