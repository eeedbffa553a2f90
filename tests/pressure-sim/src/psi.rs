//! Pressure as the kernel tells it: totals that grow at once, averages that it makes every 2 s.

use dynamicswap_policy::{Pressure, Stall};

use crate::unit::{TICK_S, TICKS_PER_S, duration, share};

/// Ticks between two averages (`PSI_FREQ`, 2 s).
const PERIOD: u64 = 2 * TICKS_PER_S;

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// Seconds of stall in all.
    pub total: f64,
    /// Average over 10 s, as a fraction.
    pub avg10: f64,
    /// Average over 60 s.
    pub avg60: f64,
    avg300: f64,
    at_period: f64,
    /// Stall of each of the last second's ticks, oldest first.
    second: [f64; 10],
}

impl Meter {
    /// Adds a tick in which so much of the time was stall.
    pub fn add(&mut self, tick: u64, fraction: f64) {
        let stall = fraction.clamp(0.0, 1.0) * TICK_S;
        self.total += stall;
        self.second.rotate_left(1);
        self.second[9] = stall;
        if tick.is_multiple_of(PERIOD) {
            let of_period = (self.total - self.at_period) / 2.0;
            self.at_period = self.total;
            for (average, span) in [
                (&mut self.avg10, 10.0),
                (&mut self.avg60, 60.0),
                (&mut self.avg300, 300.0_f64),
            ] {
                let keep = (-2.0 / span).exp();
                *average = *average * keep + of_period * (1.0 - keep);
            }
        }
    }

    /// Stall of the last second, as a fraction: what a trigger with that window looks at.
    #[must_use]
    pub fn last_second(&self) -> f64 {
        self.second.iter().sum()
    }

    /// Stall of the last tick, as a fraction.
    #[must_use]
    pub const fn last_tick(&self) -> f64 {
        self.second[9] / TICK_S
    }

    fn stall(&self) -> Stall {
        Stall {
            avg10: share(self.avg10),
            avg60: share(self.avg60),
            avg300: share(self.avg300),
            total: duration(self.total),
        }
    }
}

/// Both lines.
#[derive(Debug, Clone, Default)]
pub struct Psi {
    /// Some task waits.
    pub some: Meter,
    /// All tasks wait.
    pub full: Meter,
}

impl Psi {
    /// As the policy sees it.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure {
            some: self.some.stall(),
            full: self.full.stall(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_follows_and_total_counts() {
        let mut meter = Meter::default();
        for tick in 1..=600 {
            meter.add(tick, 0.5);
        }
        assert!((meter.total - 30.0).abs() < 1e-6);
        assert!((meter.avg10 - 0.5).abs() < 0.01);
        assert!((meter.avg60 - 0.5 * (1.0 - (-1.0_f64).exp())).abs() < 0.02);
        assert!((meter.last_second() - 0.5).abs() < 1e-6);
    }
}
