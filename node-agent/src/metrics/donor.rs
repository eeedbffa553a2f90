//! The node's memory server.

use dynamicswap_proto::common::v1::MemoryServerReport;

use super::device::protected;
use super::{Family, Kind};

pub(super) fn families(server: &MemoryServerReport) -> Vec<Family> {
    let slots = Family::new(
        "dynamicswap_memory_server_slots",
        "Slots by what they are",
        Kind::Gauge,
    );
    let refused = Family::new(
        "dynamicswap_memory_server_refused",
        "What was refused: an older epoch, a foreign slot, a message that is none, a foreign RDMA key",
        Kind::Counter,
    );
    let mut families = vec![
        slots
            .with(&[("state", "granted")], server.grants.len() as u64)
            .with(&[("state", "ready")], server.slots_ready)
            .with(&[("state", "given_back")], server.slots_given_back),
        Family::gauge(
            "dynamicswap_memory_server_capacity_bytes",
            "Memory of all slots",
            u64::from(server.slots_total).saturating_mul(server.slot_bytes),
        ),
        Family::gauge(
            "dynamicswap_memory_server_memory_bytes",
            "Memory of the host that the slots take now",
            server.memory_bytes,
        ),
        Family::new(
            "dynamicswap_memory_server_bytes",
            "Bytes served by the server's own processor, which has no part in RDMA",
            Kind::Counter,
        )
        .with(&[("op", "read")], server.bytes_read)
        .with(&[("op", "write")], server.bytes_written),
        Family::gauge(
            "dynamicswap_memory_server_connections",
            "Sessions of borrowers",
            server.connections,
        ),
        refused
            .with(&[("reason", "epoch")], server.refused_epoch)
            .with(&[("reason", "owner")], server.refused_owner)
            .with(&[("reason", "malformed")], server.refused_malformed)
            .with(&[("reason", "key")], server.refused_key),
        Family::gauge(
            "dynamicswap_memory_server_warnings",
            "What the host does not permit the memory server",
            server.warnings.len() as u64,
        ),
    ];
    families.extend(server.protection.map(|it| {
        let name = "dynamicswap_memory_server_protected";
        let help = "Whether the host permits the memory server to protect itself";
        protected(name, help, it)
    }));
    families
}
