//! The node: containers at work, the kernel's own reclaim at limits and on the node, and what a
//! law orders.

use crate::container::{Container, Cost, RECLAIM_S};
use crate::device::Device;
use crate::law::Act;
use crate::psi::Psi;
use crate::scenario::{Change, Scenario};
use crate::unit::TICK_S;

use rand_chacha::ChaCha8Rng;

/// Seconds of waiting for room after which the kernel kills: 16 tries without progress
/// (`MAX_RECLAIM_RETRIES`), of a tenth of a second each.
const STARVED_S: f64 = 1.6;
/// Share of what a container asks for below which its reclaim counts as without progress: between
/// what was seen to be killed on a slow device (a hundredth) and what was not (nearly all).
const PROGRESS: f64 = 0.25;
/// Pause of a task that is 1 % over its `memory.high`, for each batch of pages; it grows with the
/// square of the excess, to 2 s (`mem_cgroup_handle_over_high`).
const THROTTLE_S: f64 = 0.064;
const THROTTLE_MAX_S: f64 = 2.0;
/// Pages of such a batch (`MEMCG_CHARGE_BATCH`).
const THROTTLE_PAGES: f64 = 64.0;
/// The kernel's own reclaim begins below this share of the node.
const LOW_MARK: f64 = 0.015;
/// And makes who allocates wait below this one.
const MIN_MARK: f64 = 0.005;
/// Pages written before reclaim waits for one of them (`SWAP_CLUSTER_MAX`).
const CLUSTER: f64 = 32.0;
/// Share of the device that a law's orders may use in a tick: the kernel's need comes first.
const ORDERS: f64 = 0.5;

/// The node.
#[derive(Debug, Clone)]
pub struct World {
    /// Tick.
    pub tick: u64,
    /// Pages.
    pub total: f64,
    /// Pages that the system itself uses.
    pub system: f64,
    /// Who runs.
    pub containers: Vec<Container>,
    /// Where pages go.
    pub device: Device,
    /// The node's pressure.
    pub psi: Psi,
    /// Tick in which the kernel last scanned the node by itself.
    pub scanned_at: u64,
    /// Whether a breaker keeps everything from going out.
    pub blocked: bool,
    /// Kills while the pool had room.
    pub kills_with_room: u32,
    /// Swap-ins of pages that had only just gone out, in all, and swap-ins in all.
    pub refaults: (f64, f64),
    /// Ordered and not yet done: pages to reclaim from each container.
    orders: Vec<f64>,
    /// Pages to bring home to each container.
    returns: Vec<f64>,
    /// Whether a container's pages are coming home, so that none goes out.
    returning: Vec<bool>,
    rng: ChaCha8Rng,
}

impl World {
    /// The world of a scenario, at its beginning.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let count = scenario.containers.len();
        Self {
            tick: 0,
            total: scenario.total,
            system: scenario.system,
            containers: scenario.containers.clone(),
            device: scenario.device.clone(),
            psi: Psi::default(),
            scanned_at: 0,
            blocked: false,
            kills_with_room: 0,
            refaults: (0.0, 0.0),
            orders: vec![0.0; count],
            returns: vec![0.0; count],
            returning: vec![false; count],
            rng: scenario.rng.clone(),
        }
    }

    /// Pages available.
    #[must_use]
    pub fn available(&self) -> f64 {
        let used: f64 = self.containers.iter().map(Container::resident).sum();
        (self.total - self.system - used).max(0.0)
    }

    /// Pages free in the pool.
    #[must_use]
    pub fn pool_free(&self) -> f64 {
        let used: f64 = self.containers.iter().map(Container::out).sum();
        (self.device.capacity - used).max(0.0)
    }

    /// Applies a change.
    pub fn change(&mut self, who: usize, change: Change) {
        let container = &mut self.containers[who];
        match change {
            Change::Load(load) => container.load = load,
            Change::Extra(pages, per_s) | Change::Spike(pages, per_s) => {
                container.extra = (pages, per_s);
            }
            Change::Phase => container.change_phase(&mut self.rng),
            Change::Sweep(seconds) => container.sweep_s = seconds,
            Change::Recover => container.load = 0.95,
        }
    }

    /// Carries out what a law ordered.
    pub fn order(&mut self, act: Act) {
        match act {
            // An order replaces the one before: each law looks at what is in RAM now.
            Act::Reclaim(who, pages) => self.orders[who] = pages,
            Act::Return(who, pages) => self.returns[who] = pages,
            Act::Returning(who, returning) => {
                self.returning[who] = returning;
                if !returning {
                    self.returns[who] = 0.0;
                }
            }
            Act::High(who, pages) => {
                let container = &mut self.containers[who];
                container.high = Some(pages);
                // The kernel reclaims down to it before the write returns.
                self.orders[who] = (container.resident() - pages).max(self.orders[who]);
            }
            Act::Block(blocked) => self.blocked = blocked,
            Act::Reacted(_) => {}
        }
    }

    /// Lets a tenth of a second pass.
    pub fn step(&mut self) {
        self.tick += 1;
        self.device.tick(self.tick, &mut self.rng);
        for who in 0..self.containers.len() {
            let open = !self.blocked && !self.returning[who];
            self.containers[who].may_swap = open;
        }
        self.background();
        let latency = self.device.latency();
        let mut quiet = (1.0, 1.0);
        for who in 0..self.containers.len() {
            self.run(who, latency);
            let psi = &self.containers[who].psi;
            quiet.0 *= 1.0 - psi.some.last_tick();
            quiet.1 *= 1.0 - psi.full.last_tick();
        }
        // All tasks of the node wait only if those of every container do; the model has processor
        // time to spare, so it takes the worst container's part by its size.
        let full = (1.0 - quiet.1) / crate::unit::real(self.containers.len() as u64);
        self.psi.some.add(self.tick, 1.0 - quiet.0);
        self.psi.full.add(self.tick, full);
        self.carry_out();
    }

    /// One container's tick: its demand for pages, the room for it, its work.
    fn run(&mut self, who: usize, latency: f64) {
        let demand = self.containers[who].demand(latency);
        let wanted = demand.faults * demand.speed + demand.growth;
        let (throttled_s, let_through) = self.throttle(who, wanted);
        let (room, stall_s) = self.make_room(who, wanted * let_through);
        let admitted = let_through * room;
        let waiting_s = (1.0 - admitted) * TICK_S;
        let blocked = ((stall_s + throttled_s + waiting_s) / TICK_S).min(1.0);
        let cost = Cost { latency, blocked };
        let tick = self.tick;
        let container = &mut self.containers[who];
        let young = container.counters.young;
        let swapped_in = container.work(tick, demand, admitted, cost);
        self.refaults.0 += container.counters.young - young;
        self.refaults.1 += swapped_in;
        self.device.demand_read(swapped_in);
        self.judge_starving(who, room);
    }

    /// Reclaims what the container lacks below its limit, and what the node lacks. The share of
    /// the demand that found room, and the seconds that it cost the container.
    fn make_room(&mut self, who: usize, wanted: f64) -> (f64, f64) {
        if wanted <= 0.0 {
            return (1.0, 0.0);
        }
        let container = &self.containers[who];
        let room = container
            .spec
            .limit
            .map_or(f64::INFINITY, |limit| limit - container.resident());
        let missing = (wanted - room).max(0.0);
        let mut reclaimed = 0.0;
        if missing > 0.0 {
            reclaimed = self.reclaim(who, missing);
            self.containers[who].scanned_at = self.tick;
        }
        let of_limit = room.max(0.0) + reclaimed;
        let of_node = self.node_room(wanted);
        let admitted = (of_limit.min(of_node) / wanted).clamp(0.0, 1.0);
        let waits = reclaimed / CLUSTER * self.device.latency();
        (admitted, reclaimed * RECLAIM_S + waits)
    }

    /// Room on the node for so many pages, made by direct reclaim if need be.
    fn node_room(&mut self, wanted: f64) -> f64 {
        let free = self.available() - MIN_MARK * self.total;
        if free >= wanted {
            return wanted;
        }
        self.scanned_at = self.tick;
        let made = self.reclaim_anywhere(wanted - free.max(0.0));
        free.max(0.0) + made
    }

    /// `memory.high`: who is over it reclaims, and then gets pages the more slowly the farther over
    /// it is. The seconds of the reclaim, and the share of `wanted` that is let through.
    fn throttle(&mut self, who: usize, wanted: f64) -> (f64, f64) {
        let container = &self.containers[who];
        let Some(high) = container.high else {
            return (0.0, 1.0);
        };
        let over = container.resident() + wanted - high;
        if over <= 0.0 || wanted <= 0.0 {
            return (0.0, 1.0);
        }
        let workers = container.spec.workers;
        let reclaimed = self.reclaim(who, over);
        self.containers[who].scanned_at = self.tick;
        let left = (over - reclaimed).max(0.0) / high.max(1.0);
        let pause = (THROTTLE_S * (left / 0.01).powi(2)).min(THROTTLE_MAX_S);
        let let_through = workers * THROTTLE_PAGES * (TICK_S / pause.max(1e-6));
        (reclaimed * RECLAIM_S, (let_through / wanted).min(1.0))
    }

    /// Swaps pages of a container out, as far as device and pool take them.
    fn reclaim(&mut self, who: usize, pages: f64) -> f64 {
        let allowed = pages.min(self.device.credit()).min(self.pool_free());
        let taken = self.containers[who].evict(allowed);
        self.device.write(taken);
        taken
    }

    /// The kernel takes from everybody, by size.
    fn reclaim_anywhere(&mut self, pages: f64) -> f64 {
        let sizes: Vec<f64> = self.containers.iter().map(protected_size).collect();
        let all: f64 = sizes.iter().sum::<f64>().max(1.0);
        let mut taken = 0.0;
        for (who, size) in sizes.into_iter().enumerate() {
            let part = self.reclaim(who, pages * size / all);
            if part > 0.0 {
                self.containers[who].scanned_at = self.tick;
            }
            taken += part;
        }
        taken
    }

    /// The kernel's reclaim in the background, which nobody waits for.
    fn background(&mut self) {
        let low = LOW_MARK * self.total;
        let available = self.available();
        if available < low {
            self.scanned_at = self.tick;
            self.reclaim_anywhere(low - available);
        }
    }

    /// Kills who has waited for room for too long; the largest, if it is the node that lacks it.
    fn judge_starving(&mut self, who: usize, room: f64) {
        let container = &mut self.containers[who];
        let at_limit = container
            .spec
            .limit
            .is_some_and(|limit| container.resident() > limit * 0.98);
        // At a limit reclaim gives up while pages are on their way; on the node it goes on as
        // long as there is any progress.
        let least = if at_limit { PROGRESS } else { 0.0 };
        if room > least {
            container.starved_s = 0.0;
            return;
        }
        container.starved_s += TICK_S;
        if container.starved_s < STARVED_S {
            return;
        }
        container.starved_s = 0.0;
        let victim = if at_limit { who } else { self.largest() };
        if self.pool_free() > self.device.capacity * 0.01 {
            self.kills_with_room += 1;
        }
        self.containers[victim].kill();
    }

    fn largest(&self) -> usize {
        let sizes = self.containers.iter().enumerate();
        let by_size = sizes.max_by(|a, b| a.1.resident().total_cmp(&b.1.resident()));
        by_size.map_or(0, |(who, _)| who)
    }

    /// What the law ordered, with what the device has left.
    fn carry_out(&mut self) {
        for who in 0..self.containers.len() {
            let wanted = self.orders[who].min(self.device.credit() * ORDERS);
            if wanted > 0.0 {
                let taken = self.reclaim(who, wanted);
                self.orders[who] = (self.orders[who] - taken).max(0.0);
                if taken < wanted * 0.5 {
                    self.orders[who] = 0.0;
                }
            }
            let container = &self.containers[who];
            let room = container
                .spec
                .limit
                .map_or(f64::INFINITY, |limit| limit - container.resident());
            let node = self.available() - LOW_MARK * self.total;
            let wanted = self.returns[who]
                .min(room)
                .min(node)
                .min(container.out())
                .min(self.device.credit() * ORDERS);
            if wanted > 0.0 {
                let read = self.device.bulk_read(wanted);
                let given = self.containers[who].bring_home(read);
                self.returns[who] -= given;
            }
        }
    }
}

/// What reclaim on the node may take of a container.
fn protected_size(container: &Container) -> f64 {
    let protected = container.spec.min.max(container.spec.low);
    (container.resident() - protected).max(0.0)
}
