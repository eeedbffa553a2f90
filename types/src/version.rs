//! Counters that order things: epochs, generations, terms and page versions. Never mixed.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Older than every real one.
            pub const ZERO: Self = Self(0);

            /// Wraps the number.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this. Saturates: 2^64 steps do not happen.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Fencing number of a writer: each engine process of one swap device has a higher one
    /// than the process before it, and memory servers refuse the older.
    Epoch
);
counter!(
    /// Version of a desired-state document. An agent and a daemon refuse an older one.
    Generation
);
counter!(
    /// Leadership of a controller.
    Term
);

/// Version of one page's content: the writer's epoch above a per-device write counter.
///
/// Layout: 62 bits, epoch in the upper 22, counter in the lower 40, so that a page table entry
/// has two bits left for flags. Zero says that the page was never written or has been
/// discarded. Versions of one page only grow; 2^40 writes within one epoch are 127 days at
/// 100,000 writes a second, and 2^22 epochs are four million engine processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageVersion(u64);

impl PageVersion {
    /// Bits of the write counter.
    pub const COUNTER_BITS: u32 = 40;
    /// Highest epoch that fits.
    pub const EPOCH_MAX: Epoch = Epoch::new((1 << (Self::BITS - Self::COUNTER_BITS)) - 1);
    /// Bits of a version.
    pub const BITS: u32 = 62;
    /// The page holds nothing.
    pub const EMPTY: Self = Self(0);

    /// Puts a version together; `None` if a part does not fit or both are zero.
    #[must_use]
    pub const fn new(epoch: Epoch, counter: u64) -> Option<Self> {
        if epoch.get() > Self::EPOCH_MAX.get() || counter >> Self::COUNTER_BITS != 0 {
            return None;
        }
        let value = (epoch.get() << Self::COUNTER_BITS) | counter;
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The version whose bits these are; bits above [`Self::BITS`] are cut off.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// The version's bits.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the page holds nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Epoch of the engine that wrote the page.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch::new(self.0 >> Self::COUNTER_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn later_epoch_beats_any_counter(e in 1_u64..(1 << 22) - 1, c in 0_u64..1 << 40, d in 0_u64..1 << 40) {
            let older = PageVersion::new(Epoch::new(e), c).expect("fits");
            let newer = PageVersion::new(Epoch::new(e + 1), d).expect("fits");
            prop_assert!(older < newer);
            prop_assert_eq!(older.epoch(), Epoch::new(e));
            prop_assert_eq!(PageVersion::from_bits(older.to_bits()), older);
        }
    }

    #[test]
    fn version_out_of_range_is_refused() {
        assert_eq!(PageVersion::new(Epoch::new(1 << 22), 0), None);
        assert_eq!(PageVersion::new(Epoch::new(1), 1 << 40), None);
        assert_eq!(PageVersion::new(Epoch::ZERO, 0), None);
    }
}
