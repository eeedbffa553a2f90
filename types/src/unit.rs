//! Units: bytes as Kubernetes quantities, pages, slab sizes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a page: what the kernel swaps and what a checksum covers.
pub const PAGE_SIZE: Bytes = Bytes(4096);

/// Why a text is no quantity of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not a whole number with a known suffix.
    #[error(
        "'{0}' is not a quantity of bytes: write a whole number with Ki, Mi, Gi, Ti, k, M, G, T or nothing behind it, such as 512Mi"
    )]
    Form(String),
    /// Over 2^64 - 1 bytes.
    #[error("'{0}' is over the largest possible quantity, 16Ei")]
    TooLarge(String),
}

/// A number of bytes. Parses and prints as a Kubernetes quantity (`64Mi`, `1Gi`, `4096`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "QuantityText")]
pub struct Bytes(u64);

/// What a document may hold where a quantity belongs: text, or a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum QuantityText {
    Number(u64),
    Text(String),
}

impl TryFrom<QuantityText> for Bytes {
    type Error = QuantityError;
    fn try_from(text: QuantityText) -> Result<Self, QuantityError> {
        match text {
            QuantityText::Number(number) => Ok(Self(number)),
            QuantityText::Text(text) => text.parse(),
        }
    }
}

/// Suffixes and their factors; the binary ones from large to small, for printing.
const SUFFIXES: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl Bytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Wraps a number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A number of mebibytes.
    #[must_use]
    pub const fn from_mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a length in memory (this project runs on 64-bit machines only).
    #[must_use]
    pub const fn as_usize(self) -> usize {
        const { assert!(usize::BITS == 64) };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "usize has 64 bits, asserted above"
        )]
        {
            self.0 as usize
        }
    }

    /// Sum, saturating.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference, zero at the least.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// In mebibytes, for people.
    #[must_use]
    pub fn as_mib_f64(self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "for people: three digits are enough"
        )]
        {
            self.0 as f64 / f64::from(1 << 20)
        }
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|n| (n, *factor)))
            .unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Form(text.to_owned()));
        }
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SUFFIXES[..4]
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((suffix, factor)) => f.pad(&format!("{}{suffix}", self.0 / factor)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

/// A number of 4 KiB pages.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PageCount(u64);

impl PageCount {
    /// Wraps a number of pages.
    #[must_use]
    pub const fn new(pages: u64) -> Self {
        Self(pages)
    }

    /// The number of pages.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Their size, saturating.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0.saturating_mul(PAGE_SIZE.0))
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a size is no slab size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} is not a slab size: choose a power of two from 1Mi to 1Gi, such as 64Mi")]
pub struct SlabSizeError(
    /// The refused size.
    pub Bytes,
);

/// Size of a slab and of the slots that hold it: a power of two, 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Bytes", try_from = "Bytes")]
pub struct SlabSize(Bytes);

impl SlabSize {
    /// Smallest: below it the tables outweigh the slabs.
    pub const MIN: Bytes = Bytes(1 << 20);
    /// Largest: Infiniswap's fixed size, here the upper bound.
    pub const MAX: Bytes = Bytes(1 << 30);
    /// 64 MiB.
    pub const DEFAULT: Self = Self(Bytes(64 << 20));

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        self.0
    }

    /// Pages of one slab.
    #[must_use]
    pub const fn pages(self) -> PageCount {
        PageCount(self.0.0 / PAGE_SIZE.0)
    }

    /// Slabs needed to cover `size`; the last may be cut short by the device's end.
    #[must_use]
    pub const fn slabs_for(self, size: Bytes) -> u64 {
        size.0.div_ceil(self.0.0)
    }
}

impl TryFrom<Bytes> for SlabSize {
    type Error = SlabSizeError;
    fn try_from(size: Bytes) -> Result<Self, SlabSizeError> {
        if size >= Self::MIN && size <= Self::MAX && size.0.is_power_of_two() {
            Ok(Self(size))
        } else {
            Err(SlabSizeError(size))
        }
    }
}

impl From<SlabSize> for Bytes {
    fn from(size: SlabSize) -> Self {
        size.0
    }
}

impl fmt::Display for SlabSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_quantity_parses_back(bytes in any::<u64>()) {
            prop_assert_eq!(Bytes::new(bytes).to_string().parse::<Bytes>(), Ok(Bytes::new(bytes)));
        }

        #[test]
        fn only_powers_of_two_are_slab_sizes(bytes in any::<u32>()) {
            let ok = SlabSize::try_from(Bytes::new(u64::from(bytes))).is_ok();
            prop_assert_eq!(ok, bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes));
        }
    }

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1k", 1000),
            ("64Mi", 64 << 20),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes::new(bytes)));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "Mi", "1.5Gi", "-1", "1 Gi", "1gi", "0x10"] {
            assert_eq!(
                bad.parse::<Bytes>(),
                Err(QuantityError::Form(bad.to_owned()))
            );
        }
        assert!(matches!(
            "99999999Ti".parse::<Bytes>(),
            Err(QuantityError::TooLarge(_))
        ));
    }

    #[test]
    fn slabs_cover_the_device() {
        let slab = SlabSize::DEFAULT;
        assert_eq!(slab.slabs_for(Bytes::from_mib(65)), 2);
        assert_eq!(slab.slabs_for(Bytes::from_mib(64)), 1);
        assert_eq!(slab.pages().get(), 16384);
    }
}
