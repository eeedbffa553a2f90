//! Adaptive spinning: how long an idle I/O thread looks again before it sleeps.
//!
//! A wake-up costs 20 to 50 us on a virtual machine, more than a page's whole way over the
//! network; a thread that spins in vain takes a core from those who have work. So a thread spins
//! only while the gaps between its I/O are short enough for spinning to catch the next one.

use std::time::Duration;

/// Below this a spin is shorter than the system call that it saves.
const WORTH_IT: Duration = Duration::from_micros(2);

/// Decides by the gaps of the past.
#[derive(Debug, Clone)]
pub struct AdaptiveSpin {
    longest: Duration,
    limit: Duration,
}

impl AdaptiveSpin {
    /// Never spins longer than `longest`; zero always sleeps at once.
    #[must_use]
    pub const fn new(longest: Duration) -> Self {
        Self {
            longest,
            limit: longest,
        }
    }

    /// How long to spin after the last I/O.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// The thread has slept, and I/O came `gap` after the I/O before.
    pub fn slept(&mut self, gap: Duration) {
        self.limit = if gap <= self.longest {
            self.longest
        } else if self.limit / 2 < WORTH_IT {
            Duration::ZERO
        } else {
            self.limit / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_while_gaps_are_short_and_stops_when_they_are_long() {
        let mut spin = AdaptiveSpin::new(Duration::from_micros(50));
        for _ in 0..6 {
            spin.slept(Duration::from_millis(1));
        }
        assert_eq!(spin.limit(), Duration::ZERO);
        spin.slept(Duration::from_micros(40));
        assert_eq!(spin.limit(), Duration::from_micros(50));
        let mut never = AdaptiveSpin::new(Duration::ZERO);
        never.slept(Duration::from_micros(1));
        assert_eq!(never.limit(), Duration::ZERO);
    }
}
