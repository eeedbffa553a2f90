//! The states by example, and that it always releases by property tests.

use proptest::prelude::*;

use super::*;
use crate::explain::{Explain as _, PART_CHARS_MAX};

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::ZERO.after(Duration::from_secs(seconds))
}

fn thrashing() -> BreakerSight {
    BreakerSight {
        full: Some(Share::from_hundredths(5_000)),
        ..BreakerSight::default()
    }
}

/// Looks once a second, from `from` for `seconds`.
fn look(breaker: &mut Breaker, sight: BreakerSight, from: u64, seconds: u64) -> u64 {
    for second in from..from + seconds {
        breaker.look(at(second), &sight, &BreakerSettings::default());
    }
    from + seconds
}

fn open() -> (Breaker, u64) {
    let mut breaker = Breaker::new(at(0));
    let now = look(&mut breaker, thrashing(), 0, 11);
    assert_eq!(breaker.passage(), Passage::Blocked);
    (breaker, now)
}

#[test]
fn stall_must_last_before_it_opens() {
    let mut breaker = Breaker::new(at(0));
    let now = look(&mut breaker, thrashing(), 0, 10);
    assert_eq!(breaker.passage(), Passage::Free);
    let now = look(&mut breaker, BreakerSight::default(), now, 1);
    look(&mut breaker, thrashing(), now, 10);
    assert_eq!(breaker.passage(), Passage::Free);
    let (breaker, _) = open();
    assert_eq!(
        breaker.explain().figures,
        "all tasks waited 50 % of the time, at or over 40 % for 10 s"
    );
}

#[test]
fn refaults_open_it_only_where_there_are_many() {
    let mut breaker = Breaker::new(at(0));
    let few = BreakerSight {
        swap_ins_per_s: 199,
        refaults_per_s: 199,
        ..BreakerSight::default()
    };
    let now = look(&mut breaker, few, 0, 100);
    assert_eq!(breaker.passage(), Passage::Free);
    let many = BreakerSight {
        swap_ins_per_s: 1_000,
        refaults_per_s: 800,
        ..few
    };
    // A job that pushes ten times as much out is no thrashing.
    let pushed = BreakerSight {
        swap_outs_per_s: 10_000,
        ..many
    };
    let now = look(&mut breaker, pushed, now, 100);
    assert_eq!(breaker.passage(), Passage::Free);
    look(&mut breaker, many, now, 21);
    assert_eq!(breaker.passage(), Passage::Blocked);
    let mut settings = BreakerSettings::default();
    assert!(!breaker.holds_limits(&settings));
    settings.hold_limits = true;
    assert!(breaker.holds_limits(&settings));
}

#[test]
fn slow_device_opens_it() {
    let mut breaker = Breaker::new(at(0));
    let slow = BreakerSight {
        p99: Some(Duration::from_millis(50)),
        ..BreakerSight::default()
    };
    look(&mut breaker, slow, 0, 31);
    assert!(matches!(
        breaker.state(),
        BreakerState::Open {
            cause: Cause::Slow { .. },
            ..
        }
    ));
}

#[test]
fn it_is_tried_after_its_time_and_closes_after_a_quiet_one() {
    let (mut breaker, now) = open();
    let now = look(&mut breaker, BreakerSight::default(), now, 30);
    assert_eq!(breaker.passage(), Passage::AheadOnly);
    look(&mut breaker, BreakerSight::default(), now, 20);
    assert_eq!(breaker.passage(), Passage::Free);
}

#[test]
fn it_opens_for_longer_each_time_up_to_a_bound() {
    let (mut breaker, mut now) = open();
    let mut holds = Vec::new();
    for _ in 0..2_000 {
        now = look(&mut breaker, thrashing(), now, 1);
        if let BreakerState::Open { hold, .. } = breaker.state()
            && breaker.since() == at(now - 1)
        {
            holds.push(hold.as_secs());
        }
    }
    assert_eq!(holds[..5], [60, 120, 240, 300, 300]);
}

#[test]
fn it_forgets_after_a_long_calm() {
    let (mut breaker, now) = open();
    let now = look(&mut breaker, BreakerSight::default(), now, 700);
    look(&mut breaker, thrashing(), now, 11);
    assert!(matches!(breaker.state(), BreakerState::Open { hold, .. } if hold.as_secs() == 30));
}

prop_compose! {
    fn sight()(
        full in prop::option::of(0..10_000_u16),
        swap_ins_per_s in 0..2_000_u64,
        refaults_per_s in 0..2_000_u64,
        p99 in prop::option::of(0..100_u64),
    ) -> BreakerSight {
        BreakerSight {
            full: full.map(Share::from_hundredths),
            swap_ins_per_s,
            refaults_per_s,
            swap_outs_per_s: 0,
            p99: p99.map(Duration::from_millis),
        }
    }
}

fn history() -> impl Strategy<Value = Vec<(u64, BreakerSight)>> {
    // Long stretches of the same, so that histories reach every state.
    prop::collection::vec((1..90_u64, prop_oneof![sight(), Just(thrashing())]), 1..40)
}

proptest! {
    #[test]
    fn it_always_releases(history in history()) {
        let settings = BreakerSettings::default();
        let (mut breaker, mut now) = (Breaker::new(at(0)), 0);
        for (seconds, sight) in history {
            for _ in 0..seconds {
                now += 1;
                breaker.look(at(now), &sight, &settings);
                if breaker.passage() == Passage::Blocked {
                    prop_assert!(at(now).since(breaker.since()) < settings.open_max);
                }
            }
        }
        let calm = (settings.open_max + settings.trial).as_secs() + 1;
        look(&mut breaker, BreakerSight::default(), now + 1, calm);
        prop_assert_eq!(breaker.passage(), Passage::Free);
    }

    #[test]
    fn it_never_flaps_faster_than_its_times(history in history()) {
        let settings = BreakerSettings::default();
        let (mut breaker, mut now) = (Breaker::new(at(0)), 0);
        let mut opened: Option<MonotonicTime> = None;
        for (seconds, sight) in history {
            for _ in 0..seconds {
                now += 1;
                let changed = breaker.look(at(now), &sight, &settings);
                if changed && breaker.passage() == Passage::Blocked {
                    let apart = opened.map(|before| at(now).since(before));
                    prop_assert!(apart.is_none_or(|apart| apart >= settings.open_min));
                    opened = Some(at(now));
                }
                let told = breaker.explain();
                for part in [&*told.decided, &*told.figures, told.rule, &*told.change] {
                    prop_assert!(part.chars().count() <= PART_CHARS_MAX);
                }
            }
        }
    }
}
