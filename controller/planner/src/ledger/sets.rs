//! The table of replica sets, with the indexes that a plan asks: by donor, by device, and which sets
//! are in motion. The indexes follow every change and are never written by anybody else.
//!
//! The table is in parts that copies of a ledger share. A copy costs some pointers, not as many as
//! there are sets, and two ledgers are compared by looking at the parts that they do not share.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::FlatMap;
use std::sync::Arc;

use dynamicswap_types::{NodeName, SetId, SwapDeviceId};

use super::{SeatPhase, SetRecord, SetStage};
use crate::hash::Lookup;

/// Sets in a part, as a power of two: a change copies its part, and a copy of the table all pointers to
/// parts. 100,000 sets are 1,563 parts.
const PART_BITS: u32 = 6;

/// Sets whose ids lie beside each other.
type Part = BTreeMap<SetId, Arc<SetRecord>>;
/// Ids of sets, shared by copies of the table that have the same.
type Ids = Arc<BTreeSet<SetId>>;

/// The sets on record, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sets {
    parts: BTreeMap<u64, Arc<Part>>,
    len: usize,
    by_donor: BTreeMap<NodeName, Ids>,
    by_device: BTreeMap<SwapDeviceId, Ids>,
    moving: Ids,
}

/// Sets in the order of their ids.
pub type SetsIter<'a> = FlatMap<
    btree_map::Values<'a, u64, Arc<Part>>,
    btree_map::Iter<'a, SetId, Arc<SetRecord>>,
    fn(&'a Arc<Part>) -> btree_map::Iter<'a, SetId, Arc<SetRecord>>,
>;

const fn part_of(id: SetId) -> u64 {
    id.get() >> PART_BITS
}

impl Sets {
    /// Number of sets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A set.
    #[must_use]
    pub fn get(&self, id: &SetId) -> Option<&Arc<SetRecord>> {
        self.parts.get(&part_of(*id))?.get(id)
    }

    /// Whether a set is on record.
    #[must_use]
    pub fn contains_key(&self, id: &SetId) -> bool {
        self.get(id).is_some()
    }

    /// All sets, by id.
    pub fn iter(&self) -> SetsIter<'_> {
        self.parts.values().flat_map(|part| part.iter())
    }

    /// All records, by the sets' ids.
    pub fn values(&self) -> impl Iterator<Item = &Arc<SetRecord>> {
        self.iter().map(|(_, set)| set)
    }

    /// Sets with a seat on this node, in any phase, by id.
    pub fn on(&self, node: &NodeName) -> impl Iterator<Item = (SetId, &Arc<SetRecord>)> {
        self.listed(self.by_donor.get(node))
    }

    /// Their ids.
    pub(crate) fn ids_on(&self, node: &NodeName) -> impl Iterator<Item = SetId> {
        let ids = self.by_donor.get(node).into_iter();
        ids.flat_map(|ids| ids.iter().copied())
    }

    /// Number of sets with a seat on this node, in any phase.
    #[must_use]
    pub fn count_on(&self, node: &NodeName) -> usize {
        self.by_donor.get(node).map_or(0, |ids| ids.len())
    }

    /// Sets of a device, in any stage, by id.
    pub fn of(&self, device: SwapDeviceId) -> impl Iterator<Item = (SetId, &Arc<SetRecord>)> {
        self.listed(self.by_device.get(&device))
    }

    /// Their ids.
    pub(crate) fn ids_of(&self, device: SwapDeviceId) -> impl Iterator<Item = SetId> {
        let ids = self.by_device.get(&device).into_iter();
        ids.flat_map(|ids| ids.iter().copied())
    }

    /// Number of sets of a device, in any stage.
    #[must_use]
    pub fn count_of(&self, device: SwapDeviceId) -> usize {
        self.by_device.get(&device).map_or(0, |ids| ids.len())
    }

    /// Sets that are not simply offered: one that is composed or taken back, or has a seat that is
    /// not serving or shall leave.
    pub fn moving(&self) -> impl Iterator<Item = (SetId, &Arc<SetRecord>)> {
        self.listed(Some(&self.moving))
    }

    /// Puts a set on record. Returns what was there under its id.
    pub fn insert(&mut self, id: SetId, record: Arc<SetRecord>) -> Option<Arc<SetRecord>> {
        let part = Arc::make_mut(self.parts.entry(part_of(id)).or_default());
        let before = part.insert(id, Arc::clone(&record));
        self.len += usize::from(before.is_none());
        self.index(id, before.as_deref(), Some(&record));
        before
    }

    /// Takes a set off the record.
    pub fn remove(&mut self, id: &SetId) -> Option<Arc<SetRecord>> {
        let part = self.parts.get_mut(&part_of(*id))?;
        if !part.contains_key(id) {
            return None;
        }
        let part = Arc::make_mut(part);
        let before = part.remove(id);
        if part.is_empty() {
            self.parts.remove(&part_of(*id));
        }
        self.len -= usize::from(before.is_some());
        self.index(*id, before.as_deref(), None);
        before
    }

    /// Ids of the sets that may differ from those of another table. Those that both share do not; a
    /// set that was changed and changed back may be among them.
    #[must_use]
    pub fn differences(&self, before: &Self) -> BTreeSet<SetId> {
        let mut ids = BTreeSet::new();
        let keys = self.parts.keys().chain(before.parts.keys());
        for key in keys {
            let (now, then) = (self.parts.get(key), before.parts.get(key));
            if let (Some(now), Some(then)) = (now, then)
                && Arc::ptr_eq(now, then)
            {
                continue;
            }
            let same = |id: &SetId, record: &Arc<SetRecord>, other: Option<&Arc<Part>>| {
                let other = other.and_then(|part| part.get(id));
                other.is_some_and(|other| Arc::ptr_eq(other, record))
            };
            let now_there = now.into_iter().flat_map(|part| part.iter());
            let differing = now_there.filter(|(id, record)| !same(id, record, then));
            ids.extend(differing.map(|(id, _)| *id));
            let then_there = then.into_iter().flat_map(|part| part.keys());
            let gone = then_there.filter(|id| now.is_none_or(|part| !part.contains_key(id)));
            ids.extend(gone);
        }
        ids
    }

    /// Whether the two tables share the list of this device's sets: neither gained or lost one.
    pub(crate) fn shares_device(&self, other: &Self, device: SwapDeviceId) -> bool {
        match (self.by_device.get(&device), other.by_device.get(&device)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether the indexes say what the sets do: looks at every set.
    pub(crate) fn is_indexed(&self) -> bool {
        let mut by_donor: Lookup<&NodeName, Vec<SetId>> = Lookup::default();
        let mut by_device: Lookup<SwapDeviceId, Vec<SetId>> = Lookup::default();
        let (mut moving, mut len) = (Vec::new(), 0);
        for (id, set) in self {
            len += 1;
            for (at, seat) in set.seats.iter().enumerate() {
                // A set that has two seats on a node stands there once.
                if set.seats[..at].iter().all(|other| other.node != seat.node) {
                    by_donor.push(&seat.node, *id);
                }
            }
            by_device.push(set.device, *id);
            if is_moving(set) {
                moving.push(*id);
            }
        }
        let same = |ids: &Ids, found: Option<&Vec<SetId>>| {
            found.is_some_and(|found| ids.iter().eq(found.iter()))
        };
        let mut donors = self.by_donor.iter();
        let mut devices = self.by_device.iter();
        self.len == len
            && self.moving.iter().eq(moving.iter())
            && (self.by_donor.len(), self.by_device.len()) == (by_donor.len(), by_device.len())
            && donors.all(|(node, ids)| same(ids, by_donor.get(node)))
            && devices.all(|(device, ids)| same(ids, by_device.get(device)))
    }

    /// Changes a set. The indexes follow.
    pub(super) fn change<R>(
        &mut self,
        id: SetId,
        change: impl FnOnce(&mut SetRecord) -> R,
    ) -> Option<R> {
        // What is not on record copies no part.
        self.get(&id)?;
        let part = self.parts.get_mut(&part_of(id)).map(Arc::make_mut)?;
        let record = part.get_mut(&id)?;
        let before = Arc::clone(record);
        let changed = change(Arc::make_mut(record));
        let after = Arc::clone(record);
        self.index(id, Some(&before), Some(&after));
        Some(changed)
    }

    fn listed<'a>(
        &'a self,
        ids: Option<&'a Ids>,
    ) -> impl Iterator<Item = (SetId, &'a Arc<SetRecord>)> {
        let ids = ids.into_iter().flat_map(|ids| ids.iter());
        ids.filter_map(|id| self.get(id).map(|set| (*id, set)))
    }

    /// Has the indexes follow one set, from what it was to what it is.
    fn index(&mut self, id: SetId, before: Option<&SetRecord>, after: Option<&SetRecord>) {
        let has = |set: Option<&SetRecord>, node: &NodeName| {
            set.is_some_and(|set| set.seat(node).is_some())
        };
        for seat in before.into_iter().flat_map(|set| &set.seats) {
            if !has(after, &seat.node) {
                leave(&mut self.by_donor, &seat.node, id);
            }
        }
        for seat in after.into_iter().flat_map(|set| &set.seats) {
            if !has(before, &seat.node) {
                enter(&mut self.by_donor, &seat.node, id);
            }
        }
        let device = |set: Option<&SetRecord>| set.map(|set| set.device);
        if device(before) != device(after) {
            if let Some(device) = device(before) {
                leave(&mut self.by_device, &device, id);
            }
            if let Some(device) = device(after) {
                enter(&mut self.by_device, &device, id);
            }
        }
        match (before.is_some_and(is_moving), after.is_some_and(is_moving)) {
            (false, true) => {
                Arc::make_mut(&mut self.moving).insert(id);
            }
            (true, false) => {
                Arc::make_mut(&mut self.moving).remove(&id);
            }
            _ => {}
        }
    }
}

fn is_moving(set: &SetRecord) -> bool {
    let serves = |seat: &super::Seat| seat.phase == SeatPhase::Serving && seat.mark.is_none();
    set.stage != SetStage::Offered || !set.seats.iter().all(serves)
}

fn enter<K: Ord + Clone>(index: &mut BTreeMap<K, Ids>, key: &K, id: SetId) {
    match index.get_mut(key) {
        Some(ids) => {
            Arc::make_mut(ids).insert(id);
        }
        None => {
            index.insert(key.clone(), Arc::new(BTreeSet::from([id])));
        }
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, Ids>, key: &K, id: SetId) {
    if let Some(ids) = index.get_mut(key) {
        let ids = Arc::make_mut(ids);
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

impl<'a> IntoIterator for &'a Sets {
    type Item = (&'a SetId, &'a Arc<SetRecord>);
    type IntoIter = SetsIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<(SetId, Arc<SetRecord>)> for Sets {
    fn from_iter<T: IntoIterator<Item = (SetId, Arc<SetRecord>)>>(sets: T) -> Self {
        let mut table = Self::default();
        for (id, set) in sets {
            table.insert(id, set);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Mark, Seat};
    use dynamicswap_types::{IncarnationId, SlotIndex};

    fn node(number: u64) -> NodeName {
        format!("n{number}").parse().expect("valid")
    }

    fn record(draw: u64) -> Arc<SetRecord> {
        let seats = (0..draw % 4).map(|at| Seat {
            node: node((draw >> 8) % 5 + at),
            slot: SlotIndex::new(0),
            incarnation: IncarnationId::from_bytes([1; 16]),
            phase: if (draw >> 16).is_multiple_of(4) {
                SeatPhase::Leaving { since: None }
            } else {
                SeatPhase::Serving
            },
            mark: (draw >> 24).is_multiple_of(4).then_some(Mark::Revoked),
        });
        let device = u8::try_from((draw >> 32) % 3).expect("small");
        Arc::new(SetRecord {
            device: SwapDeviceId::from_bytes([device; 16]),
            stage: if (draw >> 40).is_multiple_of(4) {
                SetStage::Closing
            } else {
                SetStage::Offered
            },
            seats: seats.collect(),
        })
    }

    const fn mix(seed: u64) -> u64 {
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn table_answers_as_an_ordered_map_does_and_its_indexes_follow() {
        let mut table = Sets::default();
        let mut map: BTreeMap<SetId, Arc<SetRecord>> = BTreeMap::new();
        for round in 0..4_000_u64 {
            let draw = mix(round + 1);
            let id = SetId::new(mix(draw) % 900);
            let (copy, before) = (table.clone(), map.clone());
            match draw % 3 {
                0 => assert_eq!(table.remove(&id), map.remove(&id)),
                1 => {
                    let record = record(mix(draw + 7));
                    assert_eq!(table.insert(id, record.clone()), map.insert(id, record));
                }
                _ => {
                    let to = record(mix(draw + 9));
                    let changed = table.change(id, |set| *set = (*to).clone());
                    assert_eq!(changed.is_some(), map.contains_key(&id));
                    map.entry(id).and_modify(|set| *set = to);
                }
            }
            assert!(table.is_indexed(), "after {round}");
            assert_eq!(table.len(), map.len());
            let changed = map.get(&id).map(Arc::as_ptr) != before.get(&id).map(Arc::as_ptr);
            let differs = table.differences(&copy);
            assert!(differs.iter().all(|other| *other == id), "{differs:?}");
            assert!(!changed || differs.contains(&id));
            assert_eq!(differs, copy.differences(&table));
        }
        assert!(table.iter().eq(map.iter()));
        for number in 0..8 {
            let node = node(number);
            let here = map.iter().filter(|(_, set)| set.seat(&node).is_some());
            let here: Vec<_> = here.map(|(id, set)| (*id, set)).collect();
            assert_eq!(table.on(&node).collect::<Vec<_>>(), here);
        }
    }
}
