//! Levels, and why a container is on one: figures and rule as values, printed for people.

use std::fmt;
use std::time::Duration;

use crate::share::Share;
use crate::trigger::{Line, Trigger};

/// How much a container suffers, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// It runs as if memory were no concern.
    #[default]
    Calm,
    /// Some of its tasks wait for memory too often.
    Pressured,
    /// All of its tasks wait for memory too often.
    Stalled,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Calm => "Calm",
            Self::Pressured => "Pressured",
            Self::Stalled => "Stalled",
        })
    }
}

/// What woke the agent to the last change of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticedBy {
    /// The kernel's trigger.
    Trigger,
    /// The timer, which looks in any case.
    Timer,
}

impl fmt::Display for NoticedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trigger => "trigger",
            Self::Timer => "timer",
        })
    }
}

/// The figure that reached a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel's trigger fired: at least its share, within its window.
    Fired(Trigger),
    /// The growth of the total between two sights: faster than the kernel's average, which
    /// takes seconds to rise.
    Grown {
        /// Share of the time between them.
        share: Share,
        /// That time.
        over: Duration,
    },
    /// The kernel's average over 10 s.
    Average(Share),
}

/// Why a container is on its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is new and has not reached a threshold.
    New,
    /// A line reached its threshold.
    Reached {
        /// The line.
        line: Line,
        /// The figure.
        evidence: Evidence,
        /// The threshold.
        threshold: Share,
    },
    /// A line stayed below half of its threshold long enough.
    Quiet {
        /// `full` if only the stall is over, `some` if all pressure is.
        line: Line,
        /// How long it was quiet.
        quiet_for: Duration,
        /// The threshold.
        threshold: Share,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("no threshold was reached since it was first seen"),
            Self::Reached {
                line,
                evidence,
                threshold,
            } => {
                let line = line.word();
                match evidence {
                    Evidence::Fired(trigger) => {
                        let window = trigger.window.as_secs_f64();
                        write!(f, "{line} grew by {} within {window:.1} s", trigger.share)?;
                    }
                    Evidence::Grown { share, over } => {
                        let over = over.as_secs_f64();
                        write!(f, "{line} was {share} of {over:.1} s")?;
                    }
                    Evidence::Average(share) => write!(f, "{line} was {share} of 10 s")?,
                }
                write!(f, ", the threshold is {threshold}")
            }
            Self::Quiet {
                line,
                quiet_for,
                threshold,
            } => write!(
                f,
                "{} stayed below half of its threshold, {threshold}, for {} s",
                line.word(),
                quiet_for.as_secs()
            ),
        }
    }
}
