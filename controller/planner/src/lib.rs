//! Pure placement: an immutable view of the cluster in, an immutable plan with reasons out.
//!
//! Owns the ledger (what has been granted), the planner's steps, the checker that lints every
//! plan, and the documents that follow from the ledger. Must not do I/O, read a clock or draw
//! random numbers: time and a seed are arguments.
//!
//! One round: [`round`] makes a plan from a [`ClusterView`], has it checked by [`lint`], applies
//! it to a copy of the ledger and renders the documents. The caller persists the new ledger,
//! then hands the documents out.
#![forbid(unsafe_code)]

mod absorb;
mod balance;
mod brake;
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
    Seat, SeatPhase, ServerFacts, SetRecord, SetStage,
};
pub use lint::{Finding, lint};
pub use plan::{Place, Plan, Step};
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

/// Makes a plan from a view.
#[must_use]
pub fn plan(view: &ClusterView<'_>) -> Plan {
    steps::plan(view)
}

/// Shows what a rebalance would do with a cluster, without doing it.
#[must_use]
pub fn preview(view: &ClusterView<'_>) -> Preview {
    steps::preview(view)
}
