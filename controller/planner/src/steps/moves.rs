//! Copies that shall move: another one is made beside each, and when that one is whole the old one
//! leaves. When the time of a donor that wants it back is over, a copy leaves as soon as any other
//! whole one, or the disk, has its pages; a copy that is the only one stays, whatever the time. A copy
//! that only moves for the balance stays if nothing comes of the other one.

use dynamicswap_types::{NodeName, SetId, Spill};

use super::Draft;
use super::replace::{Copies, add_one};
use crate::health::Health;
use crate::ledger::{Mark, Seat, SetRecord};
use crate::limits::{LISTED_COPIES_MAX, WHOLE_COPIES_BESIDE};
use crate::plan::Step;
use crate::reason::Reason;

pub(super) fn run(draft: &mut Draft<'_>, id: SetId, copies: &Copies, required: usize) {
    for node in &copies.marked {
        let Some(set) = draft.ledger.sets.get(&id).cloned() else {
            return;
        };
        let Some(borrower) = draft.borrower_of(set.device) else {
            return;
        };
        let balances = set.seat(node).and_then(|seat| seat.mark) == Some(Mark::Rebalanced);
        let donor = node.clone();
        let whole = draft.whole_beside(id, &set, node);
        let due = is_due(draft, node);
        if whole >= required {
            let reason = if balances {
                Reason::Rebalanced { donor }
            } else {
                Reason::Moved { borrower, donor }
            };
            leave(draft, id, node, reason);
        } else if due && (whole > 0 || draft.is_on_disk_beside(id, &set, node)) {
            leave(draft, id, node, Reason::Forced { borrower, donor });
        } else {
            if due {
                let (borrower, donor) = (borrower.clone(), donor.clone());
                draft.note(Reason::LastCopyStays { borrower, donor });
            }
            let pending = !copies.pending.is_empty();
            // A dead copy is replaced before any moves; one that moves for the balance alone stays.
            let busy = pending || (!copies.dead.is_empty() && !balances);
            if busy || copies.good.len() >= required {
                draft.note(Reason::MovePending { borrower, donor });
            } else if balances {
                let node = node.clone();
                draft.push(Step::Pardon { set: id, node });
                draft.note(Reason::RebalanceGivenUp { donor });
            } else if begin(draft, id, &set, node, whole) {
                draft.note(Reason::Move { borrower, donor });
            }
        }
    }
}

fn leave(draft: &mut Draft<'_>, set: SetId, node: &NodeName, reason: Reason) {
    let node = node.clone();
    draft.push(Step::Retire { set, node });
    draft.note(reason);
}

/// Asks for a slot elsewhere. A set that lists as many copies as it can gives the old place up as
/// soon as the new one is granted, if two whole ones stay meanwhile.
fn begin(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, node: &NodeName, whole: usize) -> bool {
    if has_room(set) {
        add_one(draft, id, None)
    } else {
        whole >= WHOLE_COPIES_BESIDE && add_one(draft, id, Some(node.clone()))
    }
}

/// Whether the set can list one copy more.
pub(super) fn has_room(set: &SetRecord) -> bool {
    let stands = set.seats.iter().filter(|seat| seat.phase.stands());
    stands.count() < LISTED_COPIES_MAX
}

/// Whether the donor's time is over.
fn is_due(draft: &mut Draft<'_>, node: &NodeName) -> bool {
    let by = draft.view.nodes.get(node).and_then(|seen| seen.revoke_by);
    let Some(by) = by else {
        return false;
    };
    if by > draft.view.now {
        draft.wake(by);
    }
    by <= draft.view.now
}

impl Draft<'_> {
    /// Whole copies of a set on donors that are well, besides the one on `node`.
    pub(super) fn whole_beside(&mut self, id: SetId, set: &SetRecord, node: &NodeName) -> usize {
        let Some(heard) = self.view.device_heard(set.device) else {
            return 0;
        };
        let whole = |seat: &&Seat| {
            seat.node != *node && Self::is_live(heard, id, seat) && !self.ledger.is_void(seat)
        };
        let nodes: Vec<NodeName> = set
            .listed()
            .filter(whole)
            .map(|it| it.node.clone())
            .collect();
        let mut count = 0;
        for node in nodes {
            count += usize::from(self.health(set.device, &node) == Health::Good);
        }
        count
    }

    /// Whether the disk has every page of the set's slab, and another copy is listed that can be
    /// made from it: the engine takes no set without a copy.
    fn is_on_disk_beside(&self, id: SetId, set: &SetRecord, node: &NodeName) -> bool {
        let class = self.ledger.devices.get(&set.device).and_then(|it| it.class);
        let heard = self.view.device_heard(set.device);
        let said = heard.and_then(|heard| heard.sets.get(&id));
        class.is_some_and(|class| class.spill == Spill::Async)
            && said.is_some_and(|said| said.on_disk)
            && set
                .listed()
                .any(|seat| seat.node != *node && !self.ledger.is_void(seat))
    }
}
