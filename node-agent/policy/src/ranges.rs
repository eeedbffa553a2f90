//! Which pages of a process come home first: the hot ones, and among equals those whose slabs
//! are nearly empty, so that whole slabs go back to their donors.
//!
//! Owns the order and the batches. Finding swapped pages and reading them is the agent's.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use dynamicswap_types::PageCount;

/// Ranges of one batch: `process_madvise` takes so many (`UIO_MAXIOV`).
pub const BATCH_RANGES_MAX: usize = 1_024;

/// Pages of a process that lie side by side both in its memory and on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwappedRange {
    /// Number of the first page in the process (address over page size).
    pub page: u64,
    /// Number of its page on the device (the swap offset).
    pub offset: u64,
    /// How many.
    pub pages: PageCount,
    /// Faults in it of late.
    pub faults: u32,
}

/// How ranges become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Pages of a slab.
    pub slab_pages: PageCount,
    /// Most pages of a batch: what a demand fault may have to wait behind. 256 (1 MiB) at
    /// 10 Gbit/s is a millisecond.
    pub batch_pages: PageCount,
    /// Most batches.
    pub batches: usize,
}

/// What is brought home at once.
pub type Batch = Vec<SwappedRange>;

/// Cuts ranges at slab borders, orders the pieces, and fills batches in that order. `in_use` is
/// how many pages of each slab are taken, by whomever; of a slab that it does not name, those of
/// `ranges` count.
#[must_use]
pub fn batches(
    ranges: &[SwappedRange],
    in_use: &BTreeMap<u64, PageCount>,
    settings: &BatchSettings,
) -> Vec<Batch> {
    let slab_pages = settings.slab_pages.get().max(1);
    let mut pieces: Vec<SwappedRange> = ranges
        .iter()
        .flat_map(|range| cut(*range, slab_pages))
        .collect();
    let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
    for piece in &pieces {
        *counted.entry(piece.offset / slab_pages).or_default() += piece.pages.get();
    }
    let taken = |slab: u64| {
        let known = in_use.get(&slab).map(|pages| pages.get());
        known.or_else(|| counted.get(&slab).copied()).unwrap_or(0)
    };
    pieces.sort_by_key(|piece| {
        let slab = piece.offset / slab_pages;
        (Reverse(heat(piece)), taken(slab), slab, piece.page)
    });
    fill(pieces, settings)
}

/// The heat of a range in steps of two: finer figures are noise, and would hide the slabs.
fn heat(range: &SwappedRange) -> u32 {
    let scaled = u64::from(range.faults) * 64;
    // 0 where no fault was, and 1 from one fault in 64 pages on.
    let density = scaled.div_ceil(range.pages.get().max(1));
    density.checked_ilog2().map_or(0, |log| log + 1)
}

/// The parts of a range within single slabs; its faults are spread evenly.
fn cut(range: SwappedRange, slab_pages: u64) -> Vec<SwappedRange> {
    let mut parts = Vec::new();
    let (mut done, all) = (0, range.pages.get());
    while done < all {
        let offset = range.offset.saturating_add(done);
        let pages = (slab_pages - offset % slab_pages).min(all - done);
        parts.push(part(range, done, pages));
        done += pages;
    }
    parts
}

/// The part of a range from `skip` on.
fn part(range: SwappedRange, skip: u64, pages: u64) -> SwappedRange {
    let faults = u128::from(range.faults) * u128::from(pages);
    let faults = faults.div_ceil(u128::from(range.pages.get().max(1)));
    SwappedRange {
        page: range.page.saturating_add(skip),
        offset: range.offset.saturating_add(skip),
        pages: PageCount::new(pages),
        faults: u32::try_from(faults).unwrap_or(u32::MAX),
    }
}

fn fill(pieces: Vec<SwappedRange>, settings: &BatchSettings) -> Vec<Batch> {
    let batch_pages = settings.batch_pages.get().max(1);
    let mut batches: Vec<Batch> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        let (mut done, all) = (0, piece.pages.get());
        while done < all {
            let full = batches.last().is_none_or(|it| it.len() >= BATCH_RANGES_MAX);
            if room == 0 || full {
                if batches.len() >= settings.batches {
                    return batches;
                }
                batches.push(Vec::new());
                room = batch_pages;
            }
            let pages = room.min(all - done);
            if let Some(batch) = batches.last_mut() {
                batch.push(part(piece, done, pages));
            }
            (done, room) = (done + pages, room - pages);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SETTINGS: BatchSettings = BatchSettings {
        slab_pages: PageCount::new(16),
        batch_pages: PageCount::new(8),
        batches: usize::MAX,
    };

    fn range(page: u64, offset: u64, pages: u64, faults: u32) -> SwappedRange {
        SwappedRange {
            page,
            offset,
            pages: PageCount::new(pages),
            faults,
        }
    }

    #[test]
    fn hot_ranges_come_first() {
        let ranges = [range(0, 0, 4, 0), range(100, 20, 4, 4)];
        let batches = batches(&ranges, &BTreeMap::new(), &SETTINGS);
        assert_eq!(batches, [vec![ranges[1], ranges[0]]]);
    }

    #[test]
    fn among_equals_the_emptiest_slab_comes_first() {
        let ranges = [range(0, 0, 2, 0), range(10, 16, 2, 0), range(20, 32, 1, 0)];
        let in_use = BTreeMap::from([(0, PageCount::new(16)), (1, PageCount::new(2))]);
        let batches = batches(&ranges, &in_use, &SETTINGS);
        assert_eq!(batches, [vec![ranges[2], ranges[1], ranges[0]]]);
    }

    #[test]
    fn range_over_a_border_is_cut_there_and_batches_are_bounded() {
        let batches = batches(&[range(0, 12, 10, 0)], &BTreeMap::new(), &SETTINGS);
        assert_eq!(
            batches,
            [
                vec![range(0, 12, 4, 0), range(4, 16, 4, 0)],
                vec![range(8, 20, 2, 0)]
            ]
        );
        let one = BatchSettings {
            batches: 1,
            ..SETTINGS
        };
        assert_eq!(
            super::batches(&[range(0, 0, 99, 0)], &BTreeMap::new(), &one).len(),
            1
        );
    }

    #[test]
    fn batch_has_no_more_ranges_than_the_kernel_takes() {
        let ranges: Vec<_> = (0..3_000)
            .map(|page| range(page * 2, page * 2, 1, 0))
            .collect();
        let large = BatchSettings {
            batch_pages: PageCount::new(10_000),
            ..SETTINGS
        };
        let batches = batches(&ranges, &BTreeMap::new(), &large);
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1_024, 1_024, 952]);
    }

    proptest! {
        #[test]
        fn every_page_is_in_one_batch_with_its_own_offset(
            gaps in prop::collection::vec((0..40_u64, 1..40_u64, 0..100_u32), 0..30),
            slab_pages in 1..64_u64,
            batch_pages in 1..64_u64,
        ) {
            let (mut ranges, mut page) = (Vec::new(), 0);
            for (gap, pages, faults) in gaps {
                page += gap;
                ranges.push(range(page, page * 3, pages, faults));
                page += pages;
            }
            let settings = BatchSettings {
                slab_pages: PageCount::new(slab_pages),
                batch_pages: PageCount::new(batch_pages),
                batches: usize::MAX,
            };
            let all = |ranges: &[SwappedRange]| -> Vec<(u64, u64)> {
                let pages = ranges.iter().flat_map(|it| {
                    (0..it.pages.get()).map(|page| (it.page + page, it.offset + page))
                });
                pages.collect()
            };
            let expected: BTreeSet<_> = all(&ranges).into_iter().collect();
            let batches = batches(&ranges, &BTreeMap::new(), &settings);
            let brought: Vec<_> = batches.iter().flat_map(|batch| all(batch)).collect();
            prop_assert_eq!(brought.len(), expected.len());
            prop_assert_eq!(brought.into_iter().collect::<BTreeSet<_>>(), expected);
            for batch in &batches {
                prop_assert!(batch.iter().map(|it| it.pages.get()).sum::<u64>() <= batch_pages);
            }
        }
    }
}
