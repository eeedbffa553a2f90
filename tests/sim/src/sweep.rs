//! Many seeds on every core: which fail, and what all of them together have seen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// Seeds that have failed once: every sweep runs them first.
#[must_use]
pub fn known_seeds() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    seeds.filter_map(|line| line.trim().parse().ok()).collect()
}

/// A seed that notices a broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The seed.
    pub seed: u64,
    /// The promise that it found broken.
    pub failure: String,
}

/// Looks for a seed that notices the mutation, and passes without it.
///
/// # Errors
/// The failure of a seed that does not pass without the mutation either: it proves nothing.
pub fn notice(mutation: Mutation) -> Result<Option<Notice>, Notice> {
    let failures = sweep(0..mutation.seeds_max(), Some(mutation), 1).failures;
    let Some((seed, failure)) = failures.into_iter().next() else {
        return Ok(None);
    };
    match run_seed(seed, None, 0).failure {
        Some(failure) => Err(Notice { seed, failure }),
        None => Ok(Some(Notice { seed, failure })),
    }
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

/// Runs the seeds on every core, the known ones first if no rule is broken; stops early after
/// `failures_max` failures.
#[must_use]
pub fn sweep(
    seeds: std::ops::Range<u64>,
    mutation: Option<Mutation>,
    failures_max: usize,
) -> Sweep {
    let known = if mutation.is_none() {
        known_seeds()
    } else {
        Vec::new()
    };
    let queue = Queue {
        known,
        seeds,
        next: AtomicU64::new(0),
        failed: AtomicUsize::new(0),
        failures_max,
    };
    let total = Mutex::new(Sweep::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| worker(&queue, mutation, &total));
        }
    });
    let mut total = total
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    total.failures.sort();
    total.failures.dedup();
    total
}

/// Seeds that are still to run, for all workers.
struct Queue {
    known: Vec<u64>,
    seeds: std::ops::Range<u64>,
    next: AtomicU64,
    failed: AtomicUsize,
    failures_max: usize,
}

impl Queue {
    fn next(&self) -> Option<u64> {
        if self.failed.load(Ordering::Relaxed) >= self.failures_max {
            return None;
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let known = usize::try_from(place).ok();
        if let Some(seed) = known.and_then(|place| self.known.get(place)) {
            return Some(*seed);
        }
        let rest = place - u64::try_from(self.known.len()).unwrap_or_default();
        let seed = self.seeds.start + rest;
        (seed < self.seeds.end).then_some(seed)
    }
}

fn worker(queue: &Queue, mutation: Option<Mutation>, total: &Mutex<Sweep>) {
    let mut own = Sweep::default();
    while let Some(seed) = queue.next() {
        let ending = run_seed(seed, mutation, 0);
        own.seeds += 1;
        own.coverage.add_seed(&ending.coverage);
        if let Some(failure) = ending.failure {
            queue.failed.fetch_add(1, Ordering::Relaxed);
            own.failures.push((seed, failure));
        }
    }
    let mut total = total
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    total.seeds += own.seeds;
    total.coverage.merge(&own.coverage);
    total.failures.append(&mut own.failures);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_seeds_are_read_and_run_first() {
        let known = known_seeds();
        assert!(known.contains(&1858));
        let queue = Queue {
            known: vec![7],
            seeds: 2..4,
            next: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            failures_max: 1,
        };
        let seeds: Vec<u64> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(seeds, [7, 2, 3]);
        queue.failed.store(1, Ordering::Relaxed);
        queue.next.store(0, Ordering::Relaxed);
        assert_eq!(queue.next(), None);
    }
}
