//! Durability classes: how many copies of a page there are, and whether the disk helps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a durability class is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurabilityError {
    /// Copies outside 1 to 3.
    #[error("{0} copies are not possible: choose 1, 2 or 3")]
    Copies(u32),
    /// A word that is no spill mode.
    #[error("'{0}' is no spill mode: choose None, Async or Only")]
    Spill(String),
}

/// Number of copies of a slab on distinct failure domains, 1 to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Copies(u8);

impl Copies {
    /// Most copies that a class can ask for; tables are sized by it.
    pub const MAX: usize = 3;
    /// One copy.
    pub const ONE: Self = Self(1);
    /// Two copies.
    pub const TWO: Self = Self(2);

    /// The number, 1 to 3.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u32> for Copies {
    type Error = DurabilityError;
    fn try_from(count: u32) -> Result<Self, DurabilityError> {
        match count {
            1 => Ok(Self(1)),
            2 => Ok(Self(2)),
            3 => Ok(Self(3)),
            _ => Err(DurabilityError::Copies(count)),
        }
    }
}

impl From<Copies> for u32 {
    fn from(copies: Copies) -> Self {
        Self::from(copies.0)
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the local disk does for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Spill {
    /// Nothing: remote copies only.
    #[default]
    None,
    /// Each write also goes to the disk, after it was acknowledged; its buffer stays until
    /// the disk has it.
    Async,
    /// The disk alone: no remote memory is used.
    Only,
}

impl FromStr for Spill {
    type Err = DurabilityError;
    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        match text {
            "None" => Ok(Self::None),
            "Async" => Ok(Self::Async),
            "Only" => Ok(Self::Only),
            _ => Err(DurabilityError::Spill(text.to_owned())),
        }
    }
}

impl fmt::Display for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Async => "Async",
            Self::Only => "Only",
        })
    }
}

/// A durability class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Durability {
    /// Remote copies; not looked at where `spill` is `Only`.
    pub copies: Copies,
    /// The disk's part.
    pub spill: Spill,
}

impl Durability {
    /// Remote copies that a write waits for: none where the disk is alone.
    #[must_use]
    pub const fn remote_copies(self) -> usize {
        match self.spill {
            Spill::Only => 0,
            Spill::None | Spill::Async => self.copies.get(),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spill {
            Spill::Only => f.write_str("disk only"),
            Spill::None => write!(f, "{} copies", self.copies),
            Spill::Async => write!(f, "{} copies, disk behind", self.copies),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_outside_one_to_three_are_refused() {
        assert_eq!(Copies::try_from(0), Err(DurabilityError::Copies(0)));
        assert_eq!(Copies::try_from(4), Err(DurabilityError::Copies(4)));
        assert_eq!(Copies::try_from(3).map(Copies::get), Ok(3));
    }

    #[test]
    fn spill_prints_what_it_parses() {
        for spill in [Spill::None, Spill::Async, Spill::Only] {
            assert_eq!(spill.to_string().parse::<Spill>(), Ok(spill));
        }
        assert!("async".parse::<Spill>().is_err());
    }

    #[test]
    fn disk_only_class_waits_for_no_remote_copy() {
        let class = Durability {
            copies: Copies::TWO,
            spill: Spill::Only,
        };
        assert_eq!(class.remote_copies(), 0);
    }
}
