//! What a run comes to: the figures of the comparison, each law by the same rule.

use crate::container::Container;
use crate::law::Act;
use crate::scenario::{Change, Event};
use crate::unit::{TICKS_PER_S, real};
use crate::world::World;

/// Pressure that counts as felt: this share of a second in which some task waits. It is what makes a
/// container Pressured by default.
const FELT: f64 = 0.1;
/// Most ticks that a reaction or a recovery is waited for.
const PATIENCE: u64 = 300 * TICKS_PER_S;
/// A move of less than this share of a container within a minute is no change of direction.
const MOVE: f64 = 0.02;
/// Share of the in-memory throughput that counts as recovered.
const RECOVERED: f64 = 0.9;

/// A spike that is being watched.
#[derive(Debug, Clone, Copy)]
struct Spike {
    who: usize,
    began: u64,
    felt: Option<u64>,
    reacted: Option<u64>,
}

/// A recovery that is being watched.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    who: usize,
    began: u64,
    /// Since when the throughput has been high enough.
    good_since: Option<u64>,
}

/// A moment for plots.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// Hours since the beginning.
    pub hour: f64,
    /// In RAM, in GiB, of those who count.
    pub resident: f64,
    /// Out, in GiB, of those who count.
    pub out: f64,
    /// The batch job, in GiB.
    pub batch: f64,
    /// The worst `some` over 10 s of those who count, as a fraction.
    pub some: f64,
    /// Latency of a swap-in in microseconds.
    pub latency_us: f64,
}

/// The figures of a run.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Mean share of the containers' pages that was out.
    pub saved: f64,
    /// Time that tasks waited for memory, over time that they worked or waited.
    pub slowdown: f64,
    /// Mean share of time in which some task of a container waited.
    pub some: f64,
    /// Ticks from felt pressure to reaction, of each spike that was felt, sorted; zero if the law
    /// had reacted before.
    pub reactions: Vec<u64>,
    /// Spikes.
    pub spikes: usize,
    /// Ticks from the return of load to 90 % of in-memory throughput, sorted.
    pub recoveries: Vec<u64>,
    /// OOM kills.
    pub kills: u32,
    /// Of these, with room in the pool.
    pub kills_with_room: u32,
    /// Changes of direction per container and hour.
    pub turns: f64,
    /// The same of the container that had most.
    pub turns_max: f64,
    /// A moment of each minute.
    pub trace: Vec<Moment>,
}

/// Watches a run.
#[derive(Debug, Clone)]
pub struct Watch {
    figures: Figures,
    spikes: Vec<Spike>,
    recoveries: Vec<Recovery>,
    /// Out a minute ago, direction and turns, of each container.
    moves: Vec<(f64, f64, u32)>,
    saved: (f64, f64),
}

fn counted(world: &World) -> impl Iterator<Item = &Container> {
    world.containers.iter().filter(|it| it.spec.counts)
}

impl Watch {
    /// Watches so many containers.
    #[must_use]
    pub fn new(containers: usize) -> Self {
        Self {
            figures: Figures::default(),
            spikes: Vec::new(),
            recoveries: Vec::new(),
            moves: vec![(0.0, 0.0, 0); containers],
            saved: (0.0, 0.0),
        }
    }

    /// Something happens.
    pub fn event(&mut self, event: &Event) {
        match event.change {
            Change::Spike(..) => {
                self.figures.spikes += 1;
                self.spikes.push(Spike {
                    who: event.who,
                    began: event.at,
                    felt: None,
                    reacted: None,
                });
            }
            Change::Recover => self.recoveries.push(Recovery {
                who: event.who,
                began: event.at,
                good_since: None,
            }),
            Change::Load(_) | Change::Extra(..) | Change::Phase | Change::Sweep(_) => {}
        }
    }

    /// A tick has passed, and the law has ordered.
    pub fn tick(&mut self, world: &World, acts: &[Act]) {
        self.watch_spikes(world, acts);
        self.watch_recoveries(world);
        if world.tick.is_multiple_of(60 * TICKS_PER_S) {
            self.minute(world);
        }
    }

    fn watch_spikes(&mut self, world: &World, acts: &[Act]) {
        let tick = world.tick;
        for spike in &mut self.spikes {
            let reacts = acts.contains(&Act::Reacted(spike.who));
            if reacts && spike.reacted.is_none() {
                spike.reacted = Some(tick);
            }
            let some = world.containers[spike.who].psi.some.last_second();
            // The spike itself lasts for a minute at least; what is felt later is not its own.
            let young = tick - spike.began <= 60 * TICKS_PER_S;
            if some >= FELT && young && spike.felt.is_none() {
                spike.felt = Some(tick);
            }
        }
        let (done, open): (Vec<Spike>, Vec<Spike>) = self.spikes.iter().partition(|spike| {
            tick - spike.began >= PATIENCE || (spike.felt.is_some() && spike.reacted.is_some())
        });
        self.spikes = open;
        for spike in done {
            if let Some(felt) = spike.felt {
                let reacted = spike.reacted.unwrap_or(spike.began + PATIENCE);
                self.figures.reactions.push(reacted.saturating_sub(felt));
            }
        }
    }

    fn watch_recoveries(&mut self, world: &World) {
        let tick = world.tick;
        let mut open = Vec::new();
        for mut recovery in std::mem::take(&mut self.recoveries) {
            let good = world.containers[recovery.who].throughput >= RECOVERED;
            recovery.good_since = good.then(|| recovery.good_since.unwrap_or(tick));
            // Ten seconds in a row count; the time is that of the first of them.
            let stays = |since: &u64| tick - since >= 10 * TICKS_PER_S;
            if let Some(since) = recovery.good_since.filter(stays) {
                self.figures.recoveries.push(since - recovery.began);
            } else if tick - recovery.began >= 2 * PATIENCE {
                self.figures.recoveries.push(2 * PATIENCE);
            } else {
                open.push(recovery);
            }
        }
        self.recoveries = open;
    }

    fn minute(&mut self, world: &World) {
        let sum = |of: fn(&Container) -> f64| counted(world).map(of).sum::<f64>();
        let (out, all) = (sum(Container::out), sum(Container::footprint));
        self.saved.0 += out;
        self.saved.1 += all;
        for (container, (before, direction, turns)) in world.containers.iter().zip(&mut self.moves)
        {
            let moved = container.out() - *before;
            *before = container.out();
            if moved.abs() < MOVE * container.footprint() {
                continue;
            }
            if *direction * moved < 0.0 {
                *turns += 1;
            }
            *direction = moved;
        }
        let some = counted(world).map(|it| it.psi.some.avg10);
        let others = world.containers.iter().filter(|it| !it.spec.counts);
        self.figures.trace.push(Moment {
            hour: real(world.tick) / real(3_600 * TICKS_PER_S),
            resident: sum(Container::resident) / crate::unit::GIB,
            out: out / crate::unit::GIB,
            batch: others.map(Container::resident).sum::<f64>() / crate::unit::GIB,
            some: some.fold(0.0, f64::max),
            latency_us: world.device.latency() * 1e6,
        });
    }

    /// The run is over.
    #[must_use]
    pub fn finish(mut self, world: &World) -> Figures {
        let hours = real(world.tick) / real(3_600 * TICKS_PER_S);
        let seconds = hours * 3_600.0;
        let containers: Vec<&Container> = counted(world).collect();
        let number = real(containers.len() as u64);
        let stalled: f64 = containers.iter().map(|it| it.counters.stalled_s).sum();
        let worked: f64 = containers.iter().map(|it| it.counters.worked_s).sum();
        let some: f64 = containers.iter().map(|it| it.psi.some.total).sum();
        let turns = world.containers.iter().zip(&self.moves);
        let turns: Vec<f64> = turns
            .filter(|(container, _)| container.spec.counts)
            .map(|(_, (_, _, turns))| f64::from(*turns) / hours)
            .collect();
        let figures = &mut self.figures;
        figures.saved = self.saved.0 / self.saved.1.max(1.0);
        figures.slowdown = stalled / (stalled + worked).max(1e-9);
        figures.some = some / seconds / number;
        figures.kills = world.containers.iter().map(|it| it.counters.kills).sum();
        figures.kills_with_room = world.kills_with_room;
        figures.turns = turns.iter().sum::<f64>() / number;
        figures.turns_max = turns.iter().copied().fold(0.0, f64::max);
        figures.reactions.sort_unstable();
        figures.recoveries.sort_unstable();
        self.figures
    }
}

/// The value that a share of the sorted values does not exceed, in seconds.
#[must_use]
pub fn percentile(sorted: &[u64], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let index = (last * percent).div_ceil(100);
    sorted
        .get(index)
        .map(|ticks| real(*ticks) / real(TICKS_PER_S))
}
