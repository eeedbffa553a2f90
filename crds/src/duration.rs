//! Durations as a policy writes them: `500ms`, `2s`, `5m`.
//!
//! Whole numbers only; a bare number is refused, because nobody can tell its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// No whole number with a known unit.
    #[error(
        "'{0}' is not a duration: write a whole number with ms, s, m or h behind it, such as 2s"
    )]
    Form(String),
    /// More milliseconds than fit in 32 bits, 49 days.
    #[error("'{0}' is over the longest duration, 1193h")]
    TooLong(String),
}

/// A duration in whole milliseconds, up to 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyDuration {
    millis: u32,
}

/// Units, the longest first for printing. `ms` stands before `s` for parsing.
const UNITS: [(&str, u32); 4] = [("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1_000)];

impl PolicyDuration {
    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u32) -> Self {
        Self { millis }
    }

    /// From seconds; saturates.
    #[must_use]
    pub const fn from_secs(secs: u32) -> Self {
        Self {
            millis: secs.saturating_mul(1_000),
        }
    }

    /// In milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.millis
    }

    /// As the standard library's type.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(u64::from(self.millis))
    }
}

impl FromStr for PolicyDuration {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, DurationError> {
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
            .ok_or_else(|| DurationError::Form(text.to_owned()))?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DurationError::Form(text.to_owned()));
        }
        number
            .parse::<u32>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self::from_millis)
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))
    }
}

impl fmt::Display for PolicyDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = match self.millis {
            0 => ("s", 1_000),
            millis if millis % 3_600_000 == 0 => ("h", 3_600_000),
            millis if millis % 60_000 == 0 => ("m", 60_000),
            millis if millis % 1_000 == 0 => ("s", 1_000),
            _ => ("ms", 1),
        };
        write!(f, "{}{unit}", self.millis / factor)
    }
}

impl Serialize for PolicyDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

/// Takes text; answers a number with what to write instead.
struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = PolicyDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 500ms or 2s")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PolicyDuration, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<PolicyDuration, E> {
        Err(E::custom(format!(
            "{number} has no unit: write {number}s or {number}ms"
        )))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<PolicyDuration, E> {
        Err(E::custom(DurationError::Form(number.to_string())))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<PolicyDuration, E> {
        Err(E::custom(DurationError::Form(number.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_duration_parses_back(millis in any::<u32>()) {
            let duration = PolicyDuration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse::<PolicyDuration>(), Ok(duration));
        }
    }

    #[test]
    fn units_mean_what_they_say() {
        for (text, millis) in [("500ms", 500), ("2s", 2_000), ("1m", 60_000), ("0s", 0)] {
            assert_eq!(
                text.parse::<PolicyDuration>(),
                Ok(PolicyDuration::from_millis(millis))
            );
        }
        assert_eq!(PolicyDuration::from_secs(7_200).to_string(), "2h");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "s", "2", "2 s", "-1s", "1.5s", "2S", "2d"] {
            assert_eq!(
                bad.parse::<PolicyDuration>(),
                Err(DurationError::Form(bad.to_owned()))
            );
        }
        assert!(matches!(
            "9999h".parse::<PolicyDuration>(),
            Err(DurationError::TooLong(_))
        ));
    }
}
