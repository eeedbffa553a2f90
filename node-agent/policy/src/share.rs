//! Shares of time in hundredths of a percent, the precision in which the kernel prints PSI.

use std::fmt;
use std::time::Duration;

/// Hundredths of a percent in the whole.
const WHOLE: u16 = 10_000;

/// A share of time, 0 to 100 percent in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(u16);

impl Share {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// All the time.
    pub const ALL: Self = Self(WHOLE);

    /// From hundredths of a percent; above the whole counts as the whole.
    #[must_use]
    pub const fn from_hundredths(hundredths: u16) -> Self {
        Self(if hundredths > WHOLE {
            WHOLE
        } else {
            hundredths
        })
    }

    /// The share that `part` is of `whole`; all of it if `whole` is nothing or less than `part`.
    #[must_use]
    pub fn of(part: Duration, whole: Duration) -> Self {
        let scaled = part.as_nanos().saturating_mul(u128::from(WHOLE));
        let hundredths = scaled
            .checked_div(whole.as_nanos())
            .and_then(|hundredths| u16::try_from(hundredths).ok());
        Self::from_hundredths(hundredths.unwrap_or(WHOLE))
    }

    /// In hundredths of a percent.
    #[must_use]
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// This share of `whole`.
    #[must_use]
    pub fn part_of(self, whole: Duration) -> Duration {
        // Whole times of this program are seconds: the product is far from overflowing.
        whole.saturating_mul(u32::from(self.0)) / u32::from(WHOLE)
    }

    /// Whether it is below half of `threshold`: what counts as quiet.
    #[must_use]
    pub const fn is_quiet(self, threshold: Self) -> bool {
        // In 32 bits, where twice the whole fits.
        (self.0 as u32) * 2 < threshold.0 as u32
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{} %", self.0 / 100),
            rest if rest % 10 == 0 => write!(f, "{}.{} %", self.0 / 100, rest / 10),
            rest => write!(f, "{}.{rest:02} %", self.0 / 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_prints_without_needless_zeros() {
        let text = |hundredths| Share::from_hundredths(hundredths).to_string();
        assert_eq!(text(1_000), "10 %");
        assert_eq!(text(50), "0.5 %");
        assert_eq!(text(4_123), "41.23 %");
        assert_eq!(text(5), "0.05 %");
        assert_eq!(text(u16::MAX), "100 %");
    }

    #[test]
    fn share_of_nothing_is_all() {
        let second = Duration::from_secs(1);
        assert_eq!(Share::of(second, Duration::ZERO), Share::ALL);
        assert_eq!(Share::of(second * 3, second), Share::ALL);
        assert_eq!(Share::of(Duration::ZERO, second), Share::ZERO);
        assert_eq!(Share::of(second / 10, second).hundredths(), 1_000);
    }

    #[test]
    fn quiet_is_below_half_and_nothing_is_below_half_of_nothing() {
        let share = Share::from_hundredths;
        assert!(share(499).is_quiet(share(1_000)));
        assert!(!share(500).is_quiet(share(1_000)));
        assert!(!Share::ZERO.is_quiet(Share::ZERO));
    }
}
