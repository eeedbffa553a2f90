//! Page-aligned memory for direct I/O.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A run of pages, aligned to a page.
pub(super) struct AlignedPages(Box<[Page]>);

impl AlignedPages {
    /// Zeroed.
    pub(super) fn new(pages: usize) -> Self {
        Self((0..pages).map(|_| Page::new_zeroed()).collect())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_zero() {
        let mut pages = AlignedPages::new(3);
        assert_eq!(pages.bytes().len(), 3 * 4096);
        assert!(pages.bytes().as_ptr().addr().is_multiple_of(4096));
        assert!(pages.bytes_mut().iter().all(|byte| *byte == 0));
    }
}
