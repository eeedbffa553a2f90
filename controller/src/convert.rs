//! Messages to what the planner sees, and the planner's documents to messages. Invalid values
//! are refused here, at the edge.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_planner::{
    DeviceDocument, DeviceFacts, DeviceObservation, LinkObservation, LinkState, NodeDocument,
    NodeRecord, ReplicaObservation, ReplicaState, ServerDocument, ServerFacts, ServerObservation,
    SetObservation,
};
use dynamicswap_proto::InvalidMessage;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::DesiredDocument;
use dynamicswap_proto::frame::SERVER_SLOTS_MAX;
use dynamicswap_types::{
    Bytes, Generation, IncarnationId, MonotonicTime, NameError, NodeName, SetId, SlabSize,
    SlotIndex, SwapDeviceId, Term,
};

use crate::clock::as_millis;

/// Turns any error into one that names the field.
fn invalid<E: ToString>(field: &'static str) -> impl Fn(E) -> InvalidMessage {
    move |error| InvalidMessage::new(field, error)
}

/// A memory server's report.
pub fn server(
    report: &pb::MemoryServerReport,
) -> Result<(ServerFacts, ServerObservation), InvalidMessage> {
    let incarnation = IncarnationId::try_from(&*report.incarnation)
        .map_err(invalid("MemoryServerReport.incarnation"))?;
    let address: std::net::SocketAddr = report
        .tcp_address
        .parse()
        .map_err(invalid("MemoryServerReport.tcp_address"))?;
    if !report.rdma_address.is_empty() {
        report
            .rdma_address
            .parse::<std::net::SocketAddr>()
            .map_err(invalid("MemoryServerReport.rdma_address"))?;
    }
    let slot_size = SlabSize::try_from(Bytes::new(report.slot_bytes))
        .map_err(invalid("MemoryServerReport.slot_bytes"))?;
    if u64::from(report.slots_total) > SERVER_SLOTS_MAX {
        let why = format!(
            "{} slots, and {SERVER_SLOTS_MAX} is the most",
            report.slots_total
        );
        return Err(InvalidMessage::new("MemoryServerReport.slots_total", why));
    }
    let mut grants = BTreeMap::new();
    for grant in &report.grants {
        let device =
            SwapDeviceId::try_from(&*grant.device_id).map_err(invalid("SlotReport.device_id"))?;
        let owner = (device, SetId::new(grant.set_id));
        grants.insert(SlotIndex::new(grant.slot), owner);
    }
    let facts = ServerFacts {
        incarnation,
        slot_size: slot_size.bytes(),
        slots_total: report.slots_total,
        tcp_address: address.to_string(),
        rdma_address: report.rdma_address.clone(),
    };
    let observation = ServerObservation {
        incarnation,
        generation: Generation::new(report.generation),
        grants,
    };
    Ok((facts, observation))
}

/// The nodes on record.
type Known = BTreeMap<NodeName, NodeRecord>;

/// A name that a report has: what is seen of a cluster names each node hundreds of times, and shares the
/// record's name.
fn node_name<V>(text: &str, known: &BTreeMap<NodeName, V>) -> Result<NodeName, NameError> {
    match known.get_key_value(text) {
        Some((name, _)) => Ok(name.clone()),
        None => text.parse(),
    }
}

/// A swap device's report. `before` is what the same node's device said last: a link's loss
/// began when it was first seen.
pub fn device(
    report: &pb::SwapDeviceReport,
    known: &Known,
    before: Option<&DeviceObservation>,
    now: MonotonicTime,
) -> Result<(DeviceFacts, DeviceObservation), InvalidMessage> {
    let id = SwapDeviceId::try_from(&*report.device_id)
        .map_err(invalid("SwapDeviceReport.device_id"))?;
    let slab = SlabSize::try_from(Bytes::new(report.slab_bytes))
        .map_err(invalid("SwapDeviceReport.slab_bytes"))?;
    let before = before.filter(|before| before.id == id);
    let mut links = BTreeMap::new();
    for link in &report.links {
        let node = node_name(&link.node, known).map_err(invalid("LinkReport.node"))?;
        let before = before.and_then(|before| before.links.get(&node)).copied();
        links.insert(node, self::link(link, before, now)?);
    }
    let mut sets = BTreeMap::new();
    for set in &report.sets {
        sets.insert(SetId::new(set.set_id), self::set(set, known)?);
    }
    let facts = DeviceFacts {
        id,
        size: Bytes::new(report.size_bytes),
        slab,
        integrity: report.integrity().into(),
    };
    let observation = DeviceObservation {
        id,
        generation: Generation::new(report.generation),
        spill: report.spill_bytes > 0,
        links,
        sets,
    };
    Ok((facts, observation))
}

fn link(
    report: &pb::LinkReport,
    known: Option<LinkObservation>,
    now: MonotonicTime,
) -> Result<LinkObservation, InvalidMessage> {
    let state = match report.state() {
        pb::LinkState::Connecting => LinkState::Connecting,
        pb::LinkState::Up => LinkState::Up,
        pb::LinkState::Down => LinkState::Down,
        pb::LinkState::Lost => LinkState::Lost,
        pb::LinkState::Refused => LinkState::Refused,
        pb::LinkState::Unspecified => {
            return Err(InvalidMessage::new("LinkReport.state", "it is unspecified"));
        }
    };
    let up = state == LinkState::Up;
    let since = known
        .and_then(|known| known.not_up_since)
        .unwrap_or_else(|| {
            let ago = Duration::from_millis(report.for_ms).as_nanos();
            let ago = u64::try_from(ago).unwrap_or(u64::MAX);
            MonotonicTime::from_nanos(now.as_nanos().saturating_sub(ago))
        });
    Ok(LinkObservation {
        state,
        // A link that is down was up once; the report may be the first that this process sees.
        was_up: up || state == LinkState::Down || known.is_some_and(|known| known.was_up),
        not_up_since: (!up).then_some(since),
    })
}

fn set(report: &pb::SetReport, known: &Known) -> Result<SetObservation, InvalidMessage> {
    let mut replicas = Vec::with_capacity(report.replicas.len());
    for replica in &report.replicas {
        replicas.push(ReplicaObservation {
            node: node_name(&replica.node, known).map_err(invalid("ReplicaReport.node"))?,
            slot: SlotIndex::new(replica.slot),
            state: match replica.state() {
                pb::ReplicaState::Live => ReplicaState::Live,
                pb::ReplicaState::Rebuilding => ReplicaState::Rebuilding,
                pb::ReplicaState::Stale => ReplicaState::Stale,
                pb::ReplicaState::Unspecified => {
                    return Err(InvalidMessage::new(
                        "ReplicaReport.state",
                        "it is unspecified",
                    ));
                }
            },
        });
    }
    Ok(SetObservation {
        bound: report.slab.is_some(),
        released: report.released,
        heat: rounded(report.read_heat.saturating_add(report.write_heat)),
        on_disk: report.on_disk,
        replicas,
    })
}

/// Heat cools with every report. Three leading bits are enough to order slabs, and a plan is made only
/// when they change.
fn rounded(heat: u64) -> u64 {
    let cut = u64::BITS.saturating_sub(heat.leading_zeros() + 3);
    heat >> cut << cut
}

/// A node's document as a message.
pub fn document(document: &NodeDocument, term: Term) -> DesiredDocument {
    DesiredDocument {
        generation: document.generation.get(),
        term: term.get(),
        swap_device: document
            .swap_device
            .as_ref()
            .map(|(generation, device)| swap_device(*generation, device)),
        memory_server: document
            .memory_server
            .as_ref()
            .map(|(generation, server)| memory_server(*generation, server)),
        policies_json: document.policies.clone(),
    }
}

fn swap_device(generation: Generation, document: &DeviceDocument) -> pb::SwapDeviceDocument {
    pb::SwapDeviceDocument {
        generation: generation.get(),
        device_id: document.device.to_bytes().to_vec(),
        durability: Some(document.class.into()),
        attached: document.attached,
        write_hold_ms: short_millis(document.write_hold),
        read_stall_ms: short_millis(document.read_stall),
        empty_slab_hold_ms: short_millis(document.empty_slab_hold),
        reserve_sets_max: document.reserve_sets_max,
        copy_bytes_per_second: document.copy_bandwidth.map_or(0, Bytes::get),
        servers: document
            .servers
            .iter()
            .map(|server| pb::ServerEndpoint {
                node: server.node.to_string(),
                tcp_address: server.tcp_address.clone(),
                rdma_address: server.rdma_address.clone(),
                failure_domain: server.domain.to_string(),
                incarnation: server.incarnation.to_bytes().to_vec(),
            })
            .collect(),
        sets: document
            .sets
            .iter()
            .map(|listing| pb::ReplicaSet {
                set_id: listing.set.get(),
                replicas: listing
                    .replicas
                    .iter()
                    .map(|(node, slot)| pb::Replica {
                        node: node.to_string(),
                        slot: slot.get(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn memory_server(generation: Generation, document: &ServerDocument) -> pb::MemoryServerDocument {
    pb::MemoryServerDocument {
        generation: generation.get(),
        incarnation: document.incarnation.to_bytes().to_vec(),
        grants: document
            .grants
            .iter()
            .map(|grant| pb::SlotGrant {
                slot: grant.slot.get(),
                device_id: grant.device.to_bytes().to_vec(),
                set_id: grant.set.get(),
            })
            .collect(),
        emptied: document.emptied,
    }
}

fn short_millis(duration: Duration) -> u32 {
    u32::try_from(as_millis(duration)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_report(state: pb::LinkState, for_ms: u64) -> pb::LinkReport {
        pb::LinkReport {
            node: "d1".to_owned(),
            state: state.into(),
            for_ms,
            ..pb::LinkReport::default()
        }
    }

    #[test]
    fn loss_of_a_link_began_when_it_was_first_seen() {
        let now = MonotonicTime::ZERO.after(Duration::from_secs(10));
        let first = link(&link_report(pb::LinkState::Down, 40), None, now).expect("valid");
        let since = MonotonicTime::ZERO.after(Duration::from_millis(9_960));
        assert_eq!(first.not_up_since, Some(since));
        let later = now.after(Duration::from_millis(100));
        let again = link_report(pb::LinkState::Connecting, 5);
        let second = link(&again, Some(first), later).expect("valid");
        assert_eq!(
            second.not_up_since,
            Some(since),
            "reconnecting is no recovery"
        );
        assert!(second.was_up);
        let up = link(&link_report(pb::LinkState::Up, 0), Some(second), later).expect("valid");
        assert_eq!(up.not_up_since, None);
    }

    #[test]
    fn known_nodes_names_are_shared() {
        let name: NodeName = "d1".parse().expect("valid");
        let known = BTreeMap::from([(name.clone(), ())]);
        let shared = node_name("d1", &known).expect("known");
        assert!(std::ptr::eq(shared.as_str(), name.as_str()));
        assert_eq!(node_name("d2", &known).expect("valid").as_str(), "d2");
        assert!(node_name("D 3", &known).is_err());
    }

    #[test]
    fn heat_keeps_its_order_and_loses_its_trembling() {
        assert_eq!([0, 1, 7, 8, 9, 1_000].map(rounded), [0, 1, 7, 8, 8, 896]);
        assert_eq!(rounded(1_001), rounded(1_000));
        assert!(rounded(u64::MAX) > rounded(u64::MAX / 2));
    }

    #[test]
    fn donor_that_lies_about_its_capacity_is_refused() {
        let honest = pb::MemoryServerReport {
            incarnation: vec![1; 16],
            slot_bytes: 64 << 20,
            slots_total: 1 << 18,
            tcp_address: "10.0.0.1:7710".to_owned(),
            ..pb::MemoryServerReport::default()
        };
        assert!(server(&honest).is_ok());
        let field = |lie| server(&lie).expect_err("a lie").field;
        let many = pb::MemoryServerReport {
            slots_total: u32::MAX,
            ..honest.clone()
        };
        assert_eq!(field(many), "MemoryServerReport.slots_total");
        for slot_bytes in [0, 3, u64::MAX] {
            let strange = pb::MemoryServerReport {
                slot_bytes,
                ..honest.clone()
            };
            assert_eq!(field(strange), "MemoryServerReport.slot_bytes");
        }
    }

    #[test]
    fn reports_with_impossible_values_are_refused_with_the_field() {
        let bad = pb::MemoryServerReport::default();
        assert_eq!(
            server(&bad).expect_err("no incarnation").field,
            "MemoryServerReport.incarnation"
        );
        let bad = pb::SwapDeviceReport {
            device_id: vec![1; 16],
            slab_bytes: 3,
            ..pb::SwapDeviceReport::default()
        };
        let now = MonotonicTime::ZERO;
        assert_eq!(
            device(&bad, &Known::new(), None, now)
                .expect_err("no slab size")
                .field,
            "SwapDeviceReport.slab_bytes"
        );
    }
}
