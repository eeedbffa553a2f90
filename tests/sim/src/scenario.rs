//! What a seed stands for: sizes, class, times, and which troubles are in the air.
//!
//! Each seed turns each kind of trouble on or off by a coin, so that rare combinations meet and
//! quiet ones are seen too.

use std::time::Duration;

use dynamicswap_datapath::transport::fault::SeededRandom;
use dynamicswap_types::{Bytes, Copies, Durability, Spill};

use crate::trouble::Kind;

/// Who plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Planning {
    /// Any legal step, by seed.
    AnyStep,
    /// The product's planner.
    Planner,
}

impl Planning {
    /// As the command line says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::AnyStep => "any-step",
            Self::Planner => "planner",
        }
    }

    /// Both.
    pub const ALL: [Self; 2] = [Self::AnyStep, Self::Planner];

    /// Who plans in a sweep's seed: the planner in a third of them.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        if seed % 3 == 2 {
            Self::Planner
        } else {
            Self::AnyStep
        }
    }
}

/// Everything that a seed decides before the first step.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Who plans.
    pub planning: Planning,
    /// Memory servers, each a failure domain of its own unless `shared_domain`.
    pub servers: usize,
    /// Whether the last two servers fail together.
    pub shared_domain: bool,
    /// Slots of each server.
    pub slots: u32,
    /// Slabs of the device.
    pub slabs: u32,
    /// Pages of a slab.
    pub slab_pages: u32,
    /// The class at the start.
    pub class: Durability,
    /// Unbound sets that the engine keeps.
    pub reserve_sets_max: u32,
    /// How long a write waits for its class.
    pub write_hold: Duration,
    /// How long a read waits for a copy.
    pub read_stall: Duration,
    /// How long an empty slab keeps its set.
    pub empty_slab_hold: Duration,
    /// Requests that the kernel has under way at most.
    pub depth: usize,
    /// Mean time between two requests.
    pub pace: Duration,
    /// Whether requests may overlap.
    pub overlapping: bool,
    /// Latency of the network without trouble.
    pub latency: Duration,
    /// How long trouble lasts.
    pub run: Duration,
    /// Kinds of trouble that this seed sees.
    pub kinds: Vec<Kind>,
    /// Mean time between two troubles.
    pub trouble_every: Duration,
    /// Bytes that the engine's copies may move in a second.
    pub copy_limit: Option<Bytes>,
}

fn millis(random: &mut SeededRandom, low: u64, high: u64) -> Duration {
    Duration::from_millis(low + random.below(high - low + 1))
}

fn small(random: &mut SeededRandom, low: u32, high: u32) -> u32 {
    let drawn = random.below(u64::from(high - low + 1));
    low + u32::try_from(drawn).unwrap_or_default()
}

fn coin(random: &mut SeededRandom) -> bool {
    random.below(2) == 0
}

impl Scenario {
    /// The scenario of a seed, with who plans in a sweep.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::planned_by(Planning::of(seed), seed)
    }

    /// The scenario of a seed. All but the planning is the same for either.
    #[must_use]
    pub fn planned_by(planning: Planning, seed: u64) -> Self {
        // The multiplication keeps neighbouring seeds' stories apart.
        let random = &mut SeededRandom::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5eed);
        let copies = [Copies::ONE, Copies::TWO, Copies::TWO, three()];
        let copies = copies[usize::from(random.below(4).to_le_bytes()[0])];
        let spill = match random.below(8) {
            0 | 1 => Spill::Async,
            2 => Spill::Only,
            _ => Spill::None,
        };
        let servers = copies.get() + 1 + usize::from(random.below(3).to_le_bytes()[0]);
        let slab_pages = [8, 16, 32, 256][usize::from(random.below(4).to_le_bytes()[0])];
        Self {
            seed,
            planning,
            servers,
            shared_domain: servers > copies.get() + 1 && random.below(4) == 0,
            slots: small(random, 4, 10),
            slabs: small(random, 2, 4),
            slab_pages,
            class: Durability { copies, spill },
            reserve_sets_max: small(random, 1, 4),
            write_hold: millis(random, 200, 2000),
            read_stall: millis(random, 800, 6000),
            empty_slab_hold: millis(random, 0, 200),
            depth: 1 + usize::from(random.below(16).to_le_bytes()[0]),
            pace: Duration::from_micros(500 + random.below(12_000)),
            overlapping: random.below(3) == 0,
            latency: Duration::from_micros(5 + random.below(500)),
            run: millis(random, 500, 2500),
            kinds: Kind::ALL.into_iter().filter(|_| coin(random)).collect(),
            trouble_every: millis(random, 40, 700),
            copy_limit: coin(random).then(|| Bytes::from_mib(1 << random.below(6))),
        }
    }

    /// Whether the device has a spill file.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.class.spill != Spill::None
    }

    /// Pages of the device; the last slab is cut short.
    #[must_use]
    pub const fn device_pages(&self) -> u64 {
        (self.slabs as u64) * (self.slab_pages as u64) - (self.slab_pages as u64) / 4
    }
}

fn three() -> Copies {
    Copies::try_from(3).unwrap_or(Copies::TWO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_stands_for_one_scenario() {
        assert_eq!(
            format!("{:?}", Scenario::of(7)),
            format!("{:?}", Scenario::of(7))
        );
        assert_ne!(
            format!("{:?}", Scenario::of(7)),
            format!("{:?}", Scenario::of(8))
        );
    }

    #[test]
    fn scenarios_have_a_spare_donor() {
        for seed in 0..500 {
            let scenario = Scenario::of(seed);
            assert!(scenario.servers > scenario.class.copies.get());
            assert!(scenario.device_pages() > 0);
        }
    }
}
