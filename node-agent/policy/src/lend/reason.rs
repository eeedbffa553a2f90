//! Why a donor's headroom is what it is: figures as values, told in words.

use std::fmt;

use dynamicswap_types::Bytes;

use super::{Forecast, Lend, LendDeed};
use crate::explain::{Amount, Explain, Explanation};
use crate::share::Share;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendReason {
    /// What it has, less reserve and forecast.
    Forecast {
        /// What it can lend by that.
        can: Bytes,
        /// The reserve.
        reserve: Bytes,
        /// The forecast.
        forecast: Forecast,
    },
    /// Some of its tasks wait for memory.
    Pressed {
        /// Share of time.
        share: Share,
        /// The most.
        max: Share,
    },
    /// All of its tasks wait for memory.
    Stalled {
        /// Share of time.
        share: Share,
        /// The most.
        max: Share,
    },
    /// It has nearly nothing available.
    Short {
        /// Available.
        available: Bytes,
        /// Below which it is an emergency.
        least: Bytes,
    },
}

impl LendReason {
    fn figures(&self) -> String {
        match self {
            Self::Forecast {
                can,
                reserve,
                forecast,
            } => format!(
                "can lend {}: own use {}, soon {}, by season {}, reserve {}",
                Amount(*can),
                Amount(forecast.own),
                Amount(forecast.soon),
                Amount(forecast.season),
                Amount(*reserve)
            ),
            Self::Pressed { share, max } => {
                format!("some of its tasks wait {share} of the time, the most is {max}")
            }
            Self::Stalled { share, max } => {
                format!("all of its tasks wait {share} of the time, the most is {max}")
            }
            Self::Short { available, least } => format!(
                "{} available, below {} it is an emergency",
                Amount(*available),
                Amount(*least)
            ),
        }
    }

    const fn rule(&self) -> &'static str {
        match self {
            Self::Forecast { .. } => "lend: what is left of reserve and forecast, slowly upwards",
            Self::Pressed { .. } => "lend: a donor that waits takes a step back",
            Self::Stalled { .. } | Self::Short { .. } => {
                "lend: in an emergency all that is missing comes back at once"
            }
        }
    }
}

impl Explain for Lend {
    fn explain(&self) -> Explanation {
        let headroom = Amount(self.headroom);
        let decided = match self.deed {
            LendDeed::Keep => format!("the headroom stays at {headroom}"),
            LendDeed::Grow => format!("the headroom grows to {headroom}"),
            LendDeed::Shrink => format!("the headroom shrinks to {headroom}"),
            LendDeed::ShrinkNow => format!("the headroom shrinks to {headroom} at once"),
        };
        Explanation {
            decided,
            figures: self.reason.figures(),
            rule: self.reason.rule(),
            change: match self.reason {
                LendReason::Forecast { .. } => "its own use, or the capacity in its settings",
                _ => "a quiet time lets it grow again",
            }
            .to_owned(),
        }
    }
}

impl fmt::Display for Lend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explain().fmt(f)
    }
}
