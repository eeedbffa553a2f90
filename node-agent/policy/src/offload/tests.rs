//! Each rule by example, and what holds for any figures by property tests.

use dynamicswap_types::PageCount;
use proptest::prelude::*;

use super::*;
use crate::explain::{Explain as _, PART_CHARS_MAX};
use crate::observation::{Pressure, Stall};

const MIB: fn(u32) -> Bytes = Bytes::from_mib;

/// A container of 1 GiB in use under 2 GiB, half of it anonymous, calm, probed 6 s ago.
fn calm() -> OffloadSight {
    OffloadSight {
        current: MIB(1_024),
        limit: Some(MIB(2_048)),
        min: Bytes::ZERO,
        low: Bytes::ZERO,
        working_set: Bytes::ZERO,
        swap_room: MIB(1_024),
        anon: MIB(512),
        file: MIB(512),
        droppable: Bytes::ZERO,
        growth_per_s: Bytes::ZERO,
        asked: Bytes::ZERO,
        pressure: Some(Pressure::default()),
        level: Level::Calm,
        since_probe: SinceProbe {
            elapsed: Duration::from_secs(6),
            ..SinceProbe::default()
        },
        returning: false,
        since_return: None,
    }
}

fn fast() -> Backend {
    Backend {
        device: Device::Open,
        passage: Passage::Free,
        p99: Some(Duration::from_micros(40)),
        reference_p99: Duration::from_micros(40),
        free: MIB(4_096),
        writes_per_s: Bytes::ZERO,
    }
}

fn decide(sight: &OffloadSight, backend: &Backend) -> Offload {
    offload(sight, backend, Mode::Active, &OffloadSettings::default())
}

fn pressed(avg10: u16) -> Option<Pressure> {
    let some = Stall {
        avg10: Share::from_hundredths(avg10),
        ..Stall::default()
    };
    Some(Pressure {
        some,
        full: Stall::default(),
    })
}

/// 0.05 % of 1 GiB in whole pages.
const STEP: u64 = (1 << 30) / 2_000 / 4_096 * 4_096;

#[test]
fn calm_container_is_probed_by_the_ratio() {
    let probe = decide(&calm(), &fast());
    assert_eq!(probe.deed, OffloadDeed::Reclaim(Bytes::new(STEP)));
    assert_eq!(
        probe.to_string(),
        "reclaim 524 KiB: 1.0 GiB in RAM, some 0 %, factors: pressure 100 %, device 100 %, \
         accuracy 100 %, scan 100 % (probe: a small share of a container that does not wait; \
         more pressure, latency or refaults make it less)"
    );
}

#[test]
fn what_is_not_due_is_no_look_and_a_refusal_for_the_past_is_one() {
    let mut sight = calm();
    assert!(decide(&sight, &fast()).is_look());
    sight.pressure = pressed(10);
    assert!(decide(&sight, &fast()).is_look());
    sight.since_probe.elapsed = Duration::ZERO;
    assert!(!decide(&sight, &fast()).is_look());
}

#[test]
fn pressure_makes_a_probe_less_and_at_the_mark_nothing() {
    let mut sight = calm();
    sight.pressure = pressed(5);
    assert_eq!(
        decide(&sight, &fast()).deed.bytes().get(),
        STEP / 2 / 4_096 * 4_096
    );
    sight.pressure = pressed(10);
    let held = decide(&sight, &fast());
    assert_eq!(held.deed, OffloadDeed::Hold);
    assert!(matches!(held.reason, OffloadReason::Pressed { .. }));
    sight.pressure = pressed(0);
    sight.since_probe.stalled = Duration::from_millis(6);
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::Pressed { .. }
    ));
    sight.since_probe.stalled = Duration::ZERO;
    sight.level = Level::Pressured;
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::Pressed { .. }
    ));
    sight.pressure = None;
    assert_eq!(
        decide(&sight, &fast()).reason,
        OffloadReason::PressureUnknown
    );
}

#[test]
fn slow_device_gets_less_and_from_the_multiple_on_nothing() {
    let with = |p99| {
        let backend = Backend {
            p99: Some(Duration::from_micros(p99)),
            ..fast()
        };
        decide(&calm(), &backend)
    };
    assert_eq!(with(10).deed.bytes().get(), STEP);
    assert_eq!(with(80).deed.bytes().get(), STEP / 2 / 4_096 * 4_096);
    let held = with(320);
    assert!(matches!(held.reason, OffloadReason::DeviceSlow { .. }));
    assert_eq!(held.deed, OffloadDeed::Hold);
    let idle = Backend {
        p99: None,
        ..fast()
    };
    assert_eq!(decide(&calm(), &idle).deed.bytes().get(), STEP);
}

#[test]
fn pages_that_come_back_stop_probing_and_few_that_do_slow_it() {
    let with = |refaulted, scanned| {
        let mut sight = calm();
        sight.since_probe.stolen = PageCount::new(100);
        sight.since_probe.scanned = PageCount::new(scanned);
        sight.since_probe.refaulted = PageCount::new(refaulted);
        decide(&sight, &fast())
    };
    assert_eq!(with(0, 100).deed.bytes().get(), STEP);
    assert!(with(10, 100).deed.bytes().get() < STEP);
    assert!(matches!(
        with(51, 100).reason,
        OffloadReason::Inaccurate { .. }
    ));
    assert!(matches!(
        with(900, 100).reason,
        OffloadReason::Inaccurate { .. }
    ));
    // Half of the scanned pages could be taken.
    assert_eq!(with(0, 200).deed.bytes().get(), STEP / 2 / 4_096 * 4_096);
}

#[test]
fn late_probe_asks_for_more_but_never_over_its_cap() {
    let mut sight = calm();
    sight.since_probe.elapsed = Duration::from_secs(12);
    let twice = (1 << 30) / 2_000 * 2 / 4_096 * 4_096;
    assert_eq!(decide(&sight, &fast()).deed.bytes().get(), twice);
    sight.since_probe.elapsed = Duration::from_secs(86_400);
    let cap = (1_u64 << 30) / 100 / 4_096 * 4_096;
    assert_eq!(decide(&sight, &fast()).deed.bytes().get(), cap);
    sight.since_probe.elapsed = Duration::from_secs(5);
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::NotDue { .. }
    ));
}

#[test]
fn small_container_is_probed_when_it_comes_to_what_the_kernel_takes_at_once() {
    let mut sight = calm();
    sight.current = MIB(64);
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::NotDue { .. }
    ));
    sight.since_probe.elapsed = Duration::from_secs(24);
    assert!(decide(&sight, &fast()).deed.bytes() >= RECLAIM_MIN);
}

#[test]
fn container_near_its_limit_is_reclaimed_ahead_whatever_its_pressure() {
    let mut sight = calm();
    sight.limit = Some(MIB(1_030));
    sight.pressure = pressed(9_000);
    sight.level = Level::Stalled;
    sight.since_probe.elapsed = Duration::ZERO;
    sight.low = sight.current;
    let ahead = decide(&sight, &fast());
    // 5 % of 1030 MiB are 51.5 MiB, and 6 MiB are free.
    assert_eq!(ahead.deed.bytes().get() >> 20, 45);
    assert!(matches!(ahead.reason, OffloadReason::Ahead { .. }));
    sight.droppable = MIB(100);
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::Pressed { .. } | OffloadReason::NotDue { .. }
    ));
}

#[test]
fn fast_growth_widens_the_room_and_a_small_limit_bounds_it() {
    let ahead = AheadSettings::default();
    assert_eq!(ahead.room(MIB(1_000), Bytes::ZERO), MIB(50));
    assert_eq!(ahead.room(MIB(1_000), MIB(200)), MIB(200));
    assert_eq!(ahead.room(MIB(1_000), MIB(900)), MIB(250));
    assert_eq!(ahead.room(MIB(16), Bytes::ZERO), MIB(4));
    assert_eq!(ahead.room(MIB(100_000), Bytes::ZERO), MIB(256));
}

#[test]
fn guard_lies_within_the_room_that_is_kept() {
    let ahead = AheadSettings::default();
    assert_eq!(ahead.guard(MIB(1_000)), MIB(975));
    for limit in [MIB(1), MIB(100), MIB(9_999)] {
        let kept = limit.saturating_sub(ahead.room(limit, Bytes::ZERO));
        assert!(kept < ahead.guard(limit) && ahead.guard(limit) < limit);
    }
}

#[test]
fn memory_min_stands_against_staying_ahead() {
    let mut sight = calm();
    sight.limit = Some(sight.current);
    sight.min = sight.current;
    assert!(matches!(
        decide(&sight, &fast()).reason,
        OffloadReason::AtFloor {
            by: FloorBy::Min,
            ..
        }
    ));
}

#[test]
fn node_that_is_short_gets_its_share_down_to_memory_low() {
    let mut sight = calm();
    sight.asked = MIB(100);
    sight.pressure = pressed(9_000);
    assert_eq!(decide(&sight, &fast()).deed.bytes(), MIB(100));
    sight.low = MIB(1_000);
    assert_eq!(decide(&sight, &fast()).deed.bytes(), MIB(24));
}

#[test]
fn nothing_goes_out_where_nothing_may() {
    let reason = |sight: &OffloadSight, backend: &Backend| decide(sight, backend).reason;
    let mut sight = calm();
    // Near its limit as well: these stand above all rules.
    sight.limit = Some(sight.current);
    let closed = Backend {
        device: Device::Closed,
        ..fast()
    };
    assert_eq!(
        reason(&sight, &closed),
        OffloadReason::Device(Device::Closed)
    );
    let blocked = Backend {
        passage: Passage::Blocked,
        ..fast()
    };
    assert_eq!(reason(&sight, &blocked), OffloadReason::BreakerOpen);
    let full = Backend {
        free: Bytes::ZERO,
        ..fast()
    };
    assert!(matches!(
        reason(&sight, &full),
        OffloadReason::PoolFull { .. }
    ));
    let returning = OffloadSight {
        returning: true,
        ..sight
    };
    assert_eq!(reason(&returning, &fast()), OffloadReason::Returning);
    let not_allowed = OffloadSight {
        swap_room: Bytes::ZERO,
        ..sight
    };
    assert_eq!(reason(&not_allowed, &fast()), OffloadReason::NotAllowed);
    let settings = OffloadSettings::default();
    let paused = offload(&sight, &fast(), Mode::Paused, &settings);
    assert_eq!(paused.deed, OffloadDeed::Hold);
}

#[test]
fn probing_yields_where_staying_ahead_does_not() {
    let near = OffloadSight {
        limit: Some(MIB(1_024)),
        ..calm()
    };
    let trial = Backend {
        passage: Passage::AheadOnly,
        ..fast()
    };
    assert_eq!(decide(&calm(), &trial).reason, OffloadReason::BreakerTrial);
    assert!(decide(&near, &trial).deed.bytes() > Bytes::ZERO);
    let reserved = Backend {
        free: MIB(64),
        ..fast()
    };
    assert!(matches!(
        decide(&calm(), &reserved).reason,
        OffloadReason::PoolFull { .. }
    ));
    assert!(decide(&near, &reserved).deed.bytes() > Bytes::ZERO);
    let busy = Backend {
        writes_per_s: MIB(32),
        ..fast()
    };
    assert!(matches!(
        decide(&calm(), &busy).reason,
        OffloadReason::WriteRate { .. }
    ));
    assert!(decide(&near, &busy).deed.bytes() > Bytes::ZERO);
    let home = OffloadSight {
        since_return: Some(Duration::from_secs(299)),
        ..calm()
    };
    assert!(matches!(
        decide(&home, &fast()).reason,
        OffloadReason::JustReturned { .. }
    ));
}

#[test]
fn dry_run_tells_what_it_would_do() {
    let dry = offload(&calm(), &fast(), Mode::DryRun, &OffloadSettings::default());
    assert_eq!(dry.deed, OffloadDeed::WouldReclaim(Bytes::new(STEP)));
    assert_eq!(dry.explain().decided, "a dry run: it would reclaim 524 KiB");
}

/// Up to 4 GiB.
fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(0), 0..(64_u64 << 20), 0..(4_u64 << 30)].prop_map(Bytes::new)
}

fn pages() -> impl Strategy<Value = PageCount> {
    prop_oneof![Just(0), 0..1_000_u64].prop_map(PageCount::new)
}

fn since_probe() -> impl Strategy<Value = SinceProbe> {
    (0..60_000_u64, 0..20_u64, (pages(), pages(), pages())).prop_map(
        |(elapsed, stalled, (scanned, stolen, refaulted))| SinceProbe {
            elapsed: Duration::from_millis(elapsed),
            stalled: Duration::from_millis(stalled),
            scanned,
            stolen,
            refaulted,
        },
    )
}

prop_compose! {
    fn sight()(
        (current, min, low, working_set) in (bytes(), bytes(), bytes(), bytes()),
        limit in prop::option::of(bytes()),
        (swap_room, anon, file, droppable) in (bytes(), bytes(), bytes(), bytes()),
        (growth_per_s, asked) in (bytes(), bytes()),
        avg10 in prop::option::of(0..15_u16),
        since_probe in since_probe(),
        returning in prop::bool::weighted(0.1),
        since_return in prop::option::weighted(0.3, 0..600_u64),
    ) -> OffloadSight {
        OffloadSight {
            current, limit, min, low, working_set, swap_room, anon, file, droppable,
            growth_per_s, asked,
            pressure: avg10.and_then(pressed),
            level: Level::Calm,
            since_probe,
            returning,
            since_return: since_return.map(Duration::from_secs),
        }
    }
}

prop_compose! {
    fn backend()(
        p99 in prop::option::of(0..2_000_u64),
        free in bytes(),
        writes in 0..(40_u64 << 20),
        trial in any::<bool>(),
    ) -> Backend {
        Backend {
            passage: if trial { Passage::AheadOnly } else { Passage::Free },
            p99: p99.map(Duration::from_micros),
            free,
            writes_per_s: Bytes::new(writes),
            ..fast()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn floors_are_never_crossed_and_nothing_goes_that_is_not_there(
        sight in sight(), backend in backend(),
    ) {
        let decision = decide(&sight, &backend);
        let bytes = decision.deed.bytes();
        prop_assert_eq!(bytes.get() % 4_096, 0);
        if bytes == Bytes::ZERO {
            return Ok(());
        }
        let left = sight.current.saturating_sub(bytes);
        prop_assert!(left >= sight.min);
        let swapped = sight.anon.min(sight.swap_room).min(backend.free);
        prop_assert!(bytes <= swapped.saturating_add(sight.file));
        match decision.reason {
            OffloadReason::NodeShort { asked } => {
                prop_assert!(left >= sight.low && bytes <= asked);
            }
            OffloadReason::Probe(_) => {
                prop_assert!(left >= sight.low && left >= sight.working_set && left >= MIB(16));
                let cap = Share::from_hundredths(100).of_bytes(sight.current);
                prop_assert!(bytes <= cap);
                prop_assert!(backend.free > MIB(64) && !sight.returning);
            }
            _ => {}
        }
    }

    #[test]
    fn container_near_its_limit_waits_for_nothing_but_what_bars_it(
        sight in sight(), backend in backend(),
    ) {
        let near = OffloadSight {
            limit: Some(sight.current),
            current: sight.current.saturating_add(MIB(1)),
            min: Bytes::ZERO,
            swap_room: MIB(1),
            anon: MIB(1),
            droppable: Bytes::ZERO,
            returning: false,
            ..sight
        };
        let backend = Backend { free: MIB(1), ..backend };
        prop_assert!(decide(&near, &backend).deed.bytes() > Bytes::ZERO);
    }

    #[test]
    fn more_pressure_or_latency_never_sends_more(
        sight in sight(), backend in backend(), more in 0..15_u16, slower in 0..500_u64,
    ) {
        let before = decide(&sight, &backend).deed.bytes();
        let avg10 = sight.pressure.map_or(0, |it| it.some.avg10.hundredths());
        let worse = OffloadSight {
            pressure: sight.pressure.and_then(|_| pressed(avg10 + more)),
            ..sight
        };
        prop_assert!(decide(&worse, &backend).deed.bytes() <= before);
        let p99 = backend.p99.map(|p99| p99 + Duration::from_micros(slower));
        let slow = decide(&sight, &Backend { p99, ..backend });
        prop_assert!(slow.deed.bytes() <= before);
    }

    #[test]
    fn explanation_is_short(sight in sight(), backend in backend()) {
        let told = decide(&sight, &backend).explain();
        for part in [&*told.decided, &*told.figures, told.rule, &*told.change] {
            prop_assert!(part.chars().count() <= PART_CHARS_MAX, "{}", part);
        }
    }
}
