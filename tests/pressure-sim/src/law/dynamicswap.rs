//! Our own laws, as the agent will use them: assessed levels, a breaker, offload of each
//! container, return, and what a node that is short asks.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_policy::{
    Assessor, Backend, Breaker, BreakerSettings, BreakerSight, ContainerName, Device, Grain, Level,
    Memory, Mode, Observation, Offload, OffloadReason, OffloadSettings, OffloadSight, Passage,
    Rest, ReturnDeed, ReturnLaw, ReturnNode, ReturnSettings, ReturnSight, Sight, SinceProbe,
    SwapAccount, Thresholds, Trigger, ask, offload,
};
use dynamicswap_types::{Bytes, MonotonicTime};

use super::{Act, Law};
use crate::container::Container;
use crate::unit::{TICKS_PER_S, bytes, count, duration, pages, real, share, time, whole};
use crate::world::World;

/// Which parts of it are on: to see what each is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Pages come home.
    pub returns: bool,
    /// The device's latency enters the law.
    pub device_term: bool,
    /// An open breaker keeps the kernel from swapping, too.
    pub hold_limits: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            returns: true,
            device_term: true,
            hold_limits: false,
        }
    }
}

/// Counters of a container when it was last probed.
#[derive(Debug, Clone, Copy, Default)]
struct Base {
    tick: u64,
    stalled: f64,
    scanned: f64,
    stolen: f64,
    refaulted: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    base: Base,
    account: SwapAccount,
    /// What a probe asked for and has not been accounted yet.
    asked: Option<Bytes>,
    returning: bool,
    /// When its last return ended.
    ended: Option<MonotonicTime>,
}

/// Our laws.
#[derive(Debug, Clone)]
pub struct DynamicSwap {
    parts: Parts,
    names: Vec<ContainerName>,
    states: Vec<State>,
    assessor: Assessor,
    breaker: Breaker,
    law: ReturnLaw,
    refaults: (f64, f64),
    record: Record,
}

/// What tests ask of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record {
    /// How often the breaker opened.
    pub opened: u32,
    /// The longest time that it stayed open.
    pub open_max: Duration,
    /// Decisions that would have taken what a floor holds.
    pub crossings: u32,
    /// The shortest time between the ends and beginnings of a container's returns.
    pub rest_min: Option<Duration>,
}

impl DynamicSwap {
    /// For so many containers.
    #[must_use]
    pub fn new(containers: usize, parts: Parts) -> Self {
        let name = |index| ContainerName {
            namespace: "sim".to_owned(),
            name: format!("{index:02}"),
        };
        Self {
            parts,
            names: (0..containers).map(name).collect(),
            states: vec![State::default(); containers],
            assessor: Assessor::default(),
            breaker: Breaker::new(MonotonicTime::ZERO),
            law: ReturnLaw::default(),
            refaults: (0.0, 0.0),
            record: Record::default(),
        }
    }

    /// What tests ask of the run.
    #[must_use]
    pub const fn record(&self) -> Record {
        self.record
    }

    fn level(&self, who: usize) -> Level {
        let verdict = self.assessor.container(&self.names[who]);
        verdict.map_or(Level::Calm, |verdict| verdict.level)
    }

    /// Whether the kernel would wake the agent for this container now.
    fn fired(&self, who: usize, container: &Container) -> Option<Trigger> {
        let level = self.level(who);
        let trigger = Trigger::next_above(level, &Thresholds::default(), Grain::Fine)?;
        let stalled = match level {
            Level::Calm => container.psi.some.last_second(),
            Level::Pressured | Level::Stalled => container.psi.full.last_second(),
        };
        (share(stalled) >= trigger.share).then_some(trigger)
    }

    fn observe(&mut self, world: &World, fired: &[Option<Trigger>]) {
        let now = time(world.tick);
        let sight = |psi: &crate::psi::Psi, memory, fired| Sight {
            at: now,
            pressure: Some(psi.pressure()),
            memory,
            fired,
        };
        let containers = self.names.iter().zip(&world.containers).zip(fired);
        let containers = containers.map(|((name, container), fired)| {
            let memory = Memory {
                used: bytes(container.resident()),
                limit: container.spec.limit.map(bytes),
                swapped: bytes(container.out()),
            };
            (name.clone(), sight(&container.psi, memory, *fired))
        });
        let node = Memory {
            used: bytes(world.total - world.available()),
            limit: Some(bytes(world.total)),
            swapped: Bytes::ZERO,
        };
        let observation = Observation {
            node: sight(&world.psi, node, None),
            containers: containers.collect(),
        };
        self.assessor.assess(&observation, &BTreeMap::new());
    }

    /// Once a second: the breaker.
    fn look_at_breaker(&mut self, world: &World, acts: &mut Vec<Act>) {
        let sight = BreakerSight {
            full: Some(share(world.psi.full.avg10)),
            swap_ins_per_s: whole(world.refaults.1 - self.refaults.1),
            refaults_per_s: whole(world.refaults.0 - self.refaults.0),
            swap_outs_per_s: whole(world.device.writes_per_s),
            p99: world.device.p99().map(duration),
        };
        self.refaults = world.refaults;
        let now = time(world.tick);
        let settings = BreakerSettings {
            hold_limits: self.parts.hold_limits,
            ..BreakerSettings::default()
        };
        if self.breaker.look(now, &sight, &settings) {
            self.record.opened += u32::from(self.breaker.passage() == Passage::Blocked);
            acts.push(Act::Block(self.breaker.holds_limits(&settings)));
        }
        if self.breaker.passage() == Passage::Blocked {
            let open_for = now.since(self.breaker.since());
            self.record.open_max = self.record.open_max.max(open_for);
        }
    }

    fn backend(&self, world: &World) -> Backend {
        Backend {
            device: Device::Open,
            passage: self.breaker.passage(),
            p99: world
                .device
                .p99()
                .map(duration)
                .filter(|_| self.parts.device_term),
            reference_p99: duration(world.device.reference_p99()),
            free: bytes(world.pool_free()),
            writes_per_s: bytes(world.device.writes_per_s),
        }
    }

    fn offload_one(
        &mut self,
        world: &World,
        who: usize,
        (backend, asked): (&Backend, Bytes),
        acts: &mut Vec<Act>,
    ) {
        let container = &world.containers[who];
        let sight = self.sight(world, who, asked);
        let decision = offload(&sight, backend, Mode::Active, &OffloadSettings::default());
        let state = &mut self.states[who];
        if decision.is_look() {
            state.base = Base::of(world.tick, container);
        }
        let wanted = decision.deed.bytes();
        match decision.reason {
            OffloadReason::Probe(_) => state.asked = Some(wanted),
            OffloadReason::Ahead { .. }
            | OffloadReason::NodeShort { .. }
            | OffloadReason::Pressed { .. } => acts.push(Act::Reacted(who)),
            _ => {}
        }
        if wanted > Bytes::ZERO {
            acts.push(Act::Reclaim(who, pages(wanted)));
        }
        self.record.crossings += u32::from(!keeps_floor(&sight, &decision));
    }

    fn sight(&self, world: &World, who: usize, asked: Bytes) -> OffloadSight {
        let (container, state) = (&world.containers[who], &self.states[who]);
        let now = time(world.tick);
        OffloadSight {
            current: bytes(container.resident()),
            limit: container.spec.limit.map(bytes),
            min: bytes(container.spec.min),
            low: bytes(container.spec.low),
            working_set: Bytes::ZERO,
            swap_room: bytes(world.total),
            anon: bytes(container.resident()),
            file: Bytes::ZERO,
            droppable: Bytes::ZERO,
            growth_per_s: bytes(container.growth_per_s),
            asked,
            pressure: Some(container.psi.pressure()),
            level: self.level(who),
            since_probe: state.base.since(world.tick, container),
            returning: state.returning,
            since_return: self.law.since_return(&self.names[who], now),
        }
    }

    /// Notes that a return of a container begins or ends.
    fn note_rest(&mut self, who: usize, returning: bool, now: MonotonicTime) {
        let state = &mut self.states[who];
        state.returning = returning;
        if !returning {
            state.ended = Some(now);
        } else if let Some(ended) = state.ended {
            let rest = now.since(ended);
            let least = self.record.rest_min.map_or(rest, |least| least.min(rest));
            self.record.rest_min = Some(least);
        }
    }

    /// What the node asks of each container.
    fn asked(&self, world: &World) -> Vec<Bytes> {
        let spare = self.names.iter().zip(&world.containers);
        let spare = spare.map(|(name, container)| (name.clone(), spare_of(container)));
        let asked = ask(
            bytes(world.available()),
            bytes(world.total),
            &spare.collect(),
            &OffloadSettings::default().ahead,
        );
        let of = |name| asked.get(name).copied().unwrap_or_default();
        self.names.iter().map(of).collect()
    }

    /// The law of return.
    fn bring_home(&mut self, world: &World, acts: &mut Vec<Act>) {
        let now = time(world.tick);
        let unscanned = |at: u64| Some(duration(real(world.tick - at) / real(TICKS_PER_S)));
        let calm = |verdict: Option<dynamicswap_policy::Verdict>| {
            let verdict = verdict.filter(|verdict| verdict.level == Level::Calm)?;
            Some(now.since(verdict.since))
        };
        let node = ReturnNode {
            rest: Rest {
                calm_for: calm(self.assessor.node()),
                unscanned_for: unscanned(world.scanned_at),
                stalled: duration(world.psi.some.total),
            },
            available: bytes(world.available()),
            total: bytes(world.total),
        };
        let sights = self.names.iter().zip(&world.containers).zip(&self.states);
        let sights = sights.map(|((name, container), state)| {
            let sight = ReturnSight {
                enabled: container.spec.counts && self.breaker.passage() == Passage::Free,
                rest: Rest {
                    calm_for: calm(self.assessor.container(name)),
                    unscanned_for: unscanned(container.scanned_at),
                    stalled: duration(container.psi.some.total),
                },
                used: bytes(container.resident()),
                limit: container.spec.limit.map(bytes),
                swapped: bytes(container.out()),
                probed: state.account.probed(),
                swap_ins_per_min: whole(container.refaults_per_min),
            };
            (name.clone(), sight)
        });
        let sights: BTreeMap<_, _> = sights.collect();
        let rulings = self
            .law
            .step(now, &node, &sights, &ReturnSettings::default());
        for (name, ruling) in rulings {
            let Some(who) = self.names.iter().position(|it| *it == name) else {
                continue;
            };
            let returning = self.law.is_returning(&name);
            if returning != self.states[who].returning {
                self.note_rest(who, returning, now);
                acts.push(Act::Returning(who, returning));
            }
            if let ReturnDeed::Bring(bytes) = ruling.deed {
                acts.push(Act::Return(who, pages(bytes)));
            }
        }
    }
}

/// Sets the guards below hard limits.
fn guard_limits(world: &World, acts: &mut Vec<Act>) {
    let ahead = OffloadSettings::default().ahead;
    for (who, container) in world.containers.iter().enumerate() {
        if let Some(limit) = container.spec.limit {
            acts.push(Act::High(who, pages(ahead.guard(bytes(limit)))));
        }
    }
}

/// What a container could give to a node that is short.
fn spare_of(container: &Container) -> Bytes {
    let floor = container.spec.min.max(container.spec.low);
    bytes(container.resident() - floor)
}

/// No decision takes what a floor holds.
fn keeps_floor(sight: &OffloadSight, decision: &Offload) -> bool {
    let left = sight.current.saturating_sub(decision.deed.bytes());
    let floor = match decision.reason {
        OffloadReason::Ahead { .. } => sight.min,
        _ => sight.min.max(sight.low),
    };
    decision.deed.bytes() == Bytes::ZERO || left >= floor
}

impl Base {
    fn of(tick: u64, container: &Container) -> Self {
        Self {
            tick,
            stalled: container.psi.some.total,
            scanned: container.counters.scanned,
            stolen: container.counters.stolen,
            refaulted: container.counters.refaulted,
        }
    }

    fn since(&self, tick: u64, container: &Container) -> SinceProbe {
        let counters = &container.counters;
        SinceProbe {
            elapsed: duration(real(tick - self.tick) / real(TICKS_PER_S)),
            stalled: duration(container.psi.some.total - self.stalled),
            scanned: count(counters.scanned - self.scanned),
            stolen: count(counters.stolen - self.stolen),
            refaulted: count(counters.refaulted - self.refaulted),
        }
    }
}

impl Law for DynamicSwap {
    fn name(&self) -> &'static str {
        match self.parts {
            Parts { returns: false, .. } => "ours, no return",
            Parts {
                device_term: false, ..
            } => "ours, no device term",
            Parts {
                hold_limits: true, ..
            } => "ours, limits held",
            Parts { .. } => "ours",
        }
    }

    fn look(&mut self, world: &World, acts: &mut Vec<Act>) {
        if world.tick == 1 {
            guard_limits(world, acts);
        }
        let timer = world.tick.is_multiple_of(TICKS_PER_S);
        let fired: Vec<Option<Trigger>> = world
            .containers
            .iter()
            .enumerate()
            .map(|(who, container)| self.fired(who, container))
            .collect();
        if !timer && fired.iter().all(Option::is_none) {
            return;
        }
        self.observe(world, &fired);
        if timer {
            self.look_at_breaker(world, acts);
            for (state, container) in self.states.iter_mut().zip(&world.containers) {
                let out = bytes(container.out());
                state.account = match state.asked.take() {
                    Some(asked) => state.account.after_probe(asked, out),
                    None => state.account.seen(out),
                };
            }
        }
        // Not by the timer alone: the first sign of pressure ends it.
        if self.parts.returns {
            self.bring_home(world, acts);
        }
        let backend = self.backend(world);
        let asked = self.asked(world);
        for who in 0..self.names.len() {
            if timer || fired[who].is_some() {
                self.offload_one(world, who, (&backend, asked[who]), acts);
            }
        }
    }
}
