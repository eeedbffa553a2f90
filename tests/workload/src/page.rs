//! The page register: what a 4 KiB page holds so that any wrong, stale or foreign page is seen.
//!
//! Owns the layout and the check. A page is {magic, run, index, version} and a body drawn from
//! those four, so that only the last written version of exactly this page of this run passes.
//! Must not do I/O.

use std::fmt;

use thiserror::Error;

/// Words of a page.
pub const PAGE_WORDS: usize = 512;
/// A page as the register sees it.
pub type Page = [u64; PAGE_WORDS];

/// First word of each written page: "DSWPPAGE".
const MAGIC: u64 = u64::from_le_bytes(*b"DSWPPAGE");
/// Words before the body.
const HEADER_WORDS: usize = 4;

/// One run of a workload, or one device under test: pages of another run are foreign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId(u64);

impl RunId {
    /// Wraps a number that the caller drew at random.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a page says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run that wrote it.
    pub run: RunId,
    /// Its position.
    pub index: u64,
    /// How often it was written, from 1.
    pub version: u32,
}

impl Stamp {
    /// Seed of the body: every bit of the three parts moves it.
    const fn seed(self) -> u64 {
        let mixed = mix(self.run.0 ^ mix(self.index));
        mix(mixed ^ (self.version as u64))
    }

    /// Writes the page that this stamp stands for.
    pub fn fill(self, page: &mut Page) {
        page[0] = MAGIC;
        page[1] = self.run.0;
        page[2] = self.index;
        page[3] = u64::from(self.version);
        let mut body = Body(self.seed());
        for word in &mut page[HEADER_WORDS..] {
            *word = body.next_word();
        }
    }

    /// Checks that `page` is exactly what [`Stamp::fill`] wrote.
    ///
    /// # Errors
    /// [`WrongPage`] names the first difference that says most: a foreign page before a stale
    /// one, a stale one before a flipped bit.
    pub fn check(self, page: &Page) -> Result<(), WrongPage> {
        if page[0] != MAGIC {
            return Err(WrongPage::NoPage { found: page[0] });
        }
        if page[1] != self.run.0 {
            return Err(WrongPage::OtherRun {
                found: RunId(page[1]),
                expected: self.run,
            });
        }
        if page[2] != self.index {
            return Err(WrongPage::OtherPage { found: page[2] });
        }
        if page[3] != u64::from(self.version) {
            return Err(WrongPage::OtherVersion {
                found: page[3],
                expected: self.version,
            });
        }
        let mut body = Body(self.seed());
        for (word, found) in page.iter().enumerate().skip(HEADER_WORDS) {
            let expected = body.next_word();
            if *found != expected {
                return Err(WrongPage::Body {
                    word,
                    found: *found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// How a page is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WrongPage {
    /// The page was never written by any run.
    #[error("it holds no page of any run (first word {found:#018x})")]
    NoPage {
        /// The first word.
        found: u64,
    },
    /// Another run's page.
    #[error("it is a page of run {found}, not of {expected}")]
    OtherRun {
        /// The run found.
        found: RunId,
        /// This run.
        expected: RunId,
    },
    /// Another page of this run.
    #[error("it holds page {found}")]
    OtherPage {
        /// The index found.
        found: u64,
    },
    /// A version that is not the last written one.
    #[error("it holds version {found}, the last written is {expected}")]
    OtherVersion {
        /// The version found.
        found: u64,
        /// The last written one.
        expected: u32,
    },
    /// The header is right and a word of the body is not.
    #[error("word {word} is {found:#018x}, written was {expected:#018x}")]
    Body {
        /// Position of the word.
        word: usize,
        /// The word found.
        found: u64,
        /// The word written.
        expected: u64,
    },
}

/// The body's words: SplitMix64, a word per step, so that no two stamps share a body.
struct Body(u64);

impl Body {
    fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// SplitMix64's output function: a bijection whose every output bit depends on every input bit.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(run: u64, index: u64, version: u32) -> Stamp {
        Stamp {
            run: RunId::new(run),
            index,
            version,
        }
    }

    fn page_of(stamp: Stamp) -> Page {
        let mut page = [0; PAGE_WORDS];
        stamp.fill(&mut page);
        page
    }

    proptest! {
        #[test]
        fn written_page_passes(run in any::<u64>(), index in any::<u64>(), version in any::<u32>()) {
            let stamp = stamp(run, index, version);
            prop_assert_eq!(stamp.check(&page_of(stamp)), Ok(()));
        }

        #[test]
        fn any_flipped_bit_is_seen(run in any::<u64>(), word in 0..PAGE_WORDS, bit in 0_u32..64) {
            let stamp = stamp(run, 7, 3);
            let mut page = page_of(stamp);
            page[word] ^= 1 << bit;
            prop_assert!(stamp.check(&page).is_err());
        }

        #[test]
        fn page_of_any_other_stamp_is_refused(
            a in (any::<u64>(), 0_u64..64, 1_u32..9), b in (any::<u64>(), 0_u64..64, 1_u32..9)
        ) {
            prop_assume!(a != b);
            let (a, b) = (stamp(a.0, a.1, a.2), stamp(b.0, b.1, b.2));
            prop_assert!(a.check(&page_of(b)).is_err());
            // The body alone would be enough: no two stamps share one.
            prop_assert_ne!(&page_of(a)[HEADER_WORDS..], &page_of(b)[HEADER_WORDS..]);
        }
    }

    #[test]
    fn reason_names_the_kind_of_error() {
        let expected = stamp(1, 2, 3);
        assert_eq!(
            expected.check(&page_of(stamp(1, 2, 2))),
            Err(WrongPage::OtherVersion {
                found: 2,
                expected: 3
            })
        );
        assert_eq!(
            expected.check(&page_of(stamp(1, 4, 3))),
            Err(WrongPage::OtherPage { found: 4 })
        );
        assert_eq!(
            expected.check(&[0; PAGE_WORDS]),
            Err(WrongPage::NoPage { found: 0 })
        );
    }

    #[test]
    fn stamped_page_is_the_size_of_a_page() {
        assert_eq!(size_of::<Page>() as u64, dynamicswap_types::PAGE_SIZE.get());
    }
}
