//! Percentages as a policy writes them: `10` or `"0.5"`.
//!
//! Kept in hundredths of a percent: no floating-point number stands in a document, because
//! two writers would print it differently.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Why a text is no percentage.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PercentError {
    /// Not a number with at most two decimals.
    #[error(
        "'{0}' is not a percentage: write a whole number such as 10, or a quoted one with at \
         most two decimals such as \"0.5\""
    )]
    Form(String),
    /// Over 100.
    #[error("{0} percent is not possible: write 0 to 100")]
    Range(String),
}

/// 0 to 100 percent in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent {
    hundredths: u16,
}

impl Percent {
    /// All of it.
    pub const MAX: Self = Self { hundredths: 10_000 };

    /// A whole number of percent; above 100 counts as 100.
    #[must_use]
    pub const fn from_whole(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self {
            hundredths: percent as u16 * 100,
        }
    }

    /// Hundredths of a percent; above 10000 counts as that.
    #[must_use]
    pub const fn from_hundredths(hundredths: u16) -> Self {
        let most = Self::MAX.hundredths;
        Self {
            hundredths: if hundredths > most { most } else { hundredths },
        }
    }

    /// In hundredths of a percent, 0 to 10000.
    #[must_use]
    pub const fn hundredths(self) -> u16 {
        self.hundredths
    }

    /// For comparison with the kernel's figures, which have two decimals.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }
}

impl FromStr for Percent {
    type Err = PercentError;
    fn from_str(text: &str) -> Result<Self, PercentError> {
        let form = || PercentError::Form(text.to_owned());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
            return Err(form());
        }
        let range = |_| PercentError::Range(text.to_owned());
        let whole: u32 = whole.parse().map_err(range)?;
        let decimals: u32 = format!("{decimals:0<2}").parse().map_err(|_| form())?;
        let hundredths = whole.saturating_mul(100).saturating_add(decimals);
        u16::try_from(hundredths)
            .ok()
            .map(|hundredths| Self { hundredths })
            .filter(|percent| *percent <= Self::MAX)
            .ok_or_else(|| PercentError::Range(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.hundredths / 100, self.hundredths % 100);
        if decimals == 0 {
            write!(f, "{whole}")
        } else {
            write!(f, "{whole}.{decimals:02}")
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PercentVisitor)
    }
}

/// Takes text and whole numbers; answers a float with what to write instead.
struct PercentVisitor;

impl Visitor<'_> for PercentVisitor {
    type Value = Percent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentage such as 10 or \"0.5\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Percent, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Percent, E> {
        u64::try_from(number)
            .map_err(|_| E::custom(PercentError::Range(number.to_string())))
            .and_then(|number| self.visit_u64(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Percent, E> {
        Err(E::custom(format!(
            "{number} is a floating-point number: quote it, \"{number}\""
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_percentage_parses_back(hundredths in 0_u16..=10_000) {
            let percent = Percent { hundredths };
            prop_assert_eq!(percent.to_string().parse::<Percent>(), Ok(percent));
        }
    }

    #[test]
    fn decimals_are_hundredths() {
        for (text, hundredths) in [("0.1", 10), ("0.05", 5), ("10", 1_000), ("100.00", 10_000)] {
            assert_eq!(
                text.parse::<Percent>().map(Percent::hundredths),
                Ok(hundredths)
            );
        }
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        for bad in ["", "10%", "-1", "1.", ".5", "0.005", "1e1"] {
            assert_eq!(
                bad.parse::<Percent>(),
                Err(PercentError::Form(bad.to_owned()))
            );
        }
        for bad in ["100.01", "101", "99999999999"] {
            assert_eq!(
                bad.parse::<Percent>(),
                Err(PercentError::Range(bad.to_owned()))
            );
        }
    }
}
