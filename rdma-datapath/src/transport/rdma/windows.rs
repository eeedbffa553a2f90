//! What a link knows of the server's slots: the keys it has read, and the lookups under way.
//!
//! A key is read out of the server's directory when the slot is first used, and again when an
//! operation names another set than the one for which the key was made.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_engine::wire::{DirectoryEntry, ENTRY_WORDS, WISHES, decode_entry};
use dynamicswap_types::{MonotonicTime, SetId, SlotIndex};

use crate::verbs::SharedWords;

/// Lookups at once; more slots wait for their turn.
pub(super) const LOOKUPS_MAX: usize = WISHES;
/// A key that is being made, or an entry that was read while it was written, is read again after
/// this time.
const AGAIN_AFTER: Duration = Duration::from_millis(1);
/// Where a ping reads to.
pub(super) const PING_PLACE: usize = LOOKUPS_MAX;
/// Where the wishes are that go to the server: a word for each lookup.
pub(super) const WISH_WORDS: usize = (LOOKUPS_MAX + 1) * ENTRY_WORDS;
/// Words of the buffer: a place for each lookup and one for pings, then the wishes.
pub(super) const BUFFER_WORDS: usize = WISH_WORDS + LOOKUPS_MAX;

/// The way into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) set: SetId,
    pub(super) address: u64,
    pub(super) key: u32,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The slot's key, or that there is none for this device.
    Settled(SlotIndex),
    /// The key is being made: the server should make it next. It will be read again.
    Wait(SlotIndex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// Posted; waits for its completion.
    UnderWay(SlotIndex),
    /// Waits for the time of the next try.
    Again(SlotIndex, MonotonicTime),
}

impl Lookup {
    const fn slot(self) -> SlotIndex {
        match self {
            Self::UnderWay(slot) | Self::Again(slot, _) => slot,
        }
    }
}

/// Keys and lookups.
pub(super) struct Windows {
    known: Vec<Option<Window>>,
    lookups: [Option<Lookup>; LOOKUPS_MAX],
}

impl Windows {
    pub(super) const fn new() -> Self {
        Self {
            known: Vec::new(),
            lookups: [None; LOOKUPS_MAX],
        }
    }

    /// A new connection begins: the server has so many slots, and no key is known.
    pub(super) fn begin(&mut self, slots: u32) {
        self.known.clear();
        self.known.resize(SlotIndex::new(slots).as_usize(), None);
        self.lookups = [None; LOOKUPS_MAX];
    }

    /// How many slots the server has.
    pub(super) const fn slots(&self) -> usize {
        self.known.len()
    }

    /// Whether the server has the slot at all.
    pub(super) fn exists(&self, slot: SlotIndex) -> bool {
        slot.as_usize() < self.known.len()
    }

    /// The way into the slot, if it is known and for the set.
    pub(super) fn get(&self, slot: SlotIndex, set: SetId) -> Option<Window> {
        let known = self.known.get(slot.as_usize()).copied().flatten();
        known.filter(|window| window.set == set)
    }

    /// Whether the slot is being looked up.
    pub(super) fn is_looked_up(&self, slot: SlotIndex) -> bool {
        let mut lookups = self.lookups.iter().flatten();
        lookups.any(|lookup| lookup.slot() == slot)
    }

    /// Begins a lookup; gives its place, which the caller posts. `None` if there is none free.
    pub(super) fn begin_lookup(&mut self, slot: SlotIndex) -> Option<usize> {
        let place = self.lookups.iter().position(Option::is_none)?;
        self.lookups[place] = Some(Lookup::UnderWay(slot));
        Some(place)
    }

    /// A lookup whose time for the next try has come; the caller posts it.
    pub(super) fn due(&mut self, now: MonotonicTime) -> Option<(usize, SlotIndex)> {
        let lookups = self.lookups.iter_mut().enumerate();
        for (place, lookup) in lookups {
            if let Some(Lookup::Again(slot, at)) = *lookup
                && at <= now
            {
                *lookup = Some(Lookup::UnderWay(slot));
                return Some((place, slot));
            }
        }
        None
    }

    /// When the next lookup is due.
    pub(super) fn deadline(&self) -> Option<MonotonicTime> {
        let lookups = self.lookups.iter().flatten();
        let due = lookups.filter_map(|lookup| match lookup {
            Lookup::Again(_, at) => Some(*at),
            Lookup::UnderWay(_) => None,
        });
        due.min()
    }

    /// The entry was read into its place.
    pub(super) fn read(
        &mut self,
        place: usize,
        buffer: &SharedWords,
        now: MonotonicTime,
    ) -> Option<Found> {
        let mut words = [0; ENTRY_WORDS];
        let from = &buffer.words()[place * ENTRY_WORDS..];
        for (word, from) in words.iter_mut().zip(from) {
            *word = from.load(Ordering::Acquire);
        }
        self.take(place, &words, now)
    }

    fn take(
        &mut self,
        place: usize,
        words: &[u64; ENTRY_WORDS],
        now: MonotonicTime,
    ) -> Option<Found> {
        let slot = self.lookups.get(place).copied().flatten()?.slot();
        let window = match decode_entry(words) {
            None | Some(DirectoryEntry::Pending) => {
                self.lookups[place] = Some(Lookup::Again(slot, now.after(AGAIN_AFTER)));
                return Some(Found::Wait(slot));
            }
            Some(DirectoryEntry::NotYours) => None,
            Some(DirectoryEntry::Ready { set, address, key }) => Some(Window { set, address, key }),
        };
        self.lookups[place] = None;
        if let Some(known) = self.known.get_mut(slot.as_usize()) {
            *known = window;
        }
        Some(Found::Settled(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::wire::encode_entry;

    const SLOT: SlotIndex = SlotIndex::new(3);
    const SET: SetId = SetId::new(8);
    const NOW: MonotonicTime = MonotonicTime::ZERO;

    #[test]
    fn key_is_known_for_its_set_and_for_no_other() {
        let mut windows = Windows::new();
        windows.begin(4);
        assert!(windows.exists(SLOT) && !windows.exists(SlotIndex::new(4)));
        let place = windows.begin_lookup(SLOT).expect("room");
        assert!(windows.is_looked_up(SLOT));
        let ready = DirectoryEntry::Ready {
            set: SET,
            address: 0x1000,
            key: 5,
        };
        let settled = windows.take(place, &encode_entry(ready), NOW);
        assert_eq!(settled, Some(Found::Settled(SLOT)));
        assert_eq!(windows.get(SLOT, SET).map(|window| window.key), Some(5));
        assert_eq!(windows.get(SLOT, SetId::new(9)), None);
        windows.begin(4);
        assert_eq!(
            windows.get(SLOT, SET),
            None,
            "a new connection knows nothing"
        );
    }

    #[test]
    fn pending_and_torn_entries_are_read_again() {
        let mut windows = Windows::new();
        windows.begin(4);
        let place = windows.begin_lookup(SLOT).expect("room");
        let pending = encode_entry(DirectoryEntry::Pending);
        let mut torn = pending;
        torn[1] = 77;
        for words in [pending, torn] {
            assert_eq!(windows.take(place, &words, NOW), Some(Found::Wait(SLOT)));
            assert_eq!(windows.due(NOW), None, "not at once");
            let later = windows.deadline().expect("a time");
            assert_eq!(windows.due(later), Some((place, SLOT)));
            assert_eq!(windows.deadline(), None, "it is under way again");
        }
        let not = encode_entry(DirectoryEntry::NotYours);
        assert_eq!(windows.take(place, &not, NOW), Some(Found::Settled(SLOT)));
        assert!(!windows.is_looked_up(SLOT) && windows.get(SLOT, SET).is_none());
    }

    #[test]
    fn lookups_are_bounded() {
        let mut windows = Windows::new();
        windows.begin(100);
        let begun = (0..100).filter(|n| windows.begin_lookup(SlotIndex::new(*n)).is_some());
        assert_eq!(begun.count(), LOOKUPS_MAX);
    }
}
