//! The remote tier: a latency that grows with load and with the donors' bad times, and a bound on
//! pages per second.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::unit::{TICK_S, TICKS_PER_S};

/// How far away the memory is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tier {
    /// What it is called.
    pub name: &'static str,
    /// Seconds of one swap-in when calm.
    pub latency_s: f64,
    /// Pages per second, in and out.
    pub pages_per_s: f64,
}

/// RDMA, TCP, and a far or shared network; the latencies are of the order that the peers publish.
pub const TIERS: [Tier; 3] = [
    Tier {
        name: "20 us",
        latency_s: 20e-6,
        pages_per_s: 300_000.0,
    },
    Tier {
        name: "100 us",
        latency_s: 100e-6,
        pages_per_s: 100_000.0,
    },
    Tier {
        name: "800 us",
        latency_s: 800e-6,
        pages_per_s: 25_000.0,
    },
];

/// 99th percentile over mean: what a log-normal latency with a spread of 0.45 has.
const TAIL: f64 = 2.5;

/// A time in which the donors are loaded.
#[derive(Debug, Clone, Copy)]
struct BadTime {
    from: u64,
    to: u64,
    factor: f64,
}

/// The device.
#[derive(Debug, Clone)]
pub struct Device {
    tier: Tier,
    bad: Vec<BadTime>,
    burden: f64,
    factor: f64,
    /// Pages that this tick still moves.
    credit: f64,
    moved: f64,
    /// Pages moved per second, over about a second.
    rate: f64,
    noise: f64,
    /// Pages out per second, over about ten seconds.
    pub writes_per_s: f64,
    written: f64,
    /// Swap-ins per second, over about ten seconds.
    pub reads_per_s: f64,
    read: f64,
    /// Pages it can hold.
    pub capacity: f64,
}

impl Device {
    /// A device with bad times drawn for `ticks`.
    #[must_use]
    pub fn new(tier: Tier, capacity: f64, ticks: u64, rng: &mut ChaCha8Rng) -> Self {
        let mut bad = Vec::new();
        let mut from = 0;
        loop {
            // On average every 40 minutes one of 1 to 5, 2 to 20 times as slow.
            from += rng.random_range(600..4_200) * TICKS_PER_S;
            if from >= ticks {
                break;
            }
            let to = from + rng.random_range(60..300) * TICKS_PER_S;
            let factor = 2.0 * 10.0_f64.powf(rng.random_range(0.0..1.0));
            bad.push(BadTime { from, to, factor });
            from = to;
        }
        Self {
            tier,
            bad,
            burden: 1.0,
            factor: 1.0,
            credit: 0.0,
            moved: 0.0,
            rate: 0.0,
            noise: 1.0,
            writes_per_s: 0.0,
            written: 0.0,
            reads_per_s: 0.0,
            read: 0.0,
            capacity,
        }
    }

    /// Makes it so many times as slow for good, against what it was when calm.
    pub const fn burden(&mut self, factor: f64) {
        self.burden = factor;
    }

    /// Begins a tick.
    pub fn tick(&mut self, tick: u64, rng: &mut ChaCha8Rng) {
        let now = self.bad.iter().find(|it| (it.from..it.to).contains(&tick));
        self.factor = self.burden * now.map_or(1.0, |it| it.factor);
        self.rate += (self.moved / TICK_S - self.rate) * TICK_S;
        self.writes_per_s += (self.written / TICK_S - self.writes_per_s) * TICK_S / 10.0;
        self.reads_per_s += (self.read / TICK_S - self.reads_per_s) * TICK_S / 10.0;
        (self.moved, self.written, self.read) = (0.0, 0.0, 0.0);
        self.credit = self.tier.pages_per_s / self.factor * TICK_S;
        if tick.is_multiple_of(TICKS_PER_S) {
            self.noise = rng.random_range(0.9..1.1);
        }
    }

    /// Seconds of one transfer now.
    #[must_use]
    pub fn latency(&self) -> f64 {
        let load = (self.rate * self.factor / self.tier.pages_per_s).min(0.95);
        self.tier.latency_s * self.factor * (1.0 + 0.5 * load / (1.0 - load))
    }

    /// The 99th percentile as it is measured; none if hardly anything was read of late.
    #[must_use]
    pub fn p99(&self) -> Option<f64> {
        (self.reads_per_s > 2.0).then(|| self.latency() * TAIL * self.noise)
    }

    /// The same when calm.
    #[must_use]
    pub fn reference_p99(&self) -> f64 {
        self.tier.latency_s * TAIL
    }

    /// Writes up to so many pages; how many it takes in this tick.
    pub fn write(&mut self, pages: f64) -> f64 {
        let written = pages.min(self.credit).max(0.0);
        self.credit -= written;
        self.moved += written;
        self.written += written;
        written
    }

    /// What it would still write in this tick.
    #[must_use]
    pub const fn credit(&self) -> f64 {
        self.credit
    }

    /// Counts demand reads. They go first and are never refused: their latency says how it is.
    pub fn demand_read(&mut self, pages: f64) {
        self.moved += pages;
        self.read += pages;
        self.credit = (self.credit - pages).max(0.0);
    }

    /// Reads up to so many pages in bulk; how many it gives in this tick.
    pub fn bulk_read(&mut self, pages: f64) -> f64 {
        let read = pages.min(self.credit).max(0.0);
        self.credit -= read;
        self.moved += read;
        read
    }
}
