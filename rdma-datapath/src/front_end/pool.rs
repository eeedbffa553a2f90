//! The buffer pool: one run of pages in the memory file, carved into three classes of buffers.
//!
//! Owns the free lists; whoever holds a buffer owns its bytes. Nothing is allocated after
//! [`BufferClasses::new`].

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_types::PAGE_SIZE;

/// One class of buffers: so many, of so many pages each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Pages of each buffer.
    pub pages: u32,
    /// Buffers of this class.
    pub count: u32,
}

/// Single pages are what the kernel swaps, in storms of hundreds; 64 KiB holds a large folio;
/// 1 MiB is the longest request. 24 MiB together.
pub const CLASSES: [Class; 3] = [
    Class {
        pages: 1,
        count: 512,
    },
    Class {
        pages: 16,
        count: 96,
    },
    Class {
        pages: 256,
        count: 16,
    },
];

/// Pages of the whole pool.
pub const POOL_PAGES: u32 = pages_before(CLASSES.len());

const _: () = assert!(POOL_PAGES as usize * PAGE_SIZE.as_usize() <= 24 << 20);
const _: () = assert!(CLASSES[2].pages == dynamicswap_engine::limits::REQUEST_PAGES_MAX);

/// Pages of the classes before `class`.
const fn pages_before(class: usize) -> u32 {
    let mut pages = 0;
    let mut index = 0;
    while index < class {
        pages += CLASSES[index].pages * CLASSES[index].count;
        index += 1;
    }
    pages
}

/// The pool's bytes.
#[derive(Debug)]
pub struct Pool<'m> {
    bytes: &'m mut [u8],
}

impl<'m> Pool<'m> {
    /// Takes memory of at least [`POOL_PAGES`] pages; `None` if it is shorter.
    #[must_use]
    pub fn new(bytes: &'m mut [u8]) -> Option<Self> {
        (bytes.len() >= POOL_PAGES as usize * PAGE_SIZE.as_usize()).then_some(Self { bytes })
    }

    /// All of the pool.
    pub fn all_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl Buffers for Pool<'_> {
    fn bytes(&self, range: BufferRange) -> &[u8] {
        &self.bytes[range.byte_offset()..range.byte_offset() + range.byte_len()]
    }

    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8] {
        &mut self.bytes[range.byte_offset()..range.byte_offset() + range.byte_len()]
    }
}

/// Free lists of the pool's buffers.
#[derive(Debug)]
pub struct BufferClasses {
    /// First pages of the free buffers of each class; a stack, so that warm buffers come first.
    free: [Vec<u32>; CLASSES.len()],
}

impl Default for BufferClasses {
    fn default() -> Self {
        Self::new()
    }
}

impl BufferClasses {
    /// Every buffer free.
    #[must_use]
    pub fn new() -> Self {
        Self {
            free: std::array::from_fn(|class| {
                let Class { pages, count } = CLASSES[class];
                let base = pages_before(class);
                (0..count).rev().map(|n| base + n * pages).collect()
            }),
        }
    }

    /// A free buffer of exactly `pages` pages, from the smallest class that has one.
    pub fn take(&mut self, pages: u32) -> Option<BufferRange> {
        let fits = |class: &usize| CLASSES[*class].pages >= pages;
        let class = (0..CLASSES.len())
            .filter(fits)
            .find(|class| !self.free[*class].is_empty())?;
        self.take_of(class, pages)
    }

    /// A free buffer of one class, cut to `pages` pages.
    pub fn take_of(&mut self, class: usize, pages: u32) -> Option<BufferRange> {
        debug_assert!(pages >= 1 && pages <= CLASSES[class].pages);
        let first = self.free[class].pop()?;
        Some(BufferRange { first, pages })
    }

    /// Gives a buffer back.
    pub fn give_back(&mut self, buffer: BufferRange) {
        let class = (1..CLASSES.len())
            .rev()
            .find(|class| buffer.first >= pages_before(*class))
            .unwrap_or(0);
        debug_assert!((buffer.first - pages_before(class)).is_multiple_of(CLASSES[class].pages));
        debug_assert!(!self.free[class].contains(&buffer.first));
        self.free[class].push(buffer.first);
    }

    /// Whether a buffer of the class is free.
    #[must_use]
    pub fn has_free(&self, class: usize) -> bool {
        !self.free[class].is_empty()
    }

    /// Buffers that are free, over all classes.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ALL: usize = (CLASSES[0].count + CLASSES[1].count + CLASSES[2].count) as usize;

    #[test]
    fn pool_refuses_memory_that_is_too_short() {
        let mut short = vec![0; POOL_PAGES as usize * 4096 - 1];
        assert!(Pool::new(&mut short).is_none());
    }

    proptest! {
        #[test]
        fn buffers_in_use_never_overlap(wishes in prop::collection::vec((1_u32..=256, any::<bool>()), 1..600)) {
            let mut classes = BufferClasses::new();
            let mut held: Vec<BufferRange> = Vec::new();
            let mut pages = BTreeSet::new();
            for (wish, free_one) in wishes {
                if free_one && let Some(buffer) = held.pop() {
                    for page in buffer.first..buffer.first + buffer.pages {
                        prop_assert!(pages.remove(&page));
                    }
                    classes.give_back(buffer);
                } else if let Some(buffer) = classes.take(wish) {
                    prop_assert_eq!(buffer.pages, wish);
                    prop_assert!(buffer.first + buffer.pages <= POOL_PAGES);
                    for page in buffer.first..buffer.first + buffer.pages {
                        prop_assert!(pages.insert(page));
                    }
                    held.push(buffer);
                }
            }
            for buffer in held {
                classes.give_back(buffer);
            }
            prop_assert_eq!(classes.free_count(), ALL);
        }
    }

    #[test]
    fn small_wish_takes_a_larger_buffer_when_its_class_is_empty() {
        let mut classes = BufferClasses::new();
        for _ in 0..CLASSES[0].count {
            assert!(classes.take(1).expect("free").first < CLASSES[0].count);
        }
        assert_eq!(classes.take(1).expect("larger").first, pages_before(1));
    }

    #[test]
    fn empty_pool_gives_nothing() {
        let mut classes = BufferClasses::new();
        for _ in 0..CLASSES[2].count {
            classes.take(256).expect("free");
        }
        assert_eq!(classes.take(17), None);
    }
}
