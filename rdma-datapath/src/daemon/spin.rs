//! Adaptive spinning: how long an idle I/O thread looks again before it sleeps.
//!
//! A wake-up costs 20 to 50 us on a virtual machine, more than a page's whole way over the
//! network; a thread that spins in vain takes a core from those who have work. So a thread spins
//! only while the gaps between its I/O are short enough for spinning to catch the next one.

use std::time::Duration;

use dynamicswap_types::MonotonicTime;

/// Below this a spin is shorter than the system call that it saves.
const WORTH_IT: Duration = Duration::from_micros(2);

/// Decides by the gaps of the past.
#[derive(Debug, Clone)]
pub struct AdaptiveSpin {
    longest: Duration,
    limit: Duration,
    last_io: MonotonicTime,
    asleep: bool,
}

impl AdaptiveSpin {
    /// Never spins longer than `longest`; zero always sleeps at once.
    #[must_use]
    pub const fn new(longest: Duration) -> Self {
        Self {
            longest,
            limit: longest,
            last_io: MonotonicTime::ZERO,
            asleep: false,
        }
    }

    /// I/O came; to be called once at the start as well.
    pub fn found(&mut self, now: MonotonicTime) {
        if self.asleep {
            self.slept(now.since(self.last_io));
        }
        (self.last_io, self.asleep) = (now, false);
    }

    /// Nothing came: whether to sleep until something does.
    pub fn found_nothing(&mut self, now: MonotonicTime) -> bool {
        self.asleep = now.since(self.last_io) >= self.limit;
        self.asleep
    }

    /// Whether the thread sleeps until something comes.
    #[must_use]
    pub const fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// The thread has slept, and I/O came `gap` after the I/O before.
    fn slept(&mut self, gap: Duration) {
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
        assert_eq!(spin.limit, Duration::ZERO);
        spin.slept(Duration::from_micros(40));
        assert_eq!(spin.limit, Duration::from_micros(50));
        let mut never = AdaptiveSpin::new(Duration::ZERO);
        never.slept(Duration::from_micros(1));
        assert_eq!(never.limit, Duration::ZERO);
    }

    #[test]
    fn sleeps_once_the_spin_was_in_vain_and_learns_from_how_long_it_slept() {
        let mut spin = AdaptiveSpin::new(Duration::from_micros(50));
        let start = MonotonicTime::from_nanos(1);
        spin.found(start);
        let later = |micros| start.after(Duration::from_micros(micros));
        assert!(!spin.found_nothing(later(49)) && !spin.is_asleep());
        assert!(spin.found_nothing(later(50)) && spin.is_asleep());
        spin.found(later(1_000));
        assert!(!spin.is_asleep());
        assert!(spin.found_nothing(later(1_025)), "half of it is left");
        spin.found(later(1_030));
        assert!(!spin.found_nothing(later(1_079)), "the gap was short");
    }
}
