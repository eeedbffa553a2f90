//! Heat: how many pages of a slab were read and written of late, decayed by the time that has
//! passed and by nothing else.
//!
//! Owns the arithmetic. The words lie in the memory file ([`SlabHeat`] is part of a slab's entry),
//! so that an engine which replaces another one does not take every slab for cold.
//!
//! A filter that is moved on by a tick has two faults: it forgets at the pace of its thread, and a
//! mistake in one step grows with each. Infiniswap's does both, and for half a minute after a
//! slab's last use says no more of it than a coin. Here a value is what it was, times a power of
//! two of the elapsed time over [`HEAT_HALF_LIFE`]; it can only shrink between two uses.

use std::sync::atomic::{AtomicU64, Ordering};

use dynamicswap_types::MonotonicTime;

use crate::limits::HEAT_HALF_LIFE;

/// Steps that a half-life is cut into. What is left of a step waits for the next look, so that
/// looking often loses nothing.
const STEPS: u64 = 64;
/// Length of a step.
#[expect(clippy::cast_possible_truncation, reason = "a half-life is seconds")]
const STEP_NANOS: u64 = HEAT_HALF_LIFE.as_nanos() as u64 / STEPS;
/// Bits behind the point of a stored value: a page that was touched is seen for 16 half-lives.
const FRACTION_BITS: u32 = 16;
/// Above this a value stands still instead of overflowing: 2^40 pages in a half-life.
const VALUE_MAX: u64 = 1 << (40 + FRACTION_BITS);
/// `STEP_FACTORS[n]` is 2^(-n/64), with 62 bits behind the point.
const STEP_FACTORS: [u64; 64] = step_factors();

const _: () = assert!(STEP_NANOS > 0 && STEPS == 64);

const fn step_factors() -> [u64; 64] {
    /// 2^(-1/64).
    const ROOT: u128 = 4_562_008_997_483_360_349;
    let mut factors = [1 << 62; 64];
    let mut step = 1;
    while step < 64 {
        let product = (factors[step - 1] as u128 * ROOT) >> 62;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "below 2^62: each is below 1"
        )]
        {
            factors[step] = product as u64;
        }
        step += 1;
    }
    factors
}

/// What is left of `value` after `steps`.
fn decayed(value: u64, steps: u64) -> u64 {
    let halves = steps / STEPS;
    if halves >= u64::from(u64::BITS) {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below 64, and a factor of at most 1 makes nothing longer"
    )]
    {
        let factor = STEP_FACTORS[(steps % STEPS) as usize];
        ((u128::from(value) * u128::from(factor)) >> 62) as u64 >> halves
    }
}

/// Whether pages come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// Read.
    Read,
    /// Written.
    Write,
}

/// Heat of one slab, as a rate: what a steady load of that many pages a second would have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heat {
    /// Thousandths of a page read each second.
    pub reads_milli: u64,
    /// Thousandths of a page written each second.
    pub writes_milli: u64,
}

/// A slab's words: pages read and written, decayed until a time.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SlabHeat {
    reads: AtomicU64,
    writes: AtomicU64,
    /// Nanoseconds of the time until which both are decayed.
    until: AtomicU64,
}

impl SlabHeat {
    /// Notes that `pages` were read or written. One thread writes; a process that dies between two
    /// stores leaves a value that is a step too warm.
    pub fn touch(&self, touch: Touch, pages: u64, now: MonotonicTime) {
        let (reads, writes, until) = self.at(now);
        let more = |value: u64| {
            let added = value.saturating_add(pages << FRACTION_BITS);
            added.min(VALUE_MAX)
        };
        let (reads, writes) = match touch {
            Touch::Read => (more(reads), writes),
            Touch::Write => (reads, more(writes)),
        };
        self.reads.store(reads, Ordering::Relaxed);
        self.writes.store(writes, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }

    /// The heat now.
    #[must_use]
    pub fn load(&self, now: MonotonicTime) -> Heat {
        let (reads, writes, _) = self.at(now);
        Heat {
            reads_milli: rate_milli(reads),
            writes_milli: rate_milli(writes),
        }
    }

    fn at(&self, now: MonotonicTime) -> (u64, u64, u64) {
        let [reads, writes, until] =
            [&self.reads, &self.writes, &self.until].map(|word| word.load(Ordering::Relaxed));
        // A clock that stands behind belongs to another boot of the host: nothing decays until
        // it has caught up, which a value that only orders slabs may afford.
        let steps = now.as_nanos().saturating_sub(until) / STEP_NANOS;
        let (reads, writes) = (decayed(reads, steps), decayed(writes, steps));
        (reads, writes, until.saturating_add(steps * STEP_NANOS))
    }
}

/// A steady load of one page a second leaves `HEAT_HALF_LIFE / ln 2` pages.
fn rate_milli(value: u64) -> u64 {
    /// ln 2, in millionths.
    const LN_2: u128 = 693_147;
    let scaled = u128::from(value) * LN_2 / (1_000 * u128::from(HEAT_HALF_LIFE.as_secs()));
    u64::try_from(scaled >> FRACTION_BITS).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const PAGE: f64 = 65_536.0;

    fn second(seconds: f64) -> MonotonicTime {
        MonotonicTime::ZERO.after(Duration::from_secs_f64(seconds))
    }

    fn pages(heat: &SlabHeat, now: MonotonicTime) -> f64 {
        let (reads, _, _) = heat.at(now);
        f64::from(u32::try_from(reads >> 8).expect("small")) * 256.0 / PAGE
    }

    #[test]
    fn a_half_life_halves() {
        let heat = SlabHeat::default();
        heat.touch(Touch::Read, 1_000, second(1.0));
        let after = |half_lives: f64| pages(&heat, second(1.0 + 30.0 * half_lives));
        assert!((after(1.0) - 500.0).abs() < 12.0, "{}", after(1.0));
        assert!((after(3.0) - 125.0).abs() < 3.0, "{}", after(3.0));
        assert_eq!(heat.load(second(1e6)), Heat::default());
    }

    #[test]
    fn steady_load_reads_as_its_rate() {
        let heat = SlabHeat::default();
        for tenth in 0..3_000_u32 {
            heat.touch(Touch::Write, 5, second(f64::from(tenth) / 10.0));
        }
        let Heat {
            reads_milli,
            writes_milli,
        } = heat.load(second(300.0));
        assert_eq!(reads_milli, 0);
        assert!((49_000..51_000).contains(&writes_milli), "{writes_milli}");
    }

    #[test]
    fn heat_of_an_impossible_load_stands_still() {
        let heat = SlabHeat::default();
        for _ in 0..10_000 {
            heat.touch(Touch::Read, u64::from(u32::MAX), second(1.0));
        }
        let hot = heat.load(second(1.0)).reads_milli;
        assert!(hot > 1_000_000_000);
        assert!(heat.load(second(31.0)).reads_milli <= hot / 2 + 1);
    }

    proptest! {
        /// However often one looks, and at whatever moments, the value is that of the elapsed time.
        #[test]
        fn decay_depends_on_elapsed_time_alone(
            gaps in prop::collection::vec(1_u64..2_000_000_000, 1..200),
            first in 1_u64..1_000_000,
        ) {
            let (heat, mut now) = (SlabHeat::default(), second(5.0));
            heat.touch(Touch::Read, first, now);
            let mut exact = first as f64;
            for gap in gaps {
                now = now.after(Duration::from_nanos(gap));
                exact *= 0.5_f64.powf(gap as f64 / 30e9);
                heat.touch(Touch::Read, 0, now);
            }
            let found = pages(&heat, now);
            // A step's worth to either side, and what is cut off behind the point at each look.
            prop_assert!(found <= exact * 1.012 + 1.0 && found >= exact * 0.988 - 1.0,
                "{found} for {exact}");
        }
    }
}
