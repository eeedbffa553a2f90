//! Free slots of the donors while a plan is drafted.

use std::collections::BTreeMap;

use dynamicswap_types::{NodeName, SlotIndex, SwapDeviceId};

use crate::ledger::Ledger;
use crate::revoke::lendable_slots;
use crate::score::SlotUse;
use crate::view::ClusterView;

/// One donor's slots.
#[derive(Debug, Clone, Default)]
struct DonorPool {
    taken: Vec<bool>,
    free: u32,
    /// No slot below is free.
    cursor: usize,
    copies: BTreeMap<SwapDeviceId, u32>,
    /// Slots that the donor can lend in all.
    lendable: u32,
}

/// The donors' slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pools {
    donors: BTreeMap<NodeName, DonorPool>,
}

impl Pools {
    /// A slot is taken if the ledger has a seat on it, in any phase, or if the donor says that
    /// it is granted to anybody.
    pub(crate) fn of(view: &ClusterView<'_>, ledger: &Ledger) -> Self {
        let mut pools = Self::default();
        for (node, record) in &ledger.nodes {
            let Some(facts) = &record.server else {
                continue;
            };
            let mut pool = DonorPool {
                taken: vec![false; facts.slots_total as usize],
                free: facts.slots_total,
                ..DonorPool::default()
            };
            let said = view
                .server(node)
                .filter(|server| server.incarnation == facts.incarnation);
            for slot in said.iter().flat_map(|server| server.grants.keys()) {
                pool.take(*slot);
            }
            pool.lendable = lendable_slots(view, node, facts);
            pools.donors.insert(node.clone(), pool);
        }
        for set in ledger.sets.values() {
            for seat in &set.seats {
                let present = ledger.incarnation_of(&seat.node) == Some(seat.incarnation);
                let pool = pools.donors.get_mut(&seat.node).filter(|_| present);
                if let Some(pool) = pool {
                    pool.take(seat.slot);
                    *pool.copies.entry(set.device).or_default() += 1;
                }
            }
        }
        for pool in pools.donors.values_mut() {
            let held_back = u32::try_from(pool.taken.len()).unwrap_or(u32::MAX);
            let held_back = held_back.saturating_sub(pool.lendable);
            pool.free = pool.free.saturating_sub(held_back);
        }
        pools
    }

    /// Free and all slots of a donor.
    pub(crate) fn slot_use(&self, node: &NodeName) -> SlotUse {
        self.donors
            .get(node)
            .map_or(SlotUse { free: 0, total: 0 }, |pool| SlotUse {
                free: pool.free,
                total: u32::try_from(pool.taken.len()).unwrap_or(u32::MAX),
            })
    }

    /// Copies of a device on a donor.
    pub(crate) fn copies(&self, node: &NodeName, device: SwapDeviceId) -> u32 {
        let pool = self.donors.get(node);
        pool.and_then(|pool| pool.copies.get(&device))
            .copied()
            .unwrap_or(0)
    }

    /// Takes the lowest free slot of a donor for a device.
    pub(crate) fn take_lowest(
        &mut self,
        node: &NodeName,
        device: SwapDeviceId,
    ) -> Option<SlotIndex> {
        let pool = self.donors.get_mut(node)?;
        let start = pool.cursor;
        let index = (start..pool.taken.len()).find(|index| !pool.taken[*index])?;
        pool.cursor = index + 1;
        let slot = SlotIndex::new(u32::try_from(index).ok()?);
        pool.take(slot);
        *pool.copies.entry(device).or_default() += 1;
        Some(slot)
    }

    /// Gives back a slot that [`Self::take_lowest`] took.
    pub(crate) fn give_back(&mut self, node: &NodeName, slot: SlotIndex, device: SwapDeviceId) {
        let Some(pool) = self.donors.get_mut(node) else {
            return;
        };
        if let Some(taken) = pool.taken.get_mut(slot.as_usize()) {
            if std::mem::take(taken) {
                pool.free += 1;
            }
            pool.cursor = pool.cursor.min(slot.as_usize());
        }
        if let Some(copies) = pool.copies.get_mut(&device) {
            *copies = copies.saturating_sub(1);
        }
    }

    /// Takes one slot of a donor if it exists and no seat is on it.
    pub(crate) fn take(&mut self, node: &NodeName, slot: SlotIndex) -> bool {
        self.donors
            .get_mut(node)
            .is_some_and(|pool| pool.take(slot))
    }
}

impl DonorPool {
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
