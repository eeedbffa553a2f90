//! Slots of the donors while a plan is drafted: which are free, and how many are lent.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamicswap_types::{IncarnationId, NodeName, SlotIndex, SwapDeviceId};

use crate::balance::Load;
use crate::index::NodeAt;
use crate::ledger::{NodeRecord, Seat};
use crate::revoke::lendable_slots;
use crate::score::SlotUse;
use crate::view::ClusterView;

/// One donor's slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct DonorPool {
    /// The life of its memory; absent where it has not reported.
    incarnation: Option<IncarnationId>,
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

    /// Whether a seat is in a donor's present memory.
    pub(crate) fn is_present(&self, node: NodeAt, seat: &Seat) -> bool {
        self.donors[node].incarnation == Some(seat.incarnation)
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
    /// The slots of a donor that nobody has a seat on, as far as it says itself. To be told of every
    /// seat there ([`Self::seat`]), then closed ([`Self::closed`]).
    pub(crate) fn of(view: &ClusterView<'_>, node: &NodeName, record: &NodeRecord) -> Self {
        let Some(facts) = &record.server else {
            return Self::default();
        };
        let mut pool = Self {
            incarnation: Some(facts.incarnation),
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
        pool
    }

    /// Takes a seat's slot, in whatever phase it is, unless the memory in which it was granted is gone.
    pub(crate) fn seat(&mut self, seat: &Seat) {
        if self.incarnation == Some(seat.incarnation) {
            self.take(seat.slot);
            self.lend(seat, true);
        }
    }

    /// What the donor has and does not lend is not free either.
    pub(crate) fn closed(mut self) -> Self {
        let slots = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        let held_back = slots.saturating_sub(self.lendable);
        self.free = self.free.saturating_sub(held_back);
        self
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
