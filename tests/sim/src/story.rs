//! The story of one seed: what happened when, kept only when somebody will read it.

use std::fmt;

use dynamicswap_types::MonotonicTime;

/// Lines of a story, or nothing.
#[derive(Debug, Default)]
pub struct Story {
    told: bool,
    lines: Vec<String>,
}

impl Story {
    /// A story that is kept if `told`.
    #[must_use]
    pub const fn new(told: bool) -> Self {
        Self {
            told,
            lines: Vec::new(),
        }
    }

    /// Adds a line; `line` is made only if the story is told.
    pub fn tell(&mut self, now: MonotonicTime, line: impl FnOnce() -> String) {
        if self.told {
            let micros = now.as_nanos() / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            self.lines.push(format!("{seconds}.{micros:06} {}", line()));
        }
    }

    /// The last `count` lines.
    #[must_use]
    pub fn last(&self, count: usize) -> &[String] {
        &self.lines[self.lines.len().saturating_sub(count)..]
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub rule: &'static str,
    /// What was seen.
    pub detail: String,
    /// When.
    pub at: MonotonicTime,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.at, self.rule, self.detail)
    }
}

/// Nothing, or the promise that was broken.
pub type Verdict = Result<(), Violation>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn story_that_is_not_told_costs_nothing() {
        let mut story = Story::new(false);
        story.tell(MonotonicTime::ZERO, || unreachable!("nobody listens"));
        assert!(story.last(5).is_empty());
    }

    #[test]
    fn last_lines_come_with_their_time() {
        let mut story = Story::new(true);
        for number in 0..3 {
            story.tell(MonotonicTime::from_nanos(1_000_002_000), || {
                format!("line {number}")
            });
        }
        assert_eq!(story.last(1), ["1.000002 line 2"]);
    }
}
