//! Many seeds on every core: which fail, and what all of them together have seen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamicswap_engine::tables::OwnedTables;

use crate::coverage::Coverage;
use crate::mutation::Mutation;
use crate::scenario::Scenario;
use crate::world::{World, device_of, geometry};

/// How a seed ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The seed.
    pub seed: u64,
    /// What it has seen.
    pub coverage: Coverage,
    /// The broken promise, if one was.
    pub failure: Option<String>,
    /// The last lines of its story, if told.
    pub story: Vec<String>,
}

/// Runs one seed. `lines` of its story are kept.
#[must_use]
pub fn run_seed(seed: u64, mutation: Option<Mutation>, lines: usize) -> Ending {
    let scenario = Scenario::of(seed);
    let tables = OwnedTables::new(device_of(&scenario), geometry(&scenario));
    let mut world = World::new(scenario, &tables, lines > 0, mutation);
    // The engine's own invariants are assertions: a broken one is a failure like any other.
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.to_string()),
        Err(panic) => Some(format!(
            "an invariant is broken: {}",
            panic_text(panic.as_ref())
        )),
    };
    Ending {
        seed,
        coverage: world.coverage.clone(),
        story: world.story.last(lines).to_vec(),
        failure,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Seeds that ran.
    pub seeds: u64,
    /// In how many seeds each thing was seen.
    pub coverage: Coverage,
    /// Failures by seed, in order.
    pub failures: Vec<(u64, String)>,
}

/// Runs the seeds on every core; stops early after `failures_max` failures.
#[must_use]
pub fn sweep(
    seeds: std::ops::Range<u64>,
    mutation: Option<Mutation>,
    failures_max: usize,
) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Sweep::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| worker(&next, seeds.end, mutation, failures_max, &total));
        }
    });
    let mut total = total
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    total.failures.sort();
    total
}

fn worker(
    next: &AtomicU64,
    end: u64,
    mutation: Option<Mutation>,
    failures_max: usize,
    total: &Mutex<Sweep>,
) {
    let mut own = Sweep::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let ending = run_seed(seed, mutation, 0);
        own.seeds += 1;
        own.coverage.add_seed(&ending.coverage);
        own.failures
            .extend(ending.failure.map(|failure| (seed, failure)));
        if own.failures.len() >= failures_max {
            next.store(end, Ordering::Relaxed);
        }
    }
    let mut total = total
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    total.seeds += own.seeds;
    total.coverage.merge(&own.coverage);
    total.failures.append(&mut own.failures);
}
