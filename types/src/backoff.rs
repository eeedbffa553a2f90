//! Pauses between two tries of what fails: each is twice the one before, up to a longest one.

use std::time::Duration;

/// The pauses of one thing that is tried.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `least` to `most`.
    #[must_use]
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            next: least,
        }
    }

    /// It failed: the pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.most);
        pause
    }

    /// The pause before the next turn of what is done again and again: the shortest unless it failed.
    pub fn next(&mut self, failed: bool) -> Duration {
        if failed {
            return self.pause();
        }
        self.reset();
        self.least
    }

    /// It succeeded: the next failure begins with the shortest pause.
    pub const fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_its_most_and_begins_anew_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5);
        let pauses = [(); 5].map(|()| backoff.pause());
        assert_eq!(pauses, [1, 2, 4, 5, 5].map(|times| second * times));
        backoff.reset();
        assert_eq!(backoff.pause(), second);
        assert_eq!(
            [true, false, true].map(|failed| backoff.next(failed)),
            [2, 1, 1].map(|times| second * times)
        );
    }
}
