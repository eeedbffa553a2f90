//! One round: plan, check, apply, publish. Nothing of it is in force until the caller has
//! persisted the new ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamicswap_types::NodeName;
use thiserror::Error;

use crate::desired::NodeDocument;
use crate::ledger::{IllegalStep, Ledger};
use crate::lint::Finding;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::view::ClusterView;

/// What a round leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The plan that was made.
    pub plan: Plan,
    /// The ledger with the plan applied and the generations advanced.
    pub ledger: Ledger,
    /// Every node's document. Rounds share those that did not change.
    pub documents: BTreeMap<NodeName, Arc<NodeDocument>>,
}

/// Why a round is not carried out. Both are defects of the planner: the old documents stay in
/// force, which harms nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RoundError {
    /// The checker found something.
    #[error("the plan breaks {} rules, first: {}", .0.len(), .0.first().map_or_else(String::new, ToString::to_string))]
    Findings(Vec<Finding>),
    /// The ledger refused a step.
    #[error("the plan does not fit the ledger")]
    Illegal(#[source] IllegalStep),
}

/// Carries out one round from nothing. Who carries out many has a [`Planner`].
///
/// # Errors
/// [`RoundError`] if the plan is not sound.
pub fn round(view: &ClusterView<'_>) -> Result<Round, RoundError> {
    Planner::default().round(view)
}
