//! What the planner does when something happens to the cluster, step by step.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dynamicswap_planner::{Rebalance, Seat, SetStage, plan};
use dynamicswap_types::{Integrity, NodeName, Spill};
use world::{REPLACE_AFTER, World, class, intent, millis, node};

#[test]
fn reserve_is_composed_granted_and_offered() {
    let world = World::usual();
    world.check();
    assert_eq!(world.whole_sets("b1", 2), 8);
    assert!(world.borrowers[&node("b1")].attached);
    assert_eq!(world.plan.steps, []);
}

#[test]
fn copies_lie_in_distinct_domains_and_spread_over_all_donors() {
    let mut world = World::new();
    for (name, domain) in [
        ("d1", "rack-1"),
        ("d2", "rack-1"),
        ("d3", "rack-2"),
        ("d4", "rack-3"),
    ] {
        world.join_donor(name, domain, 64);
    }
    world.join_borrower("b1", 64);
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    world.bind("b1", 8);
    world.settle();
    let used: BTreeSet<&NodeName> = world.borrowers[&node("b1")]
        .sets
        .values()
        .flat_map(|set| set.replicas.iter().map(|(donor, ..)| donor))
        .collect();
    assert_eq!(used.len(), 4);
    world.check();
}

#[test]
fn set_enters_the_borrowers_document_only_after_every_donor_granted_it() {
    let mut world = World::new();
    for name in ["d1", "d2"] {
        world.join_donor(name, name, 8);
    }
    world.join_borrower("b1", 4);
    world.intent = Some(intent(class(2, Spill::None)));
    world.round();
    let listed = |world: &World| {
        let document = world.documents[&node("b1")].swap_device.clone();
        document.expect("a device").1.sets.len()
    };
    assert_eq!(listed(&world), 0);
    world.deliver(&node("d1"));
    world.report(&node("d1"));
    world.round();
    assert_eq!(listed(&world), 0);
    world.deliver(&node("d2"));
    world.report(&node("d2"));
    world.round();
    assert_eq!(listed(&world), 4);
}

#[test]
fn reserve_follows_the_bound_sets_up_and_down() {
    let mut world = World::usual();
    assert_eq!(world.bind("b1", 8), 8);
    world.settle();
    assert_eq!(world.whole_sets("b1", 2), 16);
    world.bind("b1", 16);
    world.settle();
    assert_eq!(world.whole_sets("b1", 2), 24);
    world.unbind("b1", 16);
    world.settle();
    world.check();
    assert_eq!(world.whole_sets("b1", 2), 16, "twice the reserve may stay");
    let slots: usize = world.donors.values().map(|donor| donor.slots.len()).sum();
    assert_eq!(slots, 32, "released slots are taken back");
}

#[test]
fn full_donors_are_named_in_the_report() {
    let mut world = World::new();
    world.join_donor("d1", "d1", 2);
    world.join_donor("d2", "d2", 2);
    world.join_borrower("b1", 32);
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    assert_eq!(world.whole_sets("b1", 2), 2);
    let report = world.report_text();
    assert!(report.contains("no donor fits (2 full)"), "{report}");
}

#[test]
fn dead_donors_copies_move_after_the_grace_and_not_before() {
    let mut world = World::usual();
    world.bind("b1", 6);
    world.settle();
    world.kill_server("d2");
    world.pass(millis(299));
    assert_eq!(world.round(), 0, "{}", world.report_text());
    let wake = world.plan.wake_at.expect("a deadline");
    assert_eq!(wake, world.now.after(millis(1)));
    world.now = wake;
    assert!(world.round() > 0);
    assert!(
        world.report_text().contains("its link is down"),
        "{}",
        world.report_text()
    );
    world.settle();
    world.check();
    let borrower = &world.borrowers[&node("b1")];
    for set in borrower.sets.values().filter(|set| !set.released) {
        assert!(set.replicas.iter().all(|(donor, ..)| *donor != node("d2")));
    }
}

#[test]
fn donor_that_comes_back_within_the_grace_keeps_its_copies() {
    let mut world = World::usual();
    let before = world.documents.clone();
    world.kill_server("d2");
    world.pass(millis(200));
    world.round();
    world.start_server("d2");
    world.pass(millis(200));
    assert_eq!(world.round(), 0);
    assert_eq!(world.documents, before);
}

#[test]
fn donor_that_comes_back_before_the_replacement_is_granted_keeps_its_copies() {
    let mut world = World::usual();
    // The reserve that is composed meanwhile stays, and makes the other two fuller.
    world.rebalance = Rebalance::Off;
    world.bind("b1", 4);
    world.settle();
    let listed = |world: &World| {
        let document = world.documents[&node("b1")].swap_device.clone();
        document.expect("a device").1.sets[..12].to_vec()
    };
    let before = listed(&world);
    world.kill_server("d2");
    world.pass(millis(300));
    assert!(world.round() > 0);
    world.start_server("d2");
    world.pass(millis(1));
    world.round();
    world.settle();
    world.check();
    assert_eq!(listed(&world), before);
}

#[test]
fn agent_restart_moves_nothing_while_the_data_path_works() {
    let mut world = World::usual();
    let before = world.documents.clone();
    for name in ["d1", "d2", "d3"] {
        world.lose_session(name);
    }
    world.pass(Duration::from_secs(600));
    assert_eq!(world.round(), 0, "{}", world.report_text());
    assert_eq!(world.documents, before);
}

#[test]
fn brake_holds_when_many_donors_vanish_at_once_and_lets_go_later() {
    let mut world = World::of_donors(4, 64);
    world.bind("b1", 8);
    world.settle();
    world.kill_server("d1");
    world.kill_server("d3");
    world.pass(millis(400));
    world.round();
    assert!(
        world
            .report_text()
            .contains("2 of 4 donors are gone at once")
    );
    let replaced = |world: &World| world.report_text().contains("replaces");
    assert!(!replaced(&world));
    world.pass(Duration::from_secs(60));
    world.round();
    assert!(replaced(&world), "{}", world.report_text());
    world.settle();
    world.check();
}

#[test]
fn last_live_copy_is_never_replaced() {
    let mut world = World::new();
    for name in ["d1", "d2", "d3"] {
        world.join_donor(name, name, 16);
    }
    world.join_borrower("b1", 8);
    world.intent = Some(intent(class(1, Spill::None)));
    world.settle();
    world.bind("b1", 3);
    world.settle();
    world.kill_server("d1");
    world.pass(millis(400));
    world.settle();
    world.check();
    assert!(
        world.report_text().contains("no live copy is left"),
        "{}",
        world.report_text()
    );
    assert!(!world.report_text().contains("replaces"));
}

#[test]
fn reborn_donor_is_granted_the_same_slots_anew_and_named_once_they_all_are() {
    let mut world = World::usual();
    world.bind("b1", 6);
    world.settle();
    let sets = world.ledger.sets.len();
    world.reborn("d1", 32);
    world.settle();
    world.check();
    assert_eq!(world.ledger.sets.len(), sets);
    assert_eq!(world.whole_sets("b1", 2), sets);
    let life = world.donors[&node("d1")].incarnation;
    let document = world.documents[&node("b1")]
        .swap_device
        .clone()
        .expect("a device")
        .1;
    let endpoint = document
        .servers
        .iter()
        .find(|server| server.node == node("d1"));
    assert_eq!(endpoint.map(|server| server.incarnation), Some(life));
}

#[test]
fn donor_reborn_smaller_gives_up_the_slots_that_it_no_longer_has() {
    let mut world = World::usual();
    world.bind("b1", 8);
    world.settle();
    world.bind("b1", 8);
    world.settle();
    world.reborn("d1", 1);
    world.settle();
    world.pass(millis(400));
    world.settle();
    world.check();
    assert_eq!(world.whole_sets("b1", 2), 24);
    assert_eq!(world.donors[&node("d1")].slots.len(), 1);
}

#[test]
fn every_donor_reborn_leaves_usable_sets() {
    let mut world = World::usual();
    world.bind("b1", 4);
    world.settle();
    for name in ["d1", "d2", "d3"] {
        world.reborn(name, 32);
    }
    world.settle();
    world.check();
    let borrower = &world.borrowers[&node("b1")];
    let unbound = borrower.sets.values().filter(|set| !set.bound).count();
    assert!(unbound >= 8);
}

#[test]
fn new_device_of_a_borrower_frees_the_old_ones_slots() {
    let mut world = World::usual();
    world.bind("b1", 5);
    world.settle();
    let old = world.borrowers[&node("b1")].id;
    world.replace_device("b1");
    world.settle();
    world.check();
    assert!(!world.ledger.devices.contains_key(&old));
    assert!(world.ledger.sets.values().all(|set| set.device != old));
    assert_eq!(world.whole_sets("b1", 2), 8);
}

#[test]
fn stricter_class_is_in_force_when_every_set_has_the_copies() {
    let mut world = World::usual();
    world.bind("b1", 4);
    world.settle();
    world.intent = Some(intent(class(3, Spill::None)));
    world.round();
    let in_force = |world: &World| {
        let document = world.documents[&node("b1")].swap_device.clone();
        document.expect("a device").1.class.copies.get()
    };
    assert_eq!(in_force(&world), 2);
    assert!(
        world
            .report_text()
            .contains("holds back the class of 3 copies")
    );
    world.settle();
    world.check();
    assert_eq!(in_force(&world), 3);
    assert_eq!(world.whole_sets("b1", 3), world.ledger.sets.len());
}

#[test]
fn class_that_too_few_domains_can_hold_is_never_in_force() {
    let mut world = World::new();
    for name in ["d1", "d2"] {
        world.join_donor(name, name, 64);
    }
    world.join_borrower("b1", 64);
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    world.intent = Some(intent(class(3, Spill::None)));
    world.bind("b1", 8);
    world.settle();
    world.check();
    assert_eq!(
        world.whole_sets("b1", 2),
        16,
        "goes on with what is possible"
    );
    assert!(world.report_text().contains("holds back the class"));
    assert!(world.report_text().contains("with a copy already"));
}

#[test]
fn laxer_class_gives_surplus_copies_back() {
    let mut world = World::usual();
    world.bind("b1", 8);
    world.settle();
    world.intent = Some(intent(class(1, Spill::None)));
    world.settle();
    world.check();
    let sets = world.ledger.sets.len();
    assert_eq!(world.whole_sets("b1", 1), sets);
    let slots: usize = world.donors.values().map(|donor| donor.slots.len()).sum();
    assert_eq!(slots, sets);
}

#[test]
fn class_with_spill_waits_for_a_spill_file() {
    let mut world = World::usual();
    world.intent = Some(intent(class(2, Spill::Async)));
    world.settle();
    world.check();
    assert!(world.report_text().contains("no spill file"));
    world.borrowers.get_mut(&node("b1")).expect("known").spill = true;
    world.settle();
    world.check();
    let spill = world.borrowers[&node("b1")].class.expect("a class").spill;
    assert_eq!(spill, Spill::Async);
}

#[test]
fn class_that_the_device_cannot_have_does_not_stop_the_one_in_force() {
    let mut world = World::usual();
    let before = world.ledger.sets.len();
    world.intent = Some(intent(class(2, Spill::Async)));
    world.bind("b1", 8);
    world.settle();
    world.check();
    assert!(world.report_text().contains("no spill file"));
    assert!(world.ledger.sets.len() > before, "the reserve runs dry");
    let spill = world.borrowers[&node("b1")].class.expect("a class").spill;
    assert_eq!(spill, Spill::None);
}

#[test]
fn device_on_disk_alone_is_attached_without_sets() {
    let mut world = World::new();
    world.join_borrower("b1", 8);
    world.borrowers.get_mut(&node("b1")).expect("known").spill = true;
    world.intent = Some(intent(class(2, Spill::Only)));
    world.pass(millis(1));
    world.settle();
    assert!(world.borrowers[&node("b1")].attached);
    assert!(world.ledger.sets.is_empty());
}

#[test]
fn device_that_protects_less_than_a_policy_asks_for_is_detached_and_says_so() {
    let mut world = World::usual();
    world.bind("b1", 3);
    world.settle();
    assert!(world.borrowers[&node("b1")].attached);
    world.intent.as_mut().expect("an intent").integrity = Integrity::Full;
    world.settle();
    assert!(!world.borrowers[&node("b1")].attached);
    let report: Vec<String> = world.plan.report.iter().map(ToString::to_string).collect();
    let told = report
        .iter()
        .find(|line| line.contains("does not attach b1"));
    let told = told.expect("it is said");
    for word in ["has integrity tag64", "asks for full", "--integrity full"] {
        assert!(told.contains(word), "{told}");
    }
    world.intent.as_mut().expect("an intent").integrity = Integrity::Tag64;
    world.settle();
    world.check();
    assert!(world.borrowers[&node("b1")].attached);
}

#[test]
fn device_that_has_more_than_is_asked_for_is_attached_and_a_silent_one_is_not() {
    let cases = [
        (Some(Integrity::Full), Integrity::Tag64, true),
        (Some(Integrity::Full), Integrity::Full, true),
        (Some(Integrity::None), Integrity::Tag64, false),
        (Some(Integrity::None), Integrity::None, true),
        (None, Integrity::Tag64, false),
        (None, Integrity::None, true),
    ];
    for (offered, wanted, attached) in cases {
        let mut world = World::new();
        for name in ["d1", "d2"] {
            world.join_donor(name, name, 32);
        }
        world.join_borrower("b1", 16);
        let borrower = world.borrowers.get_mut(&node("b1")).expect("known");
        borrower.integrity = offered;
        let mut intent = intent(class(2, Spill::None));
        intent.integrity = wanted;
        world.intent = Some(intent);
        world.pass(millis(1));
        world.settle();
        let is = world.borrowers[&node("b1")].attached;
        assert_eq!(is, attached, "{offered:?} where {wanted} is asked for");
        // What nobody attaches keeps no slots from others.
        assert_eq!(world.ledger.sets.is_empty(), !attached);
    }
}

#[test]
fn paused_policies_detach_and_give_the_reserve_back() {
    let mut world = World::usual();
    world.bind("b1", 3);
    world.settle();
    world.intent.as_mut().expect("an intent").attach = false;
    world.settle();
    assert!(!world.borrowers[&node("b1")].attached);
    world.unbind("b1", 0);
    world.settle();
    world.check();
    assert_eq!(world.ledger.sets.len(), 3);
}

#[test]
fn cordoned_and_foreign_donors_are_left_alone() {
    let mut world = World::new();
    for name in ["d1", "d2", "d3", "d4"] {
        world.join_donor(name, name, 16);
    }
    world.join_borrower("b1", 16);
    world
        .ledger
        .nodes
        .get_mut(&node("d1"))
        .expect("known")
        .cordoned = true;
    let foreign = world.donors.get_mut(&node("d2")).expect("known");
    let owner = (
        dynamicswap_types::SwapDeviceId::from_bytes([9; 16]),
        dynamicswap_types::SetId::new(4_000),
    );
    foreign
        .slots
        .insert(dynamicswap_types::SlotIndex::new(0), owner);
    world.report(&node("d2"));
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    assert_eq!(world.whole_sets("b1", 2), 8);
    assert!(world.donors[&node("d1")].slots.is_empty());
    assert_eq!(world.donors[&node("d2")].slots.len(), 1, "not zeroed");
    assert!(
        world
            .report_text()
            .contains("that another controller store granted")
    );
}

#[test]
fn two_borrowers_share_scarce_slots() {
    let mut world = World::new();
    for name in ["d1", "d2"] {
        world.join_donor(name, name, 8);
    }
    world.join_borrower("b1", 32);
    world.join_borrower("b2", 32);
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    world.check();
    assert_eq!(
        (world.whole_sets("b1", 2), world.whole_sets("b2", 2)),
        (4, 4)
    );
}

#[test]
fn hundred_nodes_and_ten_thousand_slabs_are_planned_quickly() {
    let mut world = World::new();
    for index in 0..100 {
        world.join_donor(
            &format!("d{index:03}"),
            &format!("rack-{}", index % 20),
            256,
        );
    }
    // A hundred devices of a hundred slabs each; their policy arrives.
    for index in 0..100 {
        world.join_borrower(&format!("b{index:03}"), 100);
    }
    world.intent = Some(intent(class(2, Spill::None)));
    world.settle();
    while world.ledger.sets.len() < 10_000 {
        for index in 0..100 {
            world.bind(&format!("b{index:03}"), 100);
        }
        world.settle();
    }
    world.check();
    let start = Instant::now();
    let quiet = plan(&world.view());
    let idle = start.elapsed();
    assert_eq!(quiet.steps, []);
    world.kill_server("d042");
    world.pass(millis(400));
    world.pass(millis(0));
    let start = Instant::now();
    let busy = plan(&world.view());
    let dead = start.elapsed();
    assert!(busy.steps.len() > 100, "{busy}");
    println!("idle {idle:?}, a donor's death {dead:?}");
    assert!(
        idle < millis(500) && dead < millis(1_000),
        "{idle:?} {dead:?}"
    );
}

#[test]
fn closed_sets_are_off_the_record_once_everybody_let_go() {
    let mut world = World::usual();
    world.bind("b1", 8);
    world.settle();
    world.bind("b1", 8);
    world.settle();
    world.unbind("b1", 16);
    world.round();
    for name in world.seen.keys().cloned().collect::<Vec<_>>() {
        world.report(&name);
    }
    world.round();
    let closing = |world: &World| {
        let sets = world.ledger.sets.values();
        sets.filter(|set| set.stage == SetStage::Closing).count()
    };
    assert!(closing(&world) > 0);
    let held: usize = world.donors.values().map(|donor| donor.slots.len()).sum();
    for name in ["d1", "d2", "d3"] {
        world.deliver(&node(name));
    }
    let after: usize = world.donors.values().map(|donor| donor.slots.len()).sum();
    assert_eq!(held, after, "the borrower has not let go yet");
    world.settle();
    assert_eq!(closing(&world), 0);
}

/// A replacement that waits may come to nothing: the copy that it was for is back, or its donor wants the
/// slot back. So no other copy's replacement may stand in the domain of that one meanwhile.
#[test]
fn replacement_stands_in_no_domain_of_another_copy_that_is_still_listed() {
    let mut world = World::new();
    world.rebalance = Rebalance::Off;
    for (name, domain) in [
        ("d1", "r0"),
        ("d2", "r1"),
        ("d3", "r2"),
        ("d4", "r3"),
        ("d5", "r0"),
        // Enough of them that two dead ones are not taken for a cut network.
        ("d6", "r6"),
        ("d7", "r7"),
        ("d8", "r8"),
    ] {
        world.join_donor(name, domain, 32);
    }
    let cordon = |world: &mut World, name: &str, cordoned: bool| {
        let record = world.ledger.nodes.get_mut(&node(name)).expect("known");
        record.cordoned = cordoned;
    };
    for name in ["d4", "d5", "d6", "d7", "d8"] {
        cordon(&mut world, name, true);
    }
    world.join_borrower("b1", 8);
    world.intent = Some(intent(class(3, Spill::None)));
    world.settle();
    world.bind("b1", 2);
    world.settle();
    for (dead, opened, closed) in [("d1", "d4", "d5"), ("d2", "d5", "d4")] {
        cordon(&mut world, opened, false);
        cordon(&mut world, closed, true);
        world.kill_server(dead);
        world.pass(REPLACE_AFTER);
        world.round();
    }
    let stands_on = |world: &World, donor: &str| {
        let here = |seat: &Seat| seat.node == node(donor) && seat.phase.stands();
        let mut sets = world.ledger.sets.values();
        sets.any(|set| set.seats.iter().any(here))
    };
    assert!(
        stands_on(&world, "d4"),
        "the first is replaced: {}",
        world.plan
    );
    assert!(stands_on(&world, "d1") && !stands_on(&world, "d5"));
    // The first copy gives its domain up when its replacement is there.
    world.settle();
    world.check();
    assert!(!stands_on(&world, "d1") && stands_on(&world, "d5"));
}
