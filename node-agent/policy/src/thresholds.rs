//! From when on a container counts as pressured, as stalled, and as calm again.

use std::time::Duration;

use crate::share::Share;
use crate::trigger::Line;

/// A policy's pressure thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thresholds {
    /// Pressured from this share of time in which some task waits.
    pub some: Share,
    /// Stalled from this share of time in which all tasks wait.
    pub full: Share,
    /// Calm again after this time below half of both.
    pub calm_after: Duration,
}

impl Thresholds {
    /// The threshold of a line.
    #[must_use]
    pub const fn of(&self, line: Line) -> Share {
        match line {
            Line::Some => self.some,
            Line::Full => self.full,
        }
    }
}

impl Default for Thresholds {
    /// What a policy has that says nothing, and what judges a container without a policy.
    fn default() -> Self {
        Self {
            some: Share::from_hundredths(1_000),
            full: Share::from_hundredths(500),
            calm_after: Duration::from_secs(10),
        }
    }
}
