//! The device's report, put together from the I/O thread's snapshot and the memory file.

use std::sync::atomic::Ordering;

use dynamicswap_engine::engine::{LinkState, ServerState};
use dynamicswap_engine::heat::Heat;
use dynamicswap_engine::report::SetView;
use dynamicswap_engine::sets::{Replica, ReplicaState};
use dynamicswap_engine::tables::{AttachState, Counter, Header, PageEntry};
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_types::{Bytes, Integrity, MonotonicTime, PageCount, ServerIndex, SlabIndex};

use super::control::{Control, DETACH_WAITS, HOLDER_GONE};
use super::mailbox::Snapshot;
use super::memory::SwapdMemory;
use super::sentences::Nodes;
use crate::daemon::clock::monotonic_now;
use crate::transport::remote::Way;

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct ReportParts<'a> {
    /// The control side.
    pub control: &'a Control,
    /// Names of servers.
    pub nodes: Nodes<'a>,
    /// The I/O thread's part.
    pub snapshot: &'a Snapshot,
}

/// The whole report.
#[must_use]
pub fn build(parts: &ReportParts<'_>) -> pb::SwapDeviceReport {
    let ReportParts {
        control, snapshot, ..
    } = *parts;
    let memory = &control.memory;
    let header = memory.header();
    let (state, number) = memory.device();
    let own = OwnMemory::read();
    let now = monotonic_now();
    pb::SwapDeviceReport {
        device_id: control.identity.device_id.to_bytes().to_vec(),
        epoch: header.epoch.load(Ordering::Acquire),
        generation: snapshot.generation.get(),
        size_bytes: control.identity.size.get(),
        slab_bytes: control.identity.slab.bytes().get(),
        front_end: control.front_end.kind.name().to_owned(),
        front_end_reason: control.front_end.reason.clone(),
        attached: state == AttachState::Attached,
        device_path: control.device_path(number),
        pages_used: snapshot.pages_used,
        links: links(parts),
        sets: snapshot
            .sets
            .iter()
            .map(|set| {
                let read = |slab| SlabUse::read(memory, slab, control.identity.spill, now);
                set_report(
                    set,
                    parts.nodes,
                    set.slab.map_or_else(SlabUse::default, read),
                )
            })
            .collect(),
        counters: Some(counters(header)),
        read_latency: Some(control.latencies.read.report()),
        write_latency: Some(control.latencies.write.report()),
        recent_read_latency: Some(control.latencies.recent_reads()),
        protection: Some(control.protection.report()),
        warnings: warnings(control, snapshot),
        engine_starts: header.engine_starts.load(Ordering::Acquire),
        holder_pid: header.holder_pid.load(Ordering::Acquire),
        engine_pid: std::process::id(),
        events: control.events.snapshot(),
        pages_degraded: snapshot.pages_degraded,
        rss_bytes: own.resident.get(),
        own_swap_bytes: own.swapped.get(),
        spill_bytes: control.identity.spill.get(),
        pages_spilled: pages_spilled(memory, control.identity.spill),
        integrity: pb::Integrity::from(control.identity.integrity).into(),
    }
}

fn warnings(control: &Control, snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = control.warnings.clone();
    if !control.identity.noswap {
        warnings.push(
            "the memory file is not on a noswap tmpfs (Linux 6.4): it stays out of swap only while a process keeps it locked".to_owned(),
        );
    }
    if control.identity.integrity == Integrity::None {
        warnings.push("pages are readable outside this node (--integrity none)".to_owned());
    }
    if control.is_holder_gone() {
        warnings.push(HOLDER_GONE.to_owned());
    }
    let attached = control.memory.device().0 == AttachState::Attached;
    if attached && !control.memory.attach_desired() {
        warnings.push(DETACH_WAITS.to_owned());
    }
    let failure = control.memory.failure();
    if !failure.is_empty() {
        warnings.push(failure);
    }
    if snapshot.events_dropped > 0 {
        let dropped = snapshot.events_dropped;
        warnings.push(format!(
            "{dropped} events came too fast and are not in the list"
        ));
    }
    if snapshot.front_end.refused > 0 {
        let refused = snapshot.front_end.refused;
        warnings.push(format!(
            "{refused} requests were refused because they are not whole pages of the device"
        ));
    }
    warnings
}

fn links(parts: &ReportParts<'_>) -> Vec<pb::LinkReport> {
    let now = monotonic_now();
    let servers = (0..).map(ServerIndex::new).zip(&parts.snapshot.servers);
    let ways = &parts.snapshot.ways;
    let way = |server: ServerIndex| ways.get(server.as_usize()).copied().flatten();
    // One that is not named has no link, which is not a link that is down.
    let named = servers.filter(|(_, state)| state.named);
    named
        .map(|(server, state)| pb::LinkReport {
            node: parts.nodes.name(server).to_owned(),
            state: link_state(state).into(),
            for_ms: u64::try_from(now.since(state.since).as_millis()).unwrap_or(u64::MAX),
            bytes_read: PageCount::new(state.pages_read).bytes().get(),
            bytes_written: PageCount::new(state.pages_written).bytes().get(),
            pages_held: pages_held(server, &parts.snapshot.sets),
            transport: way(server).map_or("", Way::name).to_owned(),
            transport_reason: way(server).map_or(String::new(), |way| way.to_string()),
        })
        .collect()
}

fn link_state(state: &ServerState) -> pb::LinkState {
    match state.link {
        LinkState::Connecting => pb::LinkState::Connecting,
        LinkState::Up => pb::LinkState::Up,
        LinkState::Down => pb::LinkState::Down,
        LinkState::Lost => pb::LinkState::Lost,
        LinkState::Refused => pb::LinkState::Refused,
    }
}

/// Pages of the slabs that have a copy on the server.
fn pages_held(server: ServerIndex, sets: &[SetView]) -> u64 {
    let holds = |set: &&SetView| {
        let mut replicas = set.replicas.iter().flatten();
        replicas.any(|replica| replica.place.server == server)
    };
    sets.iter()
        .filter(holds)
        .map(|set| u64::from(set.pages_used))
        .sum()
}

/// What the tables say of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SlabUse {
    heat: Heat,
    on_disk: bool,
}

impl SlabUse {
    fn read(memory: &SwapdMemory, slab: SlabIndex, spill: Bytes, now: MonotonicTime) -> Self {
        let tables = memory.tables();
        let slab_pages = memory.geometry().slab_pages as usize;
        let heat = tables
            .slabs
            .get(slab.as_usize())
            .map(|it| it.heat().load(now));
        let pages = tables.pages.chunks(slab_pages).nth(slab.as_usize());
        let mut records = pages.into_iter().flatten().map(PageEntry::load);
        Self {
            heat: heat.unwrap_or_default(),
            on_disk: spill > Bytes::ZERO
                && records.all(|record| record.version.is_empty() || record.disk),
        }
    }
}

fn set_report(set: &SetView, nodes: Nodes<'_>, slab: SlabUse) -> pb::SetReport {
    let replica = |replica: &Replica| pb::ReplicaReport {
        node: nodes.name(replica.place.server).to_owned(),
        slot: replica.place.slot.get(),
        state: replica_state(replica.state).into(),
    };
    pb::SetReport {
        set_id: set.id.get(),
        slab: set.slab.map(dynamicswap_types::SlabIndex::get),
        pages_used: set.pages_used,
        released: set.released,
        replicas: set.replicas.iter().flatten().map(replica).collect(),
        read_heat: slab.heat.reads_milli,
        write_heat: slab.heat.writes_milli,
        on_disk: slab.on_disk,
    }
}

fn replica_state(state: ReplicaState) -> pb::ReplicaState {
    match state {
        ReplicaState::Live => pb::ReplicaState::Live,
        ReplicaState::Rebuilding => pb::ReplicaState::Rebuilding,
        ReplicaState::Stale | ReplicaState::Lost => pb::ReplicaState::Stale,
    }
}

fn counters(header: &Header) -> pb::DeviceCounters {
    let get = |counter| header.counter(counter);
    pb::DeviceCounters {
        reads: get(Counter::Reads),
        writes: get(Counter::Writes),
        pages_read: get(Counter::PagesRead),
        pages_written: get(Counter::PagesWritten),
        pages_discarded: get(Counter::PagesDiscarded),
        write_failures: get(Counter::WriteFailures),
        read_failures: get(Counter::ReadFailures),
        integrity_failures: get(Counter::IntegrityFailures),
        pages_repaired: get(Counter::PagesRepaired),
        pages_rebuilt: get(Counter::PagesRebuilt),
        pages_lost: get(Counter::PagesLost),
        requests_resent: get(Counter::RequestsResent),
        writes_held: get(Counter::WritesHeld),
        slabs_mapped: get(Counter::SlabsMapped),
        slabs_returned: get(Counter::SlabsReturned),
    }
}

/// Pages that only the disk holds.
fn pages_spilled(memory: &SwapdMemory, spill: Bytes) -> u64 {
    if spill == Bytes::ZERO {
        return 0;
    }
    let pages = memory.tables().pages.iter().map(|page| page.load());
    let only_disk = pages.filter(|page| page.disk && !page.remote && !page.version.is_empty());
    only_disk.count() as u64
}

/// What this process takes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct OwnMemory {
    resident: Bytes,
    swapped: Bytes,
}

impl OwnMemory {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status");
        Self::parse(&status.unwrap_or_default())
    }

    fn parse(status: &str) -> Self {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            Bytes::new(number.unwrap_or(0_u64).saturating_mul(1024))
        };
        Self {
            resident: kib("VmRSS:"),
            swapped: kib("VmSwap:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::document::ReplicaPlace;
    use dynamicswap_types::{SetId, SlotIndex};

    #[test]
    fn own_memory_is_read_from_the_kernel_s_words() {
        let own = OwnMemory::parse("Name:\tx\nVmRSS:\t   12 kB\nVmSwap:\t 4 kB\n");
        assert_eq!(own.resident, Bytes::new(12 * 1024));
        assert_eq!(own.swapped, Bytes::new(4096));
        assert!(OwnMemory::read().resident > Bytes::ZERO);
    }

    #[test]
    fn set_is_reported_with_the_names_of_its_nodes() {
        let replica = |server, state| {
            let place = ReplicaPlace {
                server: ServerIndex::new(server),
                slot: SlotIndex::new(3),
            };
            Some(Replica { place, state })
        };
        let set = SetView {
            id: SetId::new(5),
            slab: Some(SlabIndex::new(2)),
            pages_used: 10,
            released: false,
            replicas: [
                replica(1, ReplicaState::Live),
                replica(0, ReplicaState::Lost),
                None,
            ],
        };
        let nodes = ["a".to_owned(), "b".to_owned()];
        let slab_use = SlabUse {
            heat: Heat {
                reads_milli: 7,
                writes_milli: 8,
            },
            on_disk: true,
        };
        let report = set_report(&set, Nodes(&nodes), slab_use);
        assert_eq!((report.read_heat, report.write_heat), (7, 8));
        assert_eq!((report.set_id, report.slab), (5, Some(2)));
        let replicas: Vec<(&str, i32)> = report
            .replicas
            .iter()
            .map(|replica| (replica.node.as_str(), replica.state))
            .collect();
        assert_eq!(
            replicas,
            [
                ("b", pb::ReplicaState::Live.into()),
                ("a", pb::ReplicaState::Stale.into())
            ]
        );
        assert_eq!(pages_held(ServerIndex::new(0), &[set]), 10);
        assert_eq!(pages_held(ServerIndex::new(2), &[set]), 0);
    }
}
