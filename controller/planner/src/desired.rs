//! What each node's document says, rendered from the ledger and the policies alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_types::{
    Bytes, Copies, Durability, FailureDomain, Generation, IncarnationId, NodeName, SetId,
    SlotIndex, Spill, SwapDeviceId,
};

use crate::ledger::{DeviceRecord, Ledger, NodeRecord, Seat, SetStage};
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

/// What a borrower is told of its device.
pub(crate) fn device_document(
    ledger: &Ledger,
    intent: Option<&DeviceIntent>,
    id: SwapDeviceId,
) -> Option<DeviceDocument> {
    let device = ledger.devices.get(&id)?;
    Some(with_sets(device_frame(id, device, intent), ledger))
}

/// What a node's memory server is told.
pub(crate) fn server_document(
    ledger: &Ledger,
    node: &NodeName,
    record: &NodeRecord,
) -> Option<ServerDocument> {
    let server = record.server.as_ref().filter(|_| !record.foreign)?;
    let mut grants = Vec::with_capacity(ledger.sets.count_on(node));
    for (id, set) in ledger.sets.on(node) {
        let granted = |seat: &&Seat| {
            seat.node == *node && seat.phase.is_granted() && seat.incarnation == server.incarnation
        };
        grants.extend(set.seats.iter().filter(granted).map(|seat| ServerGrant {
            slot: seat.slot,
            device: set.device,
            set: id,
        }));
    }
    grants.sort_by_key(|grant| grant.slot);
    Some(ServerDocument {
        incarnation: server.incarnation,
        grants,
        emptied: record.drain.is_some(),
    })
}

/// Lists the device's sets, and the servers of their copies.
fn with_sets(mut document: DeviceDocument, ledger: &Ledger) -> DeviceDocument {
    let mut servers: BTreeMap<&NodeName, Endpoint> = BTreeMap::new();
    let sets = ledger.sets.of(document.device);
    for (id, set) in sets.filter(|(_, set)| set.stage == SetStage::Offered) {
        let mut replicas = Vec::with_capacity(set.seats.len());
        for seat in set.listed() {
            let Some(incarnation) = seat.listed_incarnation() else {
                continue;
            };
            replicas.push((seat.node.clone(), seat.slot));
            if !servers.contains_key(&seat.node)
                && let Some(record) = ledger.nodes.get(&seat.node)
            {
                servers.insert(&seat.node, endpoint(&seat.node, record, incarnation));
            }
        }
        document.sets.push(SetListing { set: id, replicas });
    }
    document.servers = servers.into_values().collect();
    document.attached &= document.class.spill == Spill::Only || !document.sets.is_empty();
    document
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
