//! What protects a page's content outside its own node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a word is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is no integrity: choose full, tag64 or none")]
pub struct IntegrityError(String);

/// What protects page contents on their way and in the memory of other nodes. Ordered: more is
/// greater, so a device satisfies who asks for what it has or less.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Integrity {
    /// Nothing but a checksum against accidents: who sees the memory or the network reads the
    /// pages.
    None,
    /// AES-256-GCM; the tag that stays on the borrower is cut to 64 bits.
    #[default]
    Tag64,
    /// AES-256-GCM with the whole tag of 128 bits.
    Full,
}

impl Integrity {
    /// Every kind, the weakest first.
    pub const ALL: [Self; 3] = [Self::None, Self::Tag64, Self::Full];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tag64 => "tag64",
            Self::Full => "full",
        }
    }

    /// The number that stands for it in a memory file.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Tag64 => 1,
            Self::Full => 2,
        }
    }

    /// What a number in a memory file stands for.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl FromStr for Integrity {
    type Err = IntegrityError;
    fn from_str(text: &str) -> Result<Self, IntegrityError> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|kind| kind.word() == text);
        found.ok_or_else(|| IntegrityError(text.to_owned()))
    }
}

impl TryFrom<String> for Integrity {
    type Error = IntegrityError;
    fn try_from(text: String) -> Result<Self, IntegrityError> {
        text.parse()
    }
}

impl From<Integrity> for &'static str {
    fn from(integrity: Integrity) -> Self {
        integrity.word()
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_is_what_parses_and_a_wrong_word_is_told_the_right_ones() {
        for kind in Integrity::ALL {
            assert_eq!(kind.to_string().parse::<Integrity>(), Ok(kind));
            assert_eq!(Integrity::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Integrity::from_code(3), None);
        let error = "Full".parse::<Integrity>().expect_err("another case");
        assert!(error.to_string().contains("full, tag64 or none"), "{error}");
    }

    #[test]
    fn more_protection_is_greater() {
        assert!(Integrity::ALL.is_sorted());
        assert!(Integrity::Full > Integrity::Tag64 && Integrity::Tag64 > Integrity::None);
    }
}
