//! The checker: finds in any plan what must never be handed out. It shares the ledger's
//! transitions with the planner and nothing else: conditions are looked at afresh.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dynamicswap_types::{
    FailureDomain, IncarnationId, NodeName, SetId, SlotIndex, Spill, SwapDeviceId,
};

use crate::balance::Load;
use crate::brake::Brake;
use crate::ledger::{IllegalStep, Ledger, Mark, Seat, SeatPhase, SetRecord, SetStage};
use crate::limits::WHOLE_COPIES_BESIDE;
use crate::plan::{Place, Plan, Step};
use crate::revoke::{lendable_slots, wants_any};
use crate::view::{ClusterView, ReplicaState};

/// Something that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The ledger cannot take a step.
    Illegal(IllegalStep),
    /// An id that was given out before.
    SetIdReused(SetId),
    /// Two copies in one failure domain.
    DomainShared(SetId, FailureDomain),
    /// A slot with two owners.
    SlotTwice(NodeName, SlotIndex),
    /// A slot that the donor does not have.
    SlotBeyondCapacity(SetId, NodeName, SlotIndex),
    /// A slot in a memory that is not the donor's present one.
    WrongIncarnation(SetId, NodeName),
    /// A new slot on a donor that takes none: cordoned, unknown, or of another slot size.
    ClosedDonor(SetId, NodeName),
    /// A slot in the borrower's document that the donor has not granted.
    OfferedUngranted(SetId, NodeName),
    /// A slot taken back while the borrower may still use it.
    FreedInUse(SetId, NodeName),
    /// A slot forgotten while the donor may still hold it for the set.
    ForgottenInUse(SetId, NodeName),
    /// A set taken back that the borrower has not released.
    TakenUnreleased(SetId),
    /// A copy dropped although no live one stays.
    LastCopyDropped(SetId, NodeName),
    /// A whole copy dropped that the class still needs, before its donor's time is over.
    DroppedTooEarly(SetId, NodeName),
    /// A copy taken back from a donor that wants nothing back.
    RevokedUnasked(SetId, NodeName),
    /// A copy moved for the balance while a large part of the donors is gone.
    RebalancedUnderBrake(SetId, NodeName),
    /// A copy moved for the balance from a donor to one that is fuller then.
    MovedUphill(SetId, NodeName, NodeName),
    /// A copy named again that the borrower may have let go of.
    RecalledTaken(SetId, NodeName),
    /// A new slot on a donor that has none to lend.
    OverHeadroom(NodeName),
    /// An offered set without a copy: the borrower would refuse the document.
    EmptySet(SetId),
    /// A device's document would have to name two memories of one donor.
    TwoMemories(SwapDeviceId, NodeName),
    /// A class that not every set satisfies.
    ClassTooEarly(SwapDeviceId),
    /// The ledger's indexes of its sets do not say what the sets do.
    WrongIndex,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Illegal(error) => write!(f, "illegal step: {error}"),
            Self::SetIdReused(set) => write!(f, "set id {set} is used again"),
            Self::DomainShared(set, domain) => {
                write!(f, "set {set} has two copies in failure domain {domain}")
            }
            Self::SlotTwice(node, slot) => write!(f, "slot {slot} of {node} has two owners"),
            Self::SlotBeyondCapacity(set, node, slot) => {
                write!(
                    f,
                    "set {set} is given slot {slot}, which {node} does not have"
                )
            }
            Self::WrongIncarnation(set, node) => {
                write!(
                    f,
                    "set {set} is given a slot of a memory that {node} has no more"
                )
            }
            Self::ClosedDonor(set, node) => {
                write!(f, "set {set} is given a slot of {node}, which takes none")
            }
            Self::OfferedUngranted(set, node) => {
                write!(f, "set {set} is offered before {node} granted its slot")
            }
            Self::FreedInUse(set, node) => {
                write!(
                    f,
                    "slot of set {set} on {node} is taken back while it may be in use"
                )
            }
            Self::ForgottenInUse(set, node) => {
                write!(
                    f,
                    "slot of set {set} on {node} is forgotten before it is given back"
                )
            }
            Self::TakenUnreleased(set) => {
                write!(f, "set {set} is taken back and was not released")
            }
            Self::LastCopyDropped(set, node) => {
                write!(
                    f,
                    "copy of set {set} on {node} is dropped and no live one stays"
                )
            }
            Self::EmptySet(set) => write!(f, "set {set} is left without a copy"),
            Self::TwoMemories(device, node) => {
                write!(f, "device {device} would know two memories of {node}")
            }
            Self::ClassTooEarly(device) => {
                write!(
                    f,
                    "device {device} is asked for copies that its sets do not have"
                )
            }
            _ => self.fmt_move(f),
        }
    }
}

impl Finding {
    /// Findings about copies that donors want back.
    fn fmt_move(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DroppedTooEarly(set, node) => write!(
                f,
                "copy of set {set} on {node} is dropped while the class needs it"
            ),
            Self::RevokedUnasked(set, node) => {
                write!(
                    f,
                    "copy of set {set} is taken back for {node}, which wants none back"
                )
            }
            Self::RecalledTaken(set, node) => {
                write!(
                    f,
                    "copy of set {set} on {node} is named again after it was let go of"
                )
            }
            Self::RebalancedUnderBrake(set, node) => write!(
                f,
                "copy of set {set} on {node} is moved for the balance while donors are gone"
            ),
            Self::MovedUphill(set, from, to) => write!(
                f,
                "copy of set {set} is moved for the balance from {from} to {to}, which is fuller then"
            ),
            Self::WrongIndex => f.write_str("the ledger's indexes of its sets are wrong"),
            Self::OverHeadroom(node) => write!(f, "{node} is given more than it can lend"),
            _ => Ok(()),
        }
    }
}

/// Checks a plan against the view that it was made from. Empty if nothing is wrong.
///
/// What concerns one donor or one device is asked of the ledger's indexes; this looks at the whole
/// ledger whether they are true.
#[must_use]
pub fn lint(view: &ClusterView<'_>, plan: &Plan) -> Vec<Finding> {
    let mut checker = check(view, plan);
    if !checker.ledger.sets.is_indexed() {
        checker.findings.push(Finding::WrongIndex);
    }
    checker.findings
}

/// The same, at the cost of what the plan touches: takes the ledger's indexes for true.
pub(crate) fn lint_touched(view: &ClusterView<'_>, plan: &Plan) -> Vec<Finding> {
    check(view, plan).findings
}

fn check<'a>(view: &'a ClusterView<'a>, plan: &Plan) -> Checker<'a> {
    let mut checker = Checker {
        view,
        ledger: view.ledger.clone(),
        findings: Vec::new(),
        touched: BTreeSet::new(),
        grown: BTreeSet::new(),
        renewed: BTreeSet::new(),
        balanced: BTreeSet::new(),
        brake: None,
    };
    for step in &plan.steps {
        checker.before(step);
        if let Err(error) = checker.ledger.apply(step) {
            checker.findings.push(Finding::Illegal(error));
        }
    }
    if !plan.steps.is_empty() {
        checker.after();
    }
    checker
}

struct Checker<'a> {
    view: &'a ClusterView<'a>,
    ledger: Ledger,
    findings: Vec<Finding>,
    /// Sets that the plan gave a seat or took one from.
    touched: BTreeSet<SetId>,
    /// Donors that the plan gave a new slot.
    grown: BTreeSet<NodeName>,
    /// Donors that the plan asked for a slot of their new memory.
    renewed: BTreeSet<NodeName>,
    /// Sets that the plan moves for the balance.
    balanced: BTreeSet<SetId>,
    /// The brake, once a step asked for it.
    brake: Option<Brake>,
}

impl Checker<'_> {
    /// What must hold before a step is taken.
    fn before(&mut self, step: &Step) {
        match step {
            Step::Compose { set, seats, .. } => {
                if *set < self.view.ledger.next_set || self.ledger.sets.contains_key(set) {
                    self.findings.push(Finding::SetIdReused(*set));
                }
                for place in seats {
                    self.new_seat(*set, place);
                }
            }
            Step::AddSeat { set, place, .. } => {
                self.new_seat(*set, place);
                self.downhill(*set, &place.node);
            }
            Step::Regrant { set, node } => self.regrant(*set, node),
            Step::Offer { set } => {
                let seats = self.ledger.sets.get(set).map(|set| set.seats.clone());
                for seat in seats.iter().flatten() {
                    self.granted(*set, seat);
                }
                self.touched.insert(*set);
            }
            Step::Promote { set, node } => self.promote(*set, node),
            Step::Flip { device, node } => self.flip(*device, node),
            Step::Retire { set, node } => self.drop_copy(*set, node),
            Step::Free { set, node } => self.free(*set, node),
            Step::Revoke { set, node } => self.revoke(*set, node),
            Step::Rebalance { set, node } => {
                self.balanced.insert(*set);
                let view = self.view;
                if *self.brake.get_or_insert_with(|| Brake::judge(view)) != Brake::Off {
                    let finding = Finding::RebalancedUnderBrake(*set, node.clone());
                    self.findings.push(finding);
                }
            }
            Step::Recall { set, node } => self.recall(*set, node),
            Step::Close { set } => self.close(*set),
            Step::Reclaim { set } => self.reclaim(*set),
            Step::Forget { set, node } => self.forget(*set, node),
            Step::SetClass { device, class } => {
                let raised = self.ledger.devices.get(device).is_some_and(|record| {
                    let now = record.class.map_or(0, |class| class.remote_copies());
                    class.remote_copies() > now
                });
                let short = self.ledger.sets.of(*device).any(|(_, set)| {
                    set.stage == SetStage::Offered && set.listed().count() < class.remote_copies()
                });
                if raised && short {
                    self.findings.push(Finding::ClassTooEarly(*device));
                }
            }
            Step::Abandon { .. }
            | Step::Pardon { .. }
            | Step::SetReserve { .. }
            | Step::ForgetDevice { .. } => {}
        }
    }

    fn new_seat(&mut self, set: SetId, place: &Place) {
        self.touched.insert(set);
        self.grown.insert(place.node.clone());
        let node = place.node.clone();
        let facts = self.ledger.nodes.get(&node);
        let Some((record, server)) = facts.and_then(|r| r.server.as_ref().map(|s| (r, s))) else {
            self.findings.push(Finding::ClosedDonor(set, node));
            return;
        };
        if record.cordoned || record.drain.is_some() || record.foreign || !record.donor {
            self.findings.push(Finding::ClosedDonor(set, node.clone()));
        }
        if place.slot.get() >= server.slots_total {
            let finding = Finding::SlotBeyondCapacity(set, node.clone(), place.slot);
            self.findings.push(finding);
        }
        if place.incarnation != server.incarnation {
            self.findings
                .push(Finding::WrongIncarnation(set, node.clone()));
        }
        let taken = self
            .view
            .server(&node)
            .filter(|said| said.incarnation == place.incarnation)
            .is_some_and(|said| said.grants.contains_key(&place.slot));
        if taken {
            self.findings.push(Finding::SlotTwice(node, place.slot));
        }
    }

    fn regrant(&mut self, set: SetId, node: &NodeName) {
        self.touched.insert(set);
        self.renewed.insert(node.clone());
        let slot = self.seat(set, node).map(|seat| seat.slot);
        let server = self
            .ledger
            .nodes
            .get(node)
            .and_then(|record| record.server.as_ref());
        if let (Some(slot), Some(server)) = (slot, server)
            && slot.get() >= server.slots_total
        {
            let finding = Finding::SlotBeyondCapacity(set, node.clone(), slot);
            self.findings.push(finding);
        }
    }

    /// A slot about to enter the borrower's document must be granted, as its donor says.
    fn granted(&mut self, set: SetId, seat: &Seat) {
        let device = self.ledger.sets.get(&set).map(|record| record.device);
        let granted = self.view.server(&seat.node).is_some_and(|said| {
            said.incarnation == seat.incarnation
                && said.grants.get(&seat.slot).copied() == device.map(|device| (device, set))
        });
        if !granted {
            let finding = Finding::OfferedUngranted(set, seat.node.clone());
            self.findings.push(finding);
        }
    }

    fn promote(&mut self, set: SetId, node: &NodeName) {
        self.touched.insert(set);
        let Some(seat) = self.seat(set, node) else {
            return;
        };
        self.granted(set, &seat);
        if let SeatPhase::Granting {
            replaces: Some(replaced),
        } = &seat.phase
        {
            self.drop_copy(set, replaced);
        }
    }

    fn flip(&mut self, device: SwapDeviceId, node: &NodeName) {
        let seats: Vec<(SetId, Seat)> = self
            .ledger
            .sets
            .of(device)
            .filter_map(|(id, set)| set.seat(node).map(|seat| (id, seat.clone())))
            .filter(|(_, seat)| matches!(seat.phase, SeatPhase::Regranting { .. }))
            .collect();
        for (set, seat) in seats {
            self.touched.insert(set);
            self.granted(set, &seat);
        }
    }

    /// A listed copy may leave if a live one stays, or if its memory is gone anyway.
    fn drop_copy(&mut self, set: SetId, node: &NodeName) {
        self.touched.insert(set);
        let Some(seat) = self.seat(set, node).filter(|seat| seat.phase.is_listed()) else {
            return;
        };
        if self.ledger.is_void(&seat) {
            return;
        }
        let Some(record) = self.ledger.sets.get(&set) else {
            return;
        };
        let said = self
            .view
            .device_heard(record.device)
            .and_then(|heard| heard.sets.get(&set));
        let is_live = |seat: &Seat| {
            said.is_some_and(|said| {
                said.replicas.iter().any(|copy| {
                    copy.node == seat.node
                        && copy.slot == seat.slot
                        && copy.state == ReplicaState::Live
                })
            })
        };
        let present = |other: &&Seat| other.node != *node && !self.ledger.is_void(other);
        let live = record
            .listed()
            .filter(present)
            .filter(|other| is_live(other))
            .count();
        let class = self
            .ledger
            .devices
            .get(&record.device)
            .and_then(|it| it.class);
        let on_disk = said.is_some_and(|said| said.on_disk)
            && class.is_some_and(|class| class.spill == Spill::Async)
            && record.listed().any(|other| present(&other));
        if live == 0 && !(on_disk && self.is_due(node)) {
            self.findings
                .push(Finding::LastCopyDropped(set, node.clone()));
        }
        let needed = class
            .map_or(0, |class| class.remote_copies())
            .min(WHOLE_COPIES_BESIDE);
        let dead = self.view.health(record.device, node).is_dead();
        if is_live(&seat) && live < needed && !dead && !self.is_due(node) {
            self.findings
                .push(Finding::DroppedTooEarly(set, node.clone()));
        }
    }

    /// Whether a donor wants slots back and its time is over.
    fn is_due(&self, node: &NodeName) -> bool {
        let by = self.view.nodes.get(node).and_then(|seen| seen.revoke_by);
        by.is_some_and(|by| by <= self.view.now)
    }

    fn revoke(&mut self, set: SetId, node: &NodeName) {
        let record = self.ledger.nodes.get(node);
        let seen = record.zip(self.view.nodes.get(node));
        let wants = |(record, seen)| wants_any(&self.ledger, node, record, seen);
        if !seen.is_some_and(wants) {
            self.findings
                .push(Finding::RevokedUnasked(set, node.clone()));
        }
    }

    /// A copy that is made for the balance must not leave its donor fuller than the one that it
    /// relieves.
    fn downhill(&mut self, set: SetId, to: &NodeName) {
        // A set that moves since an earlier plan may have a dead copy replaced, wherever there is room.
        if !self.balanced.contains(&set) {
            return;
        }
        let record = self.ledger.sets.get(&set);
        let from = record.and_then(|record| {
            let marked = |seat: &&Seat| seat.mark == Some(Mark::Rebalanced);
            record.listed().find(marked).map(|seat| seat.node.clone())
        });
        let Some(from) = from else {
            return;
        };
        let mut target = self.load(to);
        target.lent += 1;
        if target.share() > self.load(&from).share() {
            let finding = Finding::MovedUphill(set, from, to.clone());
            self.findings.push(finding);
        }
    }

    /// What a donor lends to copies that stay, and what it can.
    fn load(&self, node: &NodeName) -> Load {
        let server = self
            .ledger
            .nodes
            .get(node)
            .and_then(|it| it.server.as_ref());
        let sets = self.ledger.sets.on(node);
        let seats = sets.filter_map(|(_, set)| set.seat(node));
        let here = seats.filter(|seat| seat.stays() && !self.ledger.is_void(seat));
        Load {
            lent: u32::try_from(here.count()).unwrap_or(u32::MAX),
            lendable: server.map_or(0, |facts| lendable_slots(self.view, node, facts)),
        }
    }

    /// A copy may be named again as long as the borrower has not taken the document without it.
    fn recall(&mut self, set: SetId, node: &NodeName) {
        self.touched.insert(set);
        let Some(record) = self.ledger.sets.get(&set) else {
            return;
        };
        if self.has_let_go(record, node).unwrap_or(true) {
            self.findings
                .push(Finding::RecalledTaken(set, node.clone()));
        }
    }

    /// Whether the borrower has taken a document without this copy; none where nobody can say: it is
    /// not heard, or the copy is not on its way out.
    fn has_let_go(&self, record: &SetRecord, node: &NodeName) -> Option<bool> {
        let SeatPhase::Leaving { since } = record.seat(node)?.phase else {
            return None;
        };
        let heard = self.view.device_heard(record.device)?;
        Some(heard.generation >= since?)
    }

    fn free(&mut self, set: SetId, node: &NodeName) {
        let Some(record) = self.ledger.sets.get(&set) else {
            return;
        };
        let let_go = self.has_let_go(record, node).unwrap_or(false);
        if !let_go && !self.is_device_gone(record) {
            self.findings.push(Finding::FreedInUse(set, node.clone()));
        }
    }

    fn close(&mut self, set: SetId) {
        let Some(record) = self.ledger.sets.get(&set) else {
            return;
        };
        let released = self
            .view
            .device_heard(record.device)
            .and_then(|heard| heard.sets.get(&set))
            .is_some_and(|said| said.released);
        if !released && !self.is_device_gone(record) {
            self.findings.push(Finding::TakenUnreleased(set));
        }
    }

    fn reclaim(&mut self, set: SetId) {
        let Some(record) = self.ledger.sets.get(&set) else {
            return;
        };
        let mut seats = record.seats.iter();
        let used = seats
            .any(|seat| seat.phase.is_listed() || matches!(seat.phase, SeatPhase::Leaving { .. }));
        if used && !self.is_device_gone(record) {
            self.findings.push(Finding::TakenUnreleased(set));
        }
    }

    fn forget(&mut self, set: SetId, node: &NodeName) {
        let Some(seat) = self.seat(set, node) else {
            return;
        };
        self.touched.insert(set);
        if self.ledger.is_void(&seat) {
            return;
        }
        let since = match seat.phase {
            SeatPhase::Freeing { since } => since,
            _ => None,
        };
        let back = self
            .view
            .server(node)
            .zip(since)
            .is_some_and(|(said, since)| {
                let holds = said.grants.get(&seat.slot);
                said.generation >= since && holds.is_none_or(|(_, owner)| *owner != set)
            });
        if !back {
            self.findings
                .push(Finding::ForgottenInUse(set, node.clone()));
        }
    }

    fn seat(&self, set: SetId, node: &NodeName) -> Option<Seat> {
        self.ledger.sets.get(&set)?.seat(node).cloned()
    }

    fn is_device_gone(&self, set: &SetRecord) -> bool {
        self.ledger
            .devices
            .get(&set.device)
            .is_none_or(|device| device.gone)
    }

    /// A donor that got a new slot has what it can lend at the most.
    fn headroom(&mut self) {
        for node in &self.grown {
            let record = self.ledger.nodes.get(node);
            let seen = record.zip(self.view.nodes.get(node));
            let wants = |(record, seen)| wants_any(&self.ledger, node, record, seen);
            if seen.is_some_and(wants) {
                self.findings.push(Finding::OverHeadroom(node.clone()));
            }
        }
    }

    /// What must hold when all steps are taken. A slot can only have got a second owner on a donor
    /// that the plan gave one, and a document a second memory in a set that the plan touched.
    fn after(&mut self) {
        self.headroom();
        let given: BTreeSet<&NodeName> = self.grown.iter().chain(&self.renewed).collect();
        for node in given {
            let mut owners: BTreeSet<(IncarnationId, SlotIndex)> = BTreeSet::new();
            let sets = self.ledger.sets.on(node).flat_map(|(_, set)| &set.seats);
            for seat in sets.filter(|seat| seat.node == *node) {
                if !owners.insert((seat.incarnation, seat.slot)) {
                    let finding = Finding::SlotTwice(node.clone(), seat.slot);
                    self.findings.push(finding);
                }
            }
        }
        let touched = self.touched.iter();
        let touched = touched.filter_map(|id| self.ledger.sets.get(id).map(|set| (*id, set)));
        let devices: BTreeSet<SwapDeviceId> = touched.clone().map(|(_, set)| set.device).collect();
        for device in devices {
            let mut memories: BTreeMap<&NodeName, IncarnationId> = BTreeMap::new();
            let sets = self.ledger.sets.of(device);
            for seat in sets.flat_map(|(_, set)| &set.seats) {
                let Some(listed) = seat.listed_incarnation() else {
                    continue;
                };
                if *memories.entry(&seat.node).or_insert(listed) != listed {
                    let finding = Finding::TwoMemories(device, seat.node.clone());
                    self.findings.push(finding);
                }
            }
        }
        for (id, set) in touched {
            shape(&self.ledger, id, set, &mut self.findings);
        }
    }
}

/// A set's copies as they will stand side by side in the borrower's document.
fn shape(ledger: &Ledger, id: SetId, set: &SetRecord, findings: &mut Vec<Finding>) {
    if set.stage == SetStage::Offered && set.listed().next().is_none() {
        findings.push(Finding::EmptySet(id));
    }
    if set.stage == SetStage::Closing {
        return;
    }
    let seats = set.seats.iter();
    let stands: Vec<&Seat> = seats.filter(|seat| seat.phase.stands()).collect();
    for (at, seat) in stands.iter().enumerate() {
        let Some(record) = ledger.nodes.get(&seat.node) else {
            continue;
        };
        let shared = stands[..at].iter().any(|other| {
            let domain = ledger.nodes.get(&other.node).map(|it| &it.domain);
            // A copy and the one that replaces it are never listed together.
            let same_place = seat.replaces(&other.node) || other.replaces(&seat.node);
            domain == Some(&record.domain) && !same_place
        });
        if shared {
            findings.push(Finding::DomainShared(id, record.domain.clone()));
        }
    }
}
