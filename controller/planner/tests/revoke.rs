//! Slabs that move: donors that are drained, or whose headroom shrinks.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use dynamicswap_planner::limits::{MOVES_PER_DONOR_MAX, REVOKE_DEADLINE};
use dynamicswap_planner::{Finding, Mark, Plan, Rebalance, ReplicaState, SeatPhase, Step, lint};
use dynamicswap_types::{Bytes, NodeName, SetId, Spill};
use world::{Random, SLAB, World, class, intent, millis, node};

const LONG: Duration = Duration::from_secs(600);

/// Donors of a failure domain each, one borrower with this many bound slabs, one class. Nothing moves
/// for the balance.
fn cluster(donors: &[&str], copies: u32, bound: usize) -> World {
    let mut world = World::new();
    world.rebalance = Rebalance::Off;
    for name in donors {
        world.join_donor(name, name, 64);
    }
    world.join_borrower("b1", 32);
    world.intent = Some(intent(class(copies, Spill::None)));
    world.settle();
    assert_eq!(world.bind("b1", bound), bound);
    world.settle();
    world
}

/// Live copies of each bound set.
fn least_live(world: &World) -> usize {
    let sets = world.borrowers[&node("b1")].sets.values();
    let live = |set: &world::EngineSet| {
        let mut copies = set.replicas.iter();
        copies
            .by_ref()
            .filter(|copy| copy.3 == ReplicaState::Live)
            .count()
    };
    sets.filter(|set| set.bound)
        .map(live)
        .min()
        .expect("a bound set")
}

/// Where the copy of a set on a node is in its life.
fn phase_on(world: &World, id: SetId, node: &NodeName) -> SeatPhase {
    let set = world.ledger.sets.get(&id).expect("on record");
    set.seat(node).expect("on record").phase.clone()
}

fn lendable(world: &mut World, name: &str, slots: u64) {
    let seen = world.seen.get_mut(&node(name)).expect("known");
    seen.lendable = Some(Bytes::new(SLAB.get() * slots));
}

fn revoked(world: &World, name: &str) -> Vec<SetId> {
    let sets = world.ledger.sets.iter();
    let marked = |seat: &dynamicswap_planner::Seat| {
        seat.mark == Some(Mark::Revoked) && seat.phase.is_listed()
    };
    sets.filter(|(_, set)| set.seat(&node(name)).is_some_and(marked))
        .map(|(id, _)| *id)
        .collect()
}

fn set_heat(world: &mut World, heat: impl Fn(SetId) -> u64) {
    let borrower = world.borrowers.get_mut(&node("b1")).expect("known");
    for (id, set) in &mut borrower.sets {
        set.heat = heat(*id);
    }
    world.report(&node("b1"));
}

#[test]
fn drained_donor_is_emptied_a_few_at_a_time_and_no_copy_is_missing_meanwhile() {
    for copies in 1..=3 {
        let mut world = cluster(&["d1", "d2", "d3", "d4"], copies, 8);
        let before = world.copies_on("b1", "d1").len();
        assert!(before > 0);
        world.drain("d1", LONG);
        for _ in 0..200 {
            world.step();
            assert!(revoked(&world, "d1").len() <= MOVES_PER_DONOR_MAX);
            // A set of three gives one up while it moves, and keeps two whole ones.
            let kept = usize::try_from(copies.min(2)).expect("small");
            assert!(least_live(&world) >= kept);
            world.check();
            if world.donors[&node("d1")].slots.is_empty() {
                break;
            }
        }
        world.settle();
        assert!(
            world.donors[&node("d1")].slots.is_empty(),
            "{copies} copies"
        );
        assert_eq!(world.copies_on("b1", "d1"), []);
        let whole = usize::try_from(copies).expect("small");
        assert!(world.whole_sets("b1", whole) >= 8);
        assert_eq!(world.plan.steps, [], "{}", world.report_text());
    }
}

#[test]
fn source_is_freed_last() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 4);
    world.slow = true;
    let before: BTreeSet<SetId> = world.copies_on("b1", "d1").into_iter().collect();
    world.drain("d1", LONG);
    for _ in 0..20 {
        world.step();
    }
    let after: BTreeSet<SetId> = world.copies_on("b1", "d1").into_iter().collect();
    let bound = |id: &&SetId| world.borrowers[&node("b1")].sets[id].bound;
    let kept = before.iter().filter(bound).all(|id| after.contains(id));
    assert!(kept, "nothing is whole elsewhere yet");
    assert!(
        world.report_text().contains("waits for b1 to copy"),
        "{}",
        world.report_text()
    );
    world.slow = false;
    world.settle();
    assert_eq!(world.copies_on("b1", "d1"), []);
}

#[test]
fn coldest_copies_go_first_and_unbound_ones_before_them() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 8);
    set_heat(&mut world, |id| 1_000 - id.get());
    let held = world.donors[&node("d1")].slots.len();
    let borrower = &world.borrowers[&node("b1")];
    let mut order: Vec<(bool, u64, SetId)> = world
        .copies_on("b1", "d1")
        .into_iter()
        .map(|id| (borrower.sets[&id].bound, borrower.sets[&id].heat, id))
        .collect();
    order.sort_unstable();
    lendable(&mut world, "d1", held as u64 - 4);
    world.round();
    let mut chosen = revoked(&world, "d1");
    let mut coldest: Vec<SetId> = order[..4].iter().map(|(.., id)| *id).collect();
    chosen.sort_unstable();
    coldest.sort_unstable();
    assert_eq!(chosen, coldest);
}

#[test]
fn shrunken_headroom_is_given_back_and_no_more() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 8);
    let held = world.donors[&node("d1")].slots.len();
    lendable(&mut world, "d1", held as u64 - 5);
    world.settle();
    world.check();
    assert_eq!(world.donors[&node("d1")].slots.len(), held - 5);
    assert!(revoked(&world, "d1").is_empty());
    assert_eq!(world.seen[&node("d1")].revoke_by, None);
}

#[test]
fn headroom_that_recovers_calls_moves_off() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 8);
    world.slow = true;
    let held = world.donors[&node("d1")].slots.len() as u64;
    lendable(&mut world, "d1", held - 4);
    world.step();
    assert!(!revoked(&world, "d1").is_empty());
    lendable(&mut world, "d1", held);
    world.slow = false;
    world.settle();
    world.check();
    assert!(revoked(&world, "d1").is_empty());
    assert_eq!(
        world.whole_sets("b1", 2),
        world.borrowers[&node("b1")].sets.len()
    );
}

#[test]
fn at_the_deadline_a_copy_leaves_if_another_is_whole() {
    let mut world = cluster(&["d1", "d2"], 2, 4);
    let held = world.donors[&node("d1")].slots.len() as u64;
    assert_eq!(held, 12);
    lendable(&mut world, "d1", 0);
    world.step();
    assert!(
        world.report_text().contains("no donor fits"),
        "{}",
        world.report_text()
    );
    world.pass(REVOKE_DEADLINE.checked_sub(millis(100)).expect("longer"));
    world.step();
    assert_eq!(world.donors[&node("d1")].slots.len(), 12, "not before");
    world.pass(millis(100));
    world.step();
    let report = world.report_text();
    assert!(
        report.contains("fewer left than the class asks for"),
        "{report}"
    );
    for _ in 0..60 {
        world.step();
    }
    world.check();
    assert_eq!(world.copies_on("b1", "d1"), []);
    assert_eq!(least_live(&world), 1, "the other copy has every page");
}

#[test]
fn only_copy_without_a_place_to_go_stays_and_says_why() {
    let mut world = cluster(&["d1"], 1, 4);
    world.drain("d1", millis(500));
    world.step();
    world.pass(millis(600));
    for _ in 0..20 {
        world.step();
    }
    let report = world.report_text();
    assert!(report.contains("nobody else holds their pages"), "{report}");
    assert_eq!(least_live(&world), 1);
    assert!(world.copies_on("b1", "d1").len() >= 4);
    // A donor comes: they move after all.
    world.join_donor("d2", "d2", 64);
    world.settle();
    world.check();
    assert_eq!(world.copies_on("b1", "d1"), []);
    assert_eq!(least_live(&world), 1);
}

#[test]
fn at_the_deadline_the_disk_stands_in_for_another_copy_if_it_has_every_page() {
    for on_disk in [false, true] {
        let mut world = cluster(&["d1", "d2"], 1, 4);
        let name = node("b1");
        world.borrowers.get_mut(&name).expect("known").spill = true;
        world.intent = Some(intent(class(1, Spill::Async)));
        world.settle();
        let first = if world.copies_on("b1", "d1").is_empty() {
            "d2"
        } else {
            "d1"
        };
        let borrower = world.borrowers.get_mut(&name).expect("known");
        borrower
            .sets
            .values_mut()
            .for_each(|set| set.on_disk = on_disk);
        world.slow = true;
        world.drain(first, millis(500));
        for _ in 0..10 {
            world.step();
        }
        world.pass(millis(600));
        for _ in 0..40 {
            world.step();
        }
        world.check();
        let left = revoked(&world, first).len();
        assert_eq!(left == 0, on_disk, "{}", world.report_text());
    }
}

#[test]
fn target_that_dies_on_the_way_is_replaced_by_another() {
    let mut world = cluster(&["d1", "d2", "d3", "d4"], 2, 4);
    world.slow = true;
    world.drain("d1", LONG);
    for _ in 0..6 {
        world.step();
    }
    let target = |world: &World| -> Option<NodeName> {
        let id = *revoked(world, "d1")
            .iter()
            .find(|id| world.borrowers[&node("b1")].sets[id].bound)?;
        let set = &world.borrowers[&node("b1")].sets[&id];
        let made = set
            .replicas
            .iter()
            .find(|copy| copy.3 != ReplicaState::Live);
        made.map(|copy| copy.0.clone())
    };
    let dying = target(&world).expect("one is being made");
    world.kill_server(dying.as_str());
    world.pass(millis(400));
    world.slow = false;
    for _ in 0..60 {
        world.step();
        assert!(least_live(&world) >= 1);
    }
    world.settle();
    world.check();
    assert_eq!(world.copies_on("b1", "d1"), []);
    assert_eq!(world.copies_on("b1", dying.as_str()), []);
}

#[test]
fn copy_that_was_to_leave_is_named_again_when_the_others_are_gone() {
    let mut world = cluster(&["d1", "d2", "d3"], 1, 2);
    let name = node("b1");
    let (id, source) = {
        let (id, set) = world.borrowers[&name]
            .sets
            .iter()
            .find(|(_, set)| set.bound)
            .expect("one");
        (*id, set.replicas[0].0.clone())
    };
    world.drain(source.as_str(), LONG);
    let leaving = |world: &World| {
        let phase = phase_on(world, id, &source);
        matches!(phase, SeatPhase::Leaving { .. })
    };
    for _ in 0..30 {
        world.step();
        if leaving(&world) {
            break;
        }
    }
    assert!(leaving(&world), "{}", world.report_text());
    // The borrower has not taken that document when its other copy misses a write.
    let borrower = world.borrowers.get_mut(&name).expect("known");
    let set = borrower.sets.get_mut(&id).expect("known");
    let other = set
        .replicas
        .iter_mut()
        .find(|copy| copy.0 != source)
        .expect("one");
    other.3 = ReplicaState::Stale;
    world.report(&name);
    world.round();
    let phase = phase_on(&world, id, &source);
    assert_eq!(phase, SeatPhase::Serving, "{}", world.report_text());
    world.settle();
    world.check();
    assert_eq!(least_live(&world), 1);
    assert_eq!(world.copies_on("b1", source.as_str()), []);
}

#[test]
fn uncordoned_donor_keeps_what_it_still_has() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 8);
    world.slow = true;
    world.drain("d1", LONG);
    world.step();
    let record = world.ledger.nodes.get_mut(&node("d1")).expect("known");
    (record.cordoned, record.drain) = (false, None);
    world.slow = false;
    world.settle();
    assert!(!world.copies_on("b1", "d1").is_empty());
    assert!(revoked(&world, "d1").is_empty());
    assert_eq!(world.seen[&node("d1")].revoke_by, None);
}

/// What the checker says of one step.
fn findings(world: &World, step: Step) -> Vec<Finding> {
    let plan = Plan {
        steps: vec![step],
        ..Plan::default()
    };
    lint(&world.view(), &plan)
}

#[test]
fn checker_finds_moves_that_are_not_sound() {
    let mut world = cluster(&["d1", "d2", "d3"], 2, 4);
    let id = *world.copies_on("b1", "d1").first().expect("one");
    let d1 = node("d1");
    let (set, retired) = (id, d1.clone());
    let found = findings(&world, Step::Retire { set, node: retired });
    assert_eq!(found, [Finding::DroppedTooEarly(id, d1.clone())]);
    let (set, revoked) = (id, d1.clone());
    let found = findings(&world, Step::Revoke { set, node: revoked });
    assert_eq!(found, [Finding::RevokedUnasked(id, d1.clone())]);
    // A copy that the borrower has let go of must not be named again.
    world.slow = false;
    world.drain("d1", LONG);
    let mut gone = None;
    for _ in 0..40 {
        world.step();
        let names: Vec<NodeName> = world.seen.keys().cloned().collect();
        names.iter().for_each(|name| world.deliver(name));
        names.iter().for_each(|name| world.report(name));
        let mut sets = world.ledger.sets.iter();
        let leaving = sets.find(|(_, set)| {
            let seat = set.seat(&d1);
            seat.is_some_and(|seat| matches!(seat.phase, SeatPhase::Leaving { since: Some(_) }))
        });
        if let Some((id, _)) = leaving {
            gone = Some(*id);
            break;
        }
    }
    let set = gone.expect("one leaves");
    let found = findings(
        &world,
        Step::Recall {
            set,
            node: d1.clone(),
        },
    );
    assert!(
        found.contains(&Finding::RecalledTaken(set, d1)),
        "{found:?}"
    );
}

/// Whatever donors want back and whichever of them die meanwhile, every plan passes the checker
/// (`World::round` panics if one does not), nobody refuses a document, and it all settles.
#[test]
fn plans_stay_lawful_under_random_drains_shrinking_headroom_and_deaths() {
    for seed in 0..150_u64 {
        let mut random = Random(seed);
        let copies = 1 + u32::try_from(random.below(3)).expect("small");
        let mut world = cluster(&["d1", "d2", "d3", "d4", "d5"], copies, 6);
        world.rebalance = Rebalance::Auto;
        for _ in 0..60 {
            let name = format!("d{}", 1 + random.below(5));
            match random.below(12) {
                0 => world.drain(&name, millis(random.below(2_000))),
                1 => {
                    let record = world.ledger.nodes.get_mut(&node(&name)).expect("known");
                    (record.cordoned, record.drain) = (false, None);
                }
                2 | 3 => lendable(&mut world, &name, random.below(20)),
                4 => world.seen.get_mut(&node(&name)).expect("known").lendable = None,
                5 => world.slow = !world.slow,
                6 if copies > 1 => {
                    world.kill_server(&name);
                    world.pass(millis(random.below(600)));
                }
                7 => ["d1", "d2", "d3", "d4", "d5"]
                    .iter()
                    .for_each(|it| world.start_server(it)),
                8 => world.pass(millis(random.below(5_000))),
                9 => set_heat(&mut world, |id| id.get().wrapping_mul(0x9e37_79b9) % 977),
                _ => {}
            }
            world.step();
            world.check();
        }
        world.slow = false;
        for name in ["d1", "d2", "d3", "d4", "d5"] {
            world.start_server(name);
            world.seen.get_mut(&node(name)).expect("known").lendable = None;
            let record = world.ledger.nodes.get_mut(&node(name)).expect("known");
            (record.cordoned, record.drain) = (false, None);
        }
        world.pass(Duration::from_secs(120));
        world.settle();
        world.check();
        let whole = usize::try_from(copies).expect("small");
        assert_eq!(least_live(&world), whole, "seed {seed}");
    }
}
