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
    /// Sets that may move off each donor, the coldest first.
    pub(super) movable: BTreeMap<NodeName, Vec<SetId>>,
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
    pub(super) fn new(draft: &Draft<'_>, loads: Group, band: Band) -> Self {
        let order = loads
            .iter()
            .map(|(node, load)| (load.share(), node.clone()));
        Self {
            order: order.collect(),
            movable: movable(draft, &loads, band),
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

/// Sets that may move off each donor above the level, the coldest first: those at rest, and not moved
/// of late.
fn movable(draft: &Draft<'_>, loads: &Group, band: Band) -> BTreeMap<NodeName, Vec<SetId>> {
    let mut movable: BTreeMap<NodeName, Vec<Victim>> = BTreeMap::new();
    for (id, set) in &draft.ledger.sets {
        if !is_still(draft, set) || is_resting(draft, *id) {
            continue;
        }
        for seat in &set.seats {
            let load = loads.get(&seat.node);
            if load.is_some_and(|load| load.share() > band.level) {
                let sets = movable.entry(seat.node.clone()).or_default();
                sets.push((temperature(draft, *id), *id));
            }
        }
    }
    let sorted = movable.into_iter().map(|(node, mut sets)| {
        sets.sort_unstable();
        (node, sets.into_iter().map(|(_, id)| id).collect())
    });
    sorted.collect()
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
