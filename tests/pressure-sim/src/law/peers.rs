//! The laws of others, from the constants that they publish, and the kernel without any.
//!
//! Formulas and constants only: what each reads, how often, and what it then asks for.

use super::{Act, Law};
use crate::container::Container;
use crate::unit::{MIB, TICKS_PER_S};
use crate::world::World;

/// No law: the kernel swaps at limits and when the node is short.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Law for Kernel {
    fn name(&self) -> &'static str {
        "kernel alone"
    }

    fn look(&mut self, _: &World, _: &mut Vec<Act>) {}
}

/// A threshold: what is above 80 % of the limit goes out, looked at every 10 s.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fixed;

/// Where it swaps.
const FIXED_THRESHOLD: f64 = 0.8;

impl Law for Fixed {
    fn name(&self) -> &'static str {
        "fixed 80 %"
    }

    fn look(&mut self, world: &World, acts: &mut Vec<Act>) {
        if !world.tick.is_multiple_of(10 * TICKS_PER_S) {
            return;
        }
        for (who, container) in world.containers.iter().enumerate() {
            let Some(limit) = container.spec.limit else {
                continue;
            };
            let over = container.resident() - FIXED_THRESHOLD * limit;
            if over > 0.0 {
                acts.extend([Act::Reclaim(who, over), Act::Reacted(who)]);
            }
        }
    }
}

/// Senpai as the script of 2019: moves `memory.high` by the stall that it has summed up. Looks
/// each second; probes every 6.
#[derive(Debug, Clone)]
pub struct SenpaiScript {
    states: Vec<ScriptState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ScriptState {
    started: bool,
    total: f64,
    integral_us: f64,
    grace: u64,
}

/// Its constants: seconds, microseconds, fractions, pages.
const SCRIPT_INTERVAL: u64 = 6;
const SCRIPT_PRESSURE_US: f64 = 10_000.0;
const SCRIPT_MAX_PROBE: f64 = 0.01;
const SCRIPT_MAX_BACKOFF: f64 = 1.0;
const SCRIPT_COEFF_PROBE: f64 = 10.0;
const SCRIPT_COEFF_BACKOFF: f64 = 20.0;
const SCRIPT_SIZE_MIN: f64 = 100.0 * MIB;
const SCRIPT_SIZE_MAX: f64 = 100.0 * 1024.0 * MIB;

impl SenpaiScript {
    /// For so many containers.
    #[must_use]
    pub fn new(containers: usize) -> Self {
        Self {
            states: vec![ScriptState::default(); containers],
        }
    }
}

impl Law for SenpaiScript {
    fn name(&self) -> &'static str {
        "Senpai script"
    }

    fn look(&mut self, world: &World, acts: &mut Vec<Act>) {
        if !world.tick.is_multiple_of(TICKS_PER_S) {
            return;
        }
        for (who, (state, container)) in self.states.iter_mut().zip(&world.containers).enumerate() {
            if container.spec.counts {
                state.tick(who, container, acts);
            }
        }
    }
}

impl ScriptState {
    fn tick(&mut self, who: usize, container: &Container, acts: &mut Vec<Act>) {
        let total = container.psi.some.total;
        if !self.started {
            *self = Self {
                started: true,
                total,
                integral_us: 0.0,
                grace: SCRIPT_INTERVAL,
            };
            acts.push(Act::High(who, container.resident().max(SCRIPT_SIZE_MIN)));
            return;
        }
        self.integral_us += (total - self.total) * 1e6;
        self.total = total;
        let factor = if self.integral_us > SCRIPT_PRESSURE_US {
            let error = self.integral_us / SCRIPT_PRESSURE_US / SCRIPT_COEFF_BACKOFF;
            acts.push(Act::Reacted(who));
            (error * error * SCRIPT_MAX_BACKOFF).min(SCRIPT_MAX_BACKOFF)
        } else if self.grace > 0 {
            self.grace -= 1;
            return;
        } else {
            let error = SCRIPT_PRESSURE_US / self.integral_us.max(1.0) / SCRIPT_COEFF_PROBE;
            -(error * error * SCRIPT_MAX_PROBE).min(SCRIPT_MAX_PROBE)
        };
        self.integral_us = 0.0;
        self.grace = SCRIPT_INTERVAL - 1;
        let high = container.high.unwrap_or_else(|| container.resident());
        let high = (high * (1.0 + factor)).clamp(SCRIPT_SIZE_MIN, SCRIPT_SIZE_MAX);
        acts.push(Act::High(who, high));
    }
}

/// oomd's Senpai with immediate backoff: 1 % of what is above the floor every 6 s, unless an
/// average of `some` over 10 or 60 s has reached 0.1 %. Its bound of 1 MB/s of swap-out saves flash
/// from wear and is set aside here: with it this law would save next to nothing.
#[derive(Debug, Clone)]
pub struct OomdSenpai {
    /// Ticks of the next look at each.
    next: Vec<u64>,
}

/// Its constants.
const OOMD_INTERVAL: u64 = 6 * TICKS_PER_S;
const OOMD_PRESSURE: f64 = 0.001;
const OOMD_MAX_PROBE: f64 = 0.01;
const OOMD_FLOOR: f64 = 100.0 * MIB;
impl OomdSenpai {
    /// For so many containers.
    #[must_use]
    pub fn new(containers: usize) -> Self {
        Self {
            next: vec![OOMD_INTERVAL; containers],
        }
    }
}

impl Law for OomdSenpai {
    fn name(&self) -> &'static str {
        "oomd Senpai"
    }

    fn look(&mut self, world: &World, acts: &mut Vec<Act>) {
        for (who, (next, container)) in self.next.iter_mut().zip(&world.containers).enumerate() {
            if world.tick < *next || !container.spec.counts {
                continue;
            }
            *next = world.tick + OOMD_INTERVAL;
            let some = &container.psi.some;
            if some.avg10 >= OOMD_PRESSURE || some.avg60 >= OOMD_PRESSURE {
                acts.push(Act::Reacted(who));
                continue;
            }
            let floor = OOMD_FLOOR.max(container.spec.min);
            let above = (container.resident() - floor).max(0.0);
            acts.push(Act::Reclaim(who, above * OOMD_MAX_PROBE));
        }
    }
}

/// Katalyst's transparent memory offloading with its integrated policy: every 30 s the lesser of
/// what pressure and what refaults allow.
#[derive(Debug, Clone)]
pub struct Katalyst {
    states: Vec<KatalystState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct KatalystState {
    target: f64,
    scanned: f64,
    stolen: f64,
    refaulted: f64,
}

/// Its constants.
const KATALYST_INTERVAL: u64 = 30 * TICKS_PER_S;
const KATALYST_MAX_PROBE: f64 = 0.01;
const KATALYST_AVG60: f64 = 0.1;
const KATALYST_ACCURACY: f64 = 0.99;
const KATALYST_EFFICIENCY: f64 = 0.6;
const KATALYST_SCALE: f64 = 1.05;
const KATALYST_INACTIVE: f64 = 0.1;

impl Katalyst {
    /// For so many containers.
    #[must_use]
    pub fn new(containers: usize) -> Self {
        Self {
            states: vec![KatalystState::default(); containers],
        }
    }
}

impl Law for Katalyst {
    fn name(&self) -> &'static str {
        "Katalyst TMO"
    }

    fn look(&mut self, world: &World, acts: &mut Vec<Act>) {
        if !world.tick.is_multiple_of(KATALYST_INTERVAL) {
            return;
        }
        for (who, (state, container)) in self.states.iter_mut().zip(&world.containers).enumerate() {
            if container.spec.counts {
                state.look(who, container, acts);
            }
        }
    }
}

impl KatalystState {
    fn look(&mut self, who: usize, container: &Container, acts: &mut Vec<Act>) {
        let counters = &container.counters;
        let stolen = counters.stolen - self.stolen;
        let scanned = counters.scanned - self.scanned;
        let refaulted = counters.refaulted - self.refaulted;
        (self.stolen, self.scanned) = (counters.stolen, counters.scanned);
        self.refaulted = counters.refaulted;
        let (mut accuracy, mut efficiency) = (1.0, 1.0);
        if stolen > 0.0 && scanned > 0.0 {
            accuracy = 1.0 - refaulted / stolen;
            efficiency = stolen / scanned;
        }
        let usage = container.resident();
        let most = usage * KATALYST_MAX_PROBE;
        let bad = accuracy < KATALYST_ACCURACY || efficiency < KATALYST_EFFICIENCY;
        let by_refaults = if bad {
            (self.target * accuracy).max(0.0)
        } else {
            let grown = self.target * KATALYST_SCALE;
            grown
                .max(container.inactive() * KATALYST_INACTIVE)
                .min(most)
        };
        // Its threshold of 0.1 is compared with the kernel's figure, which is in percent.
        let psi = container.psi.some.avg60 * 100.0;
        let by_pressure = (1.0 - psi / KATALYST_AVG60).max(0.0) * most;
        self.target = by_refaults.min(by_pressure);
        if by_pressure <= 0.0 {
            acts.push(Act::Reacted(who));
        }
        if self.target > 0.0 {
            acts.push(Act::Reclaim(who, self.target));
        }
    }
}
