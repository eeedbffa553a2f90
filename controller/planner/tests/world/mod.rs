//! A small cluster in memory: donors and borrowers that follow their documents as the real ones
//! do, and refuse what the real ones refuse. Reports and documents travel when a test says so.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by several test files; helpers of tests panic as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_planner::{
    ClusterView, DeviceFacts, DeviceIntent, DeviceObservation, Ledger, LinkObservation, LinkState,
    NodeDocument, NodeFacts, NodeObservation, Plan, Planner, Rebalance, ReplicaObservation,
    ReplicaState, Round, ServerFacts, ServerObservation, Session, SetObservation, Settings, absorb,
    round, stamp_rebalanced, stamp_revokes,
};
use dynamicswap_types::{
    Bytes, Copies, Durability, Generation, IncarnationId, Integrity, MonotonicTime, NodeName,
    SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

pub const SLAB: Bytes = Bytes::from_mib(16);
pub const PROTOCOL: u32 = 1;
pub const REPLACE_AFTER: Duration = Duration::from_millis(300);

pub fn node(name: &str) -> NodeName {
    name.parse().expect("valid name")
}

pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub fn class(copies: u32, spill: Spill) -> Durability {
    Durability {
        copies: Copies::try_from(copies).expect("1 to 3"),
        spill,
    }
}

pub fn intent(class: Durability) -> DeviceIntent {
    DeviceIntent {
        class,
        attach: true,
        integrity: Integrity::Tag64,
        write_hold: Duration::from_secs(2),
        read_stall: Duration::from_secs(30),
        empty_slab_hold: Duration::from_secs(10),
        copy_bandwidth: None,
        policies: vec!["{}".to_owned()],
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub fn small(&mut self, below: u64) -> u32 {
        u32::try_from(self.below(below)).expect("small")
    }
}

/// A number that the environment says, such as how many clusters to try.
pub fn number(name: &str, otherwise: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A donor's memory server.
#[derive(Debug, Clone)]
pub struct Donor {
    pub incarnation: IncarnationId,
    pub generation: Generation,
    pub slots_total: u32,
    pub slots: BTreeMap<SlotIndex, (SwapDeviceId, SetId)>,
    /// Serves the data path.
    pub running: bool,
    /// Slots that were granted and then given to another owner without being taken back.
    pub refusals: Vec<String>,
}

/// A set as the engine has it.
#[derive(Debug, Clone)]
pub struct EngineSet {
    pub replicas: Vec<(NodeName, SlotIndex, IncarnationId, ReplicaState)>,
    pub bound: bool,
    pub released: bool,
    pub heat: u64,
    pub on_disk: bool,
}

/// A borrower's engine.
#[derive(Debug, Clone)]
pub struct Borrower {
    pub id: SwapDeviceId,
    pub generation: Generation,
    pub slabs: u32,
    pub spill: bool,
    pub integrity: Option<Integrity>,
    pub sets: BTreeMap<SetId, EngineSet>,
    pub cut: BTreeSet<NodeName>,
    pub attached: bool,
    pub class: Option<Durability>,
    pub refusals: Vec<String>,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct World {
    pub ledger: Ledger,
    pub seen: BTreeMap<NodeName, NodeObservation>,
    pub documents: BTreeMap<NodeName, Arc<NodeDocument>>,
    pub donors: BTreeMap<NodeName, Donor>,
    pub borrowers: BTreeMap<NodeName, Borrower>,
    pub intent: Option<DeviceIntent>,
    pub now: MonotonicTime,
    pub lives: u32,
    pub plan: Plan,
    /// Follows the cluster from round to round.
    pub planner: Planner,
    /// Nothing is copied: the network is slow.
    pub slow: bool,
    /// When sets were last moved for the balance.
    pub rebalanced: BTreeMap<SetId, MonotonicTime>,
    pub rebalance: Rebalance,
    /// Zones of nodes that are in one, known when they join.
    pub zones: BTreeMap<NodeName, dynamicswap_types::FailureDomain>,
}

impl World {
    pub fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            seen: BTreeMap::new(),
            documents: BTreeMap::new(),
            donors: BTreeMap::new(),
            borrowers: BTreeMap::new(),
            intent: None,
            now: MonotonicTime::ZERO.after(Duration::from_secs(100)),
            lives: 0,
            plan: Plan::default(),
            planner: Planner::default(),
            slow: false,
            rebalanced: BTreeMap::new(),
            rebalance: Rebalance::Auto,
            zones: BTreeMap::new(),
        }
    }

    /// Three donors of 32 slots, one borrower of 32 slabs, a policy of two copies, settled.
    pub fn usual() -> Self {
        Self::of_donors(3, 32)
    }

    /// The same with so many donors, d1 and on, of so many slots, and a borrower of as many slabs.
    pub fn of_donors(count: u32, slots: u32) -> Self {
        let mut world = Self::new();
        for index in 1..=count {
            let name = format!("d{index}");
            world.join_donor(&name, &name, slots);
        }
        world.join_borrower("b1", slots);
        world.intent = Some(intent(class(2, Spill::None)));
        world.settle();
        world
    }

    fn life(&mut self) -> [u8; 16] {
        self.lives += 1;
        u128::from(self.lives).to_le_bytes()
    }

    fn hello(&mut self, name: &NodeName, domain: &str, donor: bool) {
        let facts = NodeFacts::Hello {
            domain: domain.parse().expect("valid name"),
            zone: self.zones.get(name).cloned(),
            borrower: !donor,
            donor,
        };
        absorb(&mut self.ledger, name, &facts);
        let mut observation = NodeObservation::silent(self.now);
        observation.session = Session::Open;
        observation.protocol = PROTOCOL;
        self.seen.entry(name.clone()).or_insert(observation).session = Session::Open;
    }

    pub fn join_donor(&mut self, name: &str, domain: &str, slots_total: u32) {
        let donor = Donor {
            incarnation: IncarnationId::from_bytes(self.life()),
            generation: Generation::ZERO,
            slots_total,
            slots: BTreeMap::new(),
            running: true,
            refusals: Vec::new(),
        };
        let name = node(name);
        self.donors.insert(name.clone(), donor);
        self.hello(&name, domain, true);
        self.report(&name);
    }

    pub fn join_borrower(&mut self, name: &str, slabs: u32) {
        let borrower = Borrower {
            id: SwapDeviceId::from_bytes(self.life()),
            generation: Generation::ZERO,
            slabs,
            spill: false,
            integrity: Some(Integrity::Tag64),
            sets: BTreeMap::new(),
            cut: BTreeSet::new(),
            attached: false,
            class: None,
            refusals: Vec::new(),
        };
        let name = node(name);
        self.borrowers.insert(name.clone(), borrower);
        self.hello(&name, name.clone().as_str(), false);
        self.report(&name);
    }

    /// The same, in a zone and a failure domain of its own.
    pub fn join_donor_in(&mut self, zone: &str, name: &str, slots_total: u32) {
        let zone = zone.parse().expect("valid name");
        self.zones.insert(node(name), zone);
        self.join_donor(name, name, slots_total);
    }

    /// The borrower's holder starts anew: another device.
    pub fn replace_device(&mut self, name: &str) {
        let id = SwapDeviceId::from_bytes(self.life());
        let borrower = self.borrowers.get_mut(&node(name)).expect("known");
        *borrower = Borrower {
            id,
            generation: Generation::ZERO,
            sets: BTreeMap::new(),
            attached: false,
            class: None,
            ..borrower.clone()
        };
    }

    /// The donor's memory is lost.
    pub fn reborn(&mut self, name: &str, slots_total: u32) {
        let incarnation = IncarnationId::from_bytes(self.life());
        let donor = self.donors.get_mut(&node(name)).expect("known");
        donor.incarnation = incarnation;
        donor.generation = Generation::ZERO;
        donor.slots.clear();
        donor.slots_total = slots_total;
        donor.running = true;
    }

    pub fn view(&self) -> ClusterView<'_> {
        ClusterView {
            ledger: &self.ledger,
            nodes: &self.seen,
            intent: self.intent.as_ref(),
            settings: Settings {
                replace_after: REPLACE_AFTER,
                protocol: PROTOCOL,
                rebalance: self.rebalance,
            },
            rebalanced: &self.rebalanced,
            now: self.now,
            seed: 7,
        }
    }

    /// One round of the controller. Says how many steps the plan had.
    pub fn round(&mut self) -> usize {
        stamp_revokes(&self.ledger, &mut self.seen, self.now);
        let mut planner = std::mem::take(&mut self.planner);
        let followed = planner.round(&self.view());
        self.planner = planner;
        // Whatever was remembered, the round is the one that is made from nothing; and the whole checker
        // has looked at it.
        let from_nothing = round(&self.view());
        assert!(followed == from_nothing, "{followed:#?}\n{from_nothing:#?}");
        let Round {
            plan,
            ledger,
            documents,
        } = match followed {
            Ok(round) => round,
            Err(error) => panic!("{error}"),
        };
        for (name, document) in &documents {
            if let Some(before) = self.documents.get(name) {
                assert!(document.generation >= before.generation, "{name} went back");
                if document.generation == before.generation {
                    assert_eq!(document, before, "{name} changed without a generation");
                }
            }
        }
        self.ledger = ledger;
        stamp_rebalanced(&mut self.rebalanced, &plan, self.now);
        self.documents = documents;
        let steps = plan.steps.len();
        self.plan = plan;
        steps
    }

    /// The node takes its document.
    pub fn deliver(&mut self, name: &NodeName) {
        let Some(document) = self.documents.get(name).cloned() else {
            return;
        };
        if let (Some(donor), Some((generation, wanted))) =
            (self.donors.get_mut(name), &document.memory_server)
        {
            donor.take(*generation, wanted);
        }
        if let (Some(borrower), Some((generation, wanted))) =
            (self.borrowers.get_mut(name), &document.swap_device)
        {
            borrower.take(*generation, wanted);
        }
    }

    /// The node reports.
    pub fn report(&mut self, name: &NodeName) {
        if self.seen.get(name).map(|seen| seen.session) != Some(Session::Open) {
            return;
        }
        if let Some(donor) = self.donors.get(name).cloned() {
            self.report_donor(name, &donor);
        }
        if let Some(borrower) = self.borrowers.get(name).cloned() {
            self.report_borrower(name, &borrower);
        }
    }

    fn report_donor(&mut self, name: &NodeName, donor: &Donor) {
        let now = self.now;
        let seen = self.seen.get_mut(name).expect("known");
        if !donor.running {
            seen.server_error_since.get_or_insert(now);
            return;
        }
        seen.server_error_since = None;
        let said = ServerObservation {
            incarnation: donor.incarnation,
            generation: donor.generation,
            grants: donor.slots.clone(),
        };
        seen.take_server(said);
        let facts = NodeFacts::Server {
            facts: ServerFacts {
                incarnation: donor.incarnation,
                slot_size: SLAB,
                slots_total: donor.slots_total,
                tcp_address: format!("{name}:7000"),
                rdma_address: String::new(),
            },
            sets: donor.slots.values().map(|(_, set)| *set).collect(),
        };
        absorb(&mut self.ledger, name, &facts);
    }

    fn report_borrower(&mut self, name: &NodeName, borrower: &Borrower) {
        let before = self.seen.get(name).and_then(|seen| seen.device.clone());
        let mut links = BTreeMap::new();
        let named: BTreeMap<&NodeName, IncarnationId> = borrower
            .sets
            .values()
            .flat_map(|set| &set.replicas)
            .map(|(donor, _, incarnation, _)| (donor, *incarnation))
            .collect();
        for (donor, incarnation) in named {
            let state = self.link(borrower, donor, incarnation);
            let known = before
                .as_ref()
                .filter(|before| before.id == borrower.id)
                .and_then(|before| before.links.get(donor));
            let up = state == LinkState::Up;
            let link = LinkObservation {
                state,
                was_up: up || known.is_some_and(|known| known.was_up),
                not_up_since: (!up).then(|| {
                    known
                        .and_then(|known| known.not_up_since)
                        .unwrap_or(self.now)
                }),
            };
            links.insert(donor.clone(), link);
        }
        let device = DeviceObservation {
            id: borrower.id,
            generation: borrower.generation,
            spill: borrower.spill,
            links,
            sets: borrower
                .sets
                .iter()
                .map(|(id, set)| (*id, set.observed()))
                .collect(),
        };
        self.seen.get_mut(name).expect("known").take_device(device);
        let facts = NodeFacts::Device(DeviceFacts {
            id: borrower.id,
            size: Bytes::new(SLAB.get() * u64::from(borrower.slabs)),
            slab: SlabSize::try_from(SLAB).expect("a slab size"),
            integrity: borrower.integrity,
        });
        absorb(&mut self.ledger, name, &facts);
    }

    fn link(&self, borrower: &Borrower, donor: &NodeName, named: IncarnationId) -> LinkState {
        let server = self.donors.get(donor).expect("known");
        if borrower.cut.contains(donor) || !server.running {
            LinkState::Down
        } else if server.incarnation != named {
            LinkState::Lost
        } else {
            LinkState::Up
        }
    }

    /// Copies that can be rebuilt are: from a live one that is reached, to one that is reached.
    pub fn rebuild(&mut self) {
        for borrower in self.borrowers.values_mut() {
            let (donors, cut) = (&self.donors, &borrower.cut);
            let reached = |donor: &NodeName, named: &IncarnationId| {
                let server = &donors[donor];
                server.running && server.incarnation == *named && !cut.contains(donor)
            };
            for set in borrower.sets.values_mut() {
                let source = set.replicas.iter().any(|(donor, _, named, state)| {
                    *state == ReplicaState::Live && reached(donor, named)
                });
                for (donor, _, named, state) in &mut set.replicas {
                    if (source || !set.bound) && reached(donor, named) {
                        *state = ReplicaState::Live;
                    }
                }
            }
        }
    }

    /// The engine binds unbound sets whose copies are all reached.
    pub fn bind(&mut self, name: &str, count: usize) -> usize {
        let borrower = &self.borrowers[&node(name)];
        let usable: Vec<SetId> = borrower
            .sets
            .iter()
            .filter(|(_, set)| !set.bound && !set.released)
            .filter(|(_, set)| {
                let mut copies = set.replicas.iter();
                copies
                    .all(|(donor, _, named, _)| self.link(borrower, donor, *named) == LinkState::Up)
            })
            .map(|(id, _)| *id)
            .take(count)
            .collect();
        let borrower = self.borrowers.get_mut(&node(name)).expect("known");
        for id in &usable {
            borrower.sets.get_mut(id).expect("known").bound = true;
        }
        usable.len()
    }

    /// The engine unbinds sets, and releases what is above its limit.
    pub fn unbind(&mut self, name: &str, count: usize) {
        let limit = self
            .documents
            .get(&node(name))
            .and_then(|document| document.swap_device.as_ref())
            .map_or(0, |(_, document)| document.reserve_sets_max as usize);
        let borrower = self.borrowers.get_mut(&node(name)).expect("known");
        for set in borrower
            .sets
            .values_mut()
            .filter(|set| set.bound)
            .take(count)
        {
            set.bound = false;
        }
        let unbound = |set: &&mut EngineSet| !set.bound && !set.released;
        let mut surplus = borrower.sets.values_mut().filter(unbound).count();
        for set in borrower.sets.values_mut().rev() {
            if surplus > limit && !set.bound && !set.released {
                set.released = true;
                surplus -= 1;
            }
        }
    }

    /// Everybody follows documents and reports until nothing changes any more.
    pub fn settle(&mut self) {
        for _ in 0..40 {
            let names: Vec<NodeName> = self.seen.keys().cloned().collect();
            for name in &names {
                self.deliver(name);
            }
            if !self.slow {
                self.rebuild();
            }
            for name in &names {
                self.report(name);
            }
            self.now = self.now.after(millis(1));
            if self.round() == 0 {
                return;
            }
        }
        panic!("does not settle: {}", self.plan);
    }

    /// An operator drains a donor.
    pub fn drain(&mut self, name: &str, within: Duration) {
        let record = self.ledger.nodes.get_mut(&node(name)).expect("known");
        record.cordoned = true;
        record.drain = Some(within);
    }

    /// Copies of a borrower's sets on a donor, as its engine lists them.
    pub fn copies_on(&self, borrower: &str, donor: &str) -> Vec<SetId> {
        let sets = self.borrowers[&node(borrower)].sets.iter();
        let here = |set: &EngineSet| {
            !set.released && set.replicas.iter().any(|(name, ..)| *name == node(donor))
        };
        sets.filter(|(_, set)| here(set))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Everybody takes documents and reports; one round is made.
    pub fn step(&mut self) -> usize {
        let names: Vec<NodeName> = self.seen.keys().cloned().collect();
        for name in &names {
            self.deliver(name);
        }
        if !self.slow {
            self.rebuild();
        }
        for name in &names {
            self.report(name);
        }
        self.now = self.now.after(millis(1));
        self.round()
    }

    /// Time passes; everybody reports at its end.
    pub fn pass(&mut self, time: Duration) {
        let names: Vec<NodeName> = self.seen.keys().cloned().collect();
        for name in &names {
            self.report(name);
        }
        self.now = self.now.after(time);
    }

    pub fn lose_session(&mut self, name: &str) {
        let since = self.now;
        self.seen.get_mut(&node(name)).expect("known").session = Session::Lost { since };
    }

    pub fn open_session(&mut self, name: &str) {
        self.seen.get_mut(&node(name)).expect("known").session = Session::Open;
    }

    pub fn kill_server(&mut self, name: &str) {
        self.donors.get_mut(&node(name)).expect("known").running = false;
    }

    pub fn start_server(&mut self, name: &str) {
        self.donors.get_mut(&node(name)).expect("known").running = true;
    }

    /// Sets of a borrower's engine that are neither released nor short of copies.
    pub fn whole_sets(&self, name: &str, copies: usize) -> usize {
        let borrower = &self.borrowers[&node(name)];
        let whole = |set: &&EngineSet| {
            !set.released
                && set.replicas.len() == copies
                && set.replicas.iter().all(|(donor, _, named, state)| {
                    *state == ReplicaState::Live
                        && self.link(borrower, donor, *named) == LinkState::Up
                })
        };
        borrower.sets.values().filter(whole).count()
    }

    /// Nobody refused anything, and every slot that an engine uses is its own.
    pub fn check(&self) {
        for (name, donor) in &self.donors {
            assert_eq!(donor.refusals, Vec::<String>::new(), "{name}");
        }
        for (name, borrower) in &self.borrowers {
            assert_eq!(borrower.refusals, Vec::<String>::new(), "{name}");
            for (id, set) in &borrower.sets {
                for (donor, slot, incarnation, _) in &set.replicas {
                    let server = &self.donors[donor];
                    if server.incarnation == *incarnation && !set.released {
                        let owner = server.slots.get(slot);
                        assert_eq!(owner, Some(&(borrower.id, *id)), "{donor} slot {slot}");
                    }
                }
            }
        }
    }

    pub fn report_text(&self) -> String {
        self.plan.to_string()
    }
}

impl EngineSet {
    fn observed(&self) -> SetObservation {
        SetObservation {
            bound: self.bound,
            released: self.released,
            heat: self.heat,
            on_disk: self.on_disk,
            replicas: self
                .replicas
                .iter()
                .map(|(node, slot, _, state)| ReplicaObservation {
                    node: node.clone(),
                    slot: *slot,
                    state: *state,
                })
                .collect(),
        }
    }
}

impl Donor {
    /// As the memory server's slot table does it.
    fn take(&mut self, generation: Generation, wanted: &dynamicswap_planner::ServerDocument) {
        if !self.running || wanted.incarnation != self.incarnation || generation < self.generation {
            return;
        }
        let mut slots = BTreeMap::new();
        for grant in &wanted.grants {
            let owner = (grant.device, grant.set);
            if grant.slot.get() >= self.slots_total {
                self.refusals.push(format!("no slot {}", grant.slot));
                return;
            }
            if self.slots.get(&grant.slot).is_some_and(|now| *now != owner) {
                self.refusals
                    .push(format!("second owner of {}", grant.slot));
                return;
            }
            if slots.insert(grant.slot, owner).is_some() {
                self.refusals.push(format!("slot {} twice", grant.slot));
                return;
            }
        }
        self.slots = slots;
        self.generation = generation;
    }
}

impl Borrower {
    /// As the engine applies a document: all of it or nothing.
    fn take(&mut self, generation: Generation, wanted: &dynamicswap_planner::DeviceDocument) {
        if wanted.device != self.id || generation < self.generation {
            return;
        }
        let endpoints: BTreeMap<_, _> = wanted
            .servers
            .iter()
            .map(|server| {
                (
                    server.node.clone(),
                    (server.domain.clone(), server.incarnation),
                )
            })
            .collect();
        if let Err(refusal) = self.check(wanted, &endpoints) {
            self.refusals.push(refusal);
            return;
        }
        let before = std::mem::take(&mut self.sets);
        for listing in &wanted.sets {
            let old = before.get(&listing.set);
            let bound = old.is_some_and(|old| old.bound);
            let replicas = listing
                .replicas
                .iter()
                .map(|(donor, slot)| {
                    let incarnation = endpoints[donor].1;
                    let kept = old.and_then(|old| {
                        old.replicas.iter().find(|(old_donor, old_slot, life, _)| {
                            old_donor == donor && old_slot == slot && *life == incarnation
                        })
                    });
                    let fresh = if bound {
                        ReplicaState::Rebuilding
                    } else {
                        ReplicaState::Live
                    };
                    let state = kept.map_or(fresh, |kept| kept.3);
                    (donor.clone(), *slot, incarnation, state)
                })
                .collect();
            let set = EngineSet {
                replicas,
                bound,
                released: old.is_some_and(|old| old.released),
                heat: old.map_or(0, |old| old.heat),
                on_disk: old.is_some_and(|old| old.on_disk),
            };
            self.sets.insert(listing.set, set);
        }
        self.generation = generation;
        self.attached = wanted.attached;
        self.class = Some(wanted.class);
    }

    fn check(
        &self,
        wanted: &dynamicswap_planner::DeviceDocument,
        endpoints: &BTreeMap<NodeName, (dynamicswap_types::FailureDomain, IncarnationId)>,
    ) -> Result<(), String> {
        if wanted.class.spill != Spill::None && !self.spill {
            return Err("no spill file".to_owned());
        }
        for listing in &wanted.sets {
            let set = listing.set;
            let mut domains = BTreeSet::new();
            if listing.replicas.is_empty() || listing.replicas.len() > 3 {
                return Err(format!("set {set} has {} copies", listing.replicas.len()));
            }
            for (donor, _) in &listing.replicas {
                let Some((domain, _)) = endpoints.get(donor) else {
                    return Err(format!("set {set} is on {donor}, which is not named"));
                };
                if !domains.insert(domain) {
                    return Err(format!("set {set} is twice in {domain}"));
                }
            }
        }
        for (id, set) in self.sets.iter().filter(|(_, set)| set.bound) {
            let Some(listing) = wanted.sets.iter().find(|listing| listing.set == *id) else {
                return Err(format!("bound set {id} is missing"));
            };
            let kept = set.replicas.iter().any(|(donor, slot, _, _)| {
                listing
                    .replicas
                    .iter()
                    .any(|(d, s)| d == donor && s == slot)
            });
            if !kept && !self.spill {
                return Err(format!("every copy of set {id} would move at once"));
            }
        }
        Ok(())
    }
}
