//! The kinds of the group and the words by which people mean them.

use thiserror::Error;

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no kind of dynamicswap.io: choose remotememorypolicies (rmp), memoryservers (msrv), \
     swapdevices (swd), slabmaps or slabs"
)]
pub struct UnknownKind(
    /// The word.
    pub String,
);

/// The kinds of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `RemoteMemoryPolicy`, namespaced.
    RemoteMemoryPolicy,
    /// `MemoryServer`, one per donor.
    MemoryServer,
    /// `SwapDevice`, one per borrower.
    SwapDevice,
    /// `SlabMap`, the assignment of one swap device.
    SlabMap,
}

impl Kind {
    /// All of them, in the order in which `get` lists them.
    pub const ALL: [Self; 4] = [
        Self::RemoteMemoryPolicy,
        Self::MemoryServer,
        Self::SwapDevice,
        Self::SlabMap,
    ];

    /// As `kind` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RemoteMemoryPolicy => "RemoteMemoryPolicy",
            Self::MemoryServer => "MemoryServer",
            Self::SwapDevice => "SwapDevice",
            Self::SlabMap => "SlabMap",
        }
    }

    /// Singular, plural and short names, in lower case.
    #[must_use]
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::RemoteMemoryPolicy => &["remotememorypolicy", "remotememorypolicies", "rmp"],
            Self::MemoryServer => &["memoryserver", "memoryservers", "msrv"],
            Self::SwapDevice => &["swapdevice", "swapdevices", "swd"],
            Self::SlabMap => &["slabmap", "slabmaps"],
        }
    }

    /// Plural, as paths of the API server and names of files have it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::RemoteMemoryPolicy => "remotememorypolicies",
            Self::MemoryServer => "memoryservers",
            Self::SwapDevice => "swapdevices",
            Self::SlabMap => "slabmaps",
        }
    }

    /// The kind that a person means by `word`, in any case.
    ///
    /// # Errors
    /// [`UnknownKind`] with the words that exist.
    pub fn from_word(word: &str) -> Result<Self, UnknownKind> {
        let lower = word.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|kind| kind.words().contains(&lower.as_str()))
            .ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_kind_names_it_in_any_case() {
        for kind in Kind::ALL {
            for word in kind.words() {
                assert_eq!(Kind::from_word(word), Ok(kind));
            }
            assert!(kind.words().contains(&kind.plural()));
            assert_eq!(Kind::from_word(kind.name()), Ok(kind));
        }
        assert!(Kind::from_word("pods").is_err());
    }
}
