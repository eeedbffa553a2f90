//! How far a copy has come that is not whole: what a copy need not be given again.
//!
//! Owns two words for each copy in the memory file. They say which pages it holds: those before
//! the cursor whose version is below that of every write that it has missed. All others are copied.
//! So a copy that missed a few writes is given those pages again and no others, and an engine that
//! replaces another one goes on where that one was.
//!
//! Both words err on one side only. The cursor is moved on when the pages behind it have been
//! acknowledged by the copy; a missed write is noted before it is acknowledged to the kernel; and
//! both are taken back before the copy's place or state is stored. A process that is killed between
//! two stores leaves words by which too much is copied, never too little.

use std::sync::atomic::{AtomicU64, Ordering};

use dynamicswap_types::PageVersion;

/// The words of one copy.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct CopyProgress {
    /// Pages of the slab before this one have been copied.
    cursor: AtomicU64,
    /// Lowest version of a write that the copy has missed; 0 for none.
    missed: AtomicU64,
}

/// The words, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    cursor: u64,
    missed: PageVersion,
}

impl Progress {
    /// An empty slot.
    pub(crate) const NOTHING: Self = Self {
        cursor: 0,
        missed: PageVersion::EMPTY,
    };
    /// A copy that holds every page.
    pub(crate) const WHOLE: Self = Self {
        cursor: u64::MAX,
        missed: PageVersion::EMPTY,
    };

    /// Whether the copy must be given a page of the slab that has this version.
    pub(crate) fn lacks(self, page: u32, version: PageVersion) -> bool {
        let missed = !self.missed.is_empty() && version >= self.missed;
        u64::from(page) >= self.cursor || missed
    }
}

impl CopyProgress {
    pub(crate) fn load(&self) -> Progress {
        Progress {
            cursor: self.cursor.load(Ordering::Acquire),
            missed: PageVersion::from_bits(self.missed.load(Ordering::Acquire)),
        }
    }

    /// Stores both words, by way of the ones that claim nothing.
    pub(crate) fn store(&self, progress: Progress) {
        self.cursor.store(0, Ordering::Release);
        self.missed
            .store(progress.missed.to_bits(), Ordering::Release);
        self.cursor.store(progress.cursor, Ordering::Release);
    }

    /// Pages before `cursor` have been copied.
    pub(crate) fn advance(&self, cursor: u64) {
        self.cursor.fetch_max(cursor, Ordering::AcqRel);
    }

    /// The copy has missed a write.
    pub(crate) fn miss(&self, version: PageVersion) {
        let before = self.load().missed;
        if before.is_empty() || version < before {
            self.missed.store(version.to_bits(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::Epoch;

    fn version(epoch: u64, counter: u64) -> PageVersion {
        PageVersion::new(Epoch::new(epoch), counter).expect("fits")
    }

    #[test]
    fn empty_copy_lacks_every_page_and_a_whole_one_none() {
        for page in [0, 5, u32::MAX] {
            assert!(Progress::NOTHING.lacks(page, version(1, 1)));
            assert!(!Progress::WHOLE.lacks(page, version(9, 9)));
        }
    }

    #[test]
    fn copy_lacks_what_lies_behind_the_cursor_and_what_it_missed() {
        let words = CopyProgress::default();
        words.advance(10);
        words.advance(4);
        words.miss(version(2, 7));
        words.miss(version(2, 9));
        let progress = words.load();
        assert_eq!(progress.cursor, 10, "an older job's end takes nothing back");
        assert!(!progress.lacks(9, version(2, 6)));
        assert!(progress.lacks(9, version(2, 7)));
        assert!(progress.lacks(10, version(1, 1)));
        words.miss(version(2, 3));
        assert!(
            words.load().lacks(9, version(2, 3)),
            "an earlier write ended later"
        );
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let words = CopyProgress::default();
        words.miss(version(3, 3));
        for progress in [Progress::WHOLE, Progress::NOTHING] {
            words.store(progress);
            assert_eq!(words.load(), progress);
        }
    }
}
