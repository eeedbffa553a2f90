//! What plans look up again and again, kept from one plan to the next.
//!
//! Most of a large cluster is as it was at the last plan: the same records, shared by the two ledgers,
//! and the same observations, shared by the two views. The cache looks at what is not shared, and
//! derives anew what depends on that alone. It is derived from the view and from nothing else: one that
//! followed any number of views is the same as one that is made from the last.
//!
//! Most sets of a large cluster are at rest: every copy is where it shall be, on a donor that is well.
//! The cache knows the others, and the steps look at those alone.

use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::Arc;

use dynamicswap_types::{IncarnationId, NodeName, SetId, SwapDeviceId};

use crate::bits::Bits;
use crate::hash::Lookup;
use crate::index::{DeviceAt, NodeAt, copies_required};
use crate::ledger::{DeviceRecord, Ledger, SeatPhase, SetRecord, SetStage, nodes_that_differ};
use crate::pool::DonorPool;
use crate::reach::Reach;
use crate::view::{
    ClusterView, DeviceObservation, LinkState, NodeObservation, Session, SetObservation,
};

/// Donors up to which each one that turned well or ill is looked up in every device's links; for more,
/// all links are walked through. A device has some 200 links in a large cluster.
const TURNED_MAX: usize = 16;

/// What is known of the cluster as a view shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache {
    /// The ledger of that view.
    ledger: Ledger,
    /// The observations of that view.
    seen: BTreeMap<NodeName, NodeObservation>,
    names: Lookup<NodeName, NodeAt>,
    /// The life of each node's memory.
    lives: Vec<Option<IncarnationId>>,
    ids: Lookup<SwapDeviceId, DeviceAt>,
    pub(crate) reach: Reach,
    /// Donors that are well for a borrower without a link to them.
    unlinked: Bits,
    pub(crate) devices: Vec<CachedDevice>,
    /// Slots of the donors, by the nodes' positions.
    pub(crate) pools: Vec<Arc<DonorPool>>,
    /// Sets that are not at rest.
    pub(crate) busy: BTreeSet<SetId>,
}

/// What is known of a device.
#[derive(Debug, Clone, Default)]
pub(crate) struct CachedDevice {
    /// What it last said, if it is heard.
    pub(crate) heard: Option<Arc<DeviceObservation>>,
    /// Its sets of which it does not say that they are bound, or will never be used again.
    pub(crate) unbound: Vec<SetId>,
    /// Sets that it says are bound.
    pub(crate) bound: u32,
    /// Sets that it says it will never use again.
    pub(crate) released: Vec<SetId>,
    /// Donors that are well for it.
    pub(crate) well: Bits,
    /// Copies that its sets shall have, if a class says so.
    copies: Option<usize>,
    gone: bool,
}

/// What must be derived anew.
#[derive(Debug, Default)]
struct Stale {
    /// Donors whose slots are others.
    pools: BTreeSet<NodeAt>,
    /// Donors that are well now and were not, or have another memory, or the reverse.
    donors: BTreeSet<NodeAt>,
    /// Devices whose sets may rest now and did not, or the reverse.
    devices: BTreeSet<SwapDeviceId>,
}

/// What a device says of its sets, asked in the order of their ids.
type Said<'a> = Peekable<btree_map::Iter<'a, SetId, SetObservation>>;

impl Cache {
    /// Where a node stands.
    pub(crate) fn node(&self, name: &NodeName) -> Option<NodeAt> {
        self.names.get(name).copied()
    }

    /// Where a device stands.
    pub(crate) fn device(&self, id: SwapDeviceId) -> Option<DeviceAt> {
        self.ids.get(&id).copied()
    }

    /// Goes on to another view.
    pub(crate) fn follow(&mut self, view: &ClusterView<'_>) {
        let ledger = view.ledger;
        let same_nodes = self.ledger.nodes.keys().eq(ledger.nodes.keys());
        // Positions hold for the same nodes and devices.
        if !same_nodes || !self.ledger.devices.keys().eq(ledger.devices.keys()) {
            *self = Self::with_positions(ledger);
        }
        let mut stale = Stale::default();
        self.follow_reports(view, &mut stale);
        self.follow_nodes(view, &mut stale);
        self.follow_devices(view, &mut stale);
        self.follow_sets(view, stale);
        self.ledger.clone_from(ledger);
        self.seen.clone_from(view.nodes);
    }

    /// A cache that knows where everybody stands, and nothing else.
    fn with_positions(ledger: &Ledger) -> Self {
        let device = CachedDevice {
            well: Bits::none(ledger.nodes.len()),
            ..CachedDevice::default()
        };
        let mut cache = Self {
            lives: vec![None; ledger.nodes.len()],
            unlinked: Bits::none(ledger.nodes.len()),
            devices: vec![device; ledger.devices.len()],
            pools: vec![Arc::default(); ledger.nodes.len()],
            ..Self::default()
        };
        for (at, node) in ledger.nodes.keys().enumerate() {
            cache.names.insert(node.clone(), at);
        }
        for (at, device) in ledger.devices.keys().enumerate() {
            cache.ids.insert(*device, at);
        }
        cache
    }

    /// What the nodes say: their borrowers' links, and their memory servers' slots.
    fn follow_reports(&mut self, view: &ClusterView<'_>, stale: &mut Stale) {
        for (name, now) in view.nodes {
            let before = self.seen.get(name);
            let then = before.and_then(NodeObservation::heard);
            if !is_same(then, now.heard()) {
                self.reach
                    .follow(name, then.map(|it| &**it), now.heard().map(|it| &**it));
            }
            let same_slots = before.is_some_and(|before| {
                before.lendable == now.lendable
                    && is_same(before.server.as_ref(), now.server.as_ref())
            });
            if !same_slots {
                stale.pools.extend(self.names.get(name));
            }
        }
        let gone = self.seen.iter();
        for (name, before) in gone.filter(|(name, _)| !view.nodes.contains_key(*name)) {
            let then = before.heard().map(|it| &**it);
            self.reach.follow(name, then, None);
            stale.pools.extend(self.names.get(name));
        }
    }

    /// What is on record of the nodes, and who is well beyond doubt.
    fn follow_nodes(&mut self, view: &ClusterView<'_>, stale: &mut Stale) {
        for (at, (name, record)) in view.ledger.nodes.iter().enumerate() {
            let before = self.ledger.nodes.get(name);
            if before.and_then(|before| before.server.as_ref()) != record.server.as_ref() {
                stale.pools.insert(at);
            }
            let life = record.server.as_ref().map(|server| server.incarnation);
            if std::mem::replace(&mut self.lives[at], life) != life {
                stale.donors.insert(at);
            }
            // A donor without a link is well if anybody reaches it, or if its own agent says so.
            let own = view.nodes.get(name).is_some_and(|seen| {
                seen.session == Session::Open && seen.server_error_since.is_none()
            });
            let is_well = own || self.reach.is_reached(name);
            if self.unlinked.has(at) != is_well {
                self.unlinked.set(at, is_well);
                stale.donors.insert(at);
            }
        }
    }

    fn follow_devices(&mut self, view: &ClusterView<'_>, stale: &mut Stale) {
        let nodes = view.ledger.nodes.keys().enumerate();
        let turned = nodes.filter(|(at, _)| stale.donors.contains(at));
        let turned: Vec<(NodeAt, &NodeName)> = turned.collect();
        for (at, (id, record)) in view.ledger.devices.iter().enumerate() {
            let heard = view.heard_of(*id, record);
            let device = &mut self.devices[at];
            if device.follow_record(view, record) {
                stale.devices.insert(*id);
            }
            let same = is_same(device.heard.as_ref(), heard);
            if !same || turned.len() > TURNED_MAX {
                let well = well_for(&self.unlinked, &self.names, heard);
                let before = std::mem::replace(&mut device.well, well);
                if !same && before != device.well {
                    stale.devices.insert(*id);
                }
            } else {
                // The sets on these donors are looked at anyhow.
                for (donor, name) in &turned {
                    if heard.is_none_or(|heard| !heard.links.contains_key(*name)) {
                        device.well.set(*donor, self.unlinked.has(*donor));
                    }
                }
            }
            let same_sets = view.ledger.sets.shares_device(&self.ledger.sets, *id);
            if !same || !same_sets {
                device.heard = heard.cloned();
                device.follow_sets(view.ledger.sets.ids_of(*id));
            }
        }
    }

    /// The sets on record, and what is to be derived anew of others.
    fn follow_sets(&mut self, view: &ClusterView<'_>, mut stale: Stale) {
        if self.ledger.sets.is_empty() {
            self.take_sets(view);
            return;
        }
        let sets = &view.ledger.sets;
        let mut changed = sets.differences(&self.ledger.sets);
        for id in &changed {
            let (now, before) = (sets.get(id), self.ledger.sets.get(id));
            let nodes = nodes_that_differ(before.map(|it| &**it), now.map(|it| &**it));
            stale
                .pools
                .extend(nodes.filter_map(|node| self.names.get(node)));
        }
        let names: Vec<&NodeName> = view.ledger.nodes.keys().collect();
        for donor in &stale.donors {
            changed.extend(sets.ids_on(names[*donor]));
        }
        for device in &stale.devices {
            changed.extend(sets.ids_of(*device));
        }
        for id in &changed {
            let set = sets.get(id);
            if set.is_some_and(|set| !self.is_at_rest(set)) {
                self.busy.insert(*id);
            } else {
                self.busy.remove(id);
            }
        }
        for (at, (name, record)) in view.ledger.nodes.iter().enumerate() {
            if stale.pools.contains(&at) {
                let mut pool = DonorPool::of(view, name, record);
                for seat in sets.on(name).filter_map(|(_, set)| set.seat(name)) {
                    pool.seat(seat);
                }
                self.pools[at] = Arc::new(pool.closed());
            }
        }
    }

    /// All sets on record, in one pass: to a cache that had none every one is new.
    fn take_sets(&mut self, view: &ClusterView<'_>) {
        let nodes = view.ledger.nodes.iter();
        let pools = nodes.map(|(name, record)| DonorPool::of(view, name, record));
        let mut pools: Vec<DonorPool> = pools.collect();
        let mut busy = Vec::new();
        for (id, set) in &view.ledger.sets {
            for seat in &set.seats {
                if let Some(at) = self.node(&seat.node) {
                    pools[at].seat(seat);
                }
            }
            if !self.is_at_rest(set) {
                busy.push(*id);
            }
        }
        self.busy = busy.into_iter().collect();
        let pools = pools.into_iter().map(|pool| Arc::new(pool.closed()));
        self.pools = pools.collect();
    }

    /// Whether every copy of a set is where it shall be, on a donor that is well.
    fn is_at_rest(&self, set: &SetRecord) -> bool {
        let Some(device) = self.device(set.device).map(|at| &self.devices[at]) else {
            return false;
        };
        let copies = device.copies;
        !device.gone
            && set.stage == SetStage::Offered
            && copies.is_none_or(|copies| copies == set.seats.len())
            && set.seats.iter().all(|seat| {
                seat.phase == SeatPhase::Serving
                    && seat.mark.is_none()
                    && self.node(&seat.node).is_some_and(|at| {
                        self.lives[at] == Some(seat.incarnation) && device.well.has(at)
                    })
            })
    }
}

impl CachedDevice {
    /// Follows its record. Says whether its sets may rest now and did not, or the reverse.
    fn follow_record(&mut self, view: &ClusterView<'_>, record: &DeviceRecord) -> bool {
        let copies = copies_required(view, record);
        let changed = (self.copies, self.gone) != (copies, record.gone);
        (self.copies, self.gone) = (copies, record.gone);
        changed
    }

    /// Follows what it says of its sets.
    fn follow_sets(&mut self, sets: impl Iterator<Item = SetId>) {
        (self.bound, self.released) = (0, Vec::new());
        for (set, said) in self.heard.iter().flat_map(|heard| &heard.sets) {
            self.bound += u32::from(said.bound);
            if said.released && !said.bound {
                self.released.push(*set);
            }
        }
        let mut said = self
            .heard
            .as_ref()
            .map(|heard| heard.sets.iter().peekable());
        let unbound = sets.filter(|id| {
            let said = said.as_mut().and_then(|said| said_of(said, *id));
            said.is_none_or(|said| !said.bound && !said.released)
        });
        self.unbound = unbound.collect();
    }
}

/// Donors that are well for a device beyond doubt.
fn well_for(
    unlinked: &Bits,
    names: &Lookup<NodeName, NodeAt>,
    heard: Option<&Arc<DeviceObservation>>,
) -> Bits {
    let mut well = unlinked.clone();
    for (donor, link) in heard.iter().flat_map(|heard| &heard.links) {
        if let Some(at) = names.get(donor) {
            well.set(*at, link.state == LinkState::Up);
        }
    }
    well
}

/// Whether two observations are one and the same.
fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// What is said of a set, from where the last question stopped.
fn said_of<'a>(said: &mut Said<'a>, id: SetId) -> Option<&'a SetObservation> {
    while said.next_if(|(other, _)| **other < id).is_some() {}
    said.next_if(|(other, _)| **other == id).map(|(_, set)| set)
}
