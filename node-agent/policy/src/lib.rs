//! What a node's pressure means: an observation and thresholds in, levels with their reasons out,
//! and which kernel trigger shall stand guard next. And who may swap: what policies allot in, a
//! limit for each container out, with its reason.
//!
//! Owns the judgement alone. Knows no clock, no file and no message: the agent observes, arms and
//! reports.
#![forbid(unsafe_code)]

mod allow;
mod assess;
mod observation;
mod reason;
mod share;
mod thresholds;
mod trigger;

pub use allow::{
    Allotment, AllowReason, Barred, Claim, Deed, Device, Ruling, Selection, SwapLimit, allow,
};
pub use assess::{Assessor, Verdict};
pub use observation::{ContainerName, Memory, Observation, Pressure, Sight, Stall};
pub use reason::{Evidence, Level, NoticedBy, Reason};
pub use share::Share;
pub use thresholds::Thresholds;
pub use trigger::{Grain, Line, Trigger};
