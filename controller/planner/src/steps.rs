//! The planner's steps, in their order. Each works on the draft that the one before it left, so
//! that one pass reaches what there is to reach, and a second one finds nothing to do.

mod class;
mod compose;
mod departed;
mod moves;
mod reborn;
mod release;
mod replace;
mod revoke;
mod settle;

use std::collections::BTreeMap;

use dynamicswap_types::{MonotonicTime, NodeName, SetId, SwapDeviceId};

use crate::brake::Brake;
use crate::choose::Eligible;
use crate::health::Health;
use crate::ledger::{Ledger, Seat};
use crate::limits::REPORT_LINES_MAX;
use crate::plan::{Plan, Step};
use crate::pool::Pools;
use crate::reason::{Reason, ReportLine};
use crate::view::{ClusterView, DeviceObservation, ReplicaState};

/// A plan in the making.
struct Draft<'a> {
    view: ClusterView<'a>,
    ledger: Ledger,
    pools: Pools,
    brake: Brake,
    steps: Vec<Step>,
    reasons: BTreeMap<Reason, usize>,
    health: BTreeMap<SwapDeviceId, BTreeMap<NodeName, Health>>,
    eligible: BTreeMap<SwapDeviceId, Eligible<'a>>,
    wake_at: Option<MonotonicTime>,
}

pub(crate) fn plan(view: &ClusterView<'_>) -> Plan {
    let ledger = view.ledger.clone();
    let mut draft = Draft {
        view: *view,
        pools: Pools::of(view, &ledger),
        ledger,
        brake: Brake::judge(view),
        steps: Vec::new(),
        reasons: BTreeMap::new(),
        health: BTreeMap::new(),
        eligible: BTreeMap::new(),
        wake_at: None,
    };
    for (node, _) in view.ledger.nodes.iter().filter(|(_, node)| node.foreign) {
        let donor = node.clone();
        draft.note(Reason::ForeignGrants { donor });
    }
    departed::run(&mut draft);
    reborn::run(&mut draft);
    settle::run(&mut draft);
    release::run(&mut draft);
    class::run(&mut draft);
    revoke::run(&mut draft);
    replace::run(&mut draft);
    compose::run(&mut draft);
    draft.finish()
}

impl<'a> Draft<'a> {
    /// Takes a step. The steps' own conditions make an illegal one impossible; if one comes up
    /// after all it is left out, and the checker still sees the whole plan.
    fn push(&mut self, step: Step) {
        let applied = self.ledger.apply(&step);
        debug_assert!(applied.is_ok(), "{step:?}: {applied:?}");
        if applied.is_ok() {
            self.steps.push(step);
        }
    }

    fn note(&mut self, reason: Reason) {
        self.note_many(reason, 1);
    }

    fn note_many(&mut self, reason: Reason, count: usize) {
        *self.reasons.entry(reason).or_default() += count;
    }

    fn wake(&mut self, at: MonotonicTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// Health of a donor for a device, asked once in a plan.
    fn health(&mut self, device: SwapDeviceId, donor: &NodeName) -> Health {
        let known = self.health.get(&device).and_then(|known| known.get(donor));
        if let Some(known) = known {
            return *known;
        }
        let health = self.view.health(device, donor);
        self.health
            .entry(device)
            .or_default()
            .insert(donor.clone(), health);
        if let Health::Suspect { until } = health {
            self.wake(until);
        }
        health
    }

    fn borrower_of(&self, device: SwapDeviceId) -> Option<NodeName> {
        self.ledger
            .devices
            .get(&device)
            .map(|record| record.node.clone())
    }

    /// The donors that fit a device, asked once in a plan.
    fn make_eligible(&mut self, device: SwapDeviceId) {
        if self.eligible.contains_key(&device) {
            return;
        }
        if let Some(record) = self.view.ledger.devices.get(&device) {
            let eligible = Eligible::of(&self.view, device, record);
            self.eligible.insert(device, eligible);
        }
    }

    /// Whether the donor says that it granted the slot.
    fn is_confirmed(&self, id: SetId, device: SwapDeviceId, seat: &Seat) -> bool {
        self.view.server(&seat.node).is_some_and(|server| {
            server.incarnation == seat.incarnation
                && server.grants.get(&seat.slot) == Some(&(device, id))
        })
    }

    /// Whether the borrower says that the copy is whole.
    fn is_live(heard: &DeviceObservation, id: SetId, seat: &Seat) -> bool {
        heard.sets.get(&id).is_some_and(|set| {
            set.replicas.iter().any(|replica| {
                replica.node == seat.node
                    && replica.slot == seat.slot
                    && replica.state == ReplicaState::Live
            })
        })
    }

    /// Ids of the sets that a rule picks, so that it may change the ledger while it goes on.
    fn pick(&self, rule: impl Fn(&crate::ledger::SetRecord) -> bool) -> Vec<SetId> {
        self.ledger
            .sets
            .iter()
            .filter(|(_, set)| rule(set))
            .map(|(id, _)| *id)
            .collect()
    }

    fn finish(self) -> Plan {
        let mut report: Vec<ReportLine> = self
            .reasons
            .into_iter()
            .map(|(reason, count)| ReportLine { reason, count })
            .collect();
        report.truncate(REPORT_LINES_MAX);
        Plan {
            steps: self.steps,
            report,
            wake_at: self.wake_at,
        }
    }
}
