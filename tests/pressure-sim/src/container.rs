//! A container's working set: pages in groups of like use, what the kernel believes of them, and
//! what a tick of work costs when some of them are out.
//!
//! A group stands for pages that are touched equally often. Touches of a group are random within
//! it, which makes its stack distances those of random access; groups of very different rates make
//! those of hot and cold sets, and of a Zipf tail.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::psi::Psi;
use crate::unit::TICK_S;

/// Time constant of what the kernel knows of a page: about two scans of its lists.
const MEMORY_S: f64 = 120.0;
/// Share of what is reclaimed that is taken blindly: the lists are approximations.
const BLIND: f64 = 0.03;
/// Time within which a page that comes back had "only just" gone out.
const YOUNG_S: f64 = 60.0;
/// Seconds of processor time to swap one page out.
pub const RECLAIM_S: f64 = 8e-6;

/// Pages of like use.
#[derive(Debug, Clone)]
pub struct Group {
    /// How many.
    pub pages: f64,
    /// Its part of all touches.
    pub weight: f64,
    /// Of the pages, those that are out.
    pub out: f64,
    /// Of these, the ones that went out only just.
    young: f64,
    /// Touches per page and second, as the kernel's lists reflect them.
    heat: f64,
}

impl Group {
    /// A group that is all in RAM.
    #[must_use]
    pub const fn new(pages: f64, weight: f64) -> Self {
        Self {
            pages,
            weight,
            out: 0.0,
            young: 0.0,
            heat: 0.0,
        }
    }

    fn resident(&self) -> f64 {
        (self.pages - self.out).max(0.0)
    }

    fn take(&mut self, pages: f64) -> f64 {
        let taken = pages.min(self.resident());
        self.out += taken;
        self.young += taken;
        taken
    }

    fn give(&mut self, pages: f64) -> f64 {
        let given = pages.min(self.out);
        if self.out > 0.0 {
            self.young *= 1.0 - given / self.out;
        }
        self.out -= given;
        given
    }
}

/// What a container is.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// `memory.max` in pages.
    pub limit: Option<f64>,
    /// `memory.min` in pages.
    pub min: f64,
    /// `memory.low` in pages.
    pub low: f64,
    /// Tasks that work at once.
    pub workers: f64,
    /// Touches per second at full load.
    pub touches_per_s: f64,
    /// Its pages. The last group is what it allocates and frees again.
    pub groups: Vec<Group>,
    /// Whether it counts in the comparison: a batch job in the neighbourhood does not.
    pub counts: bool,
}

/// Counters as `memory.stat` has them, in pages, and what the model knows beside them.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// `pgscan`.
    pub scanned: f64,
    /// `pgsteal`.
    pub stolen: f64,
    /// `workingset_refault_anon`.
    pub refaulted: f64,
    /// Of the refaults, those of pages that had only just gone out.
    pub young: f64,
    /// Brought home by a law.
    pub returned: f64,
    /// OOM kills.
    pub kills: u32,
    /// Seconds of work done.
    pub worked_s: f64,
    /// Seconds that tasks waited for memory.
    pub stalled_s: f64,
}

/// What a tick of work wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    /// Pages to swap in if it runs at full speed.
    pub faults: f64,
    /// Share of its speed that latency leaves.
    pub speed: f64,
    /// New pages.
    pub growth: f64,
}

/// A container at work.
#[derive(Debug, Clone)]
pub struct Container {
    /// What it is.
    pub spec: Spec,
    /// Its load, 0 to 1.
    pub load: f64,
    /// Size that its last group is on the way to, and pages per second of that way.
    pub extra: (f64, f64),
    /// While above zero, every page is touched once in this many seconds: a collector's sweep.
    pub sweep_s: f64,
    /// `memory.high` in pages.
    pub high: Option<f64>,
    /// Whether it may swap out.
    pub may_swap: bool,
    /// Its pressure.
    pub psi: Psi,
    /// Its counters.
    pub counters: Counters,
    /// Tick in which the kernel last scanned it by itself.
    pub scanned_at: u64,
    /// Seconds for which its allocations have been waiting.
    pub starved_s: f64,
    /// Ticks until it is up again after a kill.
    pub down_ticks: u64,
    /// Share of the demanded work done in the last tick.
    pub throughput: f64,
    /// Growth of what is in RAM, in pages per second.
    pub growth_per_s: f64,
    /// Refaults per minute.
    pub refaults_per_min: f64,
    /// Order of its groups, coldest first, as the kernel sees them.
    order: Vec<usize>,
    resident_before: f64,
}

impl Container {
    /// A container that is just up, its lists warm.
    #[must_use]
    pub fn new(spec: Spec, load: f64) -> Self {
        let order = (0..spec.groups.len()).collect();
        let mut container = Self {
            spec,
            load,
            extra: (0.0, 0.0),
            sweep_s: 0.0,
            high: None,
            may_swap: true,
            psi: Psi::default(),
            counters: Counters::default(),
            scanned_at: 0,
            starved_s: 0.0,
            down_ticks: 0,
            throughput: 1.0,
            growth_per_s: 0.0,
            refaults_per_min: 0.0,
            order,
            resident_before: 0.0,
        };
        for index in 0..container.spec.groups.len() {
            container.spec.groups[index].heat = container.rate(index);
        }
        container.sort();
        container.resident_before = container.resident();
        container
    }

    /// Pages in all.
    #[must_use]
    pub fn footprint(&self) -> f64 {
        self.spec.groups.iter().map(|it| it.pages).sum()
    }

    /// Pages in RAM.
    #[must_use]
    pub fn resident(&self) -> f64 {
        self.spec.groups.iter().map(Group::resident).sum()
    }

    /// Pages swapped out.
    #[must_use]
    pub fn out(&self) -> f64 {
        self.spec.groups.iter().map(|it| it.out).sum()
    }

    /// Pages in RAM that were not touched for minutes, as the kernel sees it: its inactive list.
    #[must_use]
    pub fn inactive(&self) -> f64 {
        let cold = self.spec.groups.iter().filter(|it| it.heat < 1.0 / 300.0);
        cold.map(Group::resident).sum()
    }

    /// Touches per page and second.
    fn rate(&self, index: usize) -> f64 {
        let group = &self.spec.groups[index];
        if group.pages < 1.0 {
            return 0.0;
        }
        let swept = if self.sweep_s > 0.0 {
            1.0 / self.sweep_s
        } else {
            0.0
        };
        self.spec.touches_per_s * self.load * group.weight / group.pages + swept
    }

    /// What the next tick wants, with swap-ins that take `latency` seconds.
    #[must_use]
    pub fn demand(&self, latency: f64) -> Demand {
        if self.down_ticks > 0 {
            return Demand::default();
        }
        let touched = |index: usize| {
            let group = &self.spec.groups[index];
            if group.out <= 0.0 {
                return 0.0;
            }
            group.out * (1.0 - (-self.rate(index) * TICK_S).exp())
        };
        let faults: f64 = (0..self.spec.groups.len()).map(touched).sum();
        let wait = faults * latency / self.spec.workers;
        let speed = (TICK_S / (self.load * TICK_S + wait).max(TICK_S * 1e-6)).min(1.0);
        let (goal, per_s) = self.extra;
        let last = self.spec.groups.last().map_or(0.0, |it| it.pages);
        Demand {
            faults,
            speed,
            growth: (goal - last).clamp(0.0, per_s * TICK_S),
        }
    }

    /// Does a tick: `admitted` is the share of its demand for pages that found room, `latency`
    /// that of swap-ins, `blocked` the share of the tick that allocations waited. Returns the
    /// pages that were swapped in.
    pub fn work(&mut self, tick: u64, demand: Demand, admitted: f64, cost: Cost) -> f64 {
        if self.down_ticks > 0 {
            self.down_ticks -= 1;
            self.throughput = 0.0;
            self.psi.some.add(tick, 0.0);
            self.psi.full.add(tick, 0.0);
            return 0.0;
        }
        let speed = demand.speed * admitted * (1.0 - cost.blocked / 2.0);
        let swapped_in = self.touch(speed);
        if let Some(last) = self.spec.groups.last_mut() {
            last.pages += demand.growth * admitted;
        }
        self.shrink();
        let workers = self.spec.workers;
        let wait = (swapped_in * cost.latency / workers / TICK_S).min(1.0);
        let wait = 1.0 - (1.0 - wait) * (1.0 - cost.blocked / workers);
        let some = 1.0 - (1.0 - wait).powf(workers) * (1.0 - cost.blocked);
        self.psi.some.add(tick, some);
        self.psi.full.add(tick, wait.powf(workers));
        self.counters.worked_s += speed * self.load * TICK_S * workers;
        self.counters.stalled_s += wait * TICK_S * workers;
        self.throughput = speed;
        self.refaults_per_min +=
            (swapped_in * 60.0 / TICK_S - self.refaults_per_min) * TICK_S / 60.0;
        let resident = self.resident();
        let growth = (resident - self.resident_before) / TICK_S;
        self.growth_per_s += (growth.max(0.0) - self.growth_per_s) * TICK_S * 2.0;
        self.resident_before = resident;
        if tick.is_multiple_of(10) {
            self.sort();
        }
        swapped_in
    }

    /// Touches pages at a speed; what is out among them comes in.
    fn touch(&mut self, speed: f64) -> f64 {
        let mut swapped_in = 0.0;
        for index in 0..self.spec.groups.len() {
            let rate = self.rate(index) * speed;
            let group = &mut self.spec.groups[index];
            group.heat += (rate - group.heat) * TICK_S / MEMORY_S;
            group.young *= 1.0 - TICK_S / YOUNG_S;
            if group.out <= 0.0 {
                continue;
            }
            let touched = group.out * (1.0 - (-rate * TICK_S).exp());
            self.counters.young += touched * (group.young / group.out).min(1.0);
            swapped_in += group.give(touched);
        }
        self.counters.refaulted += swapped_in;
        swapped_in
    }

    /// Frees what its last group has too much.
    fn shrink(&mut self) {
        let (goal, per_s) = self.extra;
        if let Some(last) = self.spec.groups.last_mut() {
            let freed = (last.pages - goal).clamp(0.0, per_s * TICK_S);
            if freed > 0.0 {
                let keep = 1.0 - freed / last.pages;
                last.out *= keep;
                last.young *= keep;
                last.pages -= freed;
            }
        }
    }

    /// The kernel takes so many pages out, coldest first by its lists, some of them blindly.
    pub fn evict(&mut self, pages: f64) -> f64 {
        if !self.may_swap || pages <= 0.0 {
            return 0.0;
        }
        let resident = self.resident().max(1.0);
        let mut taken = 0.0;
        for group in &mut self.spec.groups {
            let blindly = pages * BLIND * group.resident() / resident;
            taken += group.take(blindly);
        }
        self.counters.scanned += taken;
        for index in self.order.clone() {
            let group = &mut self.spec.groups[index];
            let stolen = group.take(pages - taken);
            taken += stolen;
            // A page that was touched between two scans is put back and scanned again.
            let untouched = (-group.heat * 60.0).exp();
            self.counters.scanned += stolen / (untouched + 0.02);
        }
        self.counters.stolen += taken;
        taken
    }

    /// A law brings so many pages home, hottest first.
    pub fn bring_home(&mut self, pages: f64) -> f64 {
        let mut given = 0.0;
        for index in self.order.clone().into_iter().rev() {
            given += self.spec.groups[index].give(pages - given);
        }
        self.counters.returned += given;
        given
    }

    /// It is killed and starts again: all in RAM, nothing of what it had allocated.
    pub fn kill(&mut self) {
        for group in &mut self.spec.groups {
            (group.out, group.young) = (0.0, 0.0);
        }
        if let Some(last) = self.spec.groups.last_mut() {
            last.pages = 0.0;
        }
        self.counters.kills += 1;
        self.starved_s = 0.0;
        self.down_ticks = 100;
    }

    /// The working set moves on: a hot and a cold group change places.
    pub fn change_phase(&mut self, rng: &mut ChaCha8Rng) {
        let groups = self.spec.groups.len().saturating_sub(1);
        if groups < 2 {
            return;
        }
        let (one, other) = (rng.random_range(0..groups), rng.random_range(0..groups));
        let weight = self.spec.groups[one].weight;
        self.spec.groups[one].weight = self.spec.groups[other].weight;
        self.spec.groups[other].weight = weight;
    }

    fn sort(&mut self) {
        let groups = &self.spec.groups;
        self.order
            .sort_by(|a, b| groups[*a].heat.total_cmp(&groups[*b].heat));
    }
}

/// What memory costs in a tick.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds of a swap-in.
    pub latency: f64,
    /// Share of the tick that allocations waited.
    pub blocked: f64,
}
