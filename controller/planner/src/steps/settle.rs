//! What waited and has come: grants that are confirmed, documents that are taken, slots that
//! are given back.

use std::collections::BTreeMap;

use dynamicswap_types::{IncarnationId, NodeName, SetId, SwapDeviceId};

use super::Draft;
use super::moves::has_room;
use crate::health::Health;
use crate::ledger::{Seat, SeatPhase, SetRecord, SetStage};
use crate::limits::WHOLE_COPIES_BESIDE;
use crate::plan::Step;
use crate::reason::Reason;
use crate::view::DeviceObservation;

/// The memory of each donor that each device's document names, where a set is not at rest: others
/// name the donor's present one.
type Listed = BTreeMap<SwapDeviceId, BTreeMap<NodeName, IncarnationId>>;

pub(super) fn run(draft: &mut Draft<'_>) {
    flip_regranted(draft);
    let mut listed = listed(draft);
    for id in draft.pick(|_| true) {
        let Some(set) = draft.ledger.sets.get(&id) else {
            continue;
        };
        let moving = |seat: &Seat| seat.phase != SeatPhase::Serving;
        if !set.seats.iter().any(moving) {
            continue;
        }
        let set = set.clone();
        for seat in &set.seats {
            match seat.phase {
                SeatPhase::Leaving { since } => settle_leaving(draft, id, &set, seat, since),
                SeatPhase::Freeing { since } => settle_freeing(draft, id, &set, seat, since),
                _ => {}
            }
        }
        match set.stage {
            SetStage::Composing => settle_composing(draft, id, &set, &mut listed),
            SetStage::Offered => settle_added(draft, id, &set, &mut listed),
            SetStage::Closing => {}
        }
    }
}

/// Sets that are not at rest.
fn busy<'d>(draft: &'d Draft<'_>) -> impl Iterator<Item = (SetId, &'d SetRecord)> {
    let sets = &draft.ledger.sets;
    let busy = draft.busy.iter();
    busy.filter_map(|id| sets.get(id).map(|set| (*id, &**set)))
}

/// Devices whose every listed slot on a reborn donor is granted anew get the new memory's name.
fn flip_regranted(draft: &mut Draft<'_>) {
    let mut ready: BTreeMap<(SwapDeviceId, NodeName), bool> = BTreeMap::new();
    for (id, set) in busy(draft) {
        for seat in set.listed() {
            if draft.ledger.incarnation_of(&seat.node) == seat.listed_incarnation() {
                continue;
            }
            let confirmed = matches!(seat.phase, SeatPhase::Regranting { .. })
                && draft.is_confirmed(id, set.device, seat);
            let all = ready.entry((set.device, seat.node.clone())).or_insert(true);
            *all &= confirmed;
        }
    }
    for ((device, node), all) in ready {
        if all {
            draft.push(Step::Flip { device, node });
        } else {
            draft.note(Reason::GrantPending { donor: node });
        }
    }
}

fn listed(draft: &Draft<'_>) -> Listed {
    let mut listed = Listed::new();
    for (_, set) in busy(draft) {
        for seat in set.listed() {
            if let Some(incarnation) = seat.listed_incarnation() {
                listed
                    .entry(set.device)
                    .or_default()
                    .insert(seat.node.clone(), incarnation);
            }
        }
    }
    listed
}

/// Whether the device's document can name this seat's memory beside what it names already.
fn fits(draft: &Draft<'_>, listed: &Listed, device: SwapDeviceId, seat: &Seat) -> bool {
    let named = listed
        .get(&device)
        .and_then(|named| named.get(&seat.node).copied())
        .or_else(|| draft.ledger.incarnation_of(&seat.node));
    named.is_none_or(|named| named == seat.incarnation)
}

fn list(listed: &mut Listed, device: SwapDeviceId, seat: &Seat) {
    listed
        .entry(device)
        .or_default()
        .insert(seat.node.clone(), seat.incarnation);
}

fn settle_leaving(
    draft: &mut Draft<'_>,
    set: SetId,
    record: &SetRecord,
    seat: &Seat,
    since: Option<dynamicswap_types::Generation>,
) {
    let heard = draft.view.device_heard(record.device);
    let taken = heard
        .zip(since)
        .is_some_and(|(heard, since)| heard.generation >= since);
    let node = seat.node.clone();
    if taken {
        draft.push(Step::Free { set, node });
    } else if heard.is_some_and(|heard| must_return(draft, (set, record), heard, seat)) {
        draft.push(Step::Recall { set, node });
        if let Some(borrower) = draft.borrower_of(record.device) {
            draft.note(Reason::Recall { borrower });
        }
    } else if let Some(borrower) = draft.borrower_of(record.device) {
        draft.note(Reason::TakePending { borrower });
    }
}

/// Whether a copy that was to leave is the only whole one that the borrower has left, and can be
/// named again beside the others. The borrower refuses to let go of it.
fn must_return(
    draft: &Draft<'_>,
    (id, set): (SetId, &SetRecord),
    heard: &DeviceObservation,
    seat: &Seat,
) -> bool {
    let nodes = &draft.ledger.nodes;
    let domain = |node: &NodeName| nodes.get(node).map(|record| &record.domain);
    let others = || set.seats.iter().filter(|other| other.phase.stands());
    let bound = heard.sets.get(&id).is_some_and(|said| said.bound);
    set.stage == SetStage::Offered
        && bound
        && Draft::is_live(heard, id, seat)
        && !draft.ledger.is_void(seat)
        && !set.listed().any(|other| Draft::is_live(heard, id, other))
        && has_room(set)
        && others().all(|other| domain(&other.node) != domain(&seat.node))
}

fn settle_freeing(
    draft: &mut Draft<'_>,
    set: SetId,
    record: &SetRecord,
    seat: &Seat,
    since: Option<dynamicswap_types::Generation>,
) {
    let said = draft.view.server(&seat.node);
    let back = said.zip(since).is_some_and(|(server, since)| {
        server.incarnation == seat.incarnation
            && server.generation >= since
            && server.grants.get(&seat.slot) != Some(&(record.device, set))
    });
    let node = seat.node.clone();
    if back {
        draft.push(Step::Forget { set, node });
    } else {
        draft.note(Reason::FreePending { donor: node });
    }
}

fn settle_composing(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, listed: &mut Listed) {
    let mut dead = None;
    for seat in &set.seats {
        if dead.is_none() && draft.health(set.device, &seat.node).is_dead() {
            dead = Some(seat.node.clone());
        }
    }
    if let Some(donor) = dead {
        draft.push(Step::Reclaim { set: id });
        draft.note(Reason::Abandon { donor });
        return;
    }
    let mut waits = false;
    for seat in &set.seats {
        if !draft.is_confirmed(id, set.device, seat) || !fits(draft, listed, set.device, seat) {
            let donor = seat.node.clone();
            draft.note(Reason::GrantPending { donor });
            waits = true;
        }
    }
    if waits {
        return;
    }
    draft.push(Step::Offer { set: id });
    for seat in &set.seats {
        list(listed, set.device, seat);
    }
    if let Some(borrower) = draft.borrower_of(set.device) {
        draft.note(Reason::Offer { borrower });
    }
}

/// Slots that were added to an offered set.
fn settle_added(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, listed: &mut Listed) {
    for seat in &set.seats {
        let SeatPhase::Granting { replaces } = &seat.phase else {
            continue;
        };
        let node = seat.node.clone();
        let replaced = replaces
            .as_ref()
            .and_then(|replaced| set.seat(replaced))
            .filter(|replaced| replaced.phase.is_listed());
        let unwanted = draft.health(set.device, &node).is_dead()
            || replaced.is_some_and(|it| it.mark.is_none() && is_back(draft, set, it));
        if unwanted {
            let donor = node.clone();
            draft.push(Step::Abandon { set: id, node });
            draft.note(Reason::Abandon { donor });
        } else if !draft.is_confirmed(id, set.device, seat)
            || !fits(draft, listed, set.device, seat)
        {
            draft.note(Reason::GrantPending { donor: node });
        } else if replaced.is_some_and(|replaced| !may_leave(draft, id, set, replaced)) {
            if let Some(borrower) = draft.borrower_of(set.device) {
                draft.note(Reason::NoLiveCopy { borrower });
            }
        } else {
            draft.push(Step::Promote { set: id, node });
            list(listed, set.device, seat);
            if let Some(borrower) = draft.borrower_of(set.device) {
                draft.note(Reason::Offer { borrower });
            }
        }
    }
}

/// Whether a copy that was to be replaced is reached again.
fn is_back(draft: &mut Draft<'_>, set: &SetRecord, replaced: &Seat) -> bool {
    draft.health(set.device, &replaced.node) == Health::Good && !draft.ledger.is_void(replaced)
}

/// Whether a copy may leave: it is dead still, and a live one stays to rebuild from; or it shall
/// move, and enough whole ones stay.
fn may_leave(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, replaced: &Seat) -> bool {
    if replaced.mark.is_some() {
        return draft.whole_beside(id, set, &replaced.node) >= WHOLE_COPIES_BESIDE;
    }
    if !draft.health(set.device, &replaced.node).is_dead() {
        return false;
    }
    draft.has_live_beside(id, set, &replaced.node)
}

impl Draft<'_> {
    /// Whether a set has a live copy on a donor that is well, besides the one on `node`.
    pub(super) fn has_live_beside(&mut self, id: SetId, set: &SetRecord, node: &NodeName) -> bool {
        let Some(heard) = self.view.device_heard(set.device) else {
            return false;
        };
        set.listed().any(|other| {
            other.node != *node
                && Self::is_live(heard, id, other)
                && self.health(set.device, &other.node) == Health::Good
                && !self.ledger.is_void(other)
        })
    }
}
