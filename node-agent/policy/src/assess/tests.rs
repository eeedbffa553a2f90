//! Single rules by example, and what holds for any history by property tests.

use proptest::prelude::*;

use super::*;
use crate::observation::{Memory, Stall};
use crate::trigger::{Grain, Trigger};

const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> MonotonicTime {
    MonotonicTime::ZERO.after(Duration::from_millis(millis))
}

fn stall(avg10: u16, total_ms: u64) -> Stall {
    Stall {
        avg10: Share::from_hundredths(avg10),
        total: Duration::from_millis(total_ms),
        ..Stall::default()
    }
}

/// A sight with `some` and `full` averages in hundredths of a percent and no growth.
fn averages(millis: u64, some: u16, full: u16) -> Sight {
    Sight {
        at: at(millis),
        pressure: Some(Pressure {
            some: stall(some, 0),
            full: stall(full, 0),
        }),
        memory: Memory::default(),
        fired: None,
    }
}

fn calm(millis: u64) -> Sight {
    averages(millis, 0, 0)
}

fn grown(millis: u64, some_ms: u64) -> Sight {
    let mut sight = calm(millis);
    sight.pressure = Some(Pressure {
        some: stall(0, some_ms),
        full: stall(0, 0),
    });
    sight
}

fn follow(sights: &[Sight]) -> Vec<Verdict> {
    let thresholds = Thresholds::default();
    let mut track = None;
    let mut verdicts = Vec::new();
    for sight in sights {
        track = judge(track, sight, &thresholds);
        verdicts.push(track.expect("pressure is known").verdict);
    }
    verdicts
}

fn last(sights: &[Sight]) -> Verdict {
    *follow(sights).last().expect("some")
}

#[test]
fn container_is_calm_until_a_threshold_is_reached() {
    let verdict = last(&[calm(0), averages(1_000, 999, 499)]);
    assert_eq!((verdict.level, verdict.reason), (Level::Calm, Reason::New));
    assert_eq!(verdict.since, at(0));
}

#[test]
fn average_raises_the_level_and_the_timer_noticed_it() {
    let verdict = last(&[calm(0), averages(1_000, 1_000, 0)]);
    assert_eq!(verdict.level, Level::Pressured);
    assert_eq!(verdict.noticed_by, NoticedBy::Timer);
    assert_eq!(
        verdict.reason.to_string(),
        "some was 10 % of 10 s, the threshold is 10 %"
    );
    assert_eq!(last(&[averages(0, 2_000, 500)]).level, Level::Stalled);
}

#[test]
fn growth_raises_the_level_before_the_average_does() {
    let verdict = last(&[grown(0, 0), grown(1_000, 250)]);
    assert_eq!(verdict.level, Level::Pressured);
    assert_eq!(
        verdict.reason.to_string(),
        "some was 25 % of 1.0 s, the threshold is 10 %"
    );
}

#[test]
fn growth_within_a_moment_says_nothing() {
    let verdict = last(&[grown(0, 0), grown(100, 90)]);
    assert_eq!(verdict.level, Level::Calm);
    // It is not forgotten either: the next sight that is late enough counts it.
    let verdict = last(&[grown(0, 0), grown(100, 90), grown(600, 90)]);
    assert_eq!(verdict.level, Level::Pressured);
}

#[test]
fn fired_trigger_raises_the_level_at_once() {
    let trigger = |line| {
        let level = match line {
            Line::Some => Level::Calm,
            Line::Full => Level::Pressured,
        };
        Trigger::next_above(level, &Thresholds::default(), Grain::Fine).expect("one")
    };
    let mut fired = calm(10);
    fired.fired = Some(trigger(Line::Some));
    let verdict = last(&[calm(0), fired]);
    assert_eq!(verdict.level, Level::Pressured);
    assert_eq!(verdict.noticed_by, NoticedBy::Trigger);
    assert_eq!(
        verdict.reason.to_string(),
        "some grew by 10 % within 1.0 s, the threshold is 10 %"
    );
    fired.fired = Some(trigger(Line::Full));
    assert_eq!(last(&[calm(0), fired]).level, Level::Stalled);
}

#[test]
fn trigger_of_one_line_is_what_noticed_the_other() {
    let mut fired = averages(10, 4_000, 4_000);
    fired.fired = Trigger::next_above(Level::Calm, &Thresholds::default(), Grain::Fine);
    let verdict = last(&[calm(0), fired]);
    assert_eq!(verdict.level, Level::Stalled);
    assert_eq!(verdict.noticed_by, NoticedBy::Trigger);
}

#[test]
fn trigger_of_a_lower_threshold_than_now_raises_nothing() {
    let mut fired = calm(10);
    fired.fired = Some(Trigger {
        line: Line::Some,
        share: Share::from_hundredths(500),
        window: SECOND,
    });
    assert_eq!(last(&[calm(0), fired]).level, Level::Calm);
}

#[test]
fn level_falls_after_the_quiet_time_only() {
    let pressured = averages(0, 1_500, 0);
    let verdicts = follow(&[
        pressured,
        averages(1_000, 499, 0),
        calm(10_999),
        calm(11_000),
    ]);
    let levels = verdicts.iter().map(|verdict| verdict.level);
    let expected = [
        Level::Pressured,
        Level::Pressured,
        Level::Pressured,
        Level::Calm,
    ];
    assert!(levels.eq(expected));
    assert_eq!(
        verdicts[3].reason.to_string(),
        "some stayed below half of its threshold, 10 %, for 10 s"
    );
}

#[test]
fn quiet_time_begins_anew_after_a_louder_moment() {
    let sights = [
        averages(0, 1_500, 0),
        calm(1_000),
        averages(9_000, 600, 0),
        calm(10_000),
        calm(19_000),
    ];
    assert_eq!(last(&sights).level, Level::Pressured);
}

#[test]
fn stall_that_is_over_leaves_pressure() {
    let verdict = last(&[
        averages(0, 2_000, 900),
        averages(1_000, 800, 100),
        averages(11_000, 800, 0),
    ]);
    assert_eq!(verdict.level, Level::Pressured);
    assert!(matches!(
        verdict.reason,
        Reason::Quiet {
            line: Line::Full,
            ..
        }
    ));
}

#[test]
fn what_is_not_seen_is_forgotten_and_unknown_pressure_has_no_verdict() {
    let name = ContainerName {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    };
    let mut observation = Observation {
        node: calm(0),
        containers: BTreeMap::from([(name.clone(), averages(0, 5_000, 0))]),
    };
    let mut assessor = Assessor::default();
    assessor.assess(&observation, &BTreeMap::new());
    let level = |assessor: &Assessor| assessor.container(&name).map(|verdict| verdict.level);
    assert_eq!(level(&assessor), Some(Level::Pressured));
    assert_eq!(assessor.node().map(|node| node.level), Some(Level::Calm));
    let strict = Thresholds {
        full: Share::ZERO,
        ..Thresholds::default()
    };
    assessor.assess(&observation, &BTreeMap::from([(name.clone(), strict)]));
    assert_eq!(level(&assessor), Some(Level::Stalled));
    observation.containers.clear();
    assessor.assess(&observation, &BTreeMap::new());
    assert_eq!(level(&assessor), None);
    let unknown = Sight {
        pressure: None,
        ..calm(1_000)
    };
    observation.containers.insert(name.clone(), unknown);
    assessor.assess(&observation, &BTreeMap::new());
    assert_eq!(level(&assessor), None);
}

/// One step of a history: time passes, the totals grow, the kernel averages, a trigger fires.
#[derive(Debug, Clone)]
struct Step {
    millis: u64,
    some: (u16, u64),
    full: (u16, u64),
    fired: bool,
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly quiet, so that histories reach the falls, too.
    let share = || prop_oneof![3 => 0..300_u16, 1 => 0..2_000_u16];
    let growth = || prop_oneof![3 => Just(0_u64), 1 => 0..400_u64];
    (
        1..3_000_u64,
        (share(), growth()),
        (share(), growth()),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(millis, some, full, fired)| Step {
            millis,
            some,
            full,
            fired,
        })
}

fn history(steps: &[Step]) -> Vec<Sight> {
    let (mut now, mut some, mut full) = (0, 0, 0);
    let sight = |step: &Step| {
        now += step.millis;
        some += step.some.1;
        full += step.full.1;
        let mut sight = calm(now);
        sight.pressure = Some(Pressure {
            some: stall(step.some.0, some),
            full: stall(step.full.0, full),
        });
        let trigger = Trigger::next_above(Level::Calm, &Thresholds::default(), Grain::Fine);
        sight.fired = trigger.filter(|_| step.fired);
        sight
    };
    steps.iter().map(sight).collect()
}

proptest! {
    #[test]
    fn level_is_never_below_what_the_averages_and_triggers_say(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let thresholds = Thresholds::default();
        let sights = history(&steps);
        for (sight, verdict) in sights.iter().zip(follow(&sights)) {
            let pressure = sight.pressure.expect("known");
            if pressure.full.avg10 >= thresholds.full {
                prop_assert_eq!(verdict.level, Level::Stalled);
            }
            if pressure.some.avg10 >= thresholds.some || sight.fired.is_some() {
                prop_assert!(verdict.level >= Level::Pressured);
            }
        }
    }

    #[test]
    fn level_falls_only_if_the_whole_quiet_time_was_quiet(
        steps in prop::collection::vec(step(), 2..80),
    ) {
        let thresholds = Thresholds::default();
        let sights = history(&steps);
        let verdicts = follow(&sights);
        for index in 1..sights.len() {
            if verdicts[index].level >= verdicts[index - 1].level {
                continue;
            }
            let from_time = |sight: &Sight| sights[index].at.since(sight.at);
            let within = |sight: &&Sight| from_time(sight) <= thresholds.calm_after;
            for sight in sights[..=index].iter().filter(within) {
                let pressure = sight.pressure.expect("known");
                prop_assert!(pressure.full.avg10.is_quiet(thresholds.full));
                if verdicts[index].level == Level::Calm {
                    prop_assert!(pressure.some.avg10.is_quiet(thresholds.some));
                    prop_assert!(sight.fired.is_none());
                }
            }
        }
    }

    #[test]
    fn change_has_a_reason_with_the_figures_of_its_own_sight(
        steps in prop::collection::vec(step(), 2..60),
    ) {
        let sights = history(&steps);
        let verdicts = follow(&sights);
        for (index, pair) in verdicts.windows(2).enumerate() {
            let (before, after) = (pair[0], pair[1]);
            let sight = &sights[index + 1];
            if before.level == after.level {
                prop_assert_eq!(before, after);
                continue;
            }
            prop_assert_eq!(after.since, sight.at);
            if after.level > before.level {
                let by_trigger = after.noticed_by == NoticedBy::Trigger;
                prop_assert_eq!(by_trigger, sight.fired.is_some());
            }
            match after.reason {
                Reason::Reached { line, evidence, threshold } => {
                    prop_assert!(after.level > before.level);
                    match evidence {
                        Evidence::Fired(trigger) => {
                            prop_assert_eq!(Some(trigger), sight.fired);
                        }
                        Evidence::Grown { share, over } => {
                            prop_assert!(share >= threshold && over >= GROWTH_SPAN_MIN);
                        }
                        Evidence::Average(share) => {
                            let pressure = sight.pressure.expect("known");
                            prop_assert_eq!(share, pressure.line(line).avg10);
                            prop_assert!(share >= threshold);
                        }
                    }
                }
                Reason::Quiet { quiet_for, .. } => {
                    prop_assert!(after.level < before.level);
                    prop_assert!(quiet_for >= Thresholds::default().calm_after);
                }
                Reason::New => prop_assert!(false, "a change cannot be new"),
            }
        }
    }

    #[test]
    fn sight_seen_again_changes_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let thresholds = Thresholds::default();
        let mut track = None;
        for mut sight in history(&steps) {
            track = judge(track, &sight, &thresholds);
            sight.fired = None;
            let again = judge(track, &sight, &thresholds);
            prop_assert_eq!(
                track.map(|track| track.verdict),
                again.map(|track| track.verdict)
            );
        }
    }
}
