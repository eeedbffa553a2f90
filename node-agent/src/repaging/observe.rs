//! What the laws see, out of what was read: pure but for the node's count of scans.

use std::time::Duration;

use dynamicswap_policy::{
    Backend, BreakerSight, Device, Explain, Explanation, Offload, OffloadReason, OffloadSight,
    Passage, Pressure, Rest, ReturnNode, ReturnSight, SwapLimit,
};
use dynamicswap_proto::common::v1::SwapDeviceReport;
use dynamicswap_types::{Bytes, MonotonicTime, PAGE_SIZE};

use super::history::{History, Stalls};
use super::settings::Wishes;
use super::{NodeFigures, Pageable};
use crate::cgroup::Promised;
use crate::limits::LONG_POLL;
use crate::node::pages_scanned;

/// Reads of late below which a percentile says nothing.
const READS_MIN: u64 = 50;
/// A calm device's p99 is never taken for less: below, noise would look like load.
const REFERENCE_P99_MIN: Duration = Duration::from_micros(200);

/// Pages of a slab of which nothing is known: any number does for an order.
const SLAB_PAGES_UNKNOWN: u64 = (16 << 20) / PAGE_SIZE.get();

/// All time in which some task waited; zero if the host does not say.
pub fn stalled(pressure: Option<Pressure>) -> Duration {
    pressure.map_or(Duration::ZERO, |pressure| pressure.some.total)
}

/// The swap device at one look.
#[derive(Debug, Clone, Copy)]
pub struct DeviceFigures {
    /// 99th percentile of a read of late; none if there were too few.
    pub p99: Option<Duration>,
    /// The lowest of it so far.
    pub reference_p99: Duration,
    /// Free places for pages.
    pub free: Bytes,
    /// Pages a second, in and out.
    pub swap_ins_per_s: u64,
    /// See above.
    pub swap_outs_per_s: u64,
    /// Pages of a slab.
    pub slab_pages: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: MonotonicTime,
    read: u64,
    written: u64,
}

/// Least time over which pages a second are counted: a daemon reports once in [`LONG_POLL`].
const RATES_OVER: Duration = LONG_POLL.saturating_sub(Duration::from_millis(100));

/// What is remembered of the device, and of the kernel's scans on the node.
#[derive(Debug, Default)]
pub struct DeviceWatch {
    counted: Option<Counted>,
    rates: (u64, u64),
    lowest_p99: Option<Duration>,
    scanned: Option<u64>,
    scanned_at: Option<MonotonicTime>,
    stalls: Option<Stalls>,
}

impl DeviceWatch {
    /// Takes a report; without one, nothing is known.
    pub fn see(&mut self, now: MonotonicTime, report: Option<&SwapDeviceReport>) -> DeviceFigures {
        let recent = report.and_then(|report| report.recent_read_latency);
        let p99 = recent
            .filter(|latency| latency.count >= READS_MIN)
            .map(|latency| Duration::from_micros(latency.p99_us.into()));
        if let Some(p99) = p99 {
            let lowest = self.lowest_p99.map_or(p99, |lowest| lowest.min(p99));
            self.lowest_p99 = Some(lowest.max(REFERENCE_P99_MIN));
        }
        let counters = report.and_then(|report| report.counters);
        let counted = counters.map(|counters| Counted {
            at: now,
            read: counters.pages_read,
            written: counters.pages_written,
        });
        // Looks may come faster than reports: two at one report would see nothing, and the next a second's
        // pages in no time.
        let is_soon = |before: Counted| now.since(before.at) < RATES_OVER;
        if counted.is_none() || !self.counted.is_some_and(is_soon) {
            self.rates = rates(self.counted, counted);
            self.counted = counted;
        }
        let (swap_ins_per_s, swap_outs_per_s) = self.rates;
        DeviceFigures {
            p99,
            reference_p99: self.lowest_p99.unwrap_or(REFERENCE_P99_MIN),
            free: report.map_or(Bytes::ZERO, free),
            swap_ins_per_s,
            swap_outs_per_s,
            slab_pages: report.map_or(SLAB_PAGES_UNKNOWN, slab_pages),
        }
    }

    /// The node as the law of return sees it.
    pub fn return_node(&mut self, node: &NodeFigures) -> ReturnNode {
        let scanned = pages_scanned();
        if scanned != self.scanned || self.scanned_at.is_none() {
            // The first look says nothing of the time before it.
            self.scanned_at = scanned.map(|_| node.now);
            self.scanned = scanned;
        }
        let stalled = stalled(node.pressure);
        let stalls = self.stalls.get_or_insert(Stalls::new(node.now, stalled));
        stalls.see(node.now, stalled);
        let unstalled = stalls.quiet_for();
        ReturnNode {
            rest: Rest {
                calm_for: Some(node.calm_for.unwrap_or_default().max(unstalled)),
                unscanned_for: self.scanned_at.map(|at| node.now.since(at)),
                stalled,
            },
            available: node.available,
            total: node.total,
        }
    }
}

fn rates(before: Option<Counted>, now: Option<Counted>) -> (u64, u64) {
    let (Some(before), Some(now)) = (before, now) else {
        return (0, 0);
    };
    let millis = u64::try_from(now.at.since(before.at).as_millis()).unwrap_or(u64::MAX);
    let rate = |now: u64, before: u64| {
        let grown = now.saturating_sub(before).saturating_mul(1_000);
        grown.checked_div(millis).unwrap_or(0)
    };
    (
        rate(now.read, before.read),
        rate(now.written, before.written),
    )
}

fn slab_pages(report: &SwapDeviceReport) -> u64 {
    (report.slab_bytes / PAGE_SIZE.get()).max(1)
}

/// Places that are granted and not taken: whole slabs of the reserve, and the rest of those in use.
fn free(report: &SwapDeviceReport) -> Bytes {
    let slab = slab_pages(report);
    let sets = report.sets.iter().filter(|set| !set.released);
    let pages: u64 = sets
        .map(|set| slab.saturating_sub(u64::from(set.pages_used)))
        .sum();
    Bytes::new(pages.saturating_mul(PAGE_SIZE.get()))
}

/// What the breaker looks at. Which pages come back soon after they went is not known one by one, so
/// the lower of both rates stands for them.
pub fn breaker_sight(node: &NodeFigures, device: &DeviceFigures) -> BreakerSight {
    BreakerSight {
        full: node.pressure.map(|pressure| pressure.full.avg10),
        swap_ins_per_s: device.swap_ins_per_s,
        swap_outs_per_s: device.swap_outs_per_s,
        refaults_per_s: device.swap_ins_per_s.min(device.swap_outs_per_s),
        p99: device.p99,
    }
}

/// What the law of return sees of a container; nothing if no policy says anything.
pub fn return_sight(container: &Pageable, history: &History) -> Option<ReturnSight> {
    let wishes = container.wishes.as_ref()?;
    Some(ReturnSight {
        enabled: wishes.homecoming.enabled && !wishes.dry_run,
        rest: Rest {
            calm_for: Some(
                container
                    .calm_for
                    .unwrap_or_default()
                    .max(history.unstalled_for()),
            ),
            unscanned_for: history.unscanned_for(),
            stalled: stalled(container.pressure),
        },
        used: container.used.saturating_sub(history.droppable()),
        limit: container.limit,
        swapped: container.swapped,
        probed: history.probed(),
        swap_ins_per_min: history.swap_ins_per_min(),
    })
}

/// What the law of offload sees of a container, but for what others ask of it.
pub fn offload_sight(
    container: &Pageable,
    (Promised { min, low }, swap_limit): (Promised, Option<SwapLimit>),
    history: &History,
) -> OffloadSight {
    let stat = history.stat();
    OffloadSight {
        current: container.used,
        limit: container.limit,
        min,
        low,
        working_set: Bytes::ZERO,
        swap_room: swap_room(container, swap_limit),
        anon: stat.anon,
        file: stat.file,
        droppable: stat.droppable(),
        growth_per_s: history.growth_per_s(),
        asked: Bytes::ZERO,
        pressure: container.pressure,
        level: container.level,
        since_probe: history.since_probe(),
        returning: false,
        since_return: None,
    }
}

/// What its swap limit still lets out.
fn swap_room(container: &Pageable, limit: Option<SwapLimit>) -> Bytes {
    match limit {
        Some(SwapLimit::Bytes(limit)) => limit.saturating_sub(container.swapped),
        Some(SwapLimit::Max) => Bytes::new(u64::MAX),
        None => Bytes::ZERO,
    }
}

/// Where the pages go.
pub const fn backend(device: Device, passage: Passage, figures: &DeviceFigures) -> Backend {
    Backend {
        device,
        passage,
        p99: figures.p99,
        reference_p99: figures.reference_p99,
        free: figures.free,
        writes_per_s: Bytes::new(figures.swap_outs_per_s.saturating_mul(PAGE_SIZE.get())),
    }
}

/// The words for a decision; without one, the container is not among those that are tried.
pub fn explain_offload(decision: Option<&Offload>, wishes: &Wishes) -> Explanation {
    let nothing = "nothing is sent ahead".to_owned();
    match decision {
        None => Explanation {
            decided: nothing,
            figures: format!(
                "its name falls outside the {} % of containers that are tried",
                wishes.offload.canary_percent
            ),
            rule: "offload: a canary is always the same containers",
            change: "a higher offload.canaryPercent".to_owned(),
        },
        Some(decision)
            if !wishes.offload.proactive
                && matches!(decision.reason, OffloadReason::NotDue { .. }) =>
        {
            Explanation {
                decided: nothing,
                figures: "its policy sends nothing while nobody suffers".to_owned(),
                rule: "offload: probing only where the policy lets it",
                change: "offload.proactive: true".to_owned(),
            }
        }
        Some(decision) => decision.explain(),
    }
}

#[cfg(test)]
mod tests {
    use dynamicswap_proto::common::v1::{DeviceCounters, LatencyReport, SetReport};

    use super::*;

    fn report(count: u64, p99_us: u32, pages_read: u64) -> SwapDeviceReport {
        SwapDeviceReport {
            slab_bytes: 16 << 20,
            recent_read_latency: Some(LatencyReport {
                count,
                p99_us,
                ..LatencyReport::default()
            }),
            counters: Some(DeviceCounters {
                pages_read,
                ..DeviceCounters::default()
            }),
            sets: vec![
                SetReport {
                    pages_used: 4_000,
                    ..SetReport::default()
                },
                SetReport::default(),
                SetReport {
                    released: true,
                    ..SetReport::default()
                },
            ],
            ..SwapDeviceReport::default()
        }
    }

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn reference_is_the_lowest_of_enough_reads_and_no_noise() {
        let mut watch = DeviceWatch::default();
        assert_eq!(watch.see(at(0), Some(&report(10, 90_000, 0))).p99, None);
        let millis = Duration::from_millis;
        let first = watch.see(at(1), Some(&report(100, 4_000, 0)));
        assert_eq!(
            (first.p99, first.reference_p99),
            (Some(millis(4)), millis(4))
        );
        let slower = watch.see(at(2), Some(&report(100, 40_000, 0)));
        assert_eq!(
            (slower.p99, slower.reference_p99),
            (Some(millis(40)), millis(4))
        );
        let fast = watch.see(at(3), Some(&report(100, 20, 0)));
        assert_eq!(fast.reference_p99, REFERENCE_P99_MIN);
    }

    #[test]
    fn rates_are_pages_a_second_and_a_new_life_has_none() {
        let mut watch = DeviceWatch::default();
        watch.see(at(0), Some(&report(0, 0, 100)));
        assert_eq!(
            watch.see(at(2), Some(&report(0, 0, 500))).swap_ins_per_s,
            200
        );
        let soon = at(2).after(Duration::from_millis(50));
        let same = watch.see(soon, Some(&report(0, 0, 900)));
        assert_eq!(same.swap_ins_per_s, 200, "of the last second still");
        assert_eq!(watch.see(at(3), Some(&report(0, 0, 10))).swap_ins_per_s, 0);
        assert_eq!(watch.see(at(4), None).swap_ins_per_s, 0);
    }

    #[test]
    fn free_places_are_those_of_granted_sets() {
        let slab = (16 << 20) / 4096;
        assert_eq!(
            free(&report(0, 0, 0)),
            Bytes::new((2 * slab - 4_000) * 4096)
        );
    }
}
