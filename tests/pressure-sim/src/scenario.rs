//! What happens on the node: who runs there, and when load, size and working set change.

use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::container::{Container, Group, Spec};
use crate::device::{Device, TIERS, Tier};
use crate::unit::{GIB, MIB, TICKS_PER_S, real};

/// Ticks of an hour.
pub const HOUR: u64 = 3_600 * TICKS_PER_S;
const MINUTE: u64 = 60 * TICKS_PER_S;

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The container's load, 0 to 1.
    Load(f64),
    /// What it allocates: pages, and pages per second.
    Extra(f64, f64),
    /// Its working set moves on.
    Phase,
    /// A sweep over all pages, one in so many seconds; none at zero.
    Sweep(f64),
    /// It grows over its limit.
    Spike(f64, f64),
    /// A neighbour has gone, and this one works at full load again.
    Recover,
}

/// A change and its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Tick.
    pub at: u64,
    /// Index of the container.
    pub who: usize,
    /// What.
    pub change: Change,
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How long.
    pub ticks: u64,
    /// Pages of the node.
    pub total: f64,
    /// Pages that the system itself uses.
    pub system: f64,
    /// Who runs.
    pub containers: Vec<Container>,
    /// What happens, by time.
    pub events: Vec<Event>,
    /// Where pages go.
    pub device: Device,
    /// For what is drawn while it runs.
    pub rng: ChaCha8Rng,
}

/// Hot, warm and cold: parts of the pages with parts of the touches, each spread over groups so
/// that rates fall within it, and a last group for what is allocated.
fn groups(pages: f64, parts: &[(f64, f64)], extra_weight: f64) -> Vec<Group> {
    const PER_PART: i32 = 5;
    let mut groups = Vec::new();
    for (share, weight) in parts {
        let halves: f64 = (0..PER_PART).map(|index| 0.5_f64.powi(index)).sum();
        for index in 0..PER_PART {
            let of_touches = 0.5_f64.powi(index) / halves;
            let pages = pages * share / f64::from(PER_PART);
            groups.push(Group::new(pages, weight * of_touches));
        }
    }
    groups.push(Group::new(0.0, extra_weight));
    groups
}

/// A key-value store: a tenth hot, a third warm, the rest hardly ever read.
fn store(scale: f64, limit: f64) -> Spec {
    Spec {
        name: "store",
        limit: Some(limit * scale),
        min: 0.0,
        low: 256.0 * MIB * scale,
        workers: 4.0,
        touches_per_s: 200_000.0,
        groups: groups(
            2.0 * GIB * scale,
            &[(0.10, 0.9), (0.35, 0.0999), (0.55, 1e-5)],
            0.0,
        ),
        counts: true,
    }
}

/// A service with a collected heap: its hot set moves, and a collector reads all of it.
fn service(scale: f64) -> Spec {
    Spec {
        name: "service",
        limit: Some(1.25 * GIB * scale),
        min: 0.0,
        low: 0.0,
        workers: 4.0,
        touches_per_s: 100_000.0,
        groups: groups(GIB * scale, &[(0.2, 0.95), (0.5, 0.0499), (0.3, 1e-4)], 0.0),
        counts: true,
    }
}

/// A web tier that allocates with the hours and with each crowd.
fn web(scale: f64) -> Spec {
    Spec {
        name: "web",
        limit: Some(GIB * scale),
        min: 0.0,
        low: 0.0,
        workers: 8.0,
        touches_per_s: 100_000.0,
        groups: groups(
            600.0 * MIB * scale,
            &[(0.25, 0.8), (0.25, 0.0995), (0.5, 1e-4)],
            0.1,
        ),
        counts: true,
    }
}

/// A side container: small, nearly all of it cold.
fn side() -> Spec {
    Spec {
        name: "side",
        limit: Some(128.0 * MIB),
        min: 8.0 * MIB,
        low: 0.0,
        workers: 1.0,
        touches_per_s: 1_000.0,
        groups: groups(80.0 * MIB, &[(0.2, 0.999), (0.8, 1e-3)], 0.0),
        counts: true,
    }
}

/// A batch job without a limit, that comes and goes.
fn batch() -> Spec {
    Spec {
        name: "batch",
        limit: None,
        min: 0.0,
        low: 0.0,
        workers: 2.0,
        touches_per_s: 50_000.0,
        groups: vec![Group::new(64.0 * MIB, 0.01), Group::new(0.0, 0.99)],
        counts: false,
    }
}

/// Places in the list of containers.
const STORE: usize = 0;
const SERVICE: usize = 1;
const WEB: usize = 2;
const BATCH: usize = 4;

impl Scenario {
    /// A day of a node of 6 GiB, with a tier of remote memory.
    #[must_use]
    pub fn day(seed: u64, tier: Tier) -> Self {
        let shape = Shape {
            ticks: 24 * HOUR,
            scale: 1.0,
            total: 6.0 * GIB,
            batch: (4.3 * GIB, 3 * HOUR),
            spikes: HOUR,
            pool: 8.0 * GIB,
        };
        shape.build(seed, tier)
    }

    /// The same day without the batch job and without crowds: what probing alone finds.
    #[must_use]
    pub fn steady(seed: u64, tier: Tier) -> Self {
        let shape = Shape {
            ticks: 24 * HOUR,
            scale: 1.0,
            total: 6.0 * GIB,
            batch: (0.0, 100 * HOUR),
            spikes: 100 * HOUR,
            pool: 8.0 * GIB,
        };
        shape.build(seed, tier)
    }

    /// Some hours of any node that the seed draws: size, tier, pool, limits and neighbours.
    #[must_use]
    pub fn any(seed: u64, hours: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9e37_79b9);
        let scale = rng.random_range(0.3..1.2);
        let shape = Shape {
            ticks: hours * HOUR,
            scale,
            total: rng.random_range(4.8..8.0) * GIB * scale,
            batch: (
                rng.random_range(0.5..4.5) * GIB * scale,
                rng.random_range(40..90) * MINUTE,
            ),
            spikes: rng.random_range(10..40) * MINUTE,
            pool: rng.random_range(3.0..8.0) * GIB * scale,
        };
        shape.build(seed, TIERS[rng.random_range(0..TIERS.len())])
    }
}

/// The figures that differ between scenarios.
struct Shape {
    ticks: u64,
    scale: f64,
    total: f64,
    /// The batch job's size, and the time between two of it.
    batch: (f64, u64),
    /// Time between two spikes.
    spikes: u64,
    pool: f64,
}

impl Shape {
    fn build(&self, seed: u64, tier: Tier) -> Scenario {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let specs = [
            store(self.scale, 2.5 * GIB),
            service(self.scale),
            web(self.scale),
            side(),
            batch(),
        ];
        let containers = specs.map(|spec| Container::new(spec, 0.5)).to_vec();
        let device = Device::new(tier, self.pool, self.ticks, &mut rng);
        let mut events = Vec::new();
        self.hours(&mut events, &mut rng);
        self.phases(&mut events, &mut rng);
        self.spikes(&mut events, &mut rng);
        self.neighbour(&mut events, &mut rng);
        events.sort_by_key(|event| event.at);
        Scenario {
            ticks: self.ticks,
            total: self.total,
            system: 0.5 * GIB * self.scale,
            containers,
            events,
            device,
            rng,
        }
    }

    /// The load of the hours, with noise, each minute.
    fn hours(&self, events: &mut Vec<Event>, rng: &mut ChaCha8Rng) {
        for minute in 0..self.ticks / MINUTE {
            let day = real(minute) / (24.0 * 60.0) * std::f64::consts::TAU;
            for (who, shift) in [(STORE, 0.0), (SERVICE, 0.5), (WEB, 1.0)] {
                let load = 0.5 - 0.3 * (day - shift).cos() + rng.random_range(-0.05..0.05);
                events.push(Event {
                    at: minute * MINUTE,
                    who,
                    change: Change::Load(load.clamp(0.1, 0.95)),
                });
            }
        }
    }

    /// Phases of the service, and its collector.
    fn phases(&self, events: &mut Vec<Event>, rng: &mut ChaCha8Rng) {
        let mut at = 0;
        loop {
            at += rng.random_range(10..30) * MINUTE;
            if at >= self.ticks {
                break;
            }
            let sweep = at + rng.random_range(1..8) * MINUTE;
            for (at, change) in [
                (at, Change::Phase),
                (sweep, Change::Sweep(20.0)),
                (sweep + 10 * TICKS_PER_S, Change::Sweep(0.0)),
            ] {
                let who = SERVICE;
                events.push(Event { at, who, change });
            }
        }
    }

    /// Crowds at the web tier: it grows over its limit within seconds, and shrinks after a minute.
    fn spikes(&self, events: &mut Vec<Event>, rng: &mut ChaCha8Rng) {
        let mut at = 0;
        let who = WEB;
        loop {
            at += self.spikes * rng.random_range(50..150) / 100;
            if at >= self.ticks {
                break;
            }
            let pages = rng.random_range(0.6..1.0) * GIB * self.scale;
            let seconds = rng.random_range(3.0..10.0);
            let spike = Change::Spike(pages, pages / seconds);
            events.push(Event {
                at,
                who,
                change: spike,
            });
            let over = at + rng.random_range(60..120) * TICKS_PER_S;
            let change = Change::Extra(0.0, pages / 5.0);
            events.push(Event {
                at: over,
                who,
                change,
            });
        }
    }

    /// The batch job: meanwhile the store rests; when it has gone, the store's load is back.
    fn neighbour(&self, events: &mut Vec<Event>, rng: &mut ChaCha8Rng) {
        let (pages, apart) = self.batch;
        let mut at = apart / 2;
        while at + 40 * MINUTE < self.ticks {
            let end = at + rng.random_range(20..35) * MINUTE;
            // Its own load stands back, for as long as the job runs and a while after it.
            let over = at..end + 10 * MINUTE;
            let own = |event: &Event| {
                event.who == STORE
                    && matches!(event.change, Change::Load(_))
                    && over.contains(&event.at)
            };
            events.retain(|event| !own(event));
            events.push(Event {
                at,
                who: STORE,
                change: Change::Load(0.15),
            });
            let job = |at, pages| Event {
                at,
                who: BATCH,
                change: Change::Extra(pages, 40_000.0),
            };
            events.extend([job(at, pages), job(end, 0.0)]);
            events.push(Event {
                at: end + 10 * TICKS_PER_S,
                who: STORE,
                change: Change::Recover,
            });
            at += apart * rng.random_range(80..120) / 100;
        }
    }
}
