//! Shares of time, of bytes and of counts in hundredths of a percent, the precision in which the
//! kernel prints PSI.

use std::fmt;
use std::time::Duration;

use dynamicswap_types::Bytes;

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

    /// The share that `part` is of `whole`; all of it if `whole` is nothing or less than `part`.
    #[must_use]
    pub fn ratio(part: u64, whole: u64) -> Self {
        let scaled = u128::from(part).saturating_mul(u128::from(WHOLE));
        let hundredths = scaled
            .checked_div(u128::from(whole))
            .and_then(|hundredths| u16::try_from(hundredths).ok());
        Self::from_hundredths(hundredths.unwrap_or(WHOLE))
    }

    /// This share of `whole`, rounded down.
    #[must_use]
    pub fn of_bytes(self, whole: Bytes) -> Bytes {
        let part = u128::from(whole.get()) * u128::from(self.0) / u128::from(WHOLE);
        // No share is more than the whole, so it fits.
        Bytes::new(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// This share of another one, rounded down.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        let product = u32::from(self.0) * u32::from(other.0) / u32::from(WHOLE);
        Self::from_hundredths(u16::try_from(product).unwrap_or(WHOLE))
    }

    /// What is left of the whole without this.
    #[must_use]
    pub const fn rest(self) -> Self {
        Self(WHOLE - self.0)
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
    fn shares_of_bytes_and_counts_never_exceed_the_whole() {
        let half = Share::from_hundredths(5_000);
        assert_eq!(half.of_bytes(Bytes::new(u64::MAX)).get(), u64::MAX / 2);
        assert_eq!(Share::ALL.of_bytes(Bytes::new(u64::MAX)).get(), u64::MAX);
        assert_eq!(half.times(half).hundredths(), 2_500);
        assert_eq!(half.rest(), half);
        assert_eq!(Share::ratio(1, 3).hundredths(), 3_333);
        assert_eq!(Share::ratio(u64::MAX, 1), Share::ALL);
        assert_eq!(Share::ratio(0, 0), Share::ALL);
    }

    #[test]
    fn quiet_is_below_half_and_nothing_is_below_half_of_nothing() {
        let share = Share::from_hundredths;
        assert!(share(499).is_quiet(share(1_000)));
        assert!(!share(500).is_quiet(share(1_000)));
        assert!(!Share::ZERO.is_quiet(Share::ZERO));
    }
}
