//! Slots of the donors while a plan is drafted: which are free, and how many are lent.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamicswap_types::{NodeName, SlotIndex, SwapDeviceId};

use crate::balance::Load;
use crate::index::NodeAt;
use crate::ledger::{NodeRecord, Seat};
use crate::revoke::lendable_slots;
use crate::score::SlotUse;
use crate::view::ClusterView;

/// One donor's slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct DonorPool {
    taken: Vec<bool>,
    free: u32,
    /// No slot below is free.
    cursor: usize,
    /// Slots that the donor can lend in all.
    lendable: u32,
    /// Slots on record in its present memory, in any phase.
    lent: u32,
    /// Those of them whose copies nothing asks to leave.
    staying: u32,
}

/// The donors' slots, by the nodes' positions in the index. They are the cache's until a draft changes
/// them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pools {
    donors: Vec<Arc<DonorPool>>,
    /// Copies of those devices that were asked about, by donor.
    copies: BTreeMap<SwapDeviceId, BTreeMap<NodeAt, u32>>,
}

impl Pools {
    /// The slots as a draft finds them.
    pub(crate) fn of(donors: &[Arc<DonorPool>]) -> Self {
        Self {
            donors: donors.to_vec(),
            copies: BTreeMap::new(),
        }
    }

    /// Counts a seat in a donor's present memory that the draft has changed: as it was, or as it is.
    pub(crate) fn lend(&mut self, node: NodeAt, seat: &Seat, more: bool) {
        Arc::make_mut(&mut self.donors[node]).lend(seat, more);
    }

    /// Free and all slots of a donor.
    pub(crate) fn slot_use(&self, node: NodeAt) -> SlotUse {
        let pool = &self.donors[node];
        SlotUse {
            free: pool.free,
            total: u32::try_from(pool.taken.len()).unwrap_or(u32::MAX),
        }
    }

    /// Slots of a donor on record in its present memory, in any phase.
    pub(crate) fn lent(&self, node: NodeAt) -> u32 {
        self.donors[node].lent
    }

    /// What a donor lends to copies that stay, and what it can.
    pub(crate) fn load(&self, node: NodeAt) -> Load {
        let pool = &self.donors[node];
        Load {
            lent: pool.staying,
            lendable: pool.lendable,
        }
    }

    /// Notes the copies of a device by donor.
    pub(crate) fn learn_copies(&mut self, device: SwapDeviceId, copies: BTreeMap<NodeAt, u32>) {
        self.copies.insert(device, copies);
    }

    /// Copies of a device on a donor.
    pub(crate) fn copies(&self, node: NodeAt, device: SwapDeviceId) -> u32 {
        let copies = self.copies.get(&device);
        let here = copies.and_then(|copies| copies.get(&node));
        here.copied().unwrap_or(0)
    }

    /// Takes the lowest free slot of a donor for a device.
    pub(crate) fn take_lowest(&mut self, node: NodeAt, device: SwapDeviceId) -> Option<SlotIndex> {
        let pool = Arc::make_mut(&mut self.donors[node]);
        let start = pool.cursor;
        let index = (start..pool.taken.len()).find(|index| !pool.taken[*index])?;
        pool.cursor = index + 1;
        let slot = SlotIndex::new(u32::try_from(index).ok()?);
        pool.take(slot);
        let copies = self.copies.entry(device).or_default();
        *copies.entry(node).or_default() += 1;
        Some(slot)
    }

    /// Gives back a slot that [`Self::take_lowest`] took.
    pub(crate) fn give_back(&mut self, node: NodeAt, slot: SlotIndex, device: SwapDeviceId) {
        let pool = Arc::make_mut(&mut self.donors[node]);
        if let Some(taken) = pool.taken.get_mut(slot.as_usize()) {
            if std::mem::take(taken) {
                pool.free += 1;
            }
            pool.cursor = pool.cursor.min(slot.as_usize());
        }
        let copies = self.copies.get_mut(&device);
        if let Some(copies) = copies.and_then(|copies| copies.get_mut(&node)) {
            *copies = copies.saturating_sub(1);
        }
    }

    /// Takes one slot of a donor if it exists and no seat is on it.
    pub(crate) fn take(&mut self, node: NodeAt, slot: SlotIndex) -> bool {
        Arc::make_mut(&mut self.donors[node]).take(slot)
    }
}

impl DonorPool {
    /// A slot is taken if the ledger has a seat on it, in any phase, or if the donor says that it is
    /// granted to anybody. What the donor has and does not lend is not free either.
    pub(crate) fn of(view: &ClusterView<'_>, node: &NodeName, record: &NodeRecord) -> Self {
        let Some(facts) = &record.server else {
            return Self::default();
        };
        let mut pool = Self {
            taken: vec![false; facts.slots_total as usize],
            free: facts.slots_total,
            lendable: lendable_slots(view, node, facts),
            ..Self::default()
        };
        let said = view
            .server(node)
            .filter(|server| server.incarnation == facts.incarnation);
        for slot in said.iter().flat_map(|server| server.grants.keys()) {
            pool.take(*slot);
        }
        for (_, set) in view.ledger.sets.on(node) {
            let present =
                |seat: &&Seat| seat.node == *node && seat.incarnation == facts.incarnation;
            for seat in set.seats.iter().filter(present) {
                pool.take(seat.slot);
                pool.lend(seat, true);
            }
        }
        let held_back = facts.slots_total.saturating_sub(pool.lendable);
        pool.free = pool.free.saturating_sub(held_back);
        pool
    }

    /// Counts a seat, or counts it no more.
    fn lend(&mut self, seat: &Seat, more: bool) {
        let change = |count: u32, by: u32| {
            if more {
                count + by
            } else {
                count.saturating_sub(by)
            }
        };
        self.lent = change(self.lent, 1);
        self.staying = change(self.staying, u32::from(seat.stays()));
    }

    fn take(&mut self, slot: SlotIndex) -> bool {
        match self.taken.get_mut(slot.as_usize()) {
            Some(taken) if !*taken => {
                *taken = true;
                self.free = self.free.saturating_sub(1);
                true
            }
            _ => false,
        }
    }
}
