//! Ids: what a device, a server's life, a set, a slab, a slot, a page and a session are called.
//!
//! 128-bit ids are random, print as 32 hexadecimal digits and are made from bytes that the
//! caller drew: this crate has no random source.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// The text does not consist of exactly 32 hexadecimal digits.
    #[error("'{0}' is not an id: an id is 32 hexadecimal digits")]
    NotHex(String),
    /// A byte string of the wrong length.
    #[error("an id is 16 bytes, not {0}")]
    Length(usize),
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(u128);

        impl $name {
            /// Makes the id from 16 random bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_le_bytes(bytes))
            }

            /// The 16 bytes, as they stand on the wire and in memory files.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_le_bytes()
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                <[u8; 16]>::try_from(bytes)
                    .map(Self::from_bytes)
                    .map_err(|_| IdError::Length(bytes.len()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let value = if hex { u128::from_str_radix(text, 16).ok() } else { None };
                value.map(Self).ok_or_else(|| IdError::NotHex(text.to_owned()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
    };
}

random_id!(
    /// One life of a swap device: a holder that starts anew makes a new one, because the
    /// content of the old device is worthless from then on.
    SwapDeviceId
);
random_id!(
    /// One life of a memory server's memory file: a kept memory keeps it, a lost one gets a
    /// new one, so that a borrower can tell the two apart.
    IncarnationId
);

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// Wraps the number.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value)
            }

            /// The bare number, for arithmetic and the wire.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// A replica set: the slots that together hold every copy of one slab. Unique for ever
    /// within a controller's store.
    SetId(u64)
);
index!(
    /// Position of a slab on its swap device, from 0.
    SlabIndex(u32)
);
index!(
    /// Position of a slot in its memory server's memory file, from 0.
    SlotIndex(u32)
);
index!(
    /// Position of a 4 KiB page on its swap device, from 0.
    PageIndex(u64)
);
index!(
    /// Position of a memory server in the server table of one engine.
    ServerIndex(u16)
);
index!(
    /// One data-path session: random, drawn once by each engine process.
    SessionId(u64)
);

impl SlabIndex {
    /// The index as a table position.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl SlotIndex {
    /// The index as a table position.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl ServerIndex {
    /// The index as a table position.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_id_parses_back(bytes in any::<[u8; 16]>()) {
            let id = SwapDeviceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<SwapDeviceId>(), Ok(id));
            prop_assert_eq!(SwapDeviceId::try_from(&id.to_bytes()[..]), Ok(id));
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused_with_the_text() {
        for bad in [
            "",
            "12",
            "+123456789012345678901234567890ab",
            "g0000000000000000000000000000000",
        ] {
            let error = bad.parse::<IncarnationId>().expect_err("must be refused");
            assert_eq!(error, IdError::NotHex(bad.to_owned()));
        }
        assert_eq!(
            IncarnationId::try_from(&[1_u8, 2][..]),
            Err(IdError::Length(2))
        );
    }

    #[test]
    fn debug_names_the_kind_of_id() {
        let id = SwapDeviceId::from_bytes([0; 16]);
        assert_eq!(
            format!("{id:?}"),
            "SwapDeviceId(00000000000000000000000000000000)"
        );
    }
}
