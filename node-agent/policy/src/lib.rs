//! What a node's pressure means: an observation and thresholds in, levels with their reasons out,
//! and which kernel trigger shall stand guard next. And the laws, each with its reason: who may
//! swap (`allow`), how much goes out now (`offload`, `ahead`), what comes home (`come_home`,
//! `ranges`), when all of it stops (`breaker`), where a task waits before its limit (`guard`), what a
//! donor may lend (`lend`), and whom a policy reaches first (`canary`).
//!
//! Owns the judgement alone. Knows no clock, no file and no message: the agent observes, arms and
//! reports.
#![forbid(unsafe_code)]

mod ahead;
mod allow;
mod assess;
mod breaker;
mod canary;
mod come_home;
mod explain;
mod guard;
mod lend;
mod observation;
mod offload;
mod ranges;
mod reason;
mod share;
mod thresholds;
mod trigger;

pub use ahead::ask;
pub use allow::{
    Allotment, AllowReason, Barred, Claim, Deed, Device, Ruling, Selection, SwapLimit, allow,
};
pub use assess::{Assessor, Verdict};
pub use breaker::{Breaker, BreakerSettings, BreakerSight, BreakerState, Cause, Mark, Passage};
pub use canary::{canary_place, in_canary};
pub use come_home::{
    Rest, ReturnDeed, ReturnLaw, ReturnNode, ReturnReason, ReturnRuling, ReturnSettings,
    ReturnSight, StopCause, SwapAccount,
};
pub use explain::{Explain, Explanation, PART_CHARS_MAX};
pub use guard::{GuardDeed, GuardSight, guard};
pub use lend::{
    Forecast, Lend, LendDeed, LendReason, LendSettings, LendSight, Lender, SEASON_HOURS, Seasons,
};
pub use observation::{ContainerName, Memory, Observation, Pressure, Sight, Stall};
pub use offload::{
    AheadSettings, Backend, FloorBy, Mode, Offload, OffloadDeed, OffloadReason, OffloadSettings,
    OffloadSight, ProbeFigures, RECLAIM_MIN, SinceProbe, offload,
};
pub use ranges::{BATCH_RANGES_MAX, Batch, BatchSettings, SwappedRange, batches};
pub use reason::{Evidence, Level, NoticedBy, Reason};
pub use share::Share;
pub use thresholds::Thresholds;
pub use trigger::{Grain, Line, Trigger};
