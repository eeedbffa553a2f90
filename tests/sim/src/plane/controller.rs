//! The product's planner at work: its ledger, its rounds with their checker, its documents.
//!
//! Stands where `controller/src/owner` stands: it absorbs facts, observes, plans, keeps, and
//! hands out whole documents. Only the sessions and the store around it are left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::engine::LinkState as EngineLink;
use dynamicswap_engine::report::SetView;
use dynamicswap_engine::sets::{Replica, ReplicaState as EngineReplica};
use dynamicswap_engine::slots::{Grant, GrantDocument, Owner};
use dynamicswap_planner::{
    ClusterView, DeviceDocument, DeviceFacts, DeviceIntent, DeviceObservation, Ledger,
    LinkObservation, LinkState, NodeDocument, NodeFacts, NodeObservation, Planner, Rebalance,
    ReplicaObservation, ReplicaState, Round, ServerDocument, ServerFacts, ServerObservation,
    Session, SetObservation, Settings, absorb, stamp_rebalanced, stamp_revokes,
};
use dynamicswap_types::{
    Bytes, Copies, FailureDomain, Generation, Integrity, MonotonicTime, NameError, NodeName,
    ServerIndex, SetId, SlotIndex, SwapDeviceId,
};

use super::{Deeds, DeviceReport, Documents, Heard, REPLACE_AFTER, Reports, ServerReport};
use crate::donors::slot_size;
use crate::scenario::Scenario;

/// Version of the session's protocol that everybody speaks here.
const PROTOCOL: u32 = 1;

/// A donor as the controller knows it.
#[derive(Debug, Clone)]
struct Donor {
    node: NodeName,
    domain: FailureDomain,
    domain_number: u16,
    /// The document that its present session was handed.
    sent: Option<Generation>,
}

/// The controller.
#[derive(Debug)]
pub struct Controller {
    device: SwapDeviceId,
    size: Bytes,
    slots: u32,
    has_disk: bool,
    borrower: NodeName,
    borrower_domain: FailureDomain,
    donors: Vec<Donor>,
    intent: DeviceIntent,
    /// What is on record. A round's ledger replaces it at once: there is no store to fail.
    ledger: Ledger,
    planner: Planner,
    seen: BTreeMap<NodeName, NodeObservation>,
    sent: Option<Generation>,
    /// Closed by the operator, and the time within which everything shall leave, if it shall.
    closed: BTreeMap<usize, Option<Duration>>,
    /// When sets were last moved for the balance.
    rebalanced: BTreeMap<SetId, MonotonicTime>,
    deeds: Deeds,
}

impl Controller {
    /// The controller of a scenario, before it has heard of anybody.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn new(
        scenario: &Scenario,
        device: SwapDeviceId,
        domains: &[u16],
    ) -> Result<Self, NameError> {
        let donor = |(number, domain): (usize, &u16)| {
            Ok(Donor {
                node: format!("donor-{number}").parse()?,
                domain: format!("domain-{domain}").parse()?,
                domain_number: *domain,
                sent: None,
            })
        };
        let donors = domains.iter().enumerate().map(donor);
        Ok(Self {
            device,
            size: Bytes::new(slot_size().bytes().get() * u64::from(scenario.slabs)),
            slots: scenario.slots,
            has_disk: scenario.has_disk(),
            borrower: "borrower".parse()?,
            borrower_domain: "domain-of-the-borrower".parse()?,
            donors: donors.collect::<Result<_, NameError>>()?,
            intent: DeviceIntent {
                class: scenario.class,
                attach: true,
                integrity: Integrity::Full,
                write_hold: scenario.write_hold,
                read_stall: scenario.read_stall,
                empty_slab_hold: scenario.empty_slab_hold,
                copy_bandwidth: scenario.copy_limit,
                policies: Vec::new(),
            },
            ledger: Ledger::default(),
            planner: Planner::default(),
            seen: BTreeMap::new(),
            sent: None,
            closed: BTreeMap::new(),
            rebalanced: BTreeMap::new(),
            deeds: Vec::new(),
        })
    }

    /// Copies that the policy asks for.
    pub const fn wanted(&self) -> Copies {
        self.intent.class.copies
    }

    /// The policy asks for another number of copies.
    pub const fn want(&mut self, copies: Copies) {
        self.intent.class.copies = copies;
    }

    /// An operator closes a donor for new slabs or drains it, and opens the one before.
    pub fn close_any(&mut self, draw: u64) {
        let number = usize::try_from(draw >> 8).unwrap_or_default() % self.donors.len();
        let within = Duration::from_millis(20 + (draw >> 1) % 600);
        let drain = draw.is_multiple_of(2).then_some(within);
        self.closed.clear();
        self.closed.insert(number, drain);
        let what = match drain {
            Some(_) => "trouble: donor drained",
            None => "trouble: donor cordoned",
        };
        self.deeds
            .push((what, format!("donor {number}, {drain:?}")));
    }

    /// Every donor takes slabs.
    pub fn open_all(&mut self) {
        self.closed.clear();
    }

    /// Another process: what was observed is forgotten, what was kept is not.
    pub fn restart(&mut self, now: MonotonicTime) {
        let nodes = self.ledger.nodes.keys();
        self.seen = nodes
            .map(|node| (node.clone(), NodeObservation::silent(now)))
            .collect();
        self.sent = None;
        self.rebalanced.clear();
        for donor in &mut self.donors {
            donor.sent = None;
        }
    }

    /// One round of the owner's loop.
    ///
    /// # Errors
    /// What the planner's checker or its ledger has against the plan.
    pub fn round(
        &mut self,
        reports: &Reports,
        now: MonotonicTime,
    ) -> Result<(Documents, Deeds), String> {
        self.hear_borrower(reports.device.as_ref(), now);
        for (number, heard) in reports.servers.iter().enumerate() {
            self.hear_donor(number, heard, now);
        }
        for (number, donor) in self.donors.iter().enumerate() {
            if let Some(record) = self.ledger.nodes.get_mut(&donor.node) {
                let closed = self.closed.get(&number);
                (record.cordoned, record.drain) = (closed.is_some(), closed.copied().flatten());
            }
        }
        stamp_revokes(&self.ledger, &mut self.seen, now);
        let view = ClusterView {
            ledger: &self.ledger,
            nodes: &self.seen,
            intent: Some(&self.intent),
            settings: Settings {
                replace_after: REPLACE_AFTER,
                protocol: PROTOCOL,
                rebalance: Rebalance::Auto,
            },
            rebalanced: &self.rebalanced,
            now,
            seed: now.as_nanos(),
        };
        let Round {
            plan,
            ledger,
            documents,
        } = self
            .planner
            .round(&view)
            .map_err(|error| error.to_string())?;
        if !plan.steps.is_empty() {
            self.deeds
                .push(("planner: plan carried out", plan.to_string()));
        }
        for line in &plan.report {
            // Waits come round after round: their kind alone is for the coverage.
            let detail = if line.reason.is_wait() {
                String::new()
            } else {
                line.to_string()
            };
            self.deeds.push((line.reason.kind(), detail));
        }
        self.ledger = ledger;
        stamp_rebalanced(&mut self.rebalanced, &plan, now);
        let documents = self.hand_out(&documents);
        Ok((documents, std::mem::take(&mut self.deeds)))
    }

    fn seen(&mut self, node: &NodeName, now: MonotonicTime) -> &mut NodeObservation {
        let seen = self.seen.entry(node.clone());
        seen.or_insert_with(|| NodeObservation::silent(now))
    }

    /// The borrower's agent is always there; swapd may not be.
    fn hear_borrower(&mut self, report: Option<&DeviceReport>, now: MonotonicTime) {
        let node = self.borrower.clone();
        let hello = NodeFacts::Hello {
            domain: self.borrower_domain.clone(),
            zone: None,
            borrower: true,
            donor: false,
        };
        absorb(&mut self.ledger, &node, &hello);
        let observed = report.map(|report| self.observe_device(report, now));
        if observed.is_some() {
            let facts = NodeFacts::Device(DeviceFacts {
                id: self.device,
                size: self.size,
                slab: slot_size(),
                integrity: Some(Integrity::Full),
            });
            absorb(&mut self.ledger, &node, &facts);
        }
        let seen = self.seen(&node, now);
        seen.session = Session::Open;
        seen.protocol = PROTOCOL;
        seen.device_error = observed.is_none();
        if let Some(observed) = observed {
            seen.take_device(observed);
        }
    }

    fn observe_device(&self, report: &DeviceReport, now: MonotonicTime) -> DeviceObservation {
        let before = self.seen.get(&self.borrower);
        let before = before.and_then(|seen| seen.device.as_ref());
        let mut links = BTreeMap::new();
        for (donor, said) in self.donors.iter().zip(&report.links) {
            let Some((state, since)) = said else {
                continue;
            };
            let known = before.and_then(|before| before.links.get(&donor.node));
            links.insert(donor.node.clone(), link(*state, *since, known, now));
        }
        let set = |view: &SetView| {
            let observation = SetObservation {
                bound: view.slab.is_some(),
                released: view.released,
                heat: 0,
                on_disk: false,
                replicas: view
                    .replicas
                    .iter()
                    .flatten()
                    .map(|it| self.replica(it))
                    .collect(),
            };
            (view.id, observation)
        };
        DeviceObservation {
            id: self.device,
            generation: report.generation,
            spill: self.has_disk,
            links,
            sets: report.sets.iter().map(set).collect(),
        }
    }

    fn replica(&self, replica: &Replica) -> ReplicaObservation {
        let server = replica.place.server.as_usize();
        ReplicaObservation {
            node: self.donors[server].node.clone(),
            slot: replica.place.slot,
            // As `swapd/report.rs` says it.
            state: match replica.state {
                EngineReplica::Live => ReplicaState::Live,
                EngineReplica::Rebuilding => ReplicaState::Rebuilding,
                EngineReplica::Stale | EngineReplica::Lost => ReplicaState::Stale,
            },
        }
    }

    fn hear_donor(&mut self, number: usize, heard: &Heard, now: MonotonicTime) {
        let Donor { node, domain, .. } = self.donors[number].clone();
        if let Heard::Nothing = heard {
            if let Some(seen) = self.seen.get_mut(&node)
                && seen.session == Session::Open
            {
                seen.session = Session::Lost { since: now };
            }
            return;
        }
        let hello = NodeFacts::Hello {
            domain,
            zone: None,
            borrower: false,
            donor: true,
        };
        absorb(&mut self.ledger, &node, &hello);
        let seen = self.seen(&node, now);
        if seen.session != Session::Open {
            seen.session = Session::Open;
            seen.protocol = PROTOCOL;
            self.donors[number].sent = None;
        }
        match heard.server() {
            Some(report) => self.hear_server(number, report, now),
            None => {
                self.seen(&node, now).server_error_since.get_or_insert(now);
            }
        }
    }

    fn hear_server(&mut self, number: usize, report: &ServerReport, now: MonotonicTime) {
        let node = self.donors[number].node.clone();
        let sets = report.grants.values().map(|set| SetId::new(*set));
        let facts = NodeFacts::Server {
            facts: ServerFacts {
                incarnation: report.incarnation,
                slot_size: slot_size().bytes(),
                slots_total: self.slots,
                tcp_address: format!("{node}:7000"),
                rdma_address: String::new(),
            },
            sets: sets.collect(),
        };
        if let Some(absorbed) = absorb(&mut self.ledger, &node, &facts) {
            let detail = format!("donor {number}: {absorbed:?}");
            self.deeds.push(("planner: fact absorbed", detail));
        }
        let owner = |set: &u64| (self.device, SetId::new(*set));
        let grants = report.grants.iter();
        let observation = ServerObservation {
            incarnation: report.incarnation,
            generation: report.generation,
            grants: grants
                .map(|(slot, set)| (SlotIndex::new(*slot), owner(set)))
                .collect(),
        };
        let seen = self.seen(&node, now);
        seen.take_server(observation);
        seen.server_error_since = None;
    }

    /// The documents that the open sessions do not have yet.
    fn hand_out(&mut self, documents: &BTreeMap<NodeName, Arc<NodeDocument>>) -> Documents {
        let mut out = Documents::default();
        if let Some(document) = documents.get(&self.borrower)
            && self.sent.replace(document.generation) != Some(document.generation)
        {
            let device = document.swap_device.as_ref();
            out.device =
                device.map(|(generation, device)| self.device_document(*generation, device));
        }
        for (number, donor) in self.donors.iter_mut().enumerate() {
            let is_open =
                self.seen.get(&donor.node).map(|seen| seen.session) == Some(Session::Open);
            let document = documents.get(&donor.node).filter(|_| is_open);
            if let Some(document) = document
                && donor.sent.replace(document.generation) != Some(document.generation)
                && let Some((generation, server)) = &document.memory_server
            {
                out.servers
                    .push((number, server_document(*generation, server)));
            }
        }
        out
    }

    /// As `swapd/document.rs` reads it, with a donor's number for its index.
    fn device_document(&self, generation: Generation, document: &DeviceDocument) -> Document {
        let index = |node: &NodeName| {
            let mut donors = self.donors.iter();
            let number = donors.position(|donor| donor.node == *node);
            ServerIndex::new(
                number
                    .and_then(|it| u16::try_from(it).ok())
                    .unwrap_or(u16::MAX),
            )
        };
        let servers = self.donors.iter().map(|donor| {
            let mut named = document.servers.iter();
            let named = named.find(|server| server.node == donor.node);
            ServerDescriptor {
                incarnation: named.map(|server| server.incarnation),
                domain: named.map_or(u16::MAX, |_| donor.domain_number),
            }
        });
        let sets = document.sets.iter().map(|listing| SetGrant {
            id: listing.set,
            replicas: listing
                .replicas
                .iter()
                .map(|(node, slot)| ReplicaPlace {
                    server: index(node),
                    slot: *slot,
                })
                .collect(),
        });
        Document {
            generation,
            durability: document.class,
            write_hold: document.write_hold,
            read_stall: document.read_stall,
            empty_slab_hold: document.empty_slab_hold,
            reserve_sets_max: document.reserve_sets_max,
            servers: servers.collect(),
            sets: sets.collect(),
        }
    }
}

fn server_document(generation: Generation, document: &ServerDocument) -> GrantDocument {
    let grants = document.grants.iter().map(|grant| Grant {
        slot: grant.slot,
        owner: Owner {
            device: grant.device,
            set: grant.set,
        },
    });
    GrantDocument {
        generation,
        incarnation: document.incarnation,
        grants: grants.collect(),
        emptied: document.emptied,
    }
}

/// As `controller/src/convert.rs` reads a link's report.
fn link(
    state: EngineLink,
    since: MonotonicTime,
    known: Option<&LinkObservation>,
    now: MonotonicTime,
) -> LinkObservation {
    let state = match state {
        EngineLink::Connecting => LinkState::Connecting,
        EngineLink::Up => LinkState::Up,
        EngineLink::Down => LinkState::Down,
        EngineLink::Lost => LinkState::Lost,
        EngineLink::Refused => LinkState::Refused,
    };
    let up = state == LinkState::Up;
    let began = known.and_then(|known| known.not_up_since);
    LinkObservation {
        state,
        was_up: up || state == LinkState::Down || known.is_some_and(|known| known.was_up),
        not_up_since: (!up).then(|| began.unwrap_or(since).min(now)),
    }
}
