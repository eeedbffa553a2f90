//! Objects of the group as `get` shows them, put together from the ledger and the reports.

use std::collections::BTreeMap;

use dynamicswap_crds::{
    Kind, MemoryServer, MemoryServerSpec, MemoryServerStatus, ObjectMeta, ObjectName, SlabMap,
    SlabMapEntry, SlabMapSpec, SlabMapStatus, SlabReplica, SwapDevice, SwapDeviceSpec,
    SwapDeviceStatus,
};
use dynamicswap_planner::{
    DeviceRecord, Ledger, NodeObservation, NodeRecord, Seat, ServerFacts, Session, SetRecord,
};
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::NodeReport;
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, NodeName, PageCount, SetId, SlabIndex, Spill, SwapDeviceId,
};

use crate::policies::Policies;

/// What objects are made of.
pub struct Views<'a> {
    /// What is on record.
    pub ledger: &'a Ledger,
    /// What the nodes last said, as the planner sees it.
    pub seen: &'a BTreeMap<NodeName, NodeObservation>,
    /// What a node last reported.
    pub reports: &'a dyn Fn(&NodeName) -> Option<&'a NodeReport>,
    /// The policies.
    pub policies: &'a Policies,
}

impl Views<'_> {
    /// Objects of one kind as JSON; an empty namespace or name means any.
    pub fn objects(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<String>, serde_json::Error> {
        let fits = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let nodes = self
            .ledger
            .nodes
            .iter()
            .filter(|(node, _)| fits(name, node.as_str()));
        match kind {
            Kind::RemoteMemoryPolicy => self
                .policies
                .iter()
                .filter(|(key, _)| {
                    fits(namespace, key.namespace.as_str()) && fits(name, key.name.as_str())
                })
                .map(|(_, policy)| serde_json::to_string(policy))
                .collect(),
            Kind::MemoryServer => nodes
                .filter_map(|(node, record)| {
                    let facts = record.server.as_ref()?;
                    Some(self.memory_server(node, record, facts))
                })
                .map(|object| serde_json::to_string(&object))
                .collect(),
            Kind::SwapDevice => nodes
                .filter_map(|(node, _)| {
                    let (id, device) = self.ledger.device_of(node)?;
                    Some(self.swap_device(node, id, device))
                })
                .map(|object| serde_json::to_string(&object))
                .collect(),
            Kind::SlabMap => nodes
                .filter_map(|(node, _)| Some(self.slab_map(node, self.ledger.device_of(node)?.0)))
                .map(|object| serde_json::to_string(&object))
                .collect(),
        }
    }

    fn memory_server(
        &self,
        node: &NodeName,
        record: &NodeRecord,
        facts: &ServerFacts,
    ) -> MemoryServer {
        let lent = self
            .ledger
            .sets
            .values()
            .filter_map(|set| set.seat(node))
            .filter(|seat| seat.incarnation == facts.incarnation)
            .count();
        let lent = u32::try_from(lent).unwrap_or(u32::MAX);
        let error = (self.reports)(node).map_or("", |report| &report.memory_server_error);
        let reason = self.not_ready(node, error);
        let times = |slots: u32| Bytes::new(facts.slot_size.get() * u64::from(slots));
        MemoryServer::new(
            metadata(node),
            MemoryServerSpec {
                failure_domain: record.domain.clone(),
                cordoned: record.cordoned,
                draining: record.drain.is_some(),
            },
            MemoryServerStatus {
                ready: reason.is_empty(),
                reason,
                incarnation: facts.incarnation,
                address: facts.tcp_address.clone(),
                capacity: times(facts.slots_total),
                slot_size: facts.slot_size,
                slots: facts.slots_total,
                slots_lent: lent,
                lent: times(lent),
            },
        )
    }

    fn swap_device(&self, node: &NodeName, id: SwapDeviceId, device: &DeviceRecord) -> SwapDevice {
        let report = (self.reports)(node);
        let empty = pb::SwapDeviceReport::default();
        let said = report
            .and_then(|report| report.swap_device.as_ref())
            .filter(|said| *said.device_id == id.to_bytes())
            .unwrap_or(&empty);
        let bound = said.sets.iter().filter(|set| set.slab.is_some()).count();
        let reserved = said
            .sets
            .iter()
            .filter(|set| set.slab.is_none() && !set.released)
            .count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let reason = self.not_ready(node, report.map_or("", |report| &report.swap_device_error));
        SwapDevice::new(
            metadata(node),
            SwapDeviceSpec {
                device_id: id,
                durability: device.class.unwrap_or(Durability {
                    copies: Copies::TWO,
                    spill: Spill::None,
                }),
            },
            SwapDeviceStatus {
                ready: reason.is_empty(),
                reason,
                attached: said.attached,
                front_end: said.front_end.clone(),
                epoch: Epoch::new(said.epoch),
                size: device.size,
                slab_size: device.slab,
                bytes_used: PageCount::new(said.pages_used).bytes(),
                slabs_bound: count(bound),
                sets_reserved: count(reserved),
                pages_degraded: PageCount::new(said.pages_degraded),
            },
        )
    }

    fn slab_map(&self, node: &NodeName, id: SwapDeviceId) -> SlabMap {
        let said = (self.reports)(node).and_then(|report| report.swap_device.as_ref());
        let said: BTreeMap<u64, &pb::SetReport> = said
            .into_iter()
            .flat_map(|said| &said.sets)
            .map(|set| (set.set_id, set))
            .collect();
        let sets: Vec<SlabMapEntry> = self
            .ledger
            .sets
            .iter()
            .filter(|(_, set)| set.device == id)
            .map(|(set, record)| entry(*set, record, said.get(&set.get()).copied()))
            .collect();
        let bound = sets.iter().filter(|entry| entry.slab.is_some()).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let status = SlabMapStatus {
            sets: count(sets.len()),
            bound: count(bound),
        };
        let spec = SlabMapSpec {
            device_id: id,
            sets,
        };
        SlabMap::new(metadata(node), spec, status)
    }

    /// Why a node's daemon is not ready; empty if it is.
    fn not_ready(&self, node: &NodeName, error: &str) -> String {
        match self.seen.get(node).map(|seen| seen.session) {
            Some(Session::Open) => error.to_owned(),
            Some(Session::Never { .. }) | None => {
                "its agent has not connected since the controller started".to_owned()
            }
            Some(Session::Lost { .. }) => "its agent has no session".to_owned(),
        }
    }
}

/// These objects are named after their node; a node's name has dots where an object's may not.
fn metadata(node: &NodeName) -> ObjectMeta {
    let name = node.as_str().replace('.', "-");
    ObjectMeta::cluster(
        name.parse::<ObjectName>()
            .unwrap_or_else(|_| ObjectName::default_namespace()),
    )
}

fn entry(id: SetId, set: &SetRecord, said: Option<&pb::SetReport>) -> SlabMapEntry {
    SlabMapEntry {
        set_id: id,
        slab: said.and_then(|said| said.slab).map(SlabIndex::new),
        reads_per_second: said.map_or(0, |said| said.read_heat / 1_000),
        writes_per_second: said.map_or(0, |said| said.write_heat / 1_000),
        replicas: set.seats.iter().map(|seat| replica(seat, said)).collect(),
    }
}

fn replica(seat: &Seat, said: Option<&pb::SetReport>) -> SlabReplica {
    let copy = said.and_then(|said| {
        let mut copies = said.replicas.iter();
        copies.find(|copy| copy.node == seat.node.as_str() && copy.slot == seat.slot.get())
    });
    let word = match copy.map(pb::ReplicaReport::state) {
        Some(pb::ReplicaState::Live) => ", Live",
        Some(pb::ReplicaState::Rebuilding) => ", Rebuilding",
        Some(pb::ReplicaState::Stale) => ", Stale",
        Some(pb::ReplicaState::Unspecified) | None => "",
    };
    let revoked = seat.revoked && seat.phase.is_listed();
    let phase = if revoked {
        "Revoked"
    } else {
        seat.phase.word()
    };
    SlabReplica {
        node: seat.node.clone(),
        slot: seat.slot,
        state: format!("{phase}{word}"),
    }
}
