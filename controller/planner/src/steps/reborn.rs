//! Donors whose memory is a new one: what the old one held is gone.
//!
//! A copy that a borrower lists is asked for anew in the same slot, so that the set keeps its
//! shape and only its content is rebuilt. Slots on their way out need no taking back.

use dynamicswap_types::{NodeName, SetId, SlotIndex};

use super::Draft;
use crate::ledger::{Seat, SeatPhase, SetStage};
use crate::plan::Step;
use crate::reason::Reason;

pub(super) fn run(draft: &mut Draft<'_>) {
    let ledger = &draft.ledger;
    let busy = draft.busy.iter();
    let void: Vec<(SetId, Seat)> = busy
        .filter_map(|id| ledger.sets.get(id).map(|set| (*id, set)))
        .flat_map(|(id, set)| set.seats.iter().map(move |seat| (id, seat)))
        .filter(|(_, seat)| ledger.is_void(seat))
        .map(|(id, seat)| (id, seat.clone()))
        .collect();
    for (set, seat) in void {
        settle_void(draft, set, &seat);
    }
}

fn settle_void(draft: &mut Draft<'_>, set: SetId, seat: &Seat) {
    let node = seat.node.clone();
    let leaves = matches!(
        seat.phase,
        SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. }
    );
    if leaves {
        draft.push(Step::Forget { set, node });
    } else if draft.takes(&node, seat.slot) {
        let donor = node.clone();
        draft.push(Step::Regrant { set, node });
        draft.note(Reason::Reborn { donor });
    } else if seat.phase.is_listed() {
        leave_if_others_stay(draft, set, node);
    } else {
        give_up(draft, set, node);
    }
}

impl Draft<'_> {
    /// Takes one slot of a donor if its present memory has it, and no seat is on it.
    fn takes(&mut self, node: &NodeName, slot: SlotIndex) -> bool {
        let node = self.index.node(node);
        node.is_some_and(|node| self.pools.take(node, slot))
    }
}

/// The new memory has no such slot: the copy leaves, unless the borrower's document would be
/// left without any.
fn leave_if_others_stay(draft: &mut Draft<'_>, set: SetId, node: NodeName) {
    let others = draft.ledger.sets.get(&set).is_some_and(|record| {
        let mut listed = record.listed();
        listed.any(|other| other.node != node && !draft.ledger.is_void(other))
    });
    if others {
        draft.push(Step::Retire {
            set,
            node: node.clone(),
        });
        draft.push(Step::Forget { set, node });
    }
}

/// A slot that was not granted yet and cannot be.
fn give_up(draft: &mut Draft<'_>, set: SetId, node: NodeName) {
    let stage = draft.ledger.sets.get(&set).map(|record| record.stage);
    if stage == Some(SetStage::Composing) {
        draft.push(Step::Reclaim { set });
    }
    draft.push(Step::Forget { set, node });
}
