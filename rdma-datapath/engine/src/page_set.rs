//! A set of pages within one request part: one bit each, no allocation.

use crate::limits::REQUEST_PAGES_MAX;

const WORDS: usize = REQUEST_PAGES_MAX as usize / 64;

/// Which of up to [`REQUEST_PAGES_MAX`] pages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageSet([u64; WORDS]);

impl PageSet {
    /// No page.
    pub(crate) const EMPTY: Self = Self([0; WORDS]);

    /// Adds a page.
    pub(crate) fn insert(&mut self, page: u32) {
        self.0[page as usize / 64] |= 1 << (page % 64);
    }

    /// Removes a page.
    pub(crate) fn remove(&mut self, page: u32) {
        self.0[page as usize / 64] &= !(1 << (page % 64));
    }

    /// Whether the page is in.
    pub(crate) fn contains(&self, page: u32) -> bool {
        self.0[page as usize / 64] & (1 << (page % 64)) != 0
    }

    /// Whether no page is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The first run of pages at or after `from`: its first page and its length.
    pub(crate) fn next_run(&self, from: u32) -> Option<(u32, u32)> {
        let first = (from..REQUEST_PAGES_MAX).find(|page| self.contains(*page))?;
        let end = (first..REQUEST_PAGES_MAX).find(|page| !self.contains(*page));
        Some((first, end.unwrap_or(REQUEST_PAGES_MAX) - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_cover_exactly_the_members(pages in proptest::collection::btree_set(0_u32..256, 0..80)) {
            let mut set = PageSet::default();
            pages.iter().for_each(|page| set.insert(*page));
            let mut covered = std::collections::BTreeSet::new();
            let mut from = 0;
            while let Some((first, length)) = set.next_run(from) {
                covered.extend(first..first + length);
                from = first + length;
                prop_assert!(!set.contains(from.min(255)) || from == 256);
            }
            prop_assert_eq!(&covered, &pages);
            pages.iter().for_each(|page| set.remove(*page));
            prop_assert!(set.is_empty());
        }
    }
}
