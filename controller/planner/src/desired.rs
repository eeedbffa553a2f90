//! What each node's document says, rendered from the ledger and the policies alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_types::{
    Bytes, Copies, Durability, FailureDomain, Generation, IncarnationId, NodeName, SetId,
    SlotIndex, Spill, SwapDeviceId,
};

use crate::bits::Bits;
use crate::hash::Lookup;
use crate::index::NodeAt;
use crate::ledger::{DeviceRecord, Ledger, NodeRecord, SetRecord, SetStage};
use crate::view::DeviceIntent;

/// How to reach a memory server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The donor.
    pub node: NodeName,
    /// ip:port of its data path.
    pub tcp_address: String,
    /// ip:port of its RDMA data path; empty if it offers none.
    pub rdma_address: String,
    /// What fails together with it.
    pub domain: FailureDomain,
    /// The life of its memory in which the listed slots are granted.
    pub incarnation: IncarnationId,
}

/// A set as the borrower's document lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetListing {
    /// Its id.
    pub set: SetId,
    /// Its copies, in an order that stays.
    pub replicas: Vec<(NodeName, SlotIndex)>,
}

/// Desired state of a swap device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceDocument {
    /// The device's life.
    pub device: SwapDeviceId,
    /// The class in force.
    pub class: Durability,
    /// Used as swap.
    pub attached: bool,
    /// How long a write waits for a repair.
    pub write_hold: Duration,
    /// How long a read waits for a copy.
    pub read_stall: Duration,
    /// How long an empty slab keeps its set.
    pub empty_slab_hold: Duration,
    /// Unbound sets to keep.
    pub reserve_sets_max: u32,
    /// Bytes a second that copies may move; absent for as fast as it goes.
    pub copy_bandwidth: Option<Bytes>,
    /// The servers of the listed copies.
    pub servers: Vec<Endpoint>,
    /// The sets, by id.
    pub sets: Vec<SetListing>,
}

/// A slot as the donor's document lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerGrant {
    /// The slot.
    pub slot: SlotIndex,
    /// Its owner.
    pub device: SwapDeviceId,
    /// The set that it is part of.
    pub set: SetId,
}

/// Desired state of a memory server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerDocument {
    /// The life of its memory that this is for.
    pub incarnation: IncarnationId,
    /// Every slot that shall be granted, by slot.
    pub grants: Vec<ServerGrant>,
    /// The donor is being emptied: it gives its host the memory of slots that are not granted.
    pub emptied: bool,
}

/// Everything that a node is told, with the generation of each part. A document shares the parts that
/// did not change with the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDocument {
    /// Generation of the whole.
    pub generation: Generation,
    /// The swap device's part.
    pub swap_device: Option<(Generation, Arc<DeviceDocument>)>,
    /// The memory server's part.
    pub memory_server: Option<(Generation, Arc<ServerDocument>)>,
    /// The policies.
    pub policies: Vec<String>,
}

/// The class that a document says before there is any policy: the device is not attached then.
const CLASS_WITHOUT_POLICY: Durability = Durability {
    copies: Copies::TWO,
    spill: Spill::None,
};
/// Waiting times that a document says while there is no policy. Pages may be out all the same: the
/// policy was deleted. A read then waits for as long as any policy could have said, because one
/// that fails kills its owner.
const WRITE_HOLD: Duration = Duration::from_secs(2);
const READ_STALL: Duration = Duration::from_secs(3600);
/// Bandwidth of copies then: the policies' own default.
const COPY_BANDWIDTH: Bytes = Bytes::from_mib(256);
const EMPTY_SLAB_HOLD: Duration = Duration::from_secs(10);

/// Parts of a node's document.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    pub(crate) swap_device: bool,
    pub(crate) memory_server: bool,
}

impl Parts {
    pub(crate) const BOTH: Self = Self {
        swap_device: true,
        memory_server: true,
    };
}

/// Parts that are to be rendered, by node. Policies always are.
pub(crate) type Wanted = BTreeMap<NodeName, Parts>;

/// A node's document before it has generations. A part is absent that was not wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) swap_device: Option<Option<DeviceDocument>>,
    pub(crate) memory_server: Option<Option<ServerDocument>>,
    pub(crate) policies: Vec<String>,
}

/// A node on record.
#[derive(Clone, Copy)]
struct Named<'a> {
    at: NodeAt,
    record: &'a NodeRecord,
    /// Where its content is, if any part of it is wanted.
    content: Option<usize>,
}

/// Documents in the making.
struct Renderer<'a> {
    ledger: &'a Ledger,
    nodes: Lookup<&'a NodeName, Named<'a>>,
    contents: Vec<(&'a NodeName, Content)>,
    /// Where a device's document is, if it is wanted.
    devices: Lookup<SwapDeviceId, usize>,
    /// Servers that each content's device document names already.
    servers: Vec<Bits>,
}

/// Renders the wanted parts of the documents.
pub(crate) fn render(
    ledger: &Ledger,
    intent: Option<&DeviceIntent>,
    wanted: &Wanted,
) -> Vec<(NodeName, Content)> {
    let mut renderer = Renderer {
        ledger,
        nodes: Lookup::default(),
        contents: Vec::with_capacity(wanted.len()),
        devices: Lookup::default(),
        servers: Vec::with_capacity(wanted.len()),
    };
    renderer.frame_nodes(intent, wanted);
    renderer.frame_devices(intent);
    renderer.list_sets();
    let contents = renderer.contents.into_iter();
    let finished = contents.map(|(node, mut content)| {
        finish(&mut content);
        (node.clone(), content)
    });
    finished.collect()
}

impl<'a> Renderer<'a> {
    /// The wanted contents without devices and grants.
    fn frame_nodes(&mut self, intent: Option<&DeviceIntent>, wanted: &Wanted) {
        for (at, (node, record)) in self.ledger.nodes.iter().enumerate() {
            let parts = wanted.get(node);
            let named = Named {
                at,
                record,
                content: parts.map(|_| self.contents.len()),
            };
            self.nodes.insert(node, named);
            let Some(parts) = parts else {
                continue;
            };
            let policies = intent.filter(|_| record.borrower);
            let own = record.server.as_ref().filter(|_| !record.foreign);
            let server = own.map(|server| ServerDocument {
                incarnation: server.incarnation,
                grants: Vec::new(),
                emptied: record.drain.is_some(),
            });
            let content = Content {
                swap_device: parts.swap_device.then_some(None),
                memory_server: parts.memory_server.then_some(server),
                policies: policies.map_or_else(Vec::new, |intent| intent.policies.clone()),
            };
            self.contents.push((node, content));
            self.servers.push(Bits::none(self.ledger.nodes.len()));
        }
    }

    /// The wanted documents of devices, without their sets.
    fn frame_devices(&mut self, intent: Option<&DeviceIntent>) {
        let devices = self.ledger.devices.iter();
        for (id, device) in devices.filter(|(_, device)| !device.gone) {
            let Some(at) = self.nodes.get(&device.node).and_then(|it| it.content) else {
                continue;
            };
            if let Some(document) = &mut self.contents[at].1.swap_device {
                *document = Some(device_frame(*id, device, intent));
                self.devices.insert(*id, at);
            }
        }
    }

    /// Lists every set that a wanted part lists: found by donor and device where those parts are few,
    /// in one pass over all sets where they are many.
    fn list_sets(&mut self) {
        let sets = &self.ledger.sets;
        if 2 * self.contents.len() > self.nodes.len() {
            for (id, set) in sets {
                self.list(*id, set);
            }
            return;
        }
        let mut ids = BTreeSet::new();
        for (node, content) in &self.contents {
            if let Some(Some(document)) = &content.swap_device {
                ids.extend(sets.ids_of(document.device));
            }
            if let Some(Some(_)) = &content.memory_server {
                ids.extend(sets.ids_on(node));
            }
        }
        for id in ids {
            if let Some(set) = sets.get(&id) {
                self.list(id, set);
            }
        }
    }

    fn list(&mut self, id: SetId, set: &SetRecord) {
        self.list_grants(id, set);
        if set.stage == SetStage::Offered
            && let Some(at) = self.devices.get(&set.device).copied()
        {
            self.list_copies(at, id, set);
        }
    }

    fn list_grants(&mut self, id: SetId, set: &SetRecord) {
        for seat in set.seats.iter().filter(|seat| seat.phase.is_granted()) {
            let Some(at) = self.nodes.get(&seat.node).and_then(|it| it.content) else {
                continue;
            };
            let server = self.contents[at].1.memory_server.as_mut();
            let present = |server: &&mut ServerDocument| server.incarnation == seat.incarnation;
            if let Some(server) = server.and_then(Option::as_mut).filter(present) {
                server.grants.push(ServerGrant {
                    slot: seat.slot,
                    device: set.device,
                    set: id,
                });
            }
        }
    }

    fn list_copies(&mut self, at: usize, id: SetId, set: &SetRecord) {
        let document = self.contents[at].1.swap_device.as_mut();
        let own = |document: &&mut DeviceDocument| document.device == set.device;
        let Some(document) = document.and_then(Option::as_mut).filter(own) else {
            return;
        };
        let mut replicas = Vec::with_capacity(set.seats.len());
        for seat in set.listed() {
            let Some(incarnation) = seat.listed_incarnation() else {
                continue;
            };
            replicas.push((seat.node.clone(), seat.slot));
            if let Some(server) = self.nodes.get(&seat.node)
                && !self.servers[at].has(server.at)
            {
                self.servers[at].set(server.at, true);
                let endpoint = endpoint(&seat.node, server.record, incarnation);
                document.servers.push(endpoint);
            }
        }
        document.sets.push(SetListing { set: id, replicas });
    }
}

/// How a document names a memory server.
fn endpoint(node: &NodeName, record: &NodeRecord, incarnation: IncarnationId) -> Endpoint {
    let server = record.server.as_ref();
    Endpoint {
        node: node.clone(),
        tcp_address: server.map_or_else(String::new, |server| server.tcp_address.clone()),
        rdma_address: server.map_or_else(String::new, |server| server.rdma_address.clone()),
        domain: record.domain.clone(),
        incarnation,
    }
}

/// A device's document without its sets; `attached` says what the policies want.
fn device_frame(
    id: SwapDeviceId,
    device: &DeviceRecord,
    intent: Option<&DeviceIntent>,
) -> DeviceDocument {
    DeviceDocument {
        device: id,
        class: device.class.unwrap_or(CLASS_WITHOUT_POLICY),
        attached: intent.is_some_and(|intent| intent.attaches(device)) && device.class.is_some(),
        write_hold: intent.map_or(WRITE_HOLD, |intent| intent.write_hold),
        read_stall: intent.map_or(READ_STALL, |intent| intent.read_stall),
        empty_slab_hold: intent.map_or(EMPTY_SLAB_HOLD, |intent| intent.empty_slab_hold),
        reserve_sets_max: device.reserve_sets_max,
        copy_bandwidth: intent.map_or(Some(COPY_BANDWIDTH), |intent| intent.copy_bandwidth),
        servers: Vec::new(),
        sets: Vec::new(),
    }
}

fn finish(content: &mut Content) {
    if let Some(Some(document)) = &mut content.swap_device {
        document.servers.sort_by(|a, b| a.node.cmp(&b.node));
        document.attached &= document.class.spill == Spill::Only || !document.sets.is_empty();
    }
    if let Some(Some(document)) = &mut content.memory_server {
        document.grants.sort_by_key(|grant| grant.slot);
    }
}
