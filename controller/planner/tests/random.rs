//! Random clusters: whatever they are like and whatever happens to them, every plan passes the checker,
//! nobody refuses a document, and no bound slab is ever without a whole copy that could be kept.
//!
//! `DYNAMICSWAP_CLUSTERS` says how many, `DYNAMICSWAP_FIRST` which is the first.
#![allow(clippy::expect_used, reason = "helpers of tests panic as tests do")]

mod world;

use std::time::Duration;

use dynamicswap_planner::Rebalance;
use dynamicswap_types::{Bytes, Spill};
use world::{Random, SLAB, World, class, intent, millis, node, number};

/// Clusters of a run that says nothing: about 5 s as tests are built.
const CLUSTERS: u64 = 2_000;
/// Things that happen to each.
const EVENTS: u64 = 12;

/// A cluster of 1 to 8 donors in up to 3 zones, or none, and 1 to 3 borrowers.
fn build(random: &mut Random) -> World {
    let mut world = World::new();
    let zones = random.below(4);
    let racks = 1 + random.below(8);
    for index in 0..=random.below(8) {
        join(&mut world, random, (index, zones, racks));
    }
    for index in 0..=random.below(3) {
        let slabs = 4 + random.small(28);
        world.join_borrower(&format!("b{index}"), slabs);
        let spill = random.below(3) == 0;
        let borrower = world.borrowers.get_mut(&node(&format!("b{index}")));
        borrower.expect("joined").spill = spill;
    }
    world.rebalance = match random.below(4) {
        0 => Rebalance::Off,
        1 => Rebalance::Now,
        _ => Rebalance::Auto,
    };
    world.intent = Some(intent(class(1 + random.small(3), Spill::None)));
    world
}

fn join(world: &mut World, random: &mut Random, (index, zones, racks): (u64, u64, u64)) {
    let name = format!("d{index}");
    if zones > 0 {
        let zone = format!("z{}", random.below(zones));
        world
            .zones
            .insert(node(&name), zone.parse().expect("a name"));
    }
    let rack = format!("r{}", random.below(racks));
    let domain = if racks > 5 { name.clone() } else { rack };
    let slots = 1 + random.small(60);
    world.join_donor(&name, &domain, slots);
}

fn happen(world: &mut World, random: &mut Random) {
    let donors = u64::try_from(world.donors.len()).expect("small");
    let name = format!("d{}", random.below(donors));
    let borrower = format!(
        "b{}",
        random.below(u64::try_from(world.borrowers.len()).expect("small"))
    );
    match random.below(16) {
        0 => world.kill_server(&name),
        1 => world.start_server(&name),
        2 => {
            let slots = 1 + random.small(60);
            world.reborn(&name, slots);
        }
        3 => world.drain(&name, millis(random.below(2_000))),
        4 => {
            let record = world.ledger.nodes.get_mut(&node(&name)).expect("known");
            (record.cordoned, record.drain) = (random.below(2) == 0, None);
        }
        5 => {
            let seen = world.seen.get_mut(&node(&name)).expect("known");
            seen.lendable = Some(Bytes::new(SLAB.get() * random.below(64)));
        }
        6 => world.lose_session(&name),
        7 => world.open_session(&name),
        8 => world.slow = !world.slow,
        9 => world.unbind(&borrower, usize::try_from(random.below(8)).expect("small")),
        10 => {
            let copies = 1 + random.small(3);
            world.intent = Some(intent(class(copies, Spill::None)));
        }
        11 => {
            let index = donors;
            join(world, random, (index, 3, 8));
        }
        12 => world.pass(Duration::from_secs(random.below(700))),
        _ => {
            world.bind(&borrower, usize::try_from(random.below(8)).expect("small"));
        }
    }
    world.pass(millis(random.below(900)));
}

/// Says which cluster it was, should a check fail in it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("again: DYNAMICSWAP_FIRST={seed} DYNAMICSWAP_CLUSTERS=1");
        }
    }
}

#[test]
fn every_plan_of_random_clusters_passes_the_checker() {
    let first = number("DYNAMICSWAP_FIRST", 0);
    let count = number("DYNAMICSWAP_CLUSTERS", CLUSTERS);
    let mut plans = 0_u64;
    for seed in first..first + count {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut world = build(&mut random);
        for _ in 0..EVENTS {
            // `World::round` panics, with the finding, if a plan does not pass.
            world.step();
            world.step();
            plans += 2;
            happen(&mut world, &mut random);
        }
    }
    println!("{count} clusters from {first}, {plans} plans");
}
