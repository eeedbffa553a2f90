//! The law of return: whose pages come home now, and how many of them in this step.
//!
//! Owns what hysteresis needs: who is returning, and who rests after it. Where pages of one
//! process are taken first is `ranges`' business; that a container coming home is not probed is
//! offload's.
//!
//! Why it does not fight offload: pages that probing sent away are cold by that law's own
//! measure. They are counted apart ([`SwapAccount`]) and stay out unless the container asks for
//! them and there is plenty of room; all others come home once, and probing may then find the cold
//! ones among them.

mod account;
mod reason;
mod settings;
mod sight;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_types::{Bytes, MonotonicTime, PAGE_SIZE};

use crate::observation::ContainerName;
use crate::offload::times_seconds;

pub use account::SwapAccount;
pub use reason::{ReturnReason, StopCause};
pub use settings::ReturnSettings;
pub use sight::{Rest, ReturnNode, ReturnSight};

/// What shall happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnDeed {
    /// Nothing comes home.
    Hold,
    /// So much comes home in this step.
    Bring(Bytes),
}

/// A decision and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnRuling {
    /// What shall happen.
    pub deed: ReturnDeed,
    /// Why.
    pub reason: ReturnReason,
}

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing comes home. Waits for quiet and room; no timeout.
    Idle,
    /// Pages come home. Waits for the last of them, or for a sign to stop; stops by itself when
    /// nothing has moved for a time.
    Returning { progress: (MonotonicTime, Bytes) },
    /// It stopped. Waits for its time.
    Cooling { since: MonotonicTime },
}

#[derive(Debug, Clone, Copy)]
struct Track {
    phase: Phase,
    /// Total of `some` at the last step.
    stalled: Duration,
    /// When the last step was that brought pages home.
    brought: Option<MonotonicTime>,
}

/// Whether the node lets anybody's pages home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Waits for quiet and room.
    Shut,
    /// Waits for a sign to stop.
    Open,
    /// Waits for its time.
    Cooling { since: MonotonicTime },
}

/// The law, with what it remembers.
#[derive(Debug, Clone)]
pub struct ReturnLaw {
    gate: Gate,
    /// Time and the node's total of `some` at the last step.
    last: Option<(MonotonicTime, Duration)>,
    tracks: BTreeMap<ContainerName, Track>,
}

impl Default for ReturnLaw {
    fn default() -> Self {
        Self {
            gate: Gate::Shut,
            last: None,
            tracks: BTreeMap::new(),
        }
    }
}

/// What one step has left to give.
struct Purse {
    now: MonotonicTime,
    elapsed: Duration,
    /// What the node has above its lower mark.
    room: Bytes,
    /// Whether it has plenty.
    plenty: bool,
    /// What the bandwidth still lets home.
    budget: Bytes,
}

impl ReturnLaw {
    /// Decides on all containers of the node, and gives the decisions in the order in which they
    /// are to be carried out.
    pub fn step(
        &mut self,
        now: MonotonicTime,
        node: &ReturnNode,
        containers: &BTreeMap<ContainerName, ReturnSight>,
        settings: &ReturnSettings,
    ) -> Vec<(ContainerName, ReturnRuling)> {
        let settings = settings.bounded();
        let (before, stalled) = self.last.unwrap_or((now, node.rest.stalled));
        let elapsed = now.since(before);
        self.last = Some((now, node.rest.stalled));
        let shut = self.judge_node(now, elapsed, (node, stalled), &settings);
        // A late step does not make up for the time that it missed.
        let paid_for = elapsed.min(Duration::from_secs(1));
        let mut purse = Purse {
            now,
            elapsed,
            room: node
                .available
                .saturating_sub(settings.node_stop.of_bytes(node.total)),
            plenty: node.available >= settings.node_plenty.of_bytes(node.total),
            budget: times_seconds(settings.bytes_per_s, paid_for),
        };
        self.tracks.retain(|name, _| containers.contains_key(name));
        let mut rulings = Vec::with_capacity(containers.len());
        for (name, sight) in in_order(containers) {
            let track = self.tracks.entry(name.clone()).or_insert(Track {
                phase: Phase::Idle,
                stalled: sight.rest.stalled,
                brought: None,
            });
            let ruling = match &shut {
                None => track.judge(sight, &mut purse, &settings),
                Some(reason) => track.stop_for_node(now, *reason, &settings),
            };
            track.stalled = sight.rest.stalled;
            rulings.push((name.clone(), ruling));
        }
        rulings
    }

    /// Its pages were not asked for after all: another container's are under way.
    pub fn waited(&mut self, name: &ContainerName, now: MonotonicTime) {
        if let Some(track) = self.tracks.get_mut(name) {
            track.waited(now);
        }
    }

    /// Whether the container's pages are coming home.
    #[must_use]
    pub fn is_returning(&self, name: &ContainerName) -> bool {
        let track = self.tracks.get(name);
        track.is_some_and(|track| matches!(track.phase, Phase::Returning { .. }))
    }

    /// How long ago pages of it last came home; none if none ever did.
    #[must_use]
    pub fn since_return(&self, name: &ContainerName, now: MonotonicTime) -> Option<Duration> {
        self.tracks
            .get(name)?
            .brought
            .map(|brought| now.since(brought))
    }

    /// Why nobody's pages come home, if so.
    fn judge_node(
        &mut self,
        now: MonotonicTime,
        elapsed: Duration,
        (node, stalled_before): (&ReturnNode, Duration),
        settings: &ReturnSettings,
    ) -> Option<ReturnReason> {
        if let Gate::Cooling { since } = self.gate {
            let left = settings.cool_down.saturating_sub(now.since(since));
            if left > Duration::ZERO {
                return Some(ReturnReason::NodeCooling { left });
            }
            self.gate = Gate::Shut;
        }
        let available = node.available;
        let sign = node.rest.sign(stalled_before, elapsed, settings);
        if self.gate == Gate::Open {
            let stop = settings.node_stop.of_bytes(node.total);
            let cause = if sign.is_some() {
                Some(StopCause::NodePressed)
            } else if available <= stop {
                Some(StopCause::NodeFull { available, stop })
            } else {
                None
            };
            if cause.is_some() {
                self.gate = Gate::Cooling { since: now };
            }
            return cause.map(ReturnReason::Stopped);
        }
        let start = settings.node_start.of_bytes(node.total);
        let quiet_for = node.rest.quiet_for();
        if quiet_for < settings.quiet_min || sign.is_some() {
            let needed = settings.quiet_min;
            return Some(ReturnReason::NodeNotQuiet { quiet_for, needed });
        }
        if available < start {
            return Some(ReturnReason::NodeNoRoom { available, start });
        }
        self.gate = Gate::Open;
        None
    }
}

/// Who is asked first: the highest share of its swapped pages that it reads back, then the most
/// swapped, then by name.
fn in_order(
    containers: &BTreeMap<ContainerName, ReturnSight>,
) -> Vec<(&ContainerName, &ReturnSight)> {
    let mut order: Vec<_> = containers.iter().collect();
    order.sort_by_key(|(_, sight)| {
        let density = u128::from(sight.swap_ins_per_min) << 64;
        let density = density / u128::from(sight.swapped.get().max(1));
        (Reverse(density), Reverse(sight.swapped))
    });
    order
}

impl Track {
    /// Nothing was asked of it at this step: that it makes no progress says nothing.
    const fn waited(&mut self, now: MonotonicTime) {
        if let Phase::Returning { progress } = &mut self.phase {
            progress.0 = now;
        }
    }

    fn judge(
        &mut self,
        sight: &ReturnSight,
        purse: &mut Purse,
        settings: &ReturnSettings,
    ) -> ReturnRuling {
        if let Phase::Cooling { since } = self.phase {
            let left = settings.cool_down.saturating_sub(purse.now.since(since));
            if left > Duration::ZERO {
                return hold(ReturnReason::Cooling { left });
            }
            self.phase = Phase::Idle;
        }
        let out = sight.returnable(purse.plenty, settings);
        let verdict = match self.phase {
            Phase::Returning { progress } => self.go_on(sight, out, progress, (purse, settings)),
            Phase::Idle | Phase::Cooling { .. } => self.begin(sight, out, (purse, settings)),
        };
        if let Err(reason) = verdict {
            return hold(reason);
        }
        self.bring(sight, out, purse, settings)
    }

    /// Whether a container at rest may begin.
    fn begin(
        &mut self,
        sight: &ReturnSight,
        out: Bytes,
        (purse, settings): (&Purse, &ReturnSettings),
    ) -> Result<(), ReturnReason> {
        if !sight.enabled {
            return Err(ReturnReason::Disabled);
        }
        if out < settings.worth_min {
            return Err(ReturnReason::StaysOut {
                swapped: sight.swapped,
                probed: sight.probed.min(sight.swapped),
            });
        }
        let quiet_for = sight.rest.quiet_for();
        let sign = sight.rest.sign(self.stalled, purse.elapsed, settings);
        if quiet_for < settings.quiet_min || sign.is_some() {
            let needed = settings.quiet_min;
            return Err(ReturnReason::NotQuiet { quiet_for, needed });
        }
        if let Some((room, start)) = sight.too_small(settings) {
            return Err(ReturnReason::NoRoom { room, start });
        }
        self.phase = Phase::Returning {
            progress: (purse.now, sight.swapped),
        };
        Ok(())
    }

    /// Whether one that is returning goes on.
    fn go_on(
        &mut self,
        sight: &ReturnSight,
        out: Bytes,
        progress: (MonotonicTime, Bytes),
        (purse, settings): (&Purse, &ReturnSettings),
    ) -> Result<(), ReturnReason> {
        let progress = if sight.swapped < progress.1 {
            (purse.now, sight.swapped)
        } else {
            progress
        };
        self.phase = Phase::Returning { progress };
        let stuck_for = purse.now.since(progress.0);
        let cause = if !sight.enabled {
            StopCause::Disabled
        } else if out < PAGE_SIZE {
            StopCause::Home
        } else if let Some(share) = sight.rest.sign(self.stalled, purse.elapsed, settings) {
            StopCause::Pressed { share }
        } else if sight.room_above_stop(settings) < PAGE_SIZE {
            StopCause::Full
        } else if stuck_for >= settings.stuck_max {
            StopCause::Stuck { stuck_for }
        } else {
            return Ok(());
        };
        self.phase = Phase::Cooling { since: purse.now };
        Err(ReturnReason::Stopped(cause))
    }

    /// So much as room, bandwidth and step let home.
    fn bring(
        &mut self,
        sight: &ReturnSight,
        out: Bytes,
        purse: &mut Purse,
        settings: &ReturnSettings,
    ) -> ReturnRuling {
        let bytes = out
            .min(settings.step_max)
            .min(sight.room_above_stop(settings))
            .min(purse.room)
            .min(purse.budget);
        let bytes = Bytes::new(bytes.get() / PAGE_SIZE.get() * PAGE_SIZE.get());
        if bytes == Bytes::ZERO {
            self.waited(purse.now);
            return hold(ReturnReason::Waits {
                bytes_per_s: settings.bytes_per_s,
            });
        }
        purse.room = purse.room.saturating_sub(bytes);
        purse.budget = purse.budget.saturating_sub(bytes);
        self.brought = Some(purse.now);
        ReturnRuling {
            deed: ReturnDeed::Bring(bytes),
            reason: ReturnReason::Brings {
                out,
                room: sight.room_above_stop(settings).min(purse.room),
                swap_ins_per_min: sight.swap_ins_per_min,
            },
        }
    }

    /// The node lets nobody's pages home.
    fn stop_for_node(
        &mut self,
        now: MonotonicTime,
        reason: ReturnReason,
        settings: &ReturnSettings,
    ) -> ReturnRuling {
        match self.phase {
            Phase::Returning { .. } => self.phase = Phase::Cooling { since: now },
            Phase::Cooling { since } if now.since(since) >= settings.cool_down => {
                self.phase = Phase::Idle;
            }
            Phase::Cooling { .. } | Phase::Idle => {}
        }
        hold(reason)
    }
}

const fn hold(reason: ReturnReason) -> ReturnRuling {
    ReturnRuling {
        deed: ReturnDeed::Hold,
        reason,
    }
}

#[cfg(test)]
mod tests;
