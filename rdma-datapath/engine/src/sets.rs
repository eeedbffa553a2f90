//! The set table: which slots hold a slab, and in which state each copy is.
//!
//! Owns the packing of [`SetEntry`]'s words. The rules that change them stand in `reserve.rs`,
//! `write.rs` and `copy.rs`.

use std::sync::atomic::Ordering;

use dynamicswap_types::{Copies, ServerIndex, SetId, SlotIndex};

use crate::document::ReplicaPlace;
use crate::progress::Progress;
use crate::tables::SetEntry;

/// State of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplicaState {
    /// Holds the acknowledged version of each page.
    Live,
    /// New writes go there; older pages are being copied.
    Rebuilding,
    /// Missed a write; rebuilt as soon as its server answers.
    Stale,
    /// Its server has lost or refused it; waits for a document that names another place.
    Lost,
}

/// One copy as the set table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Where it lies.
    pub place: ReplicaPlace,
    /// How good it is.
    pub state: ReplicaState,
}

const STATE_SHIFT: u32 = 48;
const SERVER_SHIFT: u32 = 32;
const RELEASED: u64 = 1 << 8;

fn pack(replica: Replica) -> u64 {
    let state: u64 = match replica.state {
        ReplicaState::Live => 1,
        ReplicaState::Rebuilding => 2,
        ReplicaState::Stale => 3,
        ReplicaState::Lost => 4,
    };
    let server = u64::from(replica.place.server.get());
    (state << STATE_SHIFT) | (server << SERVER_SHIFT) | u64::from(replica.place.slot.get())
}

fn unpack(word: u64) -> Replica {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fields are cut out by design"
    )]
    let (server, slot) = ((word >> SERVER_SHIFT) as u16, word as u32);
    let place = ReplicaPlace {
        server: ServerIndex::new(server),
        slot: SlotIndex::new(slot),
    };
    let state = match (word >> STATE_SHIFT) & 0xff {
        1 => ReplicaState::Live,
        2 => ReplicaState::Rebuilding,
        3 => ReplicaState::Stale,
        // Whatever else stands there cannot be trusted.
        _ => ReplicaState::Lost,
    };
    Replica { place, state }
}

impl SetEntry {
    /// The set at this place, if the place is taken.
    #[must_use]
    pub fn id(&self) -> Option<SetId> {
        match self.id.load(Ordering::Acquire) {
            0 => None,
            id => Some(SetId::new(id)),
        }
    }

    /// Whether the set will not be used again.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.shape.load(Ordering::Relaxed) & RELEASED != 0
    }

    /// Number of copies.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = self.shape.load(Ordering::Relaxed) & 0xff;
        usize::try_from(count).unwrap_or(0).min(Copies::MAX)
    }

    /// Whether the place has no copies, as a free one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The copy at `index`.
    #[must_use]
    pub fn replica(&self, index: usize) -> Replica {
        unpack(self.replicas[index].load(Ordering::Acquire))
    }

    /// All copies.
    pub fn replicas(&self) -> impl Iterator<Item = (usize, Replica)> + '_ {
        (0..self.len()).map(|index| (index, self.replica(index)))
    }

    /// Position of the copy at `place`.
    #[must_use]
    pub fn find(&self, place: ReplicaPlace) -> Option<usize> {
        self.replicas()
            .find(|(_, replica)| replica.place == place)
            .map(|(index, _)| index)
    }

    fn store(&self, index: usize, replica: Replica) {
        self.replicas[index].store(pack(replica), Ordering::Release);
    }

    pub(crate) fn set_state(&self, index: usize, state: ReplicaState) {
        self.store(
            index,
            Replica {
                state,
                ..self.replica(index)
            },
        );
    }

    /// What the copy at `index` holds, unless it is whole.
    pub(crate) fn progress(&self, index: usize) -> Progress {
        self.progress[index].load()
    }

    /// Whether the copy at `index` is not whole and holds a part of its pages already.
    #[must_use]
    pub fn is_half_made(&self, index: usize) -> bool {
        let held = self.progress(index);
        self.replica(index).state != ReplicaState::Live && held != Progress::NOTHING
    }

    /// Makes the copy at `index` a whole or an empty one. What it holds is on record first: a
    /// process that is killed in between must find nothing that the copy does not hold.
    pub(crate) fn begin(&self, index: usize, replica: Replica) {
        let whole = replica.state == ReplicaState::Live;
        self.progress[index].store(Progress::NOTHING);
        self.store(index, replica);
        if whole {
            self.progress[index].store(Progress::WHOLE);
        }
    }

    /// Brings a copy of this set to another position, with what it holds.
    pub(crate) fn bring(&self, index: usize, replica: Replica, progress: Progress) {
        self.progress[index].store(Progress::NOTHING);
        self.store(index, replica);
        self.progress[index].store(progress);
    }

    /// The copy at `index` is whole.
    pub(crate) fn complete(&self, index: usize) {
        self.progress[index].store(Progress::WHOLE);
        self.set_state(index, ReplicaState::Live);
    }

    /// Changes the number of copies; the released flag stays.
    pub(crate) fn set_len(&self, count: usize) {
        let released = self.shape.load(Ordering::Relaxed) & RELEASED;
        self.shape
            .store(released | count.min(Copies::MAX) as u64, Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        self.shape.fetch_or(RELEASED, Ordering::Relaxed);
    }

    /// Takes a free place. The id is stored last, so that a half-made entry stays free.
    pub(crate) fn take(&self, id: SetId, places: &[ReplicaPlace]) {
        for (index, place) in places.iter().enumerate() {
            let state = ReplicaState::Live;
            let place = *place;
            self.begin(index, Replica { place, state });
        }
        self.set_len(places.len());
        self.id.store(id.get(), Ordering::Release);
    }

    pub(crate) fn free(&self) {
        self.id.store(0, Ordering::Release);
        self.shape.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(server: u16, slot: u32) -> ReplicaPlace {
        ReplicaPlace {
            server: ServerIndex::new(server),
            slot: SlotIndex::new(slot),
        }
    }

    proptest! {
        #[test]
        fn packed_replica_unpacks(server in any::<u16>(), slot in any::<u32>(), state in 0_usize..4) {
            let states =
                [ReplicaState::Live, ReplicaState::Rebuilding, ReplicaState::Stale, ReplicaState::Lost];
            let replica = Replica { place: place(server, slot), state: states[state] };
            prop_assert_eq!(unpack(pack(replica)), replica);
        }
    }

    #[test]
    fn place_is_taken_released_and_freed() {
        let entry = SetEntry::default();
        assert!(entry.id().is_none() && entry.is_empty());
        entry.take(SetId::new(7), &[place(1, 2), place(3, 4)]);
        assert_eq!(entry.id(), Some(SetId::new(7)));
        assert_eq!(entry.find(place(3, 4)), Some(1));
        entry.set_state(1, ReplicaState::Stale);
        assert_eq!(entry.replica(1).state, ReplicaState::Stale);
        entry.release();
        assert!(entry.is_released());
        assert_eq!(entry.len(), 2);
        entry.free();
        assert!(entry.id().is_none() && entry.is_empty() && !entry.is_released());
    }
}
