//! Beginnings, ends and order by example; marks, bandwidth and rest by property tests.

use proptest::prelude::*;

use super::*;
use crate::explain::{Explain as _, PART_CHARS_MAX};
use crate::share::Share;

const MIB: fn(u32) -> Bytes = Bytes::from_mib;
const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::ZERO.after(Duration::from_secs(seconds))
}

fn name(name: &str) -> ContainerName {
    ContainerName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn quiet() -> Rest {
    Rest {
        calm_for: Some(Duration::from_secs(60)),
        unscanned_for: Some(Duration::from_secs(60)),
        stalled: Duration::ZERO,
    }
}

fn roomy() -> ReturnNode {
    ReturnNode {
        rest: quiet(),
        available: MIB(8_192),
        total: MIB(16_384),
    }
}

/// Uses 300 of 1000 MiB, 200 are out, none of them sent by probing.
fn out() -> ReturnSight {
    ReturnSight {
        enabled: true,
        rest: quiet(),
        used: MIB(300),
        limit: Some(MIB(1_000)),
        swapped: MIB(200),
        probed: Bytes::ZERO,
        swap_ins_per_min: 0,
    }
}

fn step(
    law: &mut ReturnLaw,
    seconds: u64,
    node: ReturnNode,
    containers: &[(&str, ReturnSight)],
) -> Vec<(String, ReturnRuling)> {
    let containers = containers
        .iter()
        .map(|(it, sight)| (name(it), *sight))
        .collect();
    let settings = ReturnSettings::default();
    let rulings = law.step(at(seconds), &node, &containers, &settings);
    rulings
        .into_iter()
        .map(|(it, ruling)| (it.name, ruling))
        .collect()
}

fn one(law: &mut ReturnLaw, seconds: u64, node: ReturnNode, sight: ReturnSight) -> ReturnRuling {
    step(law, seconds, node, &[("a", sight)])[0].1
}

/// A law with one container that is returning, at second 1.
fn returning() -> ReturnLaw {
    let mut law = ReturnLaw::default();
    one(&mut law, 0, roomy(), out());
    let ruling = one(&mut law, 1, roomy(), out());
    assert_eq!(ruling.deed, ReturnDeed::Bring(MIB(32)));
    law
}

#[test]
fn pages_come_home_to_a_quiet_container_with_room() {
    let law = returning();
    assert!(law.is_returning(&name("a")));
    assert_eq!(law.since_return(&name("a"), at(3)), Some(SECOND * 2));
    assert_eq!(law.since_return(&name("b"), at(3)), None);
}

#[test]
fn nothing_comes_home_without_quiet_or_room() {
    let reason = |node, sight| one(&mut ReturnLaw::default(), 0, node, sight).reason;
    let mut short = out();
    short.rest.calm_for = Some(SECOND);
    short.rest.unscanned_for = None;
    assert!(matches!(
        reason(roomy(), short),
        ReturnReason::NotQuiet { .. }
    ));
    let full = ReturnSight {
        used: MIB(801),
        ..out()
    };
    assert!(matches!(reason(roomy(), full), ReturnReason::NoRoom { .. }));
    let node = ReturnNode {
        available: MIB(2_400),
        ..roomy()
    };
    assert!(matches!(
        reason(node, out()),
        ReturnReason::NodeNoRoom { .. }
    ));
    let mut node = roomy();
    (node.rest.calm_for, node.rest.unscanned_for) = (None, None);
    assert!(matches!(
        reason(node, out()),
        ReturnReason::NodeNotQuiet { .. }
    ));
    let disabled = ReturnSight {
        enabled: false,
        ..out()
    };
    assert_eq!(reason(roomy(), disabled), ReturnReason::Disabled);
}

#[test]
fn waits_for_pages_that_are_out_do_not_forbid_their_return() {
    let mut waiting = out();
    // Pressured since it reads everything back, yet nothing is reclaimed.
    waiting.rest.calm_for = None;
    let mut law = ReturnLaw::default();
    one(&mut law, 0, roomy(), waiting);
    waiting.rest.stalled = SECOND / 2;
    let ruling = one(&mut law, 1, roomy(), waiting);
    assert_eq!(ruling.deed, ReturnDeed::Bring(MIB(32)));
}

#[test]
fn first_sign_of_pressure_ends_it_and_it_rests() {
    let mut law = returning();
    let mut pressed = out();
    (pressed.rest.calm_for, pressed.rest.unscanned_for) = (None, Some(Duration::ZERO));
    let ended = one(&mut law, 2, roomy(), pressed);
    assert!(matches!(
        ended.reason,
        ReturnReason::Stopped(StopCause::Pressed { share: Share::ALL })
    ));
    assert!(matches!(
        one(&mut law, 3, roomy(), out()).reason,
        ReturnReason::Cooling { .. }
    ));
    assert!(matches!(
        one(&mut law, 121, roomy(), out()).reason,
        ReturnReason::Cooling { .. }
    ));
    assert!(matches!(
        one(&mut law, 122, roomy(), out()).deed,
        ReturnDeed::Bring(_)
    ));
}

#[test]
fn growth_of_the_stall_within_a_step_is_a_sign() {
    let mut law = returning();
    let mut stalled = out();
    stalled.rest.unscanned_for = Some(Duration::ZERO);
    stalled.rest.stalled = Duration::from_millis(11);
    let ended = one(&mut law, 2, roomy(), stalled);
    assert!(matches!(
        ended.reason,
        ReturnReason::Stopped(StopCause::Pressed { .. })
    ));
}

#[test]
fn it_goes_on_below_the_upper_mark_and_ends_at_the_lower_one() {
    let mut law = returning();
    let between = ReturnSight {
        used: MIB(850),
        swapped: MIB(199),
        ..out()
    };
    assert!(matches!(
        one(&mut law, 2, roomy(), between).deed,
        ReturnDeed::Bring(_)
    ));
    let full = ReturnSight {
        used: MIB(880),
        ..between
    };
    let ended = one(&mut law, 3, roomy(), full);
    assert_eq!(ended.reason, ReturnReason::Stopped(StopCause::Full));
}

#[test]
fn node_at_its_lower_mark_ends_everybody_and_rests() {
    let mut law = returning();
    let full = ReturnNode {
        available: MIB(1_638),
        ..roomy()
    };
    let ended = one(&mut law, 2, full, out());
    assert!(matches!(
        ended.reason,
        ReturnReason::Stopped(StopCause::NodeFull { .. })
    ));
    assert!(!law.is_returning(&name("a")));
    assert!(matches!(
        step(&mut law, 3, roomy(), &[("b", out())])[0].1.reason,
        ReturnReason::NodeCooling { .. }
    ));
}

#[test]
fn it_ends_when_all_are_home_or_nothing_moves() {
    let mut law = returning();
    let home = ReturnSight {
        swapped: Bytes::ZERO,
        ..out()
    };
    let ended = one(&mut law, 2, roomy(), home);
    assert_eq!(ended.reason, ReturnReason::Stopped(StopCause::Home));
    let mut law = returning();
    let mut last = None;
    for second in 2..=10 {
        last = Some(one(&mut law, second, roomy(), out()).reason);
    }
    assert!(matches!(
        last,
        Some(ReturnReason::Stopped(StopCause::Stuck { .. }))
    ));
}

#[test]
fn pages_sent_as_cold_stay_out_until_wanted_with_plenty_of_room() {
    let cold = ReturnSight {
        probed: MIB(200),
        ..out()
    };
    let reason = |node, sight| one(&mut ReturnLaw::default(), 0, node, sight).reason;
    assert!(matches!(
        reason(roomy(), cold),
        ReturnReason::StaysOut { .. }
    ));
    // 200 MiB are 51200 pages; 1 % of them is asked for.
    let wanted = ReturnSight {
        swap_ins_per_min: 512,
        ..cold
    };
    assert!(!matches!(
        reason(roomy(), wanted),
        ReturnReason::StaysOut { .. }
    ));
    let little = ReturnSight {
        swap_ins_per_min: 500,
        ..cold
    };
    assert!(matches!(
        reason(roomy(), little),
        ReturnReason::StaysOut { .. }
    ));
    let tight = ReturnNode {
        available: MIB(4_900),
        ..roomy()
    };
    assert!(matches!(
        reason(tight, wanted),
        ReturnReason::StaysOut { .. }
    ));
    let near = ReturnSight {
        used: MIB(610),
        ..wanted
    };
    assert!(matches!(
        reason(roomy(), near),
        ReturnReason::StaysOut { .. }
    ));
}

#[test]
fn who_reads_back_most_of_what_is_out_comes_first() {
    let hot = ReturnSight {
        swap_ins_per_min: 100,
        swapped: MIB(10),
        ..out()
    };
    let warm = ReturnSight {
        swap_ins_per_min: 200,
        ..out()
    };
    let large = ReturnSight {
        swapped: MIB(300),
        ..out()
    };
    let rulings = step(
        &mut ReturnLaw::default(),
        0,
        roomy(),
        &[
            ("cold", out()),
            ("hot", hot),
            ("large", large),
            ("warm", warm),
        ],
    );
    let order: Vec<&str> = rulings.iter().map(|(name, _)| &**name).collect();
    assert_eq!(order, ["hot", "warm", "large", "cold"]);
}

#[test]
fn lower_mark_is_above_the_room_that_offload_keeps() {
    let settings = ReturnSettings {
        container_stop: Share::ZERO,
        container_start: Share::ZERO,
        ..ReturnSettings::default()
    }
    .bounded();
    for limit in [MIB(16), MIB(100), MIB(10_000)] {
        let kept = settings.ahead.room(limit, Bytes::ZERO);
        assert!(settings.stop_room(limit) > kept);
        assert!(settings.start_room(limit) > settings.stop_room(limit));
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    (0..2_000_u32).prop_map(Bytes::from_mib)
}

prop_compose! {
    fn rest()(calm in prop::option::weighted(0.9, 0..100_u64), scanned in 0..100_u64) -> Rest {
        Rest {
            calm_for: calm.map(Duration::from_secs),
            unscanned_for: Some(Duration::from_secs(scanned)),
            stalled: Duration::ZERO,
        }
    }
}

prop_compose! {
    fn sight()(
        rest in rest(),
        enabled in prop::bool::weighted(0.9),
        (used, swapped, probed) in (bytes(), bytes(), bytes()),
        limit in prop::option::of(bytes()),
        swap_ins_per_min in prop_oneof![Just(0), 0..10_000_u64],
    ) -> ReturnSight {
        ReturnSight { enabled, rest, used, limit, swapped, probed, swap_ins_per_min }
    }
}

prop_compose! {
    fn moment()(
        millis in 1..20_000_u64,
        rest in rest(),
        available in 500..8_000_u32,
        containers in prop::collection::vec(sight(), 3),
    ) -> (u64, ReturnNode, Vec<ReturnSight>) {
        let node = ReturnNode { rest, available: MIB(available), total: MIB(8_192) };
        (millis, node, containers)
    }
}

proptest! {
    #[test]
    fn marks_bandwidth_and_rest_are_kept(history in prop::collection::vec(moment(), 1..80)) {
        let settings = ReturnSettings::default();
        let (mut law, mut now) = (ReturnLaw::default(), 0);
        let mut stopped: BTreeMap<ContainerName, MonotonicTime> = BTreeMap::new();
        for (millis, node, sights) in history {
            now += millis;
            let now = MonotonicTime::ZERO.after(Duration::from_millis(now));
            let containers: BTreeMap<_, _> = ["a", "b", "c"].map(name).into_iter().zip(sights).collect();
            let returning: Vec<_> = containers.keys().filter(|it| law.is_returning(it)).cloned().collect();
            let mut all = 0;
            for (name, ruling) in law.step(now, &node, &containers, &settings) {
                let sight = containers[&name];
                if let ReturnDeed::Bring(bytes) = ruling.deed {
                    all += bytes.get();
                    prop_assert!(sight.enabled && bytes <= sight.swapped && bytes <= settings.step_max);
                    if let Some(limit) = sight.limit {
                        let used = sight.used.saturating_add(bytes);
                        prop_assert!(used <= limit.saturating_sub(settings.stop_room(limit)));
                    }
                    if !returning.contains(&name) {
                        let rest = stopped.get(&name).map(|stopped| now.since(*stopped));
                        prop_assert!(rest.is_none_or(|rest| rest >= settings.cool_down));
                    }
                } else if returning.contains(&name) && !law.is_returning(&name) {
                    stopped.insert(name, now);
                }
                let told = ruling.explain();
                for part in [&*told.decided, &*told.figures, told.rule, &*told.change] {
                    prop_assert!(part.chars().count() <= PART_CHARS_MAX, "{}", part);
                }
            }
            prop_assert!(all <= settings.bytes_per_s.get());
            prop_assert!(all == 0 || node.available.get() - all >= settings.node_stop.of_bytes(node.total).get());
        }
    }

    /// Offload and return on one container whose working set stands still: however they meet,
    /// each page goes out at most once by probing and comes home at most once.
    #[test]
    fn probing_and_return_do_not_hand_pages_to_each_other(
        swapped in 0..500_u32, cold in 0..500_u32, steps in 200..2_000_u64,
    ) {
        let settings = ReturnSettings::default();
        let (mut law, mut account) = (ReturnLaw::default(), SwapAccount::default());
        // What pressure took before the history begins; `cold` is what probing will find.
        let (mut out, mut cold_left, mut came, mut went) = (MIB(swapped), MIB(cold), 0, 0);
        account = account.seen(out);
        for second in 0..steps {
            let sight = ReturnSight {
                swapped: out,
                probed: account.probed(),
                limit: None,
                ..super::tests::out()
            };
            let containers = BTreeMap::from([(name("a"), sight)]);
            let rulings = law.step(at(second), &roomy(), &containers, &settings);
            if let ReturnDeed::Bring(bytes) = rulings[0].1.deed {
                out = out.saturating_sub(bytes);
                came += bytes.get();
                account = account.seen(out);
            }
            let rested = law.since_return(&name("a"), at(second)).is_none_or(|it| it >= SECOND * 300);
            if second % 6 == 0 && !law.is_returning(&name("a")) && rested {
                let probe = cold_left.min(MIB(1));
                cold_left = cold_left.saturating_sub(probe);
                out = out.saturating_add(probe);
                went += probe.get();
                account = account.after_probe(probe, out);
            }
        }
        prop_assert!(came <= MIB(swapped).get());
        prop_assert!(went <= MIB(cold).get());
    }
}
