//! The table of requests that a front end has taken and the engine has not released.
//!
//! A tag is a place in the table and the count of its uses, so that a late completion of an
//! earlier use is noticed and not taken for the present one.

use std::time::Duration;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::limits::REQUESTS_MAX;
use dynamicswap_engine::request::RequestTag;
use dynamicswap_types::MonotonicTime;

/// What a request asks, without its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoneKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A discard.
    Discard,
    /// A flush.
    Flush,
}

/// A request that has ended, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What it was.
    pub kind: DoneKind,
    /// Pages it covered.
    pub pages: u32,
    /// From the kernel's hand-over to the answer.
    pub latency: Duration,
}

/// One request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's name for it.
    pub unique: u64,
    /// What it asks.
    pub kind: DoneKind,
    /// Pages it covers.
    pub pages: u32,
    /// Bytes that the kernel asked for or gave.
    pub bytes: u32,
    /// Where its data lie.
    pub buffer: Option<BufferRange>,
    /// When it was taken.
    pub taken: MonotonicTime,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    uses: u32,
    entry: Option<Entry>,
    answered: bool,
}

/// The table; as many places as the engine has.
#[derive(Debug)]
pub struct InFlight {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new()
    }
}

impl InFlight {
    /// An empty table of [`REQUESTS_MAX`] places.
    #[must_use]
    pub fn new() -> Self {
        let place = Place {
            uses: 0,
            entry: None,
            answered: false,
        };
        Self {
            places: vec![place; REQUESTS_MAX],
            free: (0..).take(REQUESTS_MAX).collect::<Vec<u32>>(),
        }
    }

    /// Whether a place is free.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a request into the table; `None` if it is full.
    pub fn insert(&mut self, entry: Entry) -> Option<RequestTag> {
        let index = self.free.pop()?;
        let place = &mut self.places[index as usize];
        place.uses = place.uses.wrapping_add(1);
        place.entry = Some(entry);
        place.answered = false;
        Some(RequestTag(u64::from(place.uses) << 32 | u64::from(index)))
    }

    /// The request, unless it was answered before; from now on it counts as answered.
    pub fn answer(&mut self, tag: RequestTag) -> Option<Entry> {
        let place = self.place(tag)?;
        if std::mem::replace(&mut place.answered, true) {
            return None;
        }
        place.entry
    }

    /// Takes the request out of the table.
    pub fn remove(&mut self, tag: RequestTag) -> Option<Entry> {
        let entry = self.place(tag)?.entry.take()?;
        self.free.push(index_of(tag));
        Some(entry)
    }

    fn place(&mut self, tag: RequestTag) -> Option<&mut Place> {
        self.places
            .get_mut(index_of(tag) as usize)
            .filter(|place| place.entry.is_some() && u64::from(place.uses) == tag.0 >> 32)
    }
}

/// The place that a tag names.
fn index_of(tag: RequestTag) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is the place"
    )]
    {
        tag.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(unique: u64) -> Entry {
        Entry {
            unique,
            kind: DoneKind::Read,
            pages: 1,
            bytes: 4096,
            buffer: None,
            taken: MonotonicTime::ZERO,
        }
    }

    #[test]
    fn request_is_answered_once_and_keeps_its_place_until_removed() {
        let mut table = InFlight::new();
        let tag = table.insert(entry(7)).expect("room");
        assert_eq!(table.answer(tag).map(|e| e.unique), Some(7));
        assert_eq!(table.answer(tag), None);
        assert_eq!(table.len(), 1);
        assert_eq!(table.remove(tag).map(|e| e.unique), Some(7));
        assert!(table.is_empty());
    }

    #[test]
    fn tag_of_an_earlier_use_names_nothing() {
        let mut table = InFlight::new();
        let old = table.insert(entry(1)).expect("room");
        table.remove(old);
        let new = table.insert(entry(2)).expect("room");
        assert_ne!(old, new);
        assert_eq!(table.answer(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.remove(new).map(|e| e.unique), Some(2));
    }

    #[test]
    fn full_table_takes_nothing_more() {
        let mut table = InFlight::new();
        for unique in 0..REQUESTS_MAX as u64 {
            table.insert(entry(unique)).expect("room");
        }
        assert!(!table.has_room());
        assert_eq!(table.insert(entry(0)), None);
    }
}
