//! Which kernel trigger guards a container: a line, a share of time, and the window it is
//! measured over.

use std::time::Duration;

use crate::reason::Level;
use crate::share::Share;
use crate::thresholds::Thresholds;

/// A line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// Some task waits for memory.
    Some,
    /// All tasks that are not idle wait for memory.
    Full,
}

impl Line {
    /// As the kernel writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Some => "some",
            Self::Full => "full",
        }
    }
}

/// What windows the kernel lets this process watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Any from 0.5 to 10 s, looked at ten times a window: with CAP_SYS_RESOURCE.
    Fine,
    /// Multiples of 2 s only, looked at every 2 s or so: without.
    Coarse,
}

impl Grain {
    /// The window that triggers get. Fine: a tenth of it, 0.1 s, is the time to notice. Coarse:
    /// the shortest that there is.
    #[must_use]
    pub const fn window(self) -> Duration {
        match self {
            Self::Fine => Duration::from_secs(1),
            Self::Coarse => Duration::from_secs(2),
        }
    }
}

/// A trigger: the kernel wakes its holder when a line grows by the share within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Trigger {
    /// The line.
    pub line: Line,
    /// The share of the window.
    pub share: Share,
    /// The window.
    pub window: Duration,
}

impl Trigger {
    /// The trigger that tells first when a container on `level` gets worse; none where nothing
    /// can get worse.
    #[must_use]
    pub fn next_above(level: Level, thresholds: &Thresholds, grain: Grain) -> Option<Self> {
        let line = match level {
            Level::Calm => Line::Some,
            Level::Pressured => Line::Full,
            Level::Stalled => return None,
        };
        Some(Self {
            line,
            share: thresholds.of(line),
            window: grain.window(),
        })
    }

    /// Stall within the window that fires it. The kernel takes no threshold of nothing.
    #[must_use]
    pub fn threshold(self) -> Duration {
        let threshold = self.share.part_of(self.window);
        threshold.max(Duration::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_guards_the_next_level() {
        let thresholds = Thresholds::default();
        let next = |level| Trigger::next_above(level, &thresholds, Grain::Fine);
        let calm = next(Level::Calm).expect("one");
        assert_eq!(calm.line, Line::Some);
        assert_eq!(calm.threshold(), Duration::from_millis(100));
        let pressured = next(Level::Pressured).expect("one");
        assert_eq!(pressured.line, Line::Full);
        assert_eq!(pressured.threshold(), Duration::from_millis(50));
        assert_eq!(next(Level::Stalled), None);
    }

    #[test]
    fn threshold_is_within_what_the_kernel_takes() {
        for hundredths in [0, 1, 10_000] {
            for grain in [Grain::Fine, Grain::Coarse] {
                let trigger = Trigger {
                    line: Line::Some,
                    share: Share::from_hundredths(hundredths),
                    window: grain.window(),
                };
                assert!(trigger.threshold() >= Duration::from_micros(1));
                assert!(trigger.threshold() <= trigger.window);
            }
        }
    }
}
