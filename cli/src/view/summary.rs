//! The figures that `status`, `top` and the demo show, taken from a controller's status.
//!
//! Owns what is counted and how. Pure: knows neither a terminal nor a clock.

use std::collections::{BTreeMap, BTreeSet};

use dynamicswap_proto::common::v1 as common;
use dynamicswap_proto::control::v1 as pb;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Milliseconds since the controller started.
    pub uptime_ms: u64,
    /// The controller's term.
    pub term: u64,
    /// Policies that are stored.
    pub policies: u32,
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Swap devices, by node.
    pub devices: Vec<Device>,
    /// What each donor holds, by name.
    pub donors: Vec<Donor>,
    /// Containers under a policy or watched for one.
    pub containers: Vec<Container>,
    /// Why the plan waits, or what it did.
    pub plan: Vec<String>,
    /// What a person should know, most urgent first: why the plan waits, and what hosts did not
    /// permit.
    pub notes: Vec<String>,
    /// Events, oldest first.
    pub events: Vec<Event>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// "donor", "borrower" or both.
    pub role: String,
    /// Its failure domain.
    pub domain: String,
    /// What is wrong with it; empty if nothing is.
    pub problem: String,
    /// Resident memory of its agent.
    pub agent_rss: u64,
}

/// One swap device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// The borrower.
    pub node: String,
    /// Its path, such as /dev/loop3.
    pub path: String,
    /// Whether it is in use as swap.
    pub attached: bool,
    /// Its front end.
    pub front_end: String,
    /// Why that one was chosen.
    pub front_end_reason: String,
    /// Ways to donors that are in use, "rdma" or "tcp", each once.
    pub transports: Vec<String>,
    /// Its size.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
    /// Slabs with a set.
    pub slabs_mapped: usize,
    /// Sets in reserve.
    pub sets_reserve: usize,
    /// Mapped slabs of which a copy is missing, stale or being rebuilt.
    pub sets_unwhole: usize,
    /// Bytes of pages whose class is not satisfied.
    pub degraded: u64,
    /// Pages that are lost.
    pub pages_lost: u64,
    /// Read latency over the device's life.
    pub read: Latency,
    /// Write latency over the device's life.
    pub write: Latency,
    /// Pages read so far.
    pub pages_read: u64,
    /// Pages written so far.
    pub pages_written: u64,
    /// Engine processes started in the device's life.
    pub engine_starts: u32,
    /// The engine's process.
    pub engine_pid: u32,
    /// The holder's process.
    pub holder_pid: u32,
    /// Size of its spill file; 0 for none.
    pub spill: u64,
    /// Bytes of pages that only the spill file holds.
    pub spilled: u64,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
}

/// One donor, from its own report and from the borrowers' links.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Donor {
    /// Its node.
    pub node: String,
    /// Bytes of pages that it holds, rebuilding copies included.
    pub held: u64,
    /// Bytes lent in slots.
    pub lent: u64,
    /// Bytes that it can lend in all.
    pub capacity: u64,
    /// State of the worst link to it: "up", "down", "lost", …; empty for no link.
    pub link: String,
    /// Bytes read from it by borrowers.
    pub bytes_read: u64,
    /// Bytes written to it by borrowers.
    pub bytes_written: u64,
    /// The memory server's process.
    pub pid: u32,
    /// Sets that have a copy there, reserve included.
    pub sets: usize,
    /// Bytes of its host that its memory server holds now, lent or ready to be.
    pub memory: u64,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Container {
    /// Namespace and name.
    pub name: String,
    /// Bytes in RAM.
    pub memory: u64,
    /// Limit of those.
    pub limit: u64,
    /// Bytes swapped out.
    pub swap: u64,
    /// PSI some, percent of the last 10 s.
    pub some: f64,
    /// PSI full, percent of the last 10 s.
    pub full: f64,
    /// Calm, Pressured or Stalled.
    pub state: String,
    /// The figures and the rule that said so.
    pub reason: String,
    /// The policy that selects it.
    pub policy: String,
    /// Bytes that were sent ahead of the need, and that came home before anybody asked for them.
    pub offloaded: u64,
    /// See above.
    pub returned: u64,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its number in the controller's log.
    pub sequence: u64,
    /// When.
    pub unix_ms: u64,
    /// Where.
    pub node: String,
    /// One CamelCase word.
    pub kind: String,
    /// A sentence.
    pub message: String,
}

impl Summary {
    /// Counts what `status` tells.
    #[must_use]
    pub fn of(status: &pb::ClusterStatus) -> Self {
        let mut summary = Self {
            uptime_ms: status.uptime_ms,
            term: status.term,
            policies: status.policies,
            plan: status.plan_report.clone(),
            events: status.events.iter().map(event).collect(),
            ..Self::default()
        };
        let mut donors: BTreeMap<String, Donor> = BTreeMap::new();
        let mut warnings = Warnings::default();
        for node in &status.nodes {
            summary.nodes.push(node_row(node));
            let Some(report) = &node.report else { continue };
            warnings.add(&format!("{}/agent", node.node), &report.warnings);
            if let Some(server) = &report.memory_server {
                let donor = donor_entry(&mut donors, &node.node);
                donor.capacity = u64::from(server.slots_total) * server.slot_bytes;
                donor.lent = server.grants.len() as u64 * server.slot_bytes;
                donor.pid = server.pid;
                donor.memory = server.memory_bytes;
                warnings.add(&format!("{}/memory-server", node.node), &server.warnings);
            } else if node.donor {
                donor_entry(&mut donors, &node.node);
            }
            if let Some(device) = &report.swap_device {
                summary.devices.push(device_row(&node.node, device));
                add_held(&mut donors, device);
                warnings.add(&format!("{}/swapd", node.node), &device.warnings);
            }
            let containers = report.containers.iter().map(container_row);
            summary.containers.extend(containers);
        }
        let waits = status.plan_waits.iter();
        summary.notes = waits.map(|wait| format!("the plan {wait}")).collect();
        summary.notes.extend(warnings.lines());
        summary.donors = donors.into_values().collect();
        summary.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        summary
    }

    /// Bytes of pages on swap devices: each page once, however many copies there are.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.devices.iter().map(|device| device.used).sum()
    }

    /// Bytes of pages whose class is not satisfied.
    #[must_use]
    pub fn degraded(&self) -> u64 {
        self.devices.iter().map(|device| device.degraded).sum()
    }

    /// What a donor's memory server takes of its host; nothing while it is dead.
    #[must_use]
    pub fn memory_of(&self, donor: &str) -> u64 {
        let donor = self.donors.iter().find(|d| d.node == donor);
        donor.map_or(0, |donor| donor.memory)
    }

    /// What a donor holds.
    #[must_use]
    pub fn held_by(&self, donor: &str) -> u64 {
        let donor = self.donors.iter().find(|d| d.node == donor);
        donor.map_or(0, |donor| donor.held)
    }
}

/// Warnings of the daemons: equal ones of several daemons are one line.
#[derive(Debug, Default)]
struct Warnings {
    /// Each text with the daemons that say it, in the order in which they came.
    said: Vec<(String, Vec<String>)>,
}

impl Warnings {
    fn add(&mut self, daemon: &str, warnings: &[String]) {
        for warning in warnings {
            match self.said.iter_mut().find(|(text, _)| text == warning) {
                Some((_, daemons)) => daemons.push(daemon.to_owned()),
                None => self.said.push((warning.clone(), vec![daemon.to_owned()])),
            }
        }
    }

    /// What few say comes first: what every daemon says is the host's, and there for good.
    fn lines(&self) -> Vec<String> {
        let mut said: Vec<_> = self.said.iter().collect();
        said.sort_by_key(|(_, daemons)| daemons.len());
        let line = |(text, daemons): &(String, Vec<String>)| match &daemons[..] {
            [one] => format!("{one}: {text}"),
            several => format!("{} daemons: {text}", several.len()),
        };
        said.into_iter().map(line).collect()
    }
}

fn donor_entry<'a>(donors: &'a mut BTreeMap<String, Donor>, node: &str) -> &'a mut Donor {
    let entry = donors.entry(node.to_owned());
    entry.or_insert_with(|| Donor {
        node: node.to_owned(),
        ..Donor::default()
    })
}

/// Adds what a device's sets have on each donor: copies that serve or are being rebuilt.
fn add_held(donors: &mut BTreeMap<String, Donor>, device: &common::SwapDeviceReport) {
    for link in &device.links {
        let donor = donor_entry(donors, &link.node);
        donor.bytes_read += link.bytes_read;
        donor.bytes_written += link.bytes_written;
        link_word(link.state()).clone_into(&mut donor.link);
    }
    for set in device.sets.iter().filter(|set| !set.released) {
        for replica in &set.replicas {
            donor_entry(donors, &replica.node).sets += 1;
            let holds = matches!(
                replica.state(),
                common::ReplicaState::Live | common::ReplicaState::Rebuilding
            );
            let reachable = donors
                .get(&replica.node)
                .is_none_or(|donor| !matches!(donor.link.as_str(), "down" | "lost"));
            if set.slab.is_some() && holds && reachable {
                donor_entry(donors, &replica.node).held += u64::from(set.pages_used) * PAGE;
            }
        }
    }
}

fn link_word(state: common::LinkState) -> &'static str {
    match state {
        common::LinkState::Unspecified => "",
        common::LinkState::Connecting => "connecting",
        common::LinkState::Up => "up",
        common::LinkState::Down => "down",
        common::LinkState::Lost => "lost",
        common::LinkState::Refused => "refused",
    }
}

fn node_row(node: &pb::NodeStatus) -> Node {
    let role = match (node.borrower, node.donor) {
        (true, true) => "borrower, donor",
        (true, false) => "borrower",
        (false, true) => "donor",
        (false, false) => "",
    };
    let report = node.report.as_ref();
    let problem = match report {
        _ if !node.connected => format!("its agent is away since {} ms", node.last_seen_ms),
        None => "no report yet".to_owned(),
        Some(report) => [
            &report.swap_device_error,
            &report.memory_server_error,
            report.refusals.first().unwrap_or(&String::new()),
        ]
        .into_iter()
        .find(|text| !text.is_empty())
        .cloned()
        .unwrap_or_default(),
    };
    Node {
        name: node.node.clone(),
        role: role.to_owned(),
        domain: node.failure_domain.clone(),
        problem,
        agent_rss: report.map_or(0, |report| report.agent_rss_bytes),
    }
}

fn device_row(node: &str, device: &common::SwapDeviceReport) -> Device {
    let counters = device.counters.unwrap_or_default();
    let bound = device.sets.iter().filter(|set| set.slab.is_some()).count();
    let unbound = device
        .sets
        .iter()
        .filter(|s| s.slab.is_none() && !s.released);
    Device {
        node: node.to_owned(),
        path: device.device_path.clone(),
        attached: device.attached,
        front_end: device.front_end.clone(),
        front_end_reason: device.front_end_reason.clone(),
        transports: transports(device),
        size: device.size_bytes,
        used: device.pages_used * PAGE,
        slabs_mapped: bound,
        sets_reserve: unbound.count(),
        sets_unwhole: device.sets.iter().filter(|set| is_unwhole(set)).count(),
        degraded: device.pages_degraded * PAGE,
        pages_lost: counters.pages_lost,
        read: latency(device.read_latency.as_ref()),
        write: latency(device.write_latency.as_ref()),
        pages_read: counters.pages_read,
        pages_written: counters.pages_written,
        engine_starts: device.engine_starts,
        engine_pid: device.engine_pid,
        holder_pid: device.holder_pid,
        spill: device.spill_bytes,
        spilled: device.pages_spilled * PAGE,
    }
}

fn transports(device: &common::SwapDeviceReport) -> Vec<String> {
    let up = |link: &&common::LinkReport| link.state() == common::LinkState::Up;
    let ways = device.links.iter().filter(up);
    let ways: BTreeSet<&str> = ways.map(|link| link.transport.as_str()).collect();
    let named = ways.into_iter().filter(|way| !way.is_empty());
    named.map(str::to_owned).collect()
}

fn is_unwhole(set: &common::SetReport) -> bool {
    let live = |replica: &common::ReplicaReport| replica.state() == common::ReplicaState::Live;
    set.slab.is_some() && !set.replicas.iter().all(live)
}

fn latency(report: Option<&common::LatencyReport>) -> Latency {
    report.map_or_else(Latency::default, |report| Latency {
        p50_us: report.p50_us.into(),
        p99_us: report.p99_us.into(),
    })
}

fn container_row(report: &pb::ContainerReport) -> Container {
    let avg10 = |line: &Option<pb::PressureLine>| line.as_ref().map_or(0.0, |line| line.avg10);
    Container {
        name: format!("{}/{}", report.namespace, report.name),
        memory: report.memory_bytes,
        limit: report.memory_limit_bytes,
        swap: report.swap_bytes,
        some: avg10(&report.some),
        full: avg10(&report.full),
        state: report.pressure_state.clone(),
        reason: report.pressure_reason.clone(),
        policy: report.policy.clone(),
        offloaded: report.offloaded_bytes,
        returned: report.returned_bytes,
    }
}

fn event(event: &pb::ClusterEvent) -> Event {
    Event {
        sequence: event.sequence,
        unix_ms: event.unix_ms,
        node: event.node.clone(),
        kind: event.kind.clone(),
        message: event.message.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn replica(node: &str, state: common::ReplicaState) -> common::ReplicaReport {
        common::ReplicaReport {
            node: node.to_owned(),
            slot: 1,
            state: state.into(),
        }
    }

    fn set(slab: Option<u32>, replicas: Vec<common::ReplicaReport>) -> common::SetReport {
        common::SetReport {
            set_id: 1 + u64::from(slab.unwrap_or(9)),
            slab,
            pages_used: 100,
            released: false,
            replicas,
            ..common::SetReport::default()
        }
    }

    fn link(node: &str, state: common::LinkState) -> common::LinkReport {
        common::LinkReport {
            node: node.to_owned(),
            state: state.into(),
            transport: "tcp".to_owned(),
            ..common::LinkReport::default()
        }
    }

    fn device() -> common::SwapDeviceReport {
        use common::ReplicaState::{Live, Rebuilding};
        common::SwapDeviceReport {
            device_path: "/dev/loop3".to_owned(),
            attached: true,
            front_end: "fuse-loop".to_owned(),
            front_end_reason: "no ublk".to_owned(),
            size_bytes: 2 << 30,
            pages_used: 200,
            pages_degraded: 100,
            engine_starts: 2,
            links: vec![
                link("donor-1", common::LinkState::Up),
                link("donor-2", common::LinkState::Down),
            ],
            sets: vec![
                set(
                    Some(0),
                    vec![replica("donor-1", Live), replica("donor-2", Live)],
                ),
                set(
                    Some(1),
                    vec![replica("donor-1", Live), replica("donor-3", Rebuilding)],
                ),
                set(None, vec![replica("donor-1", Live)]),
            ],
            read_latency: Some(common::LatencyReport {
                count: 9,
                p50_us: 55,
                p99_us: 210,
                max_us: 4000,
            }),
            ..common::SwapDeviceReport::default()
        }
    }

    fn node(name: &str, report: pb::NodeReport) -> pb::NodeStatus {
        pb::NodeStatus {
            node: name.to_owned(),
            connected: true,
            donor: name.starts_with("donor"),
            borrower: name == "borrower",
            failure_domain: name.to_owned(),
            report: Some(report),
            ..pb::NodeStatus::default()
        }
    }

    fn donor(name: &str, error: &str) -> pb::NodeStatus {
        let server = common::MemoryServerReport {
            slot_bytes: 16 << 20,
            slots_total: 64,
            grants: vec![common::SlotReport::default(); 3],
            ..common::MemoryServerReport::default()
        };
        let report = pb::NodeReport {
            memory_server: error.is_empty().then_some(server),
            memory_server_error: error.to_owned(),
            ..pb::NodeReport::default()
        };
        node(name, report)
    }

    fn borrower() -> pb::NodeStatus {
        let container = pb::ContainerReport {
            namespace: "default".to_owned(),
            name: "verify".to_owned(),
            memory_bytes: 256 << 20,
            memory_limit_bytes: 256 << 20,
            swap_bytes: 200 << 20,
            some: Some(pb::PressureLine {
                avg10: 41.2,
                ..pb::PressureLine::default()
            }),
            pressure_state: "Pressured".to_owned(),
            pressure_reason: "some was 41.2 % of 10 s, the threshold is 10 %".to_owned(),
            policy: "default/demo".to_owned(),
            ..pb::ContainerReport::default()
        };
        let report = pb::NodeReport {
            swap_device: Some(device()),
            containers: vec![container],
            ..pb::NodeReport::default()
        };
        node("borrower", report)
    }

    /// A small cluster that has just lost a memory server.
    pub(crate) fn status() -> pb::ClusterStatus {
        pb::ClusterStatus {
            uptime_ms: 65_000,
            term: 1,
            policies: 1,
            plan_report: vec!["set 1: donor-2 is gone, its replica goes to donor-3".to_owned()],
            events: vec![pb::ClusterEvent {
                sequence: 4,
                unix_ms: 1_700_000_000_000,
                node: "donor-2".to_owned(),
                kind: "ServerLost".to_owned(),
                message: "the memory server does not answer".to_owned(),
            }],
            nodes: vec![
                donor("donor-1", ""),
                donor("donor-2", "connection refused"),
                donor("donor-3", ""),
                borrower(),
            ],
            ..pb::ClusterStatus::default()
        }
    }

    #[test]
    fn donor_holds_the_pages_of_bound_sets_that_it_can_serve() {
        let summary = Summary::of(&status());
        let held: Vec<_> = summary
            .donors
            .iter()
            .map(|d| (d.node.as_str(), d.held / PAGE))
            .collect();
        assert_eq!(held, [("donor-1", 200), ("donor-2", 0), ("donor-3", 100)]);
        assert_eq!(summary.donors[0].lent, 48 << 20);
        assert_eq!(summary.donors[0].capacity, 1 << 30);
        assert_eq!(summary.used(), 200 * PAGE);
        assert_eq!(summary.degraded(), 100 * PAGE);
    }

    #[test]
    fn device_counts_mapped_and_reserve_sets() {
        let summary = Summary::of(&status());
        assert_eq!(
            (
                summary.devices[0].slabs_mapped,
                summary.devices[0].sets_reserve
            ),
            (2, 1)
        );
        assert_eq!(
            summary.devices[0].read,
            Latency {
                p50_us: 55,
                p99_us: 210
            }
        );
    }

    #[test]
    fn plan_s_waits_and_daemons_warnings_are_noted_equal_ones_once() {
        let mut status = status();
        status.plan_waits = vec!["waits with 3 sets for borrower: no donor fits".to_owned()];
        let everybody = "memory cannot be locked";
        for node in &mut status.nodes {
            let Some(report) = &mut node.report else {
                continue;
            };
            if let Some(server) = &mut report.memory_server {
                server.warnings = vec![everybody.to_owned()];
            }
            if let Some(device) = &mut report.swap_device {
                device.warnings = vec!["the holder is gone".to_owned(), everybody.to_owned()];
                report.warnings = vec!["the gate is shut".to_owned()];
            }
        }
        assert_eq!(
            Summary::of(&status).notes,
            [
                "the plan waits with 3 sets for borrower: no donor fits",
                "borrower/agent: the gate is shut",
                "borrower/swapd: the holder is gone",
                "3 daemons: memory cannot be locked",
            ]
        );
    }

    #[test]
    fn node_with_a_problem_says_which() {
        let summary = Summary::of(&status());
        let problems: Vec<_> = summary
            .nodes
            .iter()
            .map(|n| (n.name.as_str(), n.problem.as_str()))
            .collect();
        assert!(problems.contains(&("donor-2", "connection refused")));
        assert!(problems.contains(&("borrower", "")));
    }
}
