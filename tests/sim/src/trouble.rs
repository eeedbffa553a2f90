//! Troubles: what can go wrong, when, and for how long.

use std::time::Duration;

use dynamicswap_datapath::transport::fault::{Cut, SeededRandom};
use dynamicswap_types::MonotonicTime;

use crate::scenario::Scenario;

/// A kind of trouble; a scenario turns each on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The engine process dies.
    Engine,
    /// A memory server dies and comes back with its memory.
    Server,
    /// A memory server comes back without its memory.
    Memory,
    /// The way to a server is cut, in one or both directions.
    Cut,
    /// Slow, lossy ways.
    Weather,
    /// Bits flip on the way.
    Corruption,
    /// Bits flip in a server's memory.
    Flip,
    /// The controller restarts, agents go away.
    Control,
    /// The class changes, copies move.
    Documents,
    /// The disk is slow or refuses.
    Disk,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Engine,
        Self::Server,
        Self::Memory,
        Self::Cut,
        Self::Weather,
        Self::Corruption,
        Self::Flip,
        Self::Control,
        Self::Documents,
        Self::Disk,
    ];
}

/// One trouble. `server` is a position in the scenario's list, `gap` the time until it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// kill -9 of the engine.
    KillEngine {
        /// Effects that it still carries out before; none: at once.
        effects: Option<u32>,
        /// Until a new one starts.
        gap: Duration,
    },
    /// kill -9 of the engine between the moment at which a write counts and its answer, together
    /// with every way: the write comes again to an engine that cannot do it, and fails, although
    /// its bytes are what a read returns.
    LastWord {
        /// Until the ways are whole again.
        gap: Duration,
    },
    /// SIGSTOP of the engine.
    HangEngine {
        /// Until it is replaced.
        gap: Duration,
    },
    /// kill -9 of a memory server.
    KillServer {
        /// Which.
        server: usize,
        /// Whether its memory goes with it.
        lose: bool,
        /// Until it starts again.
        gap: Duration,
    },
    /// The way is cut.
    Cut {
        /// To which server.
        server: usize,
        /// In which direction.
        cut: Cut,
        /// Until it is whole again.
        gap: Duration,
    },
    /// The way is slow or lossy.
    Weather {
        /// To which server.
        server: usize,
        /// Longest delay of each direction.
        delay: Duration,
        /// Operations of 1000 that are lost.
        loss_per_mille: u16,
        /// Until it is good again.
        gap: Duration,
    },
    /// Payloads are damaged.
    Corruption {
        /// On the way to which server.
        server: usize,
        /// How many of 1000.
        per_mille: u16,
        /// Until none is any more.
        gap: Duration,
    },
    /// One bit in a server's memory.
    Flip {
        /// Which server.
        server: usize,
        /// Chooses page and bit.
        draw: u64,
    },
    /// The controller is away.
    Controller {
        /// Until it is back.
        gap: Duration,
    },
    /// A server's agent is away.
    Agent {
        /// Which server's.
        server: usize,
        /// Until it is back.
        gap: Duration,
    },
    /// The policy asks for another number of copies.
    Class {
        /// How many.
        copies: u32,
    },
    /// The controller moves a copy of a healthy set.
    Move {
        /// Chooses the set.
        draw: u64,
    },
    /// The disk answers late, or refuses.
    Disk {
        /// Whether it refuses.
        failing: bool,
        /// Until it is well again.
        gap: Duration,
    },
}

/// How much sooner than usual a trouble comes that belongs to the one before.
const BURST: u64 = 50;

/// The next trouble and its time; draws from the scenario's kinds.
#[derive(Debug)]
pub struct Weather {
    random: SeededRandom,
    next: MonotonicTime,
}

impl Weather {
    /// The troubles of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut weather = Self {
            random: SeededRandom::new(scenario.seed ^ 0x77ea_7be5),
            next: MonotonicTime::ZERO.after(Duration::from_millis(100)),
        };
        weather.draw_time(scenario);
        weather
    }

    fn draw_time(&mut self, scenario: &Scenario) {
        let mean = u64::try_from(scenario.trouble_every.as_nanos()).unwrap_or(u64::MAX);
        // Troubles come together: what kills a process often takes a link or a disk with it.
        let mean = if self.random.below(4) == 0 {
            mean / BURST
        } else {
            mean
        };
        self.next = self
            .next
            .after(Duration::from_nanos(self.random.below(2 * mean)));
    }

    /// When the next trouble comes; none where a scenario has no kinds.
    #[must_use]
    pub fn next_time(&self, scenario: &Scenario) -> Option<MonotonicTime> {
        (!scenario.kinds.is_empty()).then_some(self.next)
    }

    /// The next trouble, if its time has come.
    pub fn due(&mut self, scenario: &Scenario, now: MonotonicTime) -> Option<Trouble> {
        if self.next_time(scenario)? > now {
            return None;
        }
        self.draw_time(scenario);
        let kinds = u64::try_from(scenario.kinds.len()).unwrap_or(1);
        let kind = usize::try_from(self.random.below(kinds)).unwrap_or_default();
        Some(self.draw(scenario, scenario.kinds[kind]))
    }

    fn gap(&mut self, longest_ms: u64) -> Duration {
        // Half of the gaps are short: most real ones are.
        let longest = if self.random.below(2) == 0 {
            longest_ms / 10
        } else {
            longest_ms
        };
        Duration::from_millis(1 + self.random.below(longest))
    }

    fn draw(&mut self, scenario: &Scenario, kind: Kind) -> Trouble {
        let servers = u64::try_from(scenario.servers).unwrap_or(1);
        let server = usize::try_from(self.random.below(servers)).unwrap_or_default();
        match kind {
            Kind::Engine => self.draw_engine(),
            Kind::Server => Trouble::KillServer {
                server,
                lose: false,
                gap: self.gap(2000),
            },
            Kind::Memory => Trouble::KillServer {
                server,
                lose: true,
                gap: self.gap(1000),
            },
            Kind::Cut => {
                let cuts = [Cut::Both, Cut::ToServer, Cut::FromServer];
                let cut = cuts[usize::try_from(self.random.below(3)).unwrap_or_default()];
                Trouble::Cut {
                    server,
                    cut,
                    gap: self.gap(2500),
                }
            }
            Kind::Weather => Trouble::Weather {
                server,
                delay: self.gap(100),
                loss_per_mille: u16::try_from(self.random.below(60)).unwrap_or_default(),
                gap: self.gap(1000),
            },
            Kind::Corruption => Trouble::Corruption {
                server,
                per_mille: 1 + u16::try_from(self.random.below(200)).unwrap_or_default(),
                gap: self.gap(500),
            },
            Kind::Flip => Trouble::Flip {
                server,
                draw: self.random.next(),
            },
            Kind::Control if self.random.below(2) == 0 => Trouble::Controller {
                gap: self.gap(1500),
            },
            Kind::Control => Trouble::Agent {
                server,
                gap: self.gap(1500),
            },
            Kind::Documents if self.random.below(3) == 0 => Trouble::Class {
                copies: 1 + u32::try_from(self.random.below(3)).unwrap_or_default(),
            },
            Kind::Documents => Trouble::Move {
                draw: self.random.next(),
            },
            Kind::Disk => Trouble::Disk {
                failing: self.random.below(2) == 0,
                gap: self.gap(800),
            },
        }
    }

    fn draw_engine(&mut self) -> Trouble {
        match self.random.below(7) {
            0 | 1 => Trouble::HangEngine {
                gap: self.gap(1500),
            },
            2 => Trouble::LastWord {
                gap: self.gap(2500),
            },
            3 | 4 => {
                let effects = u32::try_from(self.random.below(40)).ok();
                Trouble::KillEngine {
                    effects,
                    gap: self.gap(200),
                }
            }
            _ => Trouble::KillEngine {
                effects: None,
                gap: self.gap(200),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_a_scenario_comes_in_time() {
        let mut scenario = Scenario::of(1);
        scenario.kinds = Kind::ALL.to_vec();
        let mut weather = Weather::new(&scenario);
        let late = MonotonicTime::ZERO.after(Duration::from_secs(3600));
        let troubles: Vec<Trouble> = (0..400)
            .filter_map(|_| weather.due(&scenario, late))
            .collect();
        assert!(
            troubles
                .iter()
                .any(|it| matches!(it, Trouble::HangEngine { .. }))
        );
        assert!(
            troubles
                .iter()
                .any(|it| matches!(it, Trouble::KillServer { lose: true, .. }))
        );
        assert!(
            troubles
                .iter()
                .any(|it| matches!(it, Trouble::Disk { failing: true, .. }))
        );
    }

    #[test]
    fn scenario_without_kinds_is_quiet() {
        let mut scenario = Scenario::of(1);
        scenario.kinds.clear();
        assert_eq!(Weather::new(&scenario).next_time(&scenario), None);
    }
}
