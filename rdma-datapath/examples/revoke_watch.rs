//! Watches a memory server give its slots back while a device uses them: what had become of each set
//! by the time its slot there was free.
//!
//! `cargo run --example revoke_watch -- --swapd SOCKET --server NODE=SOCKET [--seconds 400]` ends when
//! the server has none of the device's slots and no memory for any, and prints what it saw. A tool for
//! the lab, which judges nothing itself.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use dynamicswap_proto::common::v1 as pb;
use support::{device_report, server_report};

/// Between two looks: slots are freed in steps of a session, some tens of milliseconds apart.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Options {
    /// Control socket of swapd.
    #[arg(long)]
    swapd: PathBuf,
    /// Name and control socket of the memory server, NODE=SOCKET.
    #[arg(long)]
    server: String,
    /// Longest time.
    #[arg(long, default_value_t = 400)]
    seconds: u64,
}

/// What was seen.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "it is printed as a whole")]
struct Seen {
    /// Looks at both daemons.
    looks: u64,
    elapsed_ms: u128,
    /// Sets with a slab that had a slot there.
    bound: usize,
    /// Of these, sets that were seen with a copy under way elsewhere while the slot was there.
    under_way: usize,
    /// Sets whose slot was freed when another copy was whole.
    moved: usize,
    /// Sets whose slot was freed when no other copy was whole.
    freed_before_whole: usize,
    /// Sets whose slot was freed though the device still named it: never right.
    freed_while_in_use: usize,
    /// Sets whose slab came to nothing before their slot was freed.
    emptied: usize,
    /// Pages that the kernel wrote meanwhile.
    pages_written: u64,
    /// Memory of the server's file.
    memory_bytes_before: u64,
    memory_bytes_after: u64,
}

/// A bound set with a slot on the server, as it was seen last.
#[derive(Debug, Default)]
struct Watched {
    under_way: bool,
    gone: bool,
}

fn is_live(copy: &pb::ReplicaReport) -> bool {
    copy.state() == pb::ReplicaState::Live
}

struct Watch {
    node: String,
    sets: BTreeMap<u64, Watched>,
    seen: Seen,
}

impl Watch {
    /// Takes in what the server said and, of a later moment, what the device said. Of a slot that the
    /// server has freed the device must long know a better place: the order of the two makes sure that
    /// a set is never blamed for what came after.
    fn look(&mut self, server: &pb::MemoryServerReport, device: &pb::SwapDeviceReport) {
        self.seen.looks += 1;
        let is_ours = |grant: &&pb::SlotReport| grant.device_id == device.device_id;
        let here: Vec<u64> = server
            .grants
            .iter()
            .filter(is_ours)
            .map(|it| it.set_id)
            .collect();
        for set in device.sets.iter().filter(|set| set.slab.is_some()) {
            if !here.contains(&set.set_id) {
                continue;
            }
            let watched = self.sets.entry(set.set_id).or_default();
            let mut elsewhere = set.replicas.iter().filter(|copy| copy.node != self.node);
            watched.under_way |= elsewhere.any(|copy| !is_live(copy));
        }
        for (id, watched) in &mut self.sets {
            if watched.gone || here.contains(id) {
                continue;
            }
            watched.gone = true;
            let set = device.sets.iter().find(|set| set.set_id == *id);
            let Some(set) = set.filter(|set| set.slab.is_some() && !set.released) else {
                self.seen.emptied += 1;
                continue;
            };
            if set.replicas.iter().any(|copy| copy.node == self.node) {
                self.seen.freed_while_in_use += 1;
            } else if set.replicas.iter().any(is_live) {
                self.seen.moved += 1;
            } else {
                self.seen.freed_before_whole += 1;
            }
        }
    }

    fn is_over(&self, server: &pb::MemoryServerReport) -> bool {
        let gone = self.sets.values().all(|set| set.gone);
        gone && server.grants.is_empty() && server.slots_given_back == server.slots_total
    }
}

fn written(device: &pb::SwapDeviceReport) -> u64 {
    device.counters.as_ref().map_or(0, |it| it.pages_written)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (node, socket) = options
        .server
        .split_once('=')
        .context("--server is NODE=SOCKET")?;
    let socket = PathBuf::from(socket);
    let begun = Instant::now();
    let mut watch = Watch {
        node: node.to_owned(),
        sets: BTreeMap::new(),
        seen: Seen::default(),
    };
    watch.seen.memory_bytes_before = server_report(&socket)?.memory_bytes;
    let written_before = written(&device_report(&options.swapd)?);
    loop {
        let server = server_report(&socket)?;
        let device = device_report(&options.swapd)?;
        watch.look(&server, &device);
        let is_over = watch.is_over(&server);
        if is_over || begun.elapsed() > Duration::from_secs(options.seconds) {
            let sets = watch.sets.values();
            watch.seen.under_way = sets.filter(|set| set.under_way).count();
            watch.seen.bound = watch.sets.len();
            watch.seen.pages_written = written(&device).saturating_sub(written_before);
            watch.seen.memory_bytes_after = server.memory_bytes;
            watch.seen.elapsed_ms = begun.elapsed().as_millis();
            println!("{:#?}", watch.seen);
            anyhow::ensure!(
                is_over,
                "{node} still has {} slots of it, and memory for {} of {}",
                server.grants.len(),
                server.slots_total - server.slots_given_back,
                server.slots_total
            );
            return Ok(());
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}
