//! A small cluster for the tests beside this file.

use dynamicswap_proto::common::v1 as common;
use dynamicswap_proto::control::v1 as pb;

fn copy(node: &str, state: common::ReplicaState) -> common::ReplicaReport {
    common::ReplicaReport {
        node: node.to_owned(),
        state: state.into(),
        ..common::ReplicaReport::default()
    }
}

fn set(slab: u32, copies: &[(&str, common::ReplicaState)]) -> common::SetReport {
    common::SetReport {
        set_id: slab.into(),
        slab: Some(slab),
        pages_used: 256,
        replicas: copies
            .iter()
            .map(|(node, state)| copy(node, *state))
            .collect(),
        ..common::SetReport::default()
    }
}

/// A donor of so many slots, some of them granted.
pub fn donor(name: &str, slots: u32, granted: usize) -> pb::NodeStatus {
    pb::NodeStatus {
        node: name.to_owned(),
        connected: true,
        donor: true,
        report: Some(pb::NodeReport {
            memory_server: Some(common::MemoryServerReport {
                slot_bytes: 16 << 20,
                slots_total: slots,
                grants: vec![common::SlotReport::default(); granted],
                ..common::MemoryServerReport::default()
            }),
            ..pb::NodeReport::default()
        }),
        ..pb::NodeStatus::default()
    }
}

/// d1 holds the only copy of two slabs and one of two of a third; d2 has room for two.
pub fn status() -> pb::ClusterStatus {
    use common::ReplicaState::{Live, Rebuilding};
    let device = common::SwapDeviceReport {
        attached: true,
        pages_used: 768,
        sets: vec![
            set(0, &[("d1", Live)]),
            set(1, &[("d1", Live), ("d2", Rebuilding)]),
            set(2, &[("d1", Live), ("d2", Live)]),
        ],
        ..common::SwapDeviceReport::default()
    };
    let borrower = pb::NodeStatus {
        node: "b1".to_owned(),
        connected: true,
        borrower: true,
        report: Some(pb::NodeReport {
            swap_device: Some(device),
            ..pb::NodeReport::default()
        }),
        ..pb::NodeStatus::default()
    };
    pb::ClusterStatus {
        nodes: vec![donor("d1", 8, 3), donor("d2", 4, 2), borrower],
        plan_waits: vec![
            "waits with 2 sets for b1: no donor fits (1 is cordoned)".to_owned(),
            "waits for d10 to grant 1 slots".to_owned(),
            "leaves 2 copies of b1 on d1, whose time is over".to_owned(),
        ],
        ..pb::ClusterStatus::default()
    }
}
