//! Giving up a slot that was asked for and is not granted yet.
//!
//! The copy that it was to replace stays then, and so do its failure domain's claims: whatever else was
//! asked for in that domain meanwhile is given up with it.

use dynamicswap_types::{NodeName, SetId};

use super::Draft;
use crate::ledger::{Seat, SeatPhase, SetRecord};
use crate::plan::Step;
use crate::reason::Reason;

impl Draft<'_> {
    /// Gives up a slot that is asked for, and those that must not stand beside what stays now.
    pub(super) fn abandon(&mut self, set: SetId, node: &NodeName) {
        let seat = self.ledger.sets.get(&set).and_then(|it| it.seat(node));
        if seat.is_some_and(is_asked_for) {
            self.push_abandon(set, node.clone());
            self.abandon_beside_their_like(set);
        }
    }

    /// Gives up slots in failure domains that a copy which stays has.
    pub(super) fn abandon_beside_their_like(&mut self, set: SetId) {
        // One at a time: what it was to replace stays then, and may be beside another one.
        while let Some(node) = self.beside_its_like(set) {
            self.push_abandon(set, node);
        }
    }

    fn push_abandon(&mut self, set: SetId, node: NodeName) {
        let donor = node.clone();
        self.push(Step::Abandon { set, node });
        self.note(Reason::Abandon { donor });
    }

    fn beside_its_like(&self, set: SetId) -> Option<NodeName> {
        let set = self.ledger.sets.get(&set)?;
        let nodes = &self.ledger.nodes;
        let domain = |seat: &Seat| nodes.get(&seat.node).map(|record| &record.domain);
        let mut asked_for = set.seats.iter().filter(|seat| is_asked_for(seat));
        let beside = asked_for.find(|asked| {
            let here = domain(asked);
            let mut stays = set.listed().filter(|seat| !is_replaced(set, seat));
            here.is_some() && stays.any(|seat| domain(seat) == here)
        });
        beside.map(|seat| seat.node.clone())
    }
}

const fn is_asked_for(seat: &Seat) -> bool {
    matches!(seat.phase, SeatPhase::Granting { .. })
}

/// Whether a copy leaves once another one is granted.
fn is_replaced(set: &SetRecord, seat: &Seat) -> bool {
    set.seats.iter().any(|other| {
        matches!(&other.phase, SeatPhase::Granting { replaces } if replaces.as_ref() == Some(&seat.node))
    })
}
