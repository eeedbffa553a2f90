//! Zones: copies lie in different ones where there are any, and on different nodes of the only one.
#![allow(clippy::expect_used, reason = "helpers of tests panic as tests do")]

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use dynamicswap_planner::Rebalance;
use dynamicswap_types::Spill;
use world::{World, class, intent, millis, node};

/// Donors in zones, one borrower, a class.
fn cluster(donors: &[(&str, &str)], copies: u32) -> World {
    let mut world = World::new();
    for (zone, name) in donors {
        world.join_donor_in(zone, name, 64);
    }
    world.join_borrower("b1", 32);
    world.intent = Some(intent(class(copies, Spill::None)));
    world.settle();
    world.bind("b1", 6);
    world.settle();
    world.bind("b1", 6);
    world.settle();
    world
}

/// Zones and nodes of each set's copies, of the set that is in the fewest.
fn fewest(world: &World) -> (usize, usize) {
    let sets = world.borrowers[&node("b1")].sets.values();
    sets.filter(|set| !set.released)
        .map(|set| {
            let nodes: BTreeSet<_> = set.replicas.iter().map(|copy| &copy.0).collect();
            let zones: BTreeSet<_> = nodes.iter().map(|name| world.zones.get(*name)).collect();
            (zones.len(), nodes.len())
        })
        .min()
        .expect("a set")
}

#[test]
fn two_copies_lie_in_two_zones() {
    let world = cluster(&[("a", "d1"), ("a", "d2"), ("a", "d3"), ("b", "d4")], 2);
    assert_eq!(fewest(&world), (2, 2));
    world.check();
}

#[test]
fn two_copies_lie_on_two_nodes_of_the_only_zone() {
    let world = cluster(&[("a", "d1"), ("a", "d2"), ("a", "d3")], 2);
    assert_eq!(fewest(&world), (1, 2));
    assert!(world.whole_sets("b1", 2) >= 12);
}

#[test]
fn three_copies_use_both_of_two_zones_and_three_of_three() {
    let two = cluster(&[("a", "d1"), ("a", "d2"), ("b", "d3"), ("b", "d4")], 3);
    assert_eq!(fewest(&two), (2, 3));
    let three = cluster(&[("a", "d1"), ("a", "d2"), ("b", "d3"), ("c", "d4")], 3);
    assert_eq!(fewest(&three), (3, 3));
}

#[test]
fn donor_of_one_of_two_zones_is_drained_within_its_zone() {
    let mut world = cluster(&[("a", "d1"), ("a", "d2"), ("b", "d3"), ("b", "d4")], 2);
    world.drain("d1", Duration::from_secs(600));
    for _ in 0..200 {
        world.step();
        world.check();
    }
    assert_eq!(world.copies_on("b1", "d1"), [], "{}", world.report_text());
    assert_eq!(fewest(&world), (2, 2));
}

#[test]
fn zone_that_is_gone_is_done_without() {
    let mut world = cluster(&[("a", "d1"), ("a", "d2"), ("a", "d3"), ("b", "d4")], 2);
    world.kill_server("d4");
    world.pass(millis(400));
    for _ in 0..100 {
        world.step();
        world.check();
    }
    assert_eq!(world.copies_on("b1", "d4"), [], "{}", world.report_text());
    assert_eq!(fewest(&world), (1, 2));
}

#[test]
fn full_zone_is_waited_for_and_named() {
    let mut world = World::new();
    for name in ["d1", "d2"] {
        world.join_donor_in("a", name, 64);
    }
    world.join_donor_in("b", "d3", 4);
    world.join_borrower("b1", 32);
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    assert_eq!(fewest(&world), (2, 2));
    let report = world.report_text();
    assert!(report.contains("in a zone with a copy"), "{report}");
}

#[test]
fn balance_keeps_copies_in_different_zones() {
    let mut world = cluster(&[("a", "d1"), ("b", "d2")], 2);
    world.join_donor_in("a", "d3", 64);
    world.join_donor_in("b", "d4", 64);
    world.rebalance = Rebalance::Auto;
    for _ in 0..200 {
        world.step();
        world.check();
        assert!(fewest(&world).0 == 2);
    }
    for name in ["d3", "d4"] {
        let here = world.copies_on("b1", name).len();
        assert!(here > 3, "{name}: {here}, {}", world.report_text());
    }
}
