//! What opened the breaker, and its state in words.

use std::fmt;
use std::time::Duration;

use super::{Breaker, BreakerState};
use crate::explain::{Explain, Explanation, Span};
use crate::share::Share;

/// The figure that opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// All tasks waited for memory.
    Full {
        /// Share of time.
        share: Share,
        /// The mark.
        max: Share,
        /// How long it was at or over it.
        over_for: Duration,
    },
    /// What went out came straight back.
    Refaults {
        /// Share of the larger of both flows.
        share: Share,
        /// The mark.
        max: Share,
        /// How long it was at or over it.
        over_for: Duration,
    },
    /// Swap-ins took too long.
    Slow {
        /// 99th percentile.
        p99: Duration,
        /// The mark.
        max: Duration,
        /// How long it was at or over it.
        over_for: Duration,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full {
                share,
                max,
                over_for,
            } => write!(
                f,
                "all tasks waited {share} of the time, at or over {max} for {}",
                Span(*over_for)
            ),
            Self::Refaults {
                share,
                max,
                over_for,
            } => write!(
                f,
                "{share} of what is swapped comes straight back, at or over {max} for {}",
                Span(*over_for)
            ),
            Self::Slow { p99, max, over_for } => write!(
                f,
                "swap-in p99 was {}, at or over {} for {}",
                Span(*p99),
                Span(*max),
                Span(*over_for)
            ),
        }
    }
}

impl Explain for Breaker {
    fn explain(&self) -> Explanation {
        let (decided, figures, change) = match self.state() {
            BreakerState::Closed => (
                "the breaker is closed".to_owned(),
                "no figure is over its mark for its time".to_owned(),
                "full stalls, refaults or latency over their marks open it".to_owned(),
            ),
            BreakerState::Open { cause, hold } => (
                "the breaker is open: nothing goes out".to_owned(),
                cause.to_string(),
                format!("it is tried again {} after it opened", Span(hold)),
            ),
            BreakerState::HalfOpen { cause, .. } => (
                "the breaker is tried: only what is needed goes out".to_owned(),
                cause.to_string(),
                "a quiet time closes it, the same again opens it for longer".to_owned(),
            ),
        };
        Explanation {
            decided,
            figures,
            rule: "breaker: nothing goes out while pages only travel to and fro",
            change,
        }
    }
}

impl fmt::Display for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explain().fmt(f)
    }
}
