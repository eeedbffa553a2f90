//! The donors of one slot size on the scale: who is fuller and who is emptier, and what may move.

use std::collections::{BTreeMap, BTreeSet};

use dynamicswap_types::{NodeName, SetId};

use crate::balance::{Band, Load, PreviewMove};
use crate::ledger::{Seat, SeatPhase, SetRecord, SetStage};
use crate::limits::REBALANCE_COOL_DOWN;
use crate::steps::Draft;
use crate::steps::revoke::temperature;

/// Donors with slots of one size, by name.
pub(super) type Group = BTreeMap<NodeName, Load>;

/// A set and how much it is used, for sorting.
type Victim = ((bool, u64), SetId);

/// What may be begun yet.
pub(super) struct Budget {
    pub(super) moves: usize,
    pub(super) per_donor: usize,
    /// Copies under way off and onto each donor.
    pub(super) busy: BTreeMap<NodeName, usize>,
    pub(super) tries: usize,
}

/// The donors of one group while copies are chosen.
pub(super) struct Scale {
    pub(super) loads: Group,
    /// The same, by share.
    pub(super) order: BTreeSet<(u64, NodeName)>,
    pub(super) band: Band,
    /// Donors that were above the level at the beginning: copies move off those alone.
    above: BTreeSet<NodeName>,
    /// Sets that may move off each donor that was asked about, the coldest first.
    movable: BTreeMap<NodeName, Vec<SetId>>,
    /// Donors that no copy can leave.
    pub(super) stuck: BTreeSet<NodeName>,
}

pub(super) fn is_uneven(loads: &Group, band: Band) -> bool {
    loads.len() > 1 && loads.values().any(|load| band.leaves_out(load.share()))
}

impl Budget {
    pub(super) fn has_room(&self, node: &NodeName) -> bool {
        self.busy.get(node).copied().unwrap_or(0) < self.per_donor
    }

    pub(super) fn take(&mut self, chosen: &PreviewMove) {
        self.moves -= 1;
        for node in [&chosen.from, &chosen.to] {
            *self.busy.entry(node.clone()).or_default() += 1;
        }
    }
}

impl Scale {
    pub(super) fn new(loads: Group, band: Band) -> Self {
        let order = loads
            .iter()
            .map(|(node, load)| (load.share(), node.clone()));
        let above = loads.iter().filter(|(_, load)| load.share() > band.level);
        Self {
            order: order.collect(),
            above: above.map(|(node, _)| node.clone()).collect(),
            movable: BTreeMap::new(),
            loads,
            band,
            stuck: BTreeSet::new(),
        }
    }

    pub(super) fn is_uneven(&self) -> bool {
        let ends = [self.order.first(), self.order.last()];
        let mut ends = ends.into_iter().flatten();
        ends.any(|(share, _)| self.band.leaves_out(*share))
    }

    /// The sets that may move off a donor, handed out until they are given back: what was refused once
    /// may fit when other donors are the emptiest.
    pub(super) fn take_movable(&mut self, draft: &Draft<'_>, from: &NodeName) -> Vec<SetId> {
        if !self.above.contains(from) {
            return Vec::new();
        }
        let known = self.movable.remove(from);
        known.unwrap_or_else(|| movable(draft, from))
    }

    /// Gives them back, without the one that moves.
    pub(super) fn give_movable(&mut self, from: &NodeName, sets: Vec<SetId>) {
        self.movable.insert(from.clone(), sets);
    }

    pub(super) fn move_one(&mut self, chosen: &PreviewMove) {
        self.change(&chosen.from, |lent| lent.saturating_sub(1));
        self.change(&chosen.to, |lent| lent + 1);
    }

    fn change(&mut self, node: &NodeName, change: impl Fn(u32) -> u32) {
        if let Some(load) = self.loads.get_mut(node) {
            self.order.remove(&(load.share(), node.clone()));
            load.lent = change(load.lent);
            self.order.insert((load.share(), node.clone()));
        }
    }
}

/// Sets that may move off a donor, the coldest first: those at rest, and not moved of late.
fn movable(draft: &Draft<'_>, from: &NodeName) -> Vec<SetId> {
    let sets = draft.ledger.sets.on(from);
    let sets = sets.filter(|(id, set)| is_still(draft, set) && !is_resting(draft, *id));
    let mut sets: Vec<Victim> = sets.map(|(id, _)| (temperature(draft, id), id)).collect();
    sets.sort_unstable();
    sets.into_iter().map(|(_, id)| id).collect()
}

/// Whether nothing of a set is in motion.
pub(super) fn is_still(draft: &Draft<'_>, set: &SetRecord) -> bool {
    let still = |seat: &Seat| {
        seat.phase == SeatPhase::Serving && seat.mark.is_none() && !draft.ledger.is_void(seat)
    };
    set.stage == SetStage::Offered && set.seats.iter().all(still)
}

fn is_resting(draft: &Draft<'_>, set: SetId) -> bool {
    let moved = draft.view.rebalanced.get(&set);
    moved.is_some_and(|at| at.after(REBALANCE_COOL_DOWN) > draft.view.now)
}
