//! What one plan looks up again and again, put together in one pass over the cluster.
//!
//! Most sets of a large cluster are at rest: every copy is where it shall be, on a donor that is well.
//! The pass finds the others, and the steps look at those alone.

use std::collections::BTreeSet;
use std::collections::btree_map;
use std::iter::Peekable;

use dynamicswap_types::{NodeName, SetId, SwapDeviceId};

use crate::hash::Lookup;
use crate::ledger::{DeviceRecord, NodeRecord, SeatPhase, SetRecord, SetStage};
use crate::pool::Pools;
use crate::reach::Reach;
use crate::view::{ClusterView, DeviceObservation, LinkState, Session, SetObservation};

/// A position in [`Index::nodes`].
pub(crate) type NodeAt = usize;
/// A position in [`Index::devices`].
pub(crate) type DeviceAt = usize;

/// A node on record.
pub(crate) struct IndexedNode<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) record: &'a NodeRecord,
}

/// A device on record.
pub(crate) struct IndexedDevice<'a> {
    pub(crate) record: &'a DeviceRecord,
    /// What it last said, if it is heard.
    pub(crate) heard: Option<&'a DeviceObservation>,
    /// Its sets.
    pub(crate) sets: Vec<SetId>,
    /// Those at rest that can be bound to a slab.
    pub(crate) unbound: Vec<SetId>,
    /// Sets that it says are bound.
    pub(crate) bound: u32,
    /// Sets that it says it will never use again.
    pub(crate) released: Vec<SetId>,
    /// Donors that are well for it.
    well: Bits,
    /// Copies that its sets shall have, if a class says so.
    copies: Option<usize>,
}

/// The index.
pub(crate) struct Index<'a> {
    pub(crate) nodes: Vec<IndexedNode<'a>>,
    names: Lookup<&'a NodeName, NodeAt>,
    pub(crate) devices: Vec<IndexedDevice<'a>>,
    ids: Lookup<SwapDeviceId, DeviceAt>,
    /// Sets that are not at rest.
    pub(crate) busy: BTreeSet<SetId>,
}

/// A set of positions.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn set(&mut self, at: usize, to: bool) {
        let bit = 1 << (at % 64);
        if to {
            self.0[at / 64] |= bit;
        } else {
            self.0[at / 64] &= !bit;
        }
    }
}

/// What a device says of its sets, asked in the order of their ids.
type Said<'a> = Peekable<btree_map::Iter<'a, SetId, SetObservation>>;

impl<'a> Index<'a> {
    /// The index of a view, and the donors' free slots.
    pub(crate) fn of(view: &ClusterView<'a>, reach: &Reach<'a>) -> (Self, Pools) {
        let records = view.ledger.nodes.iter();
        let nodes: Vec<IndexedNode<'a>> = records
            .map(|(name, record)| IndexedNode { name, record })
            .collect();
        let mut names = Lookup::default();
        for (at, node) in nodes.iter().enumerate() {
            names.insert(node.name, at);
        }
        let mut index = Self {
            names,
            nodes,
            devices: Vec::with_capacity(view.ledger.devices.len()),
            ids: Lookup::default(),
            busy: BTreeSet::new(),
        };
        index.list_devices(view, reach);
        let mut pools = Pools::of(view, &index);
        index.list_sets(view, &mut pools);
        pools.hold_back();
        (index, pools)
    }

    /// Where a node stands.
    pub(crate) fn node(&self, name: &NodeName) -> Option<NodeAt> {
        self.names.get(name).copied()
    }

    /// A device.
    pub(crate) fn device(&self, id: SwapDeviceId) -> Option<&IndexedDevice<'a>> {
        self.ids.get(&id).map(|at| &self.devices[*at])
    }

    /// Where a device stands.
    pub(crate) fn device_at(&self, id: SwapDeviceId) -> Option<DeviceAt> {
        self.ids.get(&id).copied()
    }

    /// What a device last said, if it is heard.
    pub(crate) fn heard(&self, id: SwapDeviceId) -> Option<&'a DeviceObservation> {
        self.device(id).and_then(|device| device.heard)
    }

    /// Whether a donor is well for a device beyond doubt.
    pub(crate) fn is_well(&self, device: SwapDeviceId, donor: NodeAt) -> bool {
        self.device(device).is_some_and(|it| it.well.has(donor))
    }

    fn list_devices(&mut self, view: &ClusterView<'a>, reach: &Reach<'a>) {
        // A donor without a link is well if anybody reaches it, or if its own agent says so.
        let mut unlinked = Bits::none(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            let seen = view.nodes.get(node.name);
            let own = seen.is_some_and(|seen| {
                seen.session == Session::Open && seen.server_error_since.is_none()
            });
            unlinked.set(at, own || reach.is_reached(node.name));
        }
        for (id, record) in &view.ledger.devices {
            let heard = view.device_heard(*id);
            let mut well = unlinked.clone();
            for (donor, link) in heard.iter().flat_map(|heard| &heard.links) {
                if let Some(at) = self.node(donor) {
                    well.set(at, link.state == LinkState::Up);
                }
            }
            let (mut bound, mut released) = (0_u32, Vec::new());
            for (set, said) in heard.iter().flat_map(|heard| &heard.sets) {
                bound += u32::from(said.bound);
                if said.released && !said.bound {
                    released.push(*set);
                }
            }
            self.ids.insert(*id, self.devices.len());
            self.devices.push(IndexedDevice {
                record,
                heard,
                sets: Vec::new(),
                unbound: Vec::new(),
                bound,
                released,
                well,
                copies: copies_required(view, record),
            });
        }
    }

    fn list_sets(&mut self, view: &ClusterView<'a>, pools: &mut Pools) {
        let mut said: Vec<Option<Said<'a>>> = self
            .devices
            .iter()
            .map(|device| device.heard.map(|heard| heard.sets.iter().peekable()))
            .collect();
        for (id, set) in &view.ledger.sets {
            let rests = self.take_seats(set, pools);
            let at = self.ids.get(&set.device).copied();
            let Some(at) = at else {
                self.busy.insert(*id);
                continue;
            };
            let device = &mut self.devices[at];
            device.sets.push(*id);
            if !rests || device.record.gone {
                self.busy.insert(*id);
                continue;
            }
            let said = said[at].as_mut().and_then(|said| said_of(said, *id));
            if said.is_none_or(|said| !said.bound && !said.released) {
                device.unbound.push(*id);
            }
        }
    }

    /// Takes a set's slots out of the pools. Says whether the set is at rest.
    fn take_seats(&self, set: &SetRecord, pools: &mut Pools) -> bool {
        let device = self.device(set.device);
        let copies = device.and_then(|device| device.copies);
        let mut rests =
            set.stage == SetStage::Offered && copies.is_none_or(|copies| copies == set.seats.len());
        for seat in &set.seats {
            let node = self.node(&seat.node);
            let present = node.is_some_and(|at| {
                let server = self.nodes[at].record.server.as_ref();
                server.is_some_and(|server| server.incarnation == seat.incarnation)
            });
            if let Some(at) = node.filter(|_| present) {
                pools.count(at, seat);
            }
            rests &= present
                && seat.phase == SeatPhase::Serving
                && seat.mark.is_none()
                && node.is_some_and(|at| device.is_some_and(|device| device.well.has(at)));
        }
        rests
    }
}

/// What is said of a set, from where the last question stopped.
fn said_of<'a>(said: &mut Said<'a>, id: SetId) -> Option<&'a SetObservation> {
    while said.next_if(|(other, _)| **other < id).is_some() {}
    said.next_if(|(other, _)| **other == id).map(|(_, set)| set)
}

/// Copies that the sets of a device shall have: of the stricter one of the class in force and the
/// class wanted. None where the device has no class, or the disk alone.
pub(crate) fn copies_required(view: &ClusterView<'_>, device: &DeviceRecord) -> Option<usize> {
    let in_force = device.class?;
    let wanted = view.intent.map_or(in_force, |intent| intent.class);
    let required = in_force.remote_copies().max(wanted.remote_copies());
    (required > 0).then_some(required)
}
