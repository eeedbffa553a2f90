//! Units of the model: ticks, pages as fractions, and their way to the policy's integers.

use std::time::Duration;

use dynamicswap_policy::Share;
use dynamicswap_types::{Bytes, MonotonicTime, PageCount};

/// Ticks of a second.
pub const TICKS_PER_S: u64 = 10;
/// Seconds of a tick.
pub const TICK_S: f64 = 0.1;
/// Pages of a mebibyte.
pub const MIB: f64 = 256.0;
/// Pages of a gibibyte.
pub const GIB: f64 = 1024.0 * MIB;

/// Rounded down to an integer, zero at the least.
#[must_use]
pub fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "such casts saturate, and the model's figures are far below 2^63"
    )]
    {
        value.max(0.0) as u64
    }
}

/// An integer of the model, which never has more than 53 bits.
#[must_use]
pub fn real(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 here")]
    {
        value as f64
    }
}

/// Pages as bytes.
#[must_use]
pub fn bytes(pages: f64) -> Bytes {
    PageCount::new(whole(pages)).bytes()
}

/// Whole pages.
#[must_use]
pub fn count(pages: f64) -> PageCount {
    PageCount::new(whole(pages))
}

/// Bytes as pages.
#[must_use]
pub fn pages(bytes: Bytes) -> f64 {
    real(bytes.get()) / 4096.0
}

/// A fraction as a share.
#[must_use]
pub fn share(fraction: f64) -> Share {
    let hundredths = whole(fraction * 10_000.0).min(10_000);
    Share::from_hundredths(u16::try_from(hundredths).unwrap_or(10_000))
}

/// Seconds as a duration.
#[must_use]
pub fn duration(seconds: f64) -> Duration {
    Duration::from_micros(whole(seconds * 1e6))
}

/// The time of a tick.
#[must_use]
pub fn time(tick: u64) -> MonotonicTime {
    MonotonicTime::from_nanos(tick * (1_000_000_000 / TICKS_PER_S))
}
