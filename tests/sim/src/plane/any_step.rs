//! A control plane that takes any legal step of the grant life, by seed, and no other.
//!
//! The planner takes the best step; this one any, so that the data path meets every document
//! that a planner may ever make. Owns the record of sets and seats, which outlives a controller's
//! restart, and renders documents from it.

mod render;
mod seats;

use std::collections::{BTreeMap, BTreeSet};

use dynamicswap_datapath::transport::fault::SeededRandom;
use dynamicswap_engine::document::Document;
use dynamicswap_engine::engine::LinkState;
use dynamicswap_engine::report::SetView;
use dynamicswap_engine::sets::ReplicaState;
use dynamicswap_types::{Copies, Generation, IncarnationId, MonotonicTime, SwapDeviceId};

use super::{Deeds, DeviceReport, Documents, Heard, REPLACE_AFTER, Reports};
use crate::scenario::Scenario;

/// Copies that a document lists for a set at the most.
const REPLICAS_MAX: usize = 3;

/// Where a seat is in its life; the planner's ledger has the same phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In the donor's document only, until the donor reports it granted.
    Granting { replaces: Option<usize> },
    /// In both documents.
    Serving,
    /// In the donor's document only, until the borrower has taken this generation.
    Leaving { since: Generation },
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    server: usize,
    slot: u32,
    phase: Phase,
    /// Whether the donor has reported it granted in its present life.
    granted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until every donor grants its slot.
    Composing,
    /// In the borrower's document.
    Offered,
    /// The borrower has released it.
    Closing,
}

#[derive(Debug, Clone)]
struct Set {
    seats: Vec<Seat>,
    stage: Stage,
}

#[derive(Debug, Clone)]
struct Server {
    domain: u16,
    /// The life that it last reported.
    life: Option<IncarnationId>,
    /// The life that the borrower's document names.
    named: Option<IncarnationId>,
    heard: MonotonicTime,
    granted: BTreeSet<u32>,
    generation: Generation,
    published: BTreeMap<u32, u64>,
    /// The life that its last document was for.
    document_life: Option<IncarnationId>,
}

/// The controller's record and rules.
#[derive(Debug)]
pub struct AnyStep {
    device: SwapDeviceId,
    random: SeededRandom,
    slots: u32,
    sets_max: usize,
    reserve_target: usize,
    sets: BTreeMap<u64, Set>,
    servers: Vec<Server>,
    next_set: u64,
    /// Copies that the policy asks for.
    pub wanted: Copies,
    published: Document,
    early_drop: bool,
    deeds: Deeds,
}

impl AnyStep {
    /// The plane of a scenario, before it has heard of anybody.
    #[must_use]
    pub fn new(
        scenario: &Scenario,
        device: SwapDeviceId,
        domains: &[u16],
        early_drop: bool,
    ) -> Self {
        let server = |domain: &u16| Server {
            domain: *domain,
            life: None,
            named: None,
            heard: MonotonicTime::ZERO,
            granted: BTreeSet::new(),
            generation: Generation::ZERO,
            published: BTreeMap::new(),
            document_life: None,
        };
        let slabs = scenario.slabs as usize;
        Self {
            device,
            random: SeededRandom::new(scenario.seed ^ 0x0009_1a4e),
            slots: scenario.slots,
            sets_max: slabs + 8,
            reserve_target: 2,
            sets: BTreeMap::new(),
            servers: domains.iter().map(server).collect(),
            next_set: 1,
            wanted: scenario.class.copies,
            published: render::empty(scenario),
            early_drop,
            deeds: Vec::new(),
        }
    }

    /// Hears reports, takes legal steps, gives the documents that have changed.
    pub fn round(&mut self, reports: &Reports, now: MonotonicTime) -> (Documents, Deeds) {
        self.hear(reports, now);
        self.confirm();
        if let Some(device) = &reports.device {
            self.let_go(device);
            self.recall(device);
            self.replace_dead(device, now);
            self.resize_sets(device);
            self.compose(device);
        } else if self.published.generation == Generation::ZERO {
            self.compose_first();
        }
        (self.documents(), std::mem::take(&mut self.deeds))
    }

    fn deed(&mut self, what: &'static str, detail: String) {
        self.deeds.push((what, detail));
    }

    /// Takes in what donors say of their memory.
    fn hear(&mut self, reports: &Reports, now: MonotonicTime) {
        for number in 0..self.servers.len() {
            let Some(report) = reports.servers.get(number).and_then(Heard::server) else {
                continue;
            };
            let server = &mut self.servers[number];
            server.heard = now;
            server.granted = report.grants.keys().copied().collect();
            if server.life.replace(report.incarnation) != Some(report.incarnation) {
                self.memory_is_new(number);
            }
            for (id, set) in &mut self.sets {
                for seat in set.seats.iter_mut().filter(|seat| seat.server == number) {
                    seat.granted = report.grants.get(&seat.slot) == Some(id);
                }
            }
        }
    }

    /// Nothing that was granted there is granted any more; seats that leave have left.
    fn memory_is_new(&mut self, number: usize) {
        for set in self.sets.values_mut() {
            set.seats.retain(|seat| {
                seat.server != number || !matches!(seat.phase, Phase::Leaving { .. })
            });
            for seat in set.seats.iter_mut().filter(|seat| seat.server == number) {
                seat.granted = false;
            }
        }
        let seats = self.sets.values().flat_map(|set| &set.seats);
        let asked_again = seats.filter(|seat| seat.server == number).count();
        if asked_again > 0 && self.servers[number].named.is_some() {
            let detail = format!("{asked_again} slots of donor {number}");
            self.deed(
                "slot granted again after its server's memory was lost",
                detail,
            );
        }
    }

    /// Granted seats start to serve, in the life that the borrower's document can name.
    fn confirm(&mut self) {
        for number in 0..self.servers.len() {
            let seats = || self.sets.values().flat_map(|set| &set.seats);
            let here = || seats().filter(move |seat| seat.server == number);
            let mut listed = here().filter(|seat| seat.phase == Phase::Serving);
            if listed.all(|seat| seat.granted)
                && self.servers[number].named != self.servers[number].life
            {
                self.servers[number].named = self.servers[number].life;
                self.keep_reborn(number);
            }
        }
        let named =
            |servers: &[Server], number: usize| servers[number].named == servers[number].life;
        let next = self.published.generation.next();
        for set in self.sets.values_mut() {
            let ready = |seat: &Seat| seat.granted && named(&self.servers, seat.server);
            if set.stage == Stage::Composing {
                if set.seats.iter().all(ready) {
                    set.stage = Stage::Offered;
                    set.seats
                        .iter_mut()
                        .for_each(|seat| seat.phase = Phase::Serving);
                }
                continue;
            }
            let arrived = set
                .seats
                .iter()
                .position(|seat| matches!(seat.phase, Phase::Granting { .. }) && ready(seat));
            let Some(arrived) = arrived else { continue };
            let Phase::Granting { replaces } = set.seats[arrived].phase else {
                continue;
            };
            set.seats[arrived].phase = Phase::Serving;
            for seat in &mut set.seats {
                if Some(seat.server) == replaces && seat.phase == Phase::Serving {
                    seat.phase = Phase::Leaving { since: next };
                }
            }
        }
    }

    /// The slots of a donor that lost its memory serve again: a set whose only copy is there was
    /// hopeless and is no longer, so what was asked for in its place is not wanted any more.
    fn keep_reborn(&mut self, number: usize) {
        let in_its_place = Phase::Granting {
            replaces: Some(number),
        };
        for set in self.sets.values_mut() {
            let serving = set.seats.iter().filter(|seat| seat.phase == Phase::Serving);
            if serving.count() == 1 {
                set.seats.retain(|seat| seat.phase != in_its_place);
            }
        }
    }

    /// Closes released sets, and takes slots back once the borrower has let go of them.
    fn let_go(&mut self, device: &DeviceReport) {
        let next = self.published.generation.next();
        for view in device.sets.iter().filter(|view| view.released) {
            if let Some(set) = self.sets.get_mut(&view.id.get())
                && set.stage == Stage::Offered
            {
                set.stage = Stage::Closing;
                for seat in &mut set.seats {
                    seat.phase = Phase::Leaving { since: next };
                }
            }
        }
        for set in self.sets.values_mut() {
            set.seats.retain(|seat| match seat.phase {
                Phase::Leaving { since } => device.generation < since,
                Phase::Granting { .. } | Phase::Serving => true,
            });
        }
        self.sets.retain(|_, set| !set.seats.is_empty());
    }

    /// Names a copy again that the borrower will not do without: the last whole one of its set,
    /// because another has missed a write since this plane let go of it.
    fn recall(&mut self, device: &DeviceReport) {
        let next = self.published.generation.next();
        let (servers, mut recalled) = (&self.servers, Vec::new());
        for (id, set) in &mut self.sets {
            let view = device.sets.iter().find(|view| view.id.get() == *id);
            let whole = |seat: &Seat| copy_state(view, seat) == Some(ReplicaState::Live);
            let serves = |seat: &Seat| seat.phase == Phase::Serving;
            let refused = |seat: &Seat| match seat.phase {
                Phase::Leaving { since } => device.generation < since && whole(seat),
                Phase::Granting { .. } | Phase::Serving => false,
            };
            let last = set.seats.iter().position(refused);
            let Some(last) = last.filter(|_| {
                let mut seats = set.seats.iter();
                set.stage == Stage::Offered && !seats.any(|seat| serves(seat) && whole(seat))
            }) else {
                continue;
            };
            let domain = |seat: &Seat| servers[seat.server].domain;
            let own = domain(&set.seats[last]);
            let twin = |seat: &Seat| serves(seat) && domain(seat) == own;
            let full = set.seats.iter().filter(|seat| serves(seat)).count() >= REPLICAS_MAX;
            let in_its_place = set.seats.iter().position(twin);
            let in_its_place =
                in_its_place.or_else(|| set.seats.iter().rposition(serves).filter(|_| full));
            if let Some(place) = in_its_place {
                set.seats[place].phase = Phase::Leaving { since: next };
            }
            set.seats[last].phase = Phase::Serving;
            recalled.push(*id);
        }
        for id in recalled {
            self.deed("copy recalled", format!("set {id}"));
        }
    }

    fn is_dead(&self, number: usize, device: &DeviceReport, now: MonotonicTime) -> bool {
        match device.links.get(number).and_then(Option::as_ref) {
            Some((LinkState::Up, _)) => false,
            Some((LinkState::Connecting, _)) | None => {
                now.since(self.servers[number].heard) > REPLACE_AFTER
            }
            Some((_, since)) => now.since(*since) > REPLACE_AFTER,
        }
    }
}

/// State of a seat's copy, as the borrower reports it.
fn copy_state(view: Option<&SetView>, seat: &Seat) -> Option<ReplicaState> {
    let replicas = view?.replicas.iter().flatten();
    let here = |place: dynamicswap_engine::document::ReplicaPlace| {
        place.server.as_usize() == seat.server && place.slot.get() == seat.slot
    };
    replicas
        .copied()
        .find(|replica| here(replica.place))
        .map(|replica| replica.state)
}
