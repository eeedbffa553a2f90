//! What must hold of our laws in closed loop, on any node and day that a seed draws.

use std::time::Duration;

use dynamicswap_policy::{BreakerSettings, ReturnSettings};
use dynamicswap_pressure_sim::device::TIERS;
use dynamicswap_pressure_sim::figures::Figures;
use dynamicswap_pressure_sim::law::{DynamicSwap, Kernel, Parts, Record};
use dynamicswap_pressure_sim::run::{run, run_with};
use dynamicswap_pressure_sim::scenario::{HOUR, Scenario};
use dynamicswap_pressure_sim::unit::real;

/// Seeds, each some hours of another node.
const SEEDS: u64 = 40;
const HOURS: u64 = 2;
/// Most changes of direction of a container in an hour beside two for each crowd: out and home
/// again. Neighbours, phases and probing share these.
const TURNS_PER_HOUR_MAX: f64 = 4.0;
/// Longest time from the return of load to 90 % of the throughput.
const RECOVERY_TICKS_MAX: u64 = 3_000;

fn ours(seed: u64) -> (Figures, Record, f64) {
    let scenario = Scenario::any(seed, HOURS);
    let mut law = DynamicSwap::new(scenario.containers.len(), Parts::default());
    // The least that any container had in RAM beyond what memory.min holds for it.
    let mut above_min = f64::INFINITY;
    let figures = run_with(&scenario, &mut law, |world| {
        for container in &world.containers {
            let held = container.spec.min.min(container.footprint());
            above_min = above_min.min(container.resident() - held);
        }
    });
    (figures, law.record(), above_min)
}

#[test]
fn laws_keep_their_promises_on_any_node() {
    let (mut opened, mut returned, mut killed_otherwise) = (0, 0, 0);
    for seed in 0..SEEDS {
        let (figures, record, above_min) = ours(seed);
        assert_eq!(
            figures.kills_with_room, 0,
            "seed {seed}: killed with remote memory free"
        );
        assert_eq!(record.crossings, 0, "seed {seed}: a floor was crossed");
        assert!(
            above_min >= -1.0,
            "seed {seed}: {above_min} pages below memory.min"
        );
        // A pool that is full has the kernel kill, and every start begins anew.
        let turns = figures.turns_max - 2.0 * real(figures.spikes as u64) / real(HOURS);
        let overloaded = figures.kills > 0;
        assert!(
            overloaded || turns <= TURNS_PER_HOUR_MAX,
            "seed {seed}: {turns} turns an hour beside the crowds"
        );
        let late = figures
            .recoveries
            .iter()
            .filter(|it| **it > RECOVERY_TICKS_MAX);
        assert_eq!(late.count(), 0, "seed {seed}: {:?}", figures.recoveries);
        let open_max = BreakerSettings::default().open_max + Duration::from_secs(1);
        assert!(
            record.open_max <= open_max,
            "seed {seed}: {:?}",
            record.open_max
        );
        let rest = record.rest_min.unwrap_or(Duration::MAX);
        assert!(
            rest >= ReturnSettings::default().cool_down,
            "seed {seed}: {rest:?}"
        );
        let scenario = Scenario::any(seed, HOURS);
        killed_otherwise += run(&scenario, &mut Kernel).kills_with_room;
        opened += record.opened;
        returned += usize::from(record.rest_min.is_some());
    }
    // Otherwise the promises would be empty.
    assert!(returned > 0, "nobody returned twice");
    assert!(opened > 0, "the breaker never opened");
    assert!(killed_otherwise > 0, "the kernel alone killed nobody");
}

#[test]
fn no_container_is_left_out_of_probing() {
    let mut scenario = Scenario::steady(7, TIERS[0]);
    scenario.ticks = 3 * HOUR;
    let mut law = DynamicSwap::new(scenario.containers.len(), Parts::default());
    let mut out = vec![0.0; scenario.containers.len()];
    run_with(&scenario, &mut law, |world| {
        for (out, container) in out.iter_mut().zip(&world.containers) {
            *out = container.out();
        }
    });
    for (container, out) in scenario.containers.iter().zip(out) {
        assert!(
            !container.spec.counts || out > 0.0,
            "{}",
            container.spec.name
        );
    }
}

#[test]
fn loaded_device_gets_less_than_without_its_term() {
    let mut scenario = Scenario::steady(3, TIERS[1]);
    scenario.ticks = 3 * HOUR;
    // Loaded donors from the beginning on: four times as slow as when they are calm.
    scenario.device.burden(4.0);
    let figures = |device_term| {
        let parts = Parts {
            device_term,
            ..Parts::default()
        };
        let mut law = DynamicSwap::new(scenario.containers.len(), parts);
        run(&scenario, &mut law)
    };
    let (with, without) = (figures(true), figures(false));
    println!(
        "loaded device, with its term and without: saved {:.1} and {:.1} %, some {:.3} and {:.3} %",
        with.saved * 100.0,
        without.saved * 100.0,
        with.some * 100.0,
        without.some * 100.0
    );
    assert!(with.saved < without.saved * 0.95);
    assert!(with.some < without.some * 0.95);
}

#[test]
fn same_seed_is_the_same_day() {
    let mut scenario = Scenario::any(5, 1);
    scenario.ticks /= 4;
    let saved = || {
        run(
            &scenario,
            &mut DynamicSwap::new(scenario.containers.len(), Parts::default()),
        )
    };
    assert_eq!(saved().saved.to_bits(), saved().saved.to_bits());
}
