//! Why pages come home, or stay out: figures as values, told in words.

use std::fmt;
use std::time::Duration;

use dynamicswap_types::Bytes;

use super::{ReturnDeed, ReturnRuling};
use crate::explain::{Amount, Explain, Explanation, Span};
use crate::share::Share;

/// What ended a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// Everything that may come home is home.
    Home,
    /// Its policy no longer lets it.
    Disabled,
    /// Some task of the container waited.
    Pressed {
        /// Share of the step.
        share: Share,
    },
    /// The container's room is down to the lower mark.
    Full,
    /// Nothing came home although it was asked for.
    Stuck {
        /// For how long.
        stuck_for: Duration,
    },
    /// Some task of the node waited.
    NodePressed,
    /// The node's memory is down to the lower mark.
    NodeFull {
        /// Available.
        available: Bytes,
        /// The lower mark.
        stop: Bytes,
    },
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnReason {
    /// Its policy does not let it.
    Disabled,
    /// What is out is too little to bring home, or was sent away as cold and is not asked for.
    StaysOut {
        /// Swapped out.
        swapped: Bytes,
        /// Of that, sent by probing.
        probed: Bytes,
    },
    /// It is not quiet for long enough.
    NotQuiet {
        /// For how long.
        quiet_for: Duration,
        /// How long it must be.
        needed: Duration,
    },
    /// Its limit leaves too little room.
    NoRoom {
        /// The room.
        room: Bytes,
        /// The upper mark.
        start: Bytes,
    },
    /// A return of it ended a moment ago.
    Cooling {
        /// How long it still rests.
        left: Duration,
    },
    /// The node is not quiet for long enough.
    NodeNotQuiet {
        /// For how long.
        quiet_for: Duration,
        /// How long it must be.
        needed: Duration,
    },
    /// The node has too little room.
    NodeNoRoom {
        /// Available.
        available: Bytes,
        /// The upper mark.
        start: Bytes,
    },
    /// All returns of the node ended a moment ago.
    NodeCooling {
        /// How long it still rests.
        left: Duration,
    },
    /// It was returning and has ended.
    Stopped(StopCause),
    /// It is returning, but others use this step's bandwidth or the node's room.
    Waits {
        /// The bandwidth.
        bytes_per_s: Bytes,
    },
    /// It is returning.
    Brings {
        /// What may come home.
        out: Bytes,
        /// Room above the lower marks.
        room: Bytes,
        /// What it read back by itself in the last minute, in pages.
        swap_ins_per_min: u64,
    },
}

impl StopCause {
    fn figures(self) -> String {
        match self {
            Self::Home => "all that may come home is home".to_owned(),
            Self::Disabled => "its policy no longer lets it".to_owned(),
            Self::Pressed { share } => format!("it waited {share} of the last step"),
            Self::Full => "its room is down to the lower mark".to_owned(),
            Self::Stuck { stuck_for } => {
                format!("nothing has come home for {}", Span(stuck_for))
            }
            Self::NodePressed => "the node waited for memory".to_owned(),
            Self::NodeFull { available, stop } => format!(
                "the node has {} available, the lower mark is {}",
                Amount(available),
                Amount(stop)
            ),
        }
    }
}

impl ReturnReason {
    fn figures(&self) -> String {
        match self {
            Self::Disabled => "its policy does not let it".to_owned(),
            Self::StaysOut { swapped, probed } => format!(
                "{} out, {} of it sent by probing and hardly asked for",
                Amount(*swapped),
                Amount(*probed)
            ),
            Self::NotQuiet { quiet_for, needed } => format!(
                "quiet for {}, it must be for {}",
                Span(*quiet_for),
                Span(*needed)
            ),
            Self::NoRoom { room, start } => format!(
                "{} of its limit is unused, the upper mark is {}",
                Amount(*room),
                Amount(*start)
            ),
            Self::Cooling { left } => format!("it rests for another {}", Span(*left)),
            Self::NodeNotQuiet { quiet_for, needed } => format!(
                "the node is quiet for {}, it must be for {}",
                Span(*quiet_for),
                Span(*needed)
            ),
            Self::NodeNoRoom { available, start } => format!(
                "the node has {} available, the upper mark is {}",
                Amount(*available),
                Amount(*start)
            ),
            Self::NodeCooling { left } => format!("the node rests for another {}", Span(*left)),
            Self::Stopped(cause) => cause.figures(),
            Self::Waits { bytes_per_s } => format!(
                "others use the {}/s, or the node's room",
                Amount(*bytes_per_s)
            ),
            Self::Brings {
                out,
                room,
                swap_ins_per_min,
            } => format!(
                "{} may come home, {} fit, it read back {swap_ins_per_min} pages/min itself",
                Amount(*out),
                Amount(*room)
            ),
        }
    }

    const fn rule(&self) -> &'static str {
        match self {
            Self::Disabled => "return: only where the policy lets it",
            Self::StaysOut { .. } => "return: what went out as cold stays out until it is wanted",
            Self::NotQuiet { .. } | Self::NodeNotQuiet { .. } => "return: only in a quiet time",
            Self::NoRoom { .. } | Self::NodeNoRoom { .. } => {
                "return: begins at the upper mark of room, ends at the lower one"
            }
            Self::Cooling { .. } | Self::NodeCooling { .. } => {
                "return: after a stop there is a rest, so that it does not flap"
            }
            Self::Stopped(_) => "return: the first sign of pressure or a lower mark ends it",
            Self::Waits { .. } | Self::Brings { .. } => {
                "return: who reads back most of what is out comes first"
            }
        }
    }

    const fn change(&self) -> &'static str {
        match self {
            Self::Disabled | Self::Stopped(StopCause::Disabled) => "a policy that lets it",
            Self::StaysOut { .. } => "more reads of it, with plenty of room",
            Self::NotQuiet { .. } | Self::NodeNotQuiet { .. } => "time without pressure",
            Self::NoRoom { .. } => "a higher limit, or less use",
            Self::NodeNoRoom { .. } => "memory that becomes free on the node",
            Self::Cooling { .. } | Self::NodeCooling { .. } | Self::Stopped(_) => "time",
            Self::Waits { .. } => "its turn, or more bandwidth in the policy",
            Self::Brings { .. } => "pressure or too little room would end it",
        }
    }
}

impl Explain for ReturnRuling {
    fn explain(&self) -> Explanation {
        let decided = match (self.deed, self.reason) {
            (ReturnDeed::Bring(bytes), _) => format!("bring {} home", Amount(bytes)),
            (ReturnDeed::Hold, ReturnReason::Stopped(_)) => "return ends".to_owned(),
            (ReturnDeed::Hold, _) => "nothing comes home".to_owned(),
        };
        Explanation {
            decided,
            figures: self.reason.figures(),
            rule: self.reason.rule(),
            change: self.reason.change().to_owned(),
        }
    }
}

impl fmt::Display for ReturnRuling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explain().fmt(f)
    }
}
