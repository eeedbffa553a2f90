//! Many seeds on every core: which fail, and what all of them together have seen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dynamicswap_engine::tables::OwnedTables;

use crate::coverage::Coverage;
use crate::mutation::Mutation;
use crate::scenario::{Planning, Scenario};
use crate::world::{World, device_of, geometry};

/// How a seed ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The seed.
    pub seed: u64,
    /// Who planned.
    pub planning: Planning,
    /// What it has seen.
    pub coverage: Coverage,
    /// The broken promise, if one was.
    pub failure: Option<String>,
    /// The last lines of its story, if told.
    pub story: Vec<String>,
}

/// Runs one seed. `lines` of its story are kept.
#[must_use]
pub fn run_seed(seed: u64, planning: Planning, mutation: Option<Mutation>, lines: usize) -> Ending {
    let scenario = Scenario::planned_by(planning, seed);
    let tables = OwnedTables::new(device_of(&scenario), geometry(&scenario));
    let mut world = match World::new(scenario, &tables, lines > 0, mutation) {
        Ok(world) => world,
        Err(error) => {
            return Ending {
                seed,
                planning,
                coverage: Coverage::default(),
                failure: Some(format!("there is no such world: {error}")),
                story: Vec::new(),
            };
        }
    };
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
        planning,
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

/// Seeds that have failed once: every sweep runs them first, with either planning.
#[must_use]
pub fn known_seeds() -> Vec<(u64, Planning)> {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seeds = seeds.filter_map(|line| line.trim().parse().ok());
    seeds
        .flat_map(|seed: u64| Planning::ALL.map(|planning| (seed, planning)))
        .collect()
}

/// A seed that found a promise broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Who planned.
    pub planning: Planning,
    /// The promise that it found broken.
    pub failure: String,
}

/// Looks for a seed that notices the mutation, and passes without it.
///
/// # Errors
/// The failure of a seed that does not pass without the mutation either: it proves nothing.
pub fn notice(mutation: Mutation) -> Result<Option<Failure>, Failure> {
    let failures = sweep(0..mutation.seeds_max(), Some(mutation), None, 1).failures;
    let Some(first) = failures.into_iter().next() else {
        return Ok(None);
    };
    match run_seed(first.seed, first.planning, None, 0).failure {
        Some(failure) => Err(Failure { failure, ..first }),
        None => Ok(Some(first)),
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
    pub failures: Vec<Failure>,
}

/// Runs the seeds on every core, the known ones first if no rule is broken; stops early after
/// `failures_max` failures. Each seed says who plans, unless `planning` does.
#[must_use]
pub fn sweep(
    seeds: std::ops::Range<u64>,
    mutation: Option<Mutation>,
    planning: Option<Planning>,
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
        planning,
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
    known: Vec<(u64, Planning)>,
    seeds: std::ops::Range<u64>,
    planning: Option<Planning>,
    next: AtomicU64,
    failed: AtomicUsize,
    failures_max: usize,
}

impl Queue {
    fn next(&self) -> Option<(u64, Planning)> {
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
        let planning = self.planning.unwrap_or_else(|| Planning::of(seed));
        (seed < self.seeds.end).then_some((seed, planning))
    }
}

fn worker(queue: &Queue, mutation: Option<Mutation>, total: &Mutex<Sweep>) {
    let mut own = Sweep::default();
    while let Some((seed, planning)) = queue.next() {
        let ending = run_seed(seed, planning, mutation, 0);
        own.seeds += 1;
        own.coverage.add_seed(&ending.coverage);
        if let Some(failure) = ending.failure {
            queue.failed.fetch_add(1, Ordering::Relaxed);
            own.failures.push(Failure {
                seed,
                planning,
                failure,
            });
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
        assert!(Planning::ALL.iter().all(|it| known.contains(&(1858, *it))));
        let queue = Queue {
            known: vec![(7, Planning::AnyStep)],
            seeds: 2..4,
            planning: None,
            next: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            failures_max: 1,
        };
        let seeds: Vec<(u64, Planning)> = std::iter::from_fn(|| queue.next()).collect();
        let (any, planner) = (Planning::AnyStep, Planning::Planner);
        assert_eq!(seeds, [(7, any), (2, planner), (3, any)]);
        queue.failed.store(1, Ordering::Relaxed);
        queue.next.store(0, Ordering::Relaxed);
        assert_eq!(queue.next(), None);
    }
}
