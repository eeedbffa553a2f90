//! The planner's steps, in their order. Each works on the draft that the one before it left, so
//! that one pass reaches what there is to reach, and a second one finds nothing to do.

mod class;
mod compose;
mod departed;
mod moves;
mod rebalance;
mod reborn;
mod release;
mod replace;
mod revoke;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use dynamicswap_types::{MonotonicTime, NodeName, SetId, SwapDeviceId};

use crate::balance::Preview;
use crate::brake::Brake;
use crate::cache::Cache;
use crate::choose::{Eligible, OpenDonors};
use crate::health::Health;
use crate::index::{Index, NodeAt};
use crate::ledger::{Ledger, Seat, SetRecord};
use crate::limits::REPORT_LINES_MAX;
use crate::plan::{Plan, Step};
use crate::pool::Pools;
use crate::reach::Reach;
use crate::reason::{Reason, ReportLine};
use crate::view::{ClusterView, DeviceObservation, ReplicaState};

/// A plan in the making.
struct Draft<'a> {
    view: ClusterView<'a>,
    ledger: Ledger,
    reach: &'a Reach,
    index: Index<'a>,
    pools: Pools,
    /// Sets that are not at rest: those of the cache, and those that this plan touched.
    busy: BTreeSet<SetId>,
    /// By how many this plan changed the number of sets of each device.
    more_sets: BTreeMap<SwapDeviceId, i64>,
    brake: Brake,
    steps: Vec<Step>,
    reasons: BTreeMap<Reason, usize>,
    health: BTreeMap<SwapDeviceId, BTreeMap<NodeName, Health>>,
    /// The donors that take new slabs at all, once anybody asked.
    open: Option<OpenDonors<'a>>,
    eligible: BTreeMap<SwapDeviceId, Eligible<'a>>,
    wake_at: Option<MonotonicTime>,
    rebalancing: bool,
}

pub(crate) fn plan(view: &ClusterView<'_>, cache: &Cache) -> Plan {
    let mut draft = draft(view, cache);
    rebalance::run(&mut draft);
    draft.finish()
}

pub(crate) fn preview(view: &ClusterView<'_>, cache: &Cache) -> Preview {
    rebalance::preview(&mut draft(view, cache))
}

/// Takes every step but the last one, for the balance.
fn draft<'a>(view: &ClusterView<'a>, cache: &'a Cache) -> Draft<'a> {
    let mut draft = Draft {
        view: *view,
        brake: Brake::judge_with(view, &cache.reach),
        reach: &cache.reach,
        busy: cache.busy.clone(),
        more_sets: BTreeMap::new(),
        index: Index::of(view, cache),
        pools: Pools::of(&cache.pools),
        ledger: view.ledger.clone(),
        steps: Vec::new(),
        reasons: BTreeMap::new(),
        health: BTreeMap::new(),
        open: None,
        eligible: BTreeMap::new(),
        wake_at: None,
        rebalancing: false,
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
    draft
}

impl<'a> Draft<'a> {
    /// Takes a step. The steps' own conditions make an illegal one impossible; if one comes up
    /// after all it is left out, and the checker still sees the whole plan.
    fn push(&mut self, step: Step) {
        let set = step.set();
        let before = set.and_then(|set| self.ledger.sets.get(&set).cloned());
        let applied = self.ledger.apply(&step);
        debug_assert!(applied.is_ok(), "{step:?}: {applied:?}");
        if applied.is_err() {
            return;
        }
        if let Some(set) = set {
            self.busy.insert(set);
            let after = self.ledger.sets.get(&set).cloned();
            self.count(before.as_deref(), false);
            self.count(after.as_deref(), true);
            match (&before, &after) {
                (None, Some(set)) => *self.more_sets.entry(set.device).or_default() += 1,
                (Some(set), None) => *self.more_sets.entry(set.device).or_default() -= 1,
                _ => {}
            }
        }
        self.steps.push(step);
    }

    /// Counts what a set takes of its donors.
    fn count(&mut self, set: Option<&SetRecord>, more: bool) {
        for seat in set.iter().flat_map(|set| &set.seats) {
            let node = self.index.node(&seat.node);
            if let Some(node) = node.filter(|node| self.pools.is_present(*node, seat)) {
                self.pools.lend(node, seat, more);
            }
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
        let node = self.index.node(donor);
        if node.is_some_and(|node| self.index.is_well(device, node)) {
            return Health::Good;
        }
        let known = self.health.get(&device).and_then(|known| known.get(donor));
        if let Some(known) = known {
            return *known;
        }
        let reached = |donor: &NodeName| self.reach.is_reached(donor);
        let health = self.view.health_where(device, donor, reached);
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
        if self.index.device(device).is_none() {
            return;
        }
        let open = self
            .open
            .get_or_insert_with(|| OpenDonors::of(&self.view, &self.index));
        let eligible = Eligible::of(&self.index, device, open);
        self.eligible.insert(device, eligible);
        let mut copies: BTreeMap<NodeAt, u32> = BTreeMap::new();
        let sets = self.view.ledger.sets.of(device);
        for seat in sets.flat_map(|(_, set)| &set.seats) {
            let node = self.index.node(&seat.node);
            if let Some(node) = node.filter(|node| self.pools.is_present(*node, seat)) {
                *copies.entry(node).or_default() += 1;
            }
        }
        self.pools.learn_copies(device, copies);
    }

    /// Sets of a device, in any stage.
    fn sets_of(&self, device: SwapDeviceId) -> u32 {
        let before = self.view.ledger.sets.count_of(device);
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let more = self.more_sets.get(&device).copied().unwrap_or(0);
        u32::try_from(i64::from(before) + more).unwrap_or(0)
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

    /// Ids of the sets that a rule picks among those that are not at rest, so that it may change the
    /// ledger while it goes on.
    fn pick(&self, rule: impl Fn(&SetRecord) -> bool) -> Vec<SetId> {
        let busy = self.busy.iter().copied();
        busy.filter(|id| self.ledger.sets.get(id).is_some_and(|set| rule(set)))
            .collect()
    }

    /// The same of every set of a device that was on record before this plan.
    fn pick_of(&self, device: SwapDeviceId, rule: impl Fn(&SetRecord) -> bool) -> Vec<SetId> {
        let sets = self.view.ledger.sets.ids_of(device);
        sets.filter(|id| self.ledger.sets.get(id).is_some_and(|set| rule(set)))
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
            rebalancing: self.rebalancing,
            wake_at: self.wake_at,
        }
    }
}
