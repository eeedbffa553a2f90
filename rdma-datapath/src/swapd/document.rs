//! From the message to the engine's document: every value is checked here, at the edge.
//!
//! Also owns the order of servers: a server keeps its index for the device's life, because the
//! tables name servers by index.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::limits::SERVERS_MAX;
use dynamicswap_proto::InvalidMessage;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_types::{
    Bytes, Copies, Durability, FailureDomain, Generation, IncarnationId, NodeName, ServerIndex,
    SetId, SlotIndex,
};

use crate::transport::remote::Endpoint;

/// A document that is ready to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// For the engine.
    pub document: Document,
    /// For the transport: where each server is; `None` for one that is no longer used.
    pub endpoints: Vec<Option<Endpoint>>,
    /// The order of servers from now on.
    pub server_nodes: Vec<String>,
    /// Whether the device shall be attached.
    pub attached: bool,
    /// Bytes a second that copies may move; none for as fast as it goes.
    pub copy_bandwidth: Option<Bytes>,
}

/// Checks a message and turns it into a document. `known` is the order of servers so far.
///
/// # Errors
/// [`InvalidMessage`] with the first field that is wrong.
pub fn prepare(
    message: &pb::SwapDeviceDocument,
    known: &[String],
) -> Result<Prepared, InvalidMessage> {
    let durability = message
        .durability
        .ok_or_else(|| InvalidMessage::new("SwapDeviceDocument.durability", "it is missing"))?;
    let durability = Durability::try_from(durability)?;
    let server_nodes = order(message, known)?;
    let (servers, endpoints) = servers(message, &server_nodes)?;
    let millis = |ms: u32| Duration::from_millis(u64::from(ms));
    Ok(Prepared {
        document: Document {
            generation: Generation::new(message.generation),
            durability,
            write_hold: millis(message.write_hold_ms),
            read_stall: millis(message.read_stall_ms),
            empty_slab_hold: millis(message.empty_slab_hold_ms),
            reserve_sets_max: message.reserve_sets_max,
            servers,
            sets: sets(message, &server_nodes)?,
        },
        endpoints,
        server_nodes,
        attached: message.attached,
        copy_bandwidth: (message.copy_bytes_per_second > 0)
            .then(|| Bytes::new(message.copy_bytes_per_second)),
    })
}

/// Known servers keep their places, new ones come behind.
fn order(
    message: &pb::SwapDeviceDocument,
    known: &[String],
) -> Result<Vec<String>, InvalidMessage> {
    let mut nodes = known.to_vec();
    let mut named = BTreeSet::new();
    for server in &message.servers {
        let node: NodeName = server
            .node
            .parse()
            .map_err(|error| InvalidMessage::new("ServerEndpoint.node", error))?;
        if !named.insert(node.as_str().to_owned()) {
            let reason = format!("{node} is named twice");
            return Err(InvalidMessage::new("ServerEndpoint.node", reason));
        }
        if !nodes.iter().any(|known| known == node.as_str()) {
            nodes.push(node.into());
        }
    }
    if nodes.len() > SERVERS_MAX {
        let reason = format!("a device can know {SERVERS_MAX} servers in its life");
        return Err(InvalidMessage::new("SwapDeviceDocument.servers", reason));
    }
    Ok(nodes)
}

type Servers = (Vec<ServerDescriptor>, Vec<Option<Endpoint>>);

fn servers(message: &pb::SwapDeviceDocument, nodes: &[String]) -> Result<Servers, InvalidMessage> {
    let mut domains: BTreeMap<FailureDomain, u16> = BTreeMap::new();
    let mut descriptors = Vec::with_capacity(nodes.len());
    let mut endpoints = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(server) = message.servers.iter().find(|server| server.node == *node) else {
            descriptors.push(ServerDescriptor {
                incarnation: None,
                domain: u16::MAX,
            });
            endpoints.push(None);
            continue;
        };
        let invalid = |field, error: &dyn std::fmt::Display| {
            InvalidMessage::new(field, format!("{error} (server {node})"))
        };
        let tcp = server
            .tcp_address
            .parse()
            .map_err(|error| invalid("ServerEndpoint.tcp_address", &error))?;
        let rdma = Some(&server.rdma_address).filter(|address| !address.is_empty());
        let rdma = rdma.map(|address| address.parse()).transpose();
        let rdma = rdma.map_err(|error| invalid("ServerEndpoint.rdma_address", &error))?;
        let domain: FailureDomain = server
            .failure_domain
            .parse()
            .map_err(|error| invalid("ServerEndpoint.failure_domain", &error))?;
        let incarnation = IncarnationId::try_from(server.incarnation.as_slice())
            .map_err(|error| invalid("ServerEndpoint.incarnation", &error))?;
        let next = u16::try_from(domains.len()).unwrap_or(u16::MAX);
        descriptors.push(ServerDescriptor {
            incarnation: Some(incarnation),
            domain: *domains.entry(domain).or_insert(next),
        });
        endpoints.push(Some(Endpoint { tcp, rdma }));
    }
    Ok((descriptors, endpoints))
}

fn sets(
    message: &pb::SwapDeviceDocument,
    nodes: &[String],
) -> Result<Vec<SetGrant>, InvalidMessage> {
    let mut ids = BTreeSet::new();
    let present = |name: &String| message.servers.iter().any(|server| server.node == *name);
    let index: BTreeMap<&str, u16> = nodes
        .iter()
        .zip(0_u16..)
        .filter(|(name, _)| present(name))
        .map(|(name, index)| (name.as_str(), index))
        .collect();
    let grant = |set: &pb::ReplicaSet| {
        let invalid = |field, reason: String| {
            InvalidMessage::new(field, format!("{reason} (set {})", set.set_id))
        };
        if !ids.insert(set.set_id) {
            return Err(invalid("ReplicaSet.set_id", "it occurs twice".to_owned()));
        }
        if set.replicas.is_empty() || set.replicas.len() > Copies::MAX {
            let reason = format!("{} copies are not 1 to {}", set.replicas.len(), Copies::MAX);
            return Err(invalid("ReplicaSet.replicas", reason));
        }
        let mut replicas: Vec<ReplicaPlace> = Vec::with_capacity(set.replicas.len());
        for replica in &set.replicas {
            let server = index.get(replica.node.as_str()).ok_or_else(|| {
                invalid(
                    "Replica.node",
                    format!("{} is no server of the document", replica.node),
                )
            })?;
            let server = ServerIndex::new(*server);
            if replicas.iter().any(|other| other.server == server) {
                let reason = format!("{} holds two copies", replica.node);
                return Err(invalid("Replica.node", reason));
            }
            replicas.push(ReplicaPlace {
                server,
                slot: SlotIndex::new(replica.slot),
            });
        }
        Ok(SetGrant {
            id: SetId::new(set.set_id),
            replicas,
        })
    };
    let mut grants: Vec<SetGrant> = message.sets.iter().map(grant).collect::<Result<_, _>>()?;
    grants.sort_unstable_by_key(|grant| grant.id);
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(node: &str) -> pb::ServerEndpoint {
        pb::ServerEndpoint {
            node: node.to_owned(),
            tcp_address: "10.0.0.1:7000".to_owned(),
            failure_domain: node.to_owned(),
            incarnation: vec![1; 16],
            rdma_address: String::new(),
        }
    }

    fn set(set_id: u64, nodes: &[&str]) -> pb::ReplicaSet {
        let replica = |node: &&str| pb::Replica {
            node: (*node).to_owned(),
            slot: 4,
        };
        pb::ReplicaSet {
            set_id,
            replicas: nodes.iter().map(replica).collect(),
        }
    }

    fn message(nodes: &[&str], sets: Vec<pb::ReplicaSet>) -> pb::SwapDeviceDocument {
        pb::SwapDeviceDocument {
            generation: 3,
            durability: Some(pb::Durability {
                copies: 2,
                spill: pb::Spill::None.into(),
            }),
            attached: true,
            write_hold_ms: 2000,
            servers: nodes.iter().map(|node| server(node)).collect(),
            sets,
            ..pb::SwapDeviceDocument::default()
        }
    }

    #[test]
    fn servers_keep_their_places_and_new_ones_come_behind() {
        let known = ["b".to_owned(), "gone".to_owned()];
        let prepared =
            prepare(&message(&["a", "b"], vec![set(1, &["a", "b"])]), &known).expect("valid");
        assert_eq!(prepared.server_nodes, ["b", "gone", "a"]);
        let present: Vec<bool> = prepared.endpoints.iter().map(Option::is_some).collect();
        assert_eq!(present, [true, false, true]);
        assert_eq!(prepared.document.servers[1].incarnation, None);
        let places = &prepared.document.sets[0].replicas;
        assert_eq!(
            places
                .iter()
                .map(|place| place.server.get())
                .collect::<Vec<_>>(),
            [2, 0]
        );
        assert_eq!(prepared.document.write_hold, Duration::from_secs(2));
    }

    #[test]
    fn equal_domains_get_equal_numbers() {
        let mut wanted = message(&["a", "b", "c"], Vec::new());
        wanted.servers[2].failure_domain = "a".to_owned();
        let prepared = prepare(&wanted, &[]).expect("valid");
        let domains: Vec<u16> = prepared.document.servers.iter().map(|s| s.domain).collect();
        assert_eq!(domains[0], domains[2]);
        assert_ne!(domains[0], domains[1]);
    }

    #[test]
    fn each_wrong_value_is_refused_by_its_field() {
        let wrong = |change: &dyn Fn(&mut pb::SwapDeviceDocument)| {
            let mut wanted = message(&["a", "b"], vec![set(1, &["a", "b"])]);
            change(&mut wanted);
            prepare(&wanted, &[]).expect_err("refused").field
        };
        assert_eq!(
            wrong(&|m| m.durability = None),
            "SwapDeviceDocument.durability"
        );
        assert_eq!(
            wrong(&|m| m.servers[0].node = "A".into()),
            "ServerEndpoint.node"
        );
        assert_eq!(
            wrong(&|m| m.servers[0].node = "b".into()),
            "ServerEndpoint.node"
        );
        assert_eq!(
            wrong(&|m| m.servers[0].tcp_address = "host:1".into()),
            "ServerEndpoint.tcp_address"
        );
        assert_eq!(
            wrong(&|m| m.servers[0].rdma_address = "host:1".into()),
            "ServerEndpoint.rdma_address"
        );
        assert_eq!(
            wrong(&|m| m.servers[0].incarnation.clear()),
            "ServerEndpoint.incarnation"
        );
        assert_eq!(wrong(&|m| m.sets.push(set(1, &["a"]))), "ReplicaSet.set_id");
        assert_eq!(
            wrong(&|m| m.sets[0].replicas.clear()),
            "ReplicaSet.replicas"
        );
        assert_eq!(wrong(&|m| m.sets[0] = set(1, &["a", "a"])), "Replica.node");
        assert_eq!(wrong(&|m| m.sets[0] = set(1, &["c"])), "Replica.node");
    }

    #[test]
    fn device_knows_a_bounded_number_of_servers() {
        let known: Vec<String> = (0..SERVERS_MAX).map(|n| format!("n{n}")).collect();
        assert!(prepare(&message(&["n0"], Vec::new()), &known).is_ok());
        let error = prepare(&message(&["new"], Vec::new()), &known).expect_err("full");
        assert_eq!(error.field, "SwapDeviceDocument.servers");
    }
}
