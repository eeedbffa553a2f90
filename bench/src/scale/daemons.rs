//! The two daemons of a node that is not there: they take documents and report as real ones do that
//! serve a workload which has stopped growing. Pure.

use std::collections::BTreeSet;

use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::{DesiredDocument, NodeReport};

/// Slabs and slots, as production has them by default: 64 MiB.
pub const SLAB_BYTES: u64 = 64 << 20;

/// What a node has.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Slots that it can lend; none for a node that does not.
    pub slots: u32,
    /// Slabs of its device; none for a node that does not borrow.
    pub slabs: u32,
    /// Slabs that its workload fills.
    pub bound: u32,
}

/// The daemons of one node.
#[derive(Debug, Clone)]
pub struct Daemons {
    server: Option<pb::MemoryServerReport>,
    device: Option<pb::SwapDeviceReport>,
    bound: usize,
    generation: u64,
}

impl Daemons {
    /// Daemons that have just started on the node with this number.
    pub fn new(number: u32, shape: Shape) -> Self {
        let server = pb::MemoryServerReport {
            incarnation: life(1, number),
            slot_bytes: SLAB_BYTES,
            slots_total: shape.slots,
            slots_ready: shape.slots,
            tcp_address: format!("10.0.{}.{}:7000", number / 250, number % 250 + 1),
            ..pb::MemoryServerReport::default()
        };
        let device = pb::SwapDeviceReport {
            device_id: life(2, number),
            epoch: 1,
            size_bytes: u64::from(shape.slabs) * SLAB_BYTES,
            slab_bytes: SLAB_BYTES,
            front_end: "ublk".to_owned(),
            integrity: pb::Integrity::Tag64.into(),
            counters: Some(pb::DeviceCounters::default()),
            ..pb::SwapDeviceReport::default()
        };
        Self {
            server: (shape.slots > 0).then_some(server),
            device: (shape.slabs > 0).then_some(device),
            bound: usize::try_from(shape.bound).unwrap_or(usize::MAX),
            generation: 0,
        }
    }

    /// Whether the node borrows, and lends.
    pub fn roles(&self) -> (bool, bool) {
        (self.device.is_some(), self.server.is_some())
    }

    /// Sets that the device has in hand.
    pub fn sets(&self) -> usize {
        self.device.as_ref().map_or(0, |device| device.sets.len())
    }

    /// Slots that the memory server has granted.
    pub fn grants(&self) -> usize {
        self.server.as_ref().map_or(0, |server| server.grants.len())
    }

    /// Follows a document.
    pub fn take(&mut self, document: &DesiredDocument) {
        self.generation = document.generation;
        if let Some(wanted) = &document.memory_server {
            self.take_server(wanted);
        }
        if let Some(wanted) = &document.swap_device {
            self.take_device(wanted);
        }
    }

    fn take_server(&mut self, wanted: &pb::MemoryServerDocument) {
        let own = self.server.as_mut();
        let Some(server) = own.filter(|server| server.incarnation == wanted.incarnation) else {
            return;
        };
        server.generation = wanted.generation;
        let granted = |grant: &pb::SlotGrant| pb::SlotReport {
            slot: grant.slot,
            device_id: grant.device_id.clone(),
            set_id: grant.set_id,
        };
        server.grants = wanted.grants.iter().map(granted).collect();
    }

    /// Follows the device's part of a document.
    pub fn take_device(&mut self, wanted: &pb::SwapDeviceDocument) {
        let own = self.device.as_mut();
        let Some(device) = own.filter(|device| device.device_id == wanted.device_id) else {
            return;
        };
        device.generation = wanted.generation;
        device.attached = wanted.attached;
        let bound = self.bound;
        let sets = wanted.sets.iter().enumerate();
        device.sets = sets
            .map(|(index, set)| listed(set, (index < bound).then_some(index)))
            .collect();
        let donors: BTreeSet<&str> = wanted.servers.iter().map(|it| it.node.as_str()).collect();
        let up = |node: &str| pb::LinkReport {
            node: node.to_owned(),
            state: pb::LinkState::Up.into(),
            transport: "tcp".to_owned(),
            ..pb::LinkReport::default()
        };
        device.links = donors.into_iter().map(up).collect();
    }

    /// What swapd says.
    pub fn device(&self) -> Option<pb::SwapDeviceReport> {
        self.device.clone()
    }

    /// What the node's agent says.
    pub fn report(&self) -> NodeReport {
        NodeReport {
            generation: self.generation,
            swap_device: self.device.clone(),
            memory_server: self.server.clone(),
            ..NodeReport::default()
        }
    }
}

/// A set as its device reports it, bound to the slab of its place in the document.
fn listed(set: &pb::ReplicaSet, slab: Option<usize>) -> pb::SetReport {
    let slab = slab.and_then(|slab| u32::try_from(slab).ok());
    let copy = |replica: &pb::Replica| pb::ReplicaReport {
        node: replica.node.clone(),
        slot: replica.slot,
        state: pb::ReplicaState::Live.into(),
    };
    pb::SetReport {
        set_id: set.set_id,
        slab,
        // Full: 64 MiB of pages of 4 KiB.
        pages_used: if slab.is_some() { 1 << 14 } else { 0 },
        replicas: set.replicas.iter().map(copy).collect(),
        ..pb::SetReport::default()
    }
}

/// An id that no other node has.
fn life(kind: u8, number: u32) -> Vec<u8> {
    let mut id = vec![kind; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        slots: 4,
        slabs: 8,
        bound: 1,
    };

    #[test]
    fn documents_come_back_as_reports() {
        let mut daemons = Daemons::new(3, SHAPE);
        let before = daemons.report();
        let server = before.memory_server.expect("it lends");
        let device = before.swap_device.expect("it borrows");
        let replica = |slot| pb::Replica {
            node: "d1".to_owned(),
            slot,
        };
        let set = |set_id, slot| pb::ReplicaSet {
            set_id,
            replicas: vec![replica(slot)],
        };
        let endpoint = pb::ServerEndpoint {
            node: "d1".to_owned(),
            ..pb::ServerEndpoint::default()
        };
        daemons.take(&DesiredDocument {
            generation: 9,
            memory_server: Some(pb::MemoryServerDocument {
                generation: 7,
                incarnation: server.incarnation,
                grants: vec![pb::SlotGrant::default()],
                emptied: false,
            }),
            swap_device: Some(pb::SwapDeviceDocument {
                generation: 8,
                device_id: device.device_id,
                attached: true,
                servers: vec![endpoint],
                sets: vec![set(5, 0), set(6, 1)],
                ..pb::SwapDeviceDocument::default()
            }),
            ..DesiredDocument::default()
        });
        assert_eq!((daemons.grants(), daemons.sets()), (1, 2));
        let after = daemons.report();
        assert_eq!(after.generation, 9);
        assert_eq!(after.memory_server.map(|it| it.generation), Some(7));
        let device = after.swap_device.expect("it borrows");
        assert!(device.generation == 8 && device.attached && device.links.len() == 1);
        let slabs: Vec<_> = device.sets.iter().map(|set| set.slab).collect();
        assert_eq!(slabs, [Some(0), None], "one slab is filled");
    }

    #[test]
    fn document_for_another_life_is_not_taken() {
        let mut daemons = Daemons::new(3, SHAPE);
        let other = Daemons::new(4, SHAPE).device().expect("it borrows");
        daemons.take_device(&pb::SwapDeviceDocument {
            generation: 8,
            device_id: other.device_id,
            ..pb::SwapDeviceDocument::default()
        });
        assert_eq!(daemons.device().map(|it| it.generation), Some(0));
    }
}
