//! Validated names: of a node and of a failure domain. A large cluster has hundreds of thousands of
//! mentions of a thousand names, so a copy of one shares its text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Empty or over 253 characters.
    #[error("'{0}' has {1} characters: a name has 1 to 253")]
    Length(String, usize),
    /// A character that Kubernetes would refuse too.
    #[error(
        "'{0}' is not a name: use lower-case letters, digits, '-' and '.', beginning and ending \
         with a letter or digit"
    )]
    Character(String),
}

/// Kubernetes' rule for a node's name (RFC 1123 subdomain).
fn check_subdomain(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 253 {
        return Err(NameError::Length(text.to_owned(), text.len()));
    }
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| alphanumeric(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b));
    if ends
        && bytes
            .iter()
            .all(|b| alphanumeric(*b) || *b == b'-' || *b == b'.')
    {
        Ok(())
    } else {
        Err(NameError::Character(text.to_owned()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// Maps by name are asked with text. It is equal, ordered and hashed as the name is.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_subdomain(text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check_subdomain(&text)?;
                Ok(Self(text.into()))
            }
        }
    };
}

name!(
    /// Name of a node; borrower and donor alike are named by their node.
    NodeName
);
name!(
    /// What fails together: two copies of a slab never share one. A node's name by default,
    /// its zone or rack where the topology is known.
    FailureDomain
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_names_are_accepted() {
        for good in ["a", "donor-1", "ip-10-0-0-1.eu.internal", "0x"] {
            assert_eq!(
                good.parse::<NodeName>().map(String::from),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn other_names_are_refused() {
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "ä", &"x".repeat(254)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }
}
