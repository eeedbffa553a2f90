//! Which swapped pages come home next: pure.
//!
//! Owns the order and the batches. A donor gets a slab back once it is empty, so the pages of the
//! slabs that have fewest left go first.

use std::collections::BTreeMap;

use dynamicswap_types::PAGE_SIZE;

/// Pages beside each other in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Address of the first.
    pub start: u64,
    /// How many.
    pub pages: u64,
}

impl Run {
    /// The first address behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.pages * PAGE_SIZE.get()
    }
}

/// A page that is swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swapped {
    /// Its address in its process.
    pub address: u64,
    /// Its place on the swap device, in pages.
    pub offset: u64,
}

/// A page that is swapped out, of one of a container's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// Index of the process.
    pub process: usize,
    /// The page.
    pub page: Swapped,
    /// Whether its process may write there.
    pub writable: bool,
}

/// Pages of one process to be brought in together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Index of the process.
    pub process: usize,
    /// Runs of pages that are its own: a write touches no other process.
    pub own: Vec<Run>,
    /// Runs of pages that it shares since a fork, or may not write: only read, or each process would
    /// get a copy. Their place in swap stays taken until the last process has them in.
    pub read_only: Vec<Run>,
}

impl Batch {
    /// Pages in it.
    #[must_use]
    pub fn pages(&self) -> u64 {
        let runs = self.own.iter().chain(&self.read_only);
        runs.map(|run| run.pages).sum()
    }
}

/// Orders the pages and cuts them into batches of `batch_pages` at most. `slab_pages` is the size of
/// a slab on the device.
#[must_use]
pub fn batches(mut away: Vec<Away>, slab_pages: u64, batch_pages: u64) -> Vec<Batch> {
    let slab_of = |page: &Away| page.page.offset / slab_pages.max(1);
    let mut left: BTreeMap<u64, u64> = BTreeMap::new();
    for page in &away {
        *left.entry(slab_of(page)).or_default() += 1;
    }
    let shared = shared_offsets(&away);
    away.sort_by_key(|page| {
        let slab = slab_of(page);
        let in_slab = left.get(&slab).copied().unwrap_or_default();
        (in_slab, slab, page.process, page.page.address)
    });
    let mut batches: Vec<Batch> = Vec::new();
    let mut room = 0;
    for page in &away {
        let same = batches
            .last()
            .is_some_and(|batch| batch.process == page.process);
        if room == 0 || !same {
            room = batch_pages.max(1);
            batches.push(Batch {
                process: page.process,
                own: Vec::new(),
                read_only: Vec::new(),
            });
        }
        room -= 1;
        let Some(batch) = batches.last_mut() else {
            continue;
        };
        let is_own = page.writable && shared.binary_search(&page.page.offset).is_err();
        let runs = if is_own {
            &mut batch.own
        } else {
            &mut batch.read_only
        };
        append(runs, page.page.address);
    }
    batches
}

/// Places in swap that more than one process refers to, in order.
fn shared_offsets(away: &[Away]) -> Vec<u64> {
    let mut offsets: Vec<u64> = away.iter().map(|page| page.page.offset).collect();
    offsets.sort_unstable();
    let pairs = offsets.windows(2).filter(|pair| pair[0] == pair[1]);
    let mut shared: Vec<u64> = pairs.map(|pair| pair[0]).collect();
    shared.dedup();
    shared
}

/// Appends a page to the last run if it follows it.
pub fn append(runs: &mut Vec<Run>, address: u64) {
    match runs.last_mut() {
        Some(run) if run.end() == address => run.pages += 1,
        _ => runs.push(Run {
            start: address,
            pages: 1,
        }),
    }
}

/// Cuts runs into groups of `most` pages at most, in their order.
#[must_use]
pub fn groups(runs: &[Run], most: u64) -> Vec<Vec<Run>> {
    let most = most.max(1);
    let mut groups: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for run in runs {
        let mut rest = *run;
        while rest.pages > 0 {
            if room == 0 {
                groups.push(Vec::new());
                room = most;
            }
            let pages = rest.pages.min(room);
            if let Some(group) = groups.last_mut() {
                group.push(Run { pages, ..rest });
            }
            room -= pages;
            rest = Run {
                start: rest.start + pages * PAGE_SIZE.get(),
                pages: rest.pages - pages,
            };
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = PAGE_SIZE.get();

    fn away(process: usize, page: u64, offset: u64) -> Away {
        let page = Swapped {
            address: page * PAGE,
            offset,
        };
        Away {
            process,
            page,
            writable: true,
        }
    }

    #[test]
    fn slab_with_fewest_pages_left_comes_first() {
        // Slabs of 4 pages: three pages in slab 0, one in slab 5.
        let pages = vec![
            away(0, 10, 0),
            away(0, 11, 1),
            away(0, 12, 3),
            away(0, 90, 20),
        ];
        let batches = batches(pages, 4, 2);
        let runs: Vec<_> = batches.iter().map(|batch| batch.own.clone()).collect();
        let run = |page, pages| Run {
            start: page * PAGE,
            pages,
        };
        assert_eq!(runs, [vec![run(90, 1), run(10, 1)], vec![run(11, 2)]]);
    }

    #[test]
    fn groups_hold_every_page_and_none_too_many() {
        let run = |page: u64, pages| Run {
            start: page * PAGE,
            pages,
        };
        let cut = groups(&[run(0, 3), run(10, 4)], 5);
        assert_eq!(cut, [vec![run(0, 3), run(10, 2)], vec![run(12, 2)]]);
    }

    #[test]
    fn page_that_a_fork_shares_is_only_read() {
        let mut fixed = away(0, 3, 9);
        fixed.writable = false;
        let pages = vec![away(0, 1, 7), away(1, 1, 7), away(0, 2, 8), fixed];
        let batches = batches(pages, 512, 64);
        let own: u64 = batches
            .iter()
            .flat_map(|batch| &batch.own)
            .map(|run| run.pages)
            .sum();
        assert_eq!(own, 1);
        assert_eq!(batches.iter().map(Batch::pages).sum::<u64>(), 4);
    }

    proptest! {
        #[test]
        fn every_page_is_in_one_batch_and_no_batch_is_too_large(
            pages in proptest::collection::btree_set((0_usize..3, 0_u64..200), 0..120),
            slab_pages in 1_u64..64,
            batch_pages in 1_u64..32,
        ) {
            let away: Vec<Away> = pages
                .iter()
                .map(|(process, page)| away(*process, *page, page * 3 % 128))
                .collect();
            let batches = batches(away, slab_pages, batch_pages);
            let mut seen = BTreeSet::new();
            for batch in &batches {
                prop_assert!(batch.pages() <= batch_pages);
                for run in batch.own.iter().chain(&batch.read_only) {
                    for page in 0..run.pages {
                        prop_assert!(seen.insert((batch.process, run.start / PAGE + page)));
                    }
                }
            }
            prop_assert_eq!(seen, pages);
        }
    }
}
