//! Grants slots by hand: makes a swap device work with memory servers without any control plane.
//!
//! `cargo run --example grant -- --swapd SOCKET --server NODE=SOCKET... [--copies 2] [--detach]`
//! Reads every daemon's report, takes slots of other devices back, spreads the device's slabs over the
//! servers, hands each its document, and prints the device's generation.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::daemon::v1::request;
use support::{ask, device_report, server_report};

/// A server zeroes what it took back within it.
const ZERO_TIME_MAX: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Options {
    /// Control socket of swapd.
    #[arg(long)]
    swapd: PathBuf,
    /// Name and control socket of a memory server, NODE=SOCKET.
    #[arg(long)]
    server: Vec<String>,
    /// Copies of each slab.
    #[arg(long, default_value_t = 2)]
    copies: u32,
    /// Spill mode: None, Async or Only.
    #[arg(long, default_value = "None")]
    spill: dynamicswap_types::Spill,
    /// Sets beyond those the device needs.
    #[arg(long, default_value_t = 0)]
    spare: u64,
    /// Keep the servers' RDMA addresses from the device, which then goes by TCP.
    #[arg(long)]
    tcp: bool,
    /// Detach the device instead of attaching it.
    #[arg(long)]
    detach: bool,
    /// Only print the report.
    #[arg(long)]
    report: bool,
}

struct Server {
    node: String,
    socket: PathBuf,
    report: pb::MemoryServerReport,
}

fn servers(options: &Options) -> anyhow::Result<Vec<Server>> {
    let named = options.server.iter().map(|text| {
        let (node, socket) = text.split_once('=').context("--server is NODE=SOCKET")?;
        let socket = PathBuf::from(socket);
        Ok(Server {
            node: node.to_owned(),
            report: server_report(&socket)?,
            socket,
        })
    });
    named.collect()
}

/// Takes back what other devices have, and waits until it may be granted again: a server grants no slot
/// that still belongs to somebody.
fn take_back(server: &Server, device: &[u8]) -> anyhow::Result<()> {
    let is_foreign = |grant: &pb::SlotReport| grant.device_id != device;
    if !server.report.grants.iter().any(is_foreign) {
        return Ok(());
    }
    let document = pb::MemoryServerDocument {
        generation: server.report.generation + 1,
        incarnation: server.report.incarnation.clone(),
        grants: Vec::new(),
        emptied: false,
    };
    ask(&server.socket, request::Kind::ApplyMemoryServer(document))?;
    let deadline = Instant::now() + ZERO_TIME_MAX;
    while server_report(&server.socket)?.slots_ready < server.report.slots_total {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} has not zeroed its slots in {ZERO_TIME_MAX:?}",
            server.node
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// Sets whose copies go around the servers.
fn compose(
    options: &Options,
    servers: &[Server],
    slabs: u64,
) -> anyhow::Result<Vec<pb::ReplicaSet>> {
    let mut next: BTreeMap<usize, u32> = BTreeMap::new();
    let mut sets = Vec::new();
    let copies = usize::try_from(options.copies)?;
    if options.spill != dynamicswap_types::Spill::Only {
        for set in 0..slabs {
            let first = usize::try_from(set)?;
            let replicas = (0..copies).map(|copy| {
                let server = (first + copy) % servers.len();
                let slot = next.entry(server).or_default();
                let replica = pb::Replica {
                    node: servers[server].node.clone(),
                    slot: *slot,
                };
                *slot += 1;
                replica
            });
            let replicas = replicas.collect();
            let set_id = set + 1;
            sets.push(pb::ReplicaSet { set_id, replicas });
        }
    }
    Ok(sets)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let device = device_report(&options.swapd)?;
    if options.report {
        println!("{device:#?}");
        return Ok(());
    }
    for server in servers(&options)? {
        take_back(&server, &device.device_id)?;
    }
    let servers = servers(&options)?;
    let slabs = device.size_bytes.div_ceil(device.slab_bytes) + options.spare;
    let sets = compose(&options, &servers, slabs)?;
    for server in &servers {
        let grants = sets.iter().flat_map(|set| {
            let own = set
                .replicas
                .iter()
                .filter(|replica| replica.node == server.node);
            own.map(|replica| pb::SlotGrant {
                slot: replica.slot,
                device_id: device.device_id.clone(),
                set_id: set.set_id,
            })
        });
        let document = pb::MemoryServerDocument {
            generation: server.report.generation + 1,
            incarnation: server.report.incarnation.clone(),
            grants: grants.collect(),
            emptied: false,
        };
        ask(&server.socket, request::Kind::ApplyMemoryServer(document))?;
    }
    let endpoint = |server: &Server| pb::ServerEndpoint {
        node: server.node.clone(),
        tcp_address: server.report.tcp_address.clone(),
        failure_domain: server.node.clone(),
        incarnation: server.report.incarnation.clone(),
        rdma_address: match options.tcp {
            true => String::new(),
            false => server.report.rdma_address.clone(),
        },
    };
    let document = pb::SwapDeviceDocument {
        generation: device.generation + 1,
        device_id: device.device_id,
        durability: Some(pb::Durability {
            copies: options.copies,
            spill: pb::Spill::from(options.spill).into(),
        }),
        attached: !options.detach,
        write_hold_ms: 2_000,
        read_stall_ms: 30_000,
        empty_slab_hold_ms: 5_000,
        reserve_sets_max: u32::try_from(slabs)?,
        copy_bytes_per_second: 0,
        servers: servers.iter().map(endpoint).collect(),
        sets,
    };
    ask(&options.swapd, request::Kind::ApplySwapDevice(document))?;
    let device = device_report(&options.swapd)?;
    println!("generation {} applied", device.generation);
    Ok(())
}
