//! The page table: for each page which write its content is of, where that is, and what proves it.
//!
//! Owns the order in which a write is published. A process may be killed between any two stores:
//! the version comes last, and a tag of which only a part is there fits neither the content of
//! before nor that of after. So a page of a torn entry is refused like a wrong one; the write was
//! not acknowledged, and the kernel sends it again.

use std::sync::atomic::{AtomicU64, Ordering};

use dynamicswap_types::PageVersion;

use crate::tables::Tables;

/// One page: 16 bytes. Word 0 holds the version and two flags, word 1 the tag's lower half.
#[repr(C, align(16))]
#[derive(Debug, Default)]
pub struct PageEntry {
    version: AtomicU64,
    tag: AtomicU64,
}

const _: () = assert!(size_of::<PageEntry>() == 16);

/// The upper half of a page's tag, where it is kept.
#[repr(C)]
#[derive(Debug, Default)]
pub struct TagRest(AtomicU64);

const _: () = assert!(size_of::<TagRest>() == 8);

/// Set in word 0 when remote copies hold the version.
const REMOTE: u64 = 1 << 62;
/// Set in word 0 when the spill file holds the version.
const DISK: u64 = 1 << 63;

/// What the page table says of one page, apart from its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRecord {
    /// Version of the last acknowledged write; `EMPTY` for none.
    pub version: PageVersion,
    /// Whether remote copies hold it.
    pub remote: bool,
    /// Whether the spill file holds it.
    pub disk: bool,
}

impl PageRecord {
    fn word(self) -> u64 {
        let flags = u64::from(self.remote) * REMOTE + u64::from(self.disk) * DISK;
        self.version.to_bits() | flags
    }
}

/// What proves a page's content to be that of its version. The upper half is zero where it is not
/// kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageTag {
    low: u64,
    high: u64,
}

impl PageTag {
    /// A tag of 64 bits.
    #[must_use]
    pub const fn half(low: u64) -> Self {
        Self { low, high: 0 }
    }

    /// A tag of 128 bits.
    #[must_use]
    pub fn whole(bytes: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| {
            let mut half = [0; 8];
            half.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(half)
        });
        Self { low, high }
    }

    /// Its 16 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.low.to_le_bytes());
        bytes[8..].copy_from_slice(&self.high.to_le_bytes());
        bytes
    }
}

impl PageEntry {
    /// Reads the entry.
    #[must_use]
    pub fn load(&self) -> PageRecord {
        let word = self.version.load(Ordering::Acquire);
        PageRecord {
            version: PageVersion::from_bits(word),
            remote: word & REMOTE != 0,
            disk: word & DISK != 0,
        }
    }

    /// Notes that the spill file holds the page too, if it still has this version.
    pub fn note_disk(&self, version: PageVersion) {
        let word = self.version.load(Ordering::Relaxed);
        if PageVersion::from_bits(word) == version {
            self.version.store(word | DISK, Ordering::Release);
        }
    }

    /// Forgets the page.
    pub fn clear(&self) {
        self.version.store(0, Ordering::Release);
        self.tag.store(0, Ordering::Relaxed);
    }

    /// Whether the page holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        PageVersion::from_bits(self.version.load(Ordering::Relaxed)).is_empty()
    }
}

impl Tables<'_> {
    /// The tag of a page's present version.
    #[must_use]
    pub fn tag(&self, page: usize) -> PageTag {
        let rest = self.tag_rests.get(page);
        PageTag {
            low: self.pages[page].tag.load(Ordering::Relaxed),
            high: rest.map_or(0, |rest| rest.0.load(Ordering::Relaxed)),
        }
    }

    /// Publishes a write: the tag first, then version and flags.
    #[inline]
    pub fn publish(&self, page: usize, record: PageRecord, tag: PageTag) {
        for (word, value) in self.stores(page, record, tag).into_iter().flatten() {
            word.store(value, Ordering::Release);
        }
    }

    /// Publishes as a process does that is killed after so many stores. For tests and the
    /// simulation.
    pub fn publish_torn(&self, page: usize, record: PageRecord, tag: PageTag, stores: usize) {
        let all = self.stores(page, record, tag).into_iter().flatten();
        for (word, value) in all.take(stores) {
            word.store(value, Ordering::Release);
        }
    }

    /// What a publication stores, in its order.
    #[inline]
    fn stores(
        &self,
        page: usize,
        record: PageRecord,
        tag: PageTag,
    ) -> [Option<(&AtomicU64, u64)>; 3] {
        let entry = &self.pages[page];
        [
            Some((&entry.tag, tag.low)),
            self.tag_rests.get(page).map(|rest| (&rest.0, tag.high)),
            Some((&entry.version, record.word())),
        ]
    }
}
