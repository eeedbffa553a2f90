//! Objects of the group as `get` shows them, put together from the ledger and the reports.

use std::collections::BTreeMap;

use dynamicswap_crds::{
    API_VERSION, Condition, ConditionTimes, Kind, MemoryServer, MemoryServerSpec,
    MemoryServerStatus, ObjectKey, RemoteMemoryPolicy, RemoteMemoryPolicyStatus, Slab, SlabMap,
    SlabMapStatus, SlabReplica, SlabSeatPhase, SlabSetStage, SwapDevice, SwapDeviceSpec,
    SwapDeviceStatus, Verdict,
};
use dynamicswap_planner::{
    DeviceRecord, Ledger, Mark, NodeObservation, NodeRecord, Reason, Seat, ServerFacts, Session,
    SetRecord,
};
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::control::v1::NodeReport;
use dynamicswap_types::{
    Bytes, Epoch, Integrity, NodeName, PageCount, SetId, SlabIndex, SwapDeviceId,
};

use crate::limits::NODES_SHOWN_MAX;
use crate::overlaps::{Overlap, in_force};
use crate::policies::{Policies, RefusedPolicy, integrity};
use crate::store::slab_map_spec;
use crate::verdicts::{self, Obstacles, breaker_open, degraded, draining, suitable, verdict};

/// What objects are made of.
pub struct Views<'a> {
    /// What is on record.
    pub ledger: &'a Ledger,
    /// What the nodes last said, as the planner sees it.
    pub seen: &'a BTreeMap<NodeName, NodeObservation>,
    /// What a node last reported, without its device's sets and links and its memory server's grants.
    pub reports: &'a dyn Fn(&NodeName) -> Option<&'a NodeReport>,
    /// What a node last said of its device's sets.
    pub sets: &'a dyn Fn(&NodeName) -> Vec<pb::SetReport>,
    /// What of the plan waits for somebody to do something about a node.
    pub waits: &'a dyn Fn(&NodeName) -> Option<&'a Reason>,
    /// Generation of the `MemoryServer` object that is in force; none where there are no objects.
    pub generations: &'a dyn Fn(&NodeName) -> Option<i64>,
    /// The policies.
    pub policies: &'a Policies,
    /// Policies that are not understood.
    pub refused: &'a [RefusedPolicy],
    /// Since when conditions are as they are.
    pub times: &'a mut ConditionTimes,
    /// The time of day.
    pub unix_ms: u64,
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether an object fits a filter; an empty one means any.
fn fits(wanted: &str, found: &str) -> bool {
    wanted.is_empty() || wanted == found
}

/// The devices that are there, by their nodes; an empty name means any.
fn devices<'a>(
    ledger: &'a Ledger,
    name: &str,
) -> BTreeMap<&'a NodeName, (SwapDeviceId, &'a DeviceRecord)> {
    let there = ledger.devices.iter().filter(|(_, device)| !device.gone);
    let wanted = there.filter(|(_, device)| fits(name, device.node.as_str()));
    wanted
        .map(|(id, device)| (&device.node, (*id, device)))
        .collect()
}

impl Views<'_> {
    /// Objects of one kind as JSON; an empty namespace or name means any.
    pub fn objects(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<String>, serde_json::Error> {
        let ledger = self.ledger;
        let nodes = ledger.nodes.iter();
        let nodes = nodes.filter(|(node, _)| fits(name, node.as_str()));
        match kind {
            Kind::RemoteMemoryPolicy => {
                let mut outcomes = self.outcome_of_policies();
                let policies = self.policies.iter().filter(|(key, _)| {
                    fits(namespace, key.namespace.as_str()) && fits(name, key.name.as_str())
                });
                let understood = policies.map(|(key, policy)| {
                    let outcome = outcomes.remove(&key.to_string());
                    let policy = self.policy(key, policy, outcome.unwrap_or_default());
                    serde_json::to_string(&policy)
                });
                let mut objects: Vec<String> = understood.collect::<Result<_, _>>()?;
                let refused = self.refused.iter().filter(|policy| {
                    fits(namespace, &policy.namespace) && fits(name, &policy.name)
                });
                objects.extend(refused.map(|policy| self.refused_policy(policy).to_string()));
                Ok(objects)
            }
            Kind::MemoryServer => {
                let lent = self.slots_lent();
                nodes
                    .filter_map(|(node, record)| Some((node, record, record.server.as_ref()?)))
                    .map(|(node, record, facts)| {
                        let lent = lent.get(node).copied().unwrap_or(0);
                        let server = self.memory_server(node, record, facts, lent);
                        serde_json::to_string(&server)
                    })
                    .collect()
            }
            Kind::SwapDevice => devices(ledger, name)
                .into_iter()
                .map(|(node, (id, device))| {
                    serde_json::to_string(&self.swap_device(node, id, device))
                })
                .collect(),
            Kind::SlabMap => devices(ledger, name)
                .into_iter()
                .map(|(node, (id, device))| serde_json::to_string(&self.slab_map(node, id, device)))
                .collect(),
        }
    }

    /// What each replica set holds, as JSON; an empty name means the sets of every borrower.
    pub fn slabs(&self, name: &str) -> Result<Vec<String>, serde_json::Error> {
        let mut slabs = Vec::new();
        for (node, (device, _)) in devices(self.ledger, name) {
            let said = self.said_of_sets(node, device);
            for (id, set) in self.ledger.sets.of(device) {
                let slab = slab(node, id, set, said.get(&id.get()));
                slabs.push(serde_json::to_string(&slab)?);
            }
        }
        Ok(slabs)
    }

    fn policy(
        &mut self,
        key: &ObjectKey,
        policy: &RemoteMemoryPolicy,
        outcome: Outcome,
    ) -> RemoteMemoryPolicy {
        let spec = &policy.spec;
        let (in_force, message) = match (spec.paused, spec.dry_run) {
            (true, _) => ("Paused", "spec.paused takes it out of force".to_owned()),
            (false, true) => (
                "DryRun",
                "spec.dryRun has it decide and report, and change nothing".to_owned(),
            ),
            (false, false) => match self.too_weak(spec.integrity) {
                Some(why) => ("IntegrityTooWeak", why),
                None => ("InForce", String::new()),
            },
        };
        let verdicts = vec![
            verdict("Accepted", true, "Understood", String::new()),
            verdict("InForce", policy.in_force(), in_force, message),
            outcome.overlap.verdict(),
        ];
        let object = (Kind::RemoteMemoryPolicy, &*key.to_string());
        let conditions = self.times.stamp(object, verdicts, self.unix_ms);
        RemoteMemoryPolicy {
            status: Some(RemoteMemoryPolicyStatus {
                observed_generation: policy.metadata.generation,
                containers_matched: outcome.containers,
                bytes_remote: outcome.remote,
                conditions,
            }),
            ..policy.clone()
        }
    }

    /// Which devices are not attached because they protect their pages less than the policies in
    /// force ask for, of which this one asks for `own`.
    fn too_weak(&self, own: Integrity) -> Option<String> {
        let wanted = integrity(self.policies);
        let devices = self.ledger.devices.values();
        let weak = devices.filter(|device| !device.gone && device.lacks(wanted).is_some());
        let nodes: Vec<&str> = weak.map(|device| device.node.as_str()).collect();
        let shown = nodes[..nodes.len().min(NODES_SHOWN_MAX)].join(", ");
        let more = match nodes.len().saturating_sub(NODES_SHOWN_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let who = if own < wanted {
            "another policy asks"
        } else {
            "it asks"
        };
        (!nodes.is_empty()).then(|| {
            format!(
                "swap devices of {shown}{more} are not attached: {who} for integrity {wanted} and \
                 they have less; start their swapd anew with --integrity {wanted} \
                 (swapd.integrity={wanted} in the chart), or write less in spec.integrity"
            )
        })
    }

    /// A policy that is not understood has no spec that could be shown.
    fn refused_policy(&mut self, policy: &RefusedPolicy) -> serde_json::Value {
        let away = "it is not accepted";
        let verdicts = vec![
            verdict("Accepted", false, "NotUnderstood", policy.why.clone()),
            verdict("InForce", false, "NotAccepted", away.to_owned()),
        ];
        let key = format!("{}/{}", policy.namespace, policy.name);
        let object = (Kind::RemoteMemoryPolicy, key.as_str());
        let conditions = self.times.stamp(object, verdicts, self.unix_ms);
        serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": Kind::RemoteMemoryPolicy.name(),
            "metadata": {"namespace": policy.namespace, "name": policy.name},
            "status": {"observedGeneration": policy.generation, "conditions": conditions},
        })
    }

    /// What came of the policies that select containers, by namespace and name.
    fn outcome_of_policies(&self) -> BTreeMap<String, Outcome> {
        let in_force = in_force(self.policies);
        let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
        let reports = self.ledger.nodes.keys().filter_map(self.reports);
        for container in reports.flat_map(|report| &report.containers) {
            for policy in &container.selected_by {
                let outcome = outcomes.entry(policy.clone()).or_default();
                outcome.containers = outcome.containers.saturating_add(1);
                let swap = Bytes::new(container.swap_bytes);
                outcome.remote = outcome.remote.saturating_add(swap);
                outcome.overlap.count(policy, container, &in_force);
            }
        }
        outcomes
    }

    /// Slots on record as lent, by donor: those of the memory that it has now.
    fn slots_lent(&self) -> BTreeMap<NodeName, u32> {
        let mut lent: BTreeMap<NodeName, u32> = BTreeMap::new();
        for seat in self.ledger.sets.values().flat_map(|set| &set.seats) {
            if !self.ledger.is_void(seat) {
                *lent.entry(seat.node.clone()).or_default() += 1;
            }
        }
        lent
    }

    fn memory_server(
        &mut self,
        node: &NodeName,
        record: &NodeRecord,
        facts: &ServerFacts,
        lent: u32,
    ) -> MemoryServer {
        let report = (self.reports)(node);
        let error = report.map_or("", |report| &report.memory_server_error);
        let verdicts = vec![
            self.ready(node, error),
            self.pressured(node),
            draining(record, lent),
        ];
        let conditions = self.stamp(Kind::MemoryServer, node, verdicts);
        let times = |slots: u32| Bytes::new(facts.slot_size.get() * u64::from(slots));
        let spec = MemoryServerSpec::of(record.cordoned, record.drain);
        let status = MemoryServerStatus {
            observed_generation: (self.generations)(node),
            failure_domain: Some(record.domain.clone()),
            incarnation: Some(facts.incarnation),
            address: facts.tcp_address.clone(),
            rdma_address: facts.rdma_address.clone(),
            capacity: times(facts.slots_total),
            slot_size: facts.slot_size,
            slots: facts.slots_total,
            slots_lent: lent,
            lent: times(lent),
            conditions,
        };
        MemoryServer {
            status: Some(status),
            ..MemoryServer::new(node.as_str(), spec)
        }
    }

    fn swap_device(
        &mut self,
        node: &NodeName,
        id: SwapDeviceId,
        device: &DeviceRecord,
    ) -> SwapDevice {
        let report = (self.reports)(node);
        let empty = pb::SwapDeviceReport::default();
        let said = report
            .and_then(|report| report.swap_device.as_ref())
            .filter(|said| *said.device_id == id.to_bytes())
            .unwrap_or(&empty);
        let sets = self.said_of_sets(node, id);
        let bound = sets.values().filter(|set| set.slab.is_some()).count();
        let reserved = sets.values();
        let reserved = reserved.filter(|set| set.slab.is_none() && !set.released);
        let reserved = reserved.count();
        let error = report.map_or("", |report| &report.swap_device_error);
        let mut verdicts = vec![
            self.ready(node, error),
            degraded(said.pages_degraded),
            suitable(device, integrity(self.policies)),
            self.attached(node, device, said.attached),
        ];
        verdicts.extend(report.map(|report| breaker_open(report.breaker_open)));
        let conditions = self.stamp(Kind::SwapDevice, node, verdicts);
        let spec = SwapDeviceSpec {
            node: node.clone(),
            device_id: id,
        };
        let status = SwapDeviceStatus {
            observed_generation: None,
            durability: device.class,
            attached: said.attached,
            integrity: device.integrity,
            front_end: said.front_end.clone(),
            epoch: Epoch::new(said.epoch),
            size: device.size,
            slab_size: Some(device.slab),
            bytes_used: PageCount::new(said.pages_used).bytes(),
            slabs_bound: number(bound),
            sets_reserved: number(reserved),
            pages_degraded: PageCount::new(said.pages_degraded),
            conditions,
        };
        SwapDevice {
            status: Some(status),
            ..SwapDevice::new(node.as_str(), spec)
        }
    }

    fn slab_map(&mut self, node: &NodeName, id: SwapDeviceId, device: &DeviceRecord) -> SlabMap {
        let spec = slab_map_spec(self.ledger, id, device);
        let said = self.said_of_sets(node, id);
        let is_bound = |set: &SetId| said.get(&set.get()).is_some_and(|set| set.slab.is_some());
        let bound = spec.sets.iter().filter(|set| is_bound(&set.id)).count();
        let settled = spec.sets.iter().filter(|set| {
            set.stage == SlabSetStage::Offered
                && set
                    .seats
                    .iter()
                    .all(|seat| seat.phase == SlabSeatPhase::Serving)
        });
        let moving = spec.sets.len() - settled.count();
        let verdicts = vec![match moving {
            0 => verdict("Ready", true, "Settled", String::new()),
            _ => {
                let total = spec.sets.len();
                let sentence =
                    format!("{moving} of {total} sets are being composed, moved or taken back");
                verdict("Ready", false, "Moving", sentence)
            }
        }];
        let conditions = self.stamp(Kind::SlabMap, node, verdicts);
        let status = SlabMapStatus {
            observed_generation: None,
            sets: number(spec.sets.len()),
            bound: number(bound),
            conditions,
        };
        SlabMap {
            status: Some(status),
            ..SlabMap::new(node.as_str(), spec)
        }
    }

    /// What a borrower says of the sets of this life of its device, by id.
    fn said_of_sets(&self, node: &NodeName, id: SwapDeviceId) -> BTreeMap<u64, pb::SetReport> {
        let said = (self.reports)(node).and_then(|report| report.swap_device.as_ref());
        if said.is_none_or(|said| *said.device_id != id.to_bytes()) {
            return BTreeMap::new();
        }
        let sets = (self.sets)(node).into_iter();
        sets.map(|set| (set.set_id, set)).collect()
    }

    fn stamp(&mut self, kind: Kind, node: &NodeName, verdicts: Vec<Verdict>) -> Vec<Condition> {
        let object = (kind, node.as_str());
        self.times.stamp(object, verdicts, self.unix_ms)
    }

    /// Whether a node's daemon is ready, by its session and its agent's word.
    fn ready(&self, node: &NodeName, error: &str) -> Verdict {
        let (reason, message) = match self.seen.get(node).map(|seen| seen.session) {
            Some(Session::Open) if error.is_empty() => {
                return verdict("Ready", true, "Serving", String::new());
            }
            Some(Session::Open) => ("DaemonFails", error),
            Some(Session::Never { .. }) | None => (
                "NotConnectedYet",
                "its agent has not connected since the controller started",
            ),
            Some(Session::Lost { .. }) => ("NoSession", "its agent has no session"),
        };
        verdict("Ready", false, reason, message.to_owned())
    }

    /// Whether a device is swap, and what stands in the way.
    fn attached(&self, node: &NodeName, device: &DeviceRecord, attached: bool) -> Verdict {
        let held = (self.reports)(node).and_then(|report| report.device_holds.first());
        let obstacles = Obstacles {
            no_policy: !self.policies.values().any(RemoteMemoryPolicy::in_force),
            too_weak: device.lacks(integrity(self.policies)).is_some(),
            held: held.map(String::as_str),
            waits: (self.waits)(node),
        };
        verdicts::attached(attached, &obstacles)
    }

    /// Whether a donor wants memory back.
    fn pressured(&self, node: &NodeName) -> Verdict {
        let wants = |seen: &NodeObservation| seen.revoke_by.is_some();
        if !self.seen.get(node).is_some_and(wants) {
            return verdict("Pressured", false, "EnoughMemory", String::new());
        }
        let sentence = "its node wants memory back: the slabs on it move elsewhere";
        verdict("Pressured", true, "WantsMemoryBack", sentence.to_owned())
    }
}

/// What came of one policy.
#[derive(Debug, Default)]
struct Outcome {
    containers: u32,
    remote: Bytes,
    overlap: Overlap,
}

fn slab(node: &NodeName, id: SetId, set: &SetRecord, said: Option<&pb::SetReport>) -> Slab {
    Slab {
        node: node.clone(),
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
    let phase = match seat.mark.filter(|_| seat.phase.is_listed()) {
        Some(Mark::Revoked) => "Revoked",
        Some(Mark::Rebalanced) => "Moving",
        None => seat.phase.word(),
    };
    SlabReplica {
        node: seat.node.clone(),
        slot: seat.slot,
        state: format!("{phase}{word}"),
    }
}
