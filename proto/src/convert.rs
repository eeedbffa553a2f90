//! Conversions between messages and domain types: invalid values are refused here, at the edge.

use dynamicswap_types::{Copies, Durability, Integrity, Spill};
use thiserror::Error;

use crate::common::v1 as pb;

/// A message field that holds no valid value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("field '{field}' is invalid: {reason}")]
pub struct InvalidMessage {
    /// Name of the field, with its message.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidMessage {
    /// Says that `field` is wrong because of `reason`.
    #[must_use]
    pub fn new(field: &'static str, reason: impl ToString) -> Self {
        Self {
            field,
            reason: reason.to_string(),
        }
    }
}

impl From<Spill> for pb::Spill {
    fn from(spill: Spill) -> Self {
        match spill {
            Spill::None => Self::None,
            Spill::Async => Self::Async,
            Spill::Only => Self::Only,
        }
    }
}

impl From<Integrity> for pb::Integrity {
    fn from(integrity: Integrity) -> Self {
        match integrity {
            Integrity::None => Self::None,
            Integrity::Tag64 => Self::Tag64,
            Integrity::Full => Self::Full,
        }
    }
}

impl From<pb::Integrity> for Option<Integrity> {
    fn from(message: pb::Integrity) -> Self {
        match message {
            pb::Integrity::None => Some(Integrity::None),
            pb::Integrity::Tag64 => Some(Integrity::Tag64),
            pb::Integrity::Full => Some(Integrity::Full),
            pb::Integrity::Unspecified => None,
        }
    }
}

impl From<Durability> for pb::Durability {
    fn from(class: Durability) -> Self {
        Self {
            copies: class.copies.into(),
            spill: pb::Spill::from(class.spill).into(),
        }
    }
}

impl TryFrom<pb::Durability> for Durability {
    type Error = InvalidMessage;
    fn try_from(message: pb::Durability) -> Result<Self, InvalidMessage> {
        let copies = Copies::try_from(message.copies)
            .map_err(|error| InvalidMessage::new("Durability.copies", error))?;
        let spill = match message.spill() {
            pb::Spill::None => Spill::None,
            pb::Spill::Async => Spill::Async,
            pb::Spill::Only => Spill::Only,
            pb::Spill::Unspecified => {
                return Err(InvalidMessage::new("Durability.spill", "it is unspecified"));
            }
        };
        Ok(Self { copies, spill })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrity_survives_the_wire_and_silence_is_none_known() {
        for integrity in Integrity::ALL {
            let known: Option<Integrity> = pb::Integrity::from(integrity).into();
            assert_eq!(known, Some(integrity));
        }
        let known: Option<Integrity> = pb::Integrity::Unspecified.into();
        assert_eq!(known, None);
    }

    #[test]
    fn durability_survives_the_wire_and_invalid_ones_do_not() {
        let class = Durability {
            copies: Copies::TWO,
            spill: Spill::Async,
        };
        assert_eq!(Durability::try_from(pb::Durability::from(class)), Ok(class));
        assert!(
            Durability::try_from(pb::Durability {
                copies: 4,
                spill: 1
            })
            .is_err()
        );
        assert!(
            Durability::try_from(pb::Durability {
                copies: 2,
                spill: 0
            })
            .is_err()
        );
        assert!(
            Durability::try_from(pb::Durability {
                copies: 2,
                spill: 9
            })
            .is_err()
        );
    }
}
