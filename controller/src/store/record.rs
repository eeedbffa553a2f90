//! How entries look on disk: JSON, apart from the domain types, so that a change of those does
//! not change the file by accident.

use std::time::Duration;

use dynamicswap_planner::{
    DeviceRecord, Mark, NodeRecord, Published, PublishedPart, Seat, SeatPhase, ServerFacts,
    SetRecord, SetStage,
};
use dynamicswap_types::{
    Bytes, Durability, FailureDomain, Generation, IncarnationId, Integrity, NodeName, SlabSize,
    SlotIndex, SwapDeviceId,
};
use serde::{Deserialize, Serialize};

use super::mark;
use crate::clock::as_millis;

/// A node on disk.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct NodeEntry {
    domain: FailureDomain,
    #[serde(default)]
    zone: Option<FailureDomain>,
    borrower: bool,
    donor: bool,
    cordoned: bool,
    #[serde(default)]
    drain_ms: Option<u64>,
    foreign: bool,
    server: Option<ServerEntry>,
    generation: Generation,
    swap_device: PartEntry,
    memory_server: PartEntry,
    policies: PartEntry,
}

#[derive(Serialize, Deserialize)]
struct ServerEntry {
    incarnation: IncarnationId,
    slot_size: Bytes,
    slots_total: u32,
    tcp_address: String,
    #[serde(default)]
    rdma_address: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct PartEntry {
    generation: Generation,
    digest: u64,
}

/// A device on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct DeviceEntry {
    node: NodeName,
    size: Bytes,
    slab: SlabSize,
    #[serde(default)]
    integrity: Option<Integrity>,
    class: Option<Durability>,
    reserve_sets_max: u32,
    gone: bool,
}

/// A set on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct SetEntry {
    device: SwapDeviceId,
    stage: StageEntry,
    seats: Vec<SeatEntry>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StageEntry {
    Composing,
    Offered,
    Closing,
}

#[derive(Serialize, Deserialize)]
struct SeatEntry {
    node: NodeName,
    slot: SlotIndex,
    incarnation: IncarnationId,
    phase: PhaseEntry,
    #[serde(default)]
    revoked: bool,
    #[serde(default)]
    rebalanced: bool,
}

#[derive(Serialize, Deserialize)]
enum PhaseEntry {
    Granting { replaces: Option<NodeName> },
    Serving,
    Regranting { previous: IncarnationId },
    Leaving { since: Option<Generation> },
    Freeing { since: Option<Generation> },
}

impl From<PublishedPart> for PartEntry {
    fn from(part: PublishedPart) -> Self {
        let PublishedPart { generation, digest } = part;
        Self { generation, digest }
    }
}

impl From<PartEntry> for PublishedPart {
    fn from(part: PartEntry) -> Self {
        let PartEntry { generation, digest } = part;
        Self { generation, digest }
    }
}

impl From<NodeRecord> for NodeEntry {
    fn from(record: NodeRecord) -> Self {
        Self {
            domain: record.domain,
            zone: record.zone,
            borrower: record.borrower,
            donor: record.donor,
            cordoned: record.cordoned,
            drain_ms: record.drain.map(as_millis),
            foreign: record.foreign,
            server: record.server.map(|server| ServerEntry {
                incarnation: server.incarnation,
                slot_size: server.slot_size,
                slots_total: server.slots_total,
                tcp_address: server.tcp_address,
                rdma_address: server.rdma_address,
            }),
            generation: record.published.generation,
            swap_device: record.published.swap_device.into(),
            memory_server: record.published.memory_server.into(),
            policies: record.published.policies.into(),
        }
    }
}

impl From<NodeEntry> for NodeRecord {
    fn from(entry: NodeEntry) -> Self {
        Self {
            domain: entry.domain,
            zone: entry.zone,
            borrower: entry.borrower,
            donor: entry.donor,
            cordoned: entry.cordoned,
            drain: entry.drain_ms.map(Duration::from_millis),
            foreign: entry.foreign,
            server: entry.server.map(|server| ServerFacts {
                incarnation: server.incarnation,
                slot_size: server.slot_size,
                slots_total: server.slots_total,
                tcp_address: server.tcp_address,
                rdma_address: server.rdma_address,
            }),
            published: Published {
                generation: entry.generation,
                swap_device: entry.swap_device.into(),
                memory_server: entry.memory_server.into(),
                policies: entry.policies.into(),
            },
        }
    }
}

impl From<DeviceRecord> for DeviceEntry {
    fn from(record: DeviceRecord) -> Self {
        Self {
            node: record.node,
            size: record.size,
            slab: record.slab,
            integrity: record.integrity,
            class: record.class,
            reserve_sets_max: record.reserve_sets_max,
            gone: record.gone,
        }
    }
}

impl From<DeviceEntry> for DeviceRecord {
    fn from(entry: DeviceEntry) -> Self {
        Self {
            node: entry.node,
            size: entry.size,
            slab: entry.slab,
            integrity: entry.integrity,
            class: entry.class,
            reserve_sets_max: entry.reserve_sets_max,
            gone: entry.gone,
        }
    }
}

impl From<SetRecord> for SetEntry {
    fn from(record: SetRecord) -> Self {
        Self {
            device: record.device,
            stage: match record.stage {
                SetStage::Composing => StageEntry::Composing,
                SetStage::Offered => StageEntry::Offered,
                SetStage::Closing => StageEntry::Closing,
            },
            seats: record.seats.into_iter().map(SeatEntry::from).collect(),
        }
    }
}

impl From<SetEntry> for SetRecord {
    fn from(entry: SetEntry) -> Self {
        Self {
            device: entry.device,
            stage: match entry.stage {
                StageEntry::Composing => SetStage::Composing,
                StageEntry::Offered => SetStage::Offered,
                StageEntry::Closing => SetStage::Closing,
            },
            seats: entry.seats.into_iter().map(Seat::from).collect(),
        }
    }
}

impl From<Seat> for SeatEntry {
    fn from(seat: Seat) -> Self {
        Self {
            node: seat.node,
            slot: seat.slot,
            incarnation: seat.incarnation,
            revoked: seat.mark == Some(Mark::Revoked),
            rebalanced: seat.mark == Some(Mark::Rebalanced),
            phase: match seat.phase {
                SeatPhase::Granting { replaces } => PhaseEntry::Granting { replaces },
                SeatPhase::Serving => PhaseEntry::Serving,
                SeatPhase::Regranting { previous } => PhaseEntry::Regranting { previous },
                SeatPhase::Leaving { since } => PhaseEntry::Leaving { since },
                SeatPhase::Freeing { since } => PhaseEntry::Freeing { since },
            },
        }
    }
}

impl From<SeatEntry> for Seat {
    fn from(entry: SeatEntry) -> Self {
        Self {
            node: entry.node,
            slot: entry.slot,
            incarnation: entry.incarnation,
            mark: mark(entry.revoked, entry.rebalanced),
            phase: match entry.phase {
                PhaseEntry::Granting { replaces } => SeatPhase::Granting { replaces },
                PhaseEntry::Serving => SeatPhase::Serving,
                PhaseEntry::Regranting { previous } => SeatPhase::Regranting { previous },
                PhaseEntry::Leaving { since } => SeatPhase::Leaving { since },
                PhaseEntry::Freeing { since } => SeatPhase::Freeing { since },
            },
        }
    }
}
