//! Pure placement: an immutable view of the cluster in, an immutable plan with reasons out.
//!
//! Owns the ledger (what has been granted), the planner's steps, the checker that lints every
//! plan, and the documents that follow from the ledger. Must not do I/O, read a clock or draw
//! random numbers: time and a seed are arguments.
//!
//! One round: [`Planner::round`] makes a plan from a [`ClusterView`], has it checked by [`lint`],
//! applies it to a copy of the ledger and renders the documents. The caller persists the new ledger,
//! then hands the documents out.
//!
//! A [`Planner`] remembers what it derived, so that a round costs what changed since the one before:
//! ledgers and observations share what is the same, and what is not shared is looked at. Its rounds are
//! those that [`round`] makes from nothing.
#![forbid(unsafe_code)]

mod absorb;
mod balance;
mod bits;
mod brake;
mod cache;
mod choose;
mod desired;
mod filter;
mod hash;
mod health;
mod index;
mod ledger;
pub mod limits;
mod lint;
mod plan;
mod planner;
mod pool;
mod publish;
mod reach;
mod reason;
mod revoke;
mod round;
mod score;
mod steps;
mod view;

pub use absorb::{Absorbed, DeviceFacts, NodeFacts, absorb};
pub use balance::{Load, Preview, PreviewDonor, PreviewMove, stamp_rebalanced};
pub use brake::Brake;
pub use desired::{
    DeviceDocument, Endpoint, NodeDocument, ServerDocument, ServerGrant, SetListing,
};
pub use filter::Refusal;
pub use health::{Cause, Health};
pub use ledger::{
    DeviceRecord, IllegalStep, IntegrityLack, Ledger, Mark, NodeRecord, Published, PublishedPart,
    Seat, SeatPhase, ServerFacts, SetRecord, SetStage, Sets, SetsIter,
};
pub use lint::{Finding, lint};
pub use plan::{Place, Plan, Step};
pub use planner::Planner;
pub use publish::publish;
pub use reason::{Reason, ReportLine};
pub use revoke::stamp_revokes;
pub use round::{Round, RoundError, round};
pub use score::Score;
pub use view::{
    ClusterView, DeviceIntent, DeviceObservation, LinkObservation, LinkState, NodeObservation,
    Rebalance, ReplicaObservation, ReplicaState, ServerObservation, Session, SetObservation,
    Settings,
};

/// Makes a plan from a view, from nothing.
#[must_use]
pub fn plan(view: &ClusterView<'_>) -> Plan {
    Planner::default().plan(view)
}

/// Shows what a rebalance would do with a cluster, without doing it.
#[must_use]
pub fn preview(view: &ClusterView<'_>) -> Preview {
    Planner::default().preview(view)
}
