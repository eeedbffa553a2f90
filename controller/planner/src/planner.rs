//! The planner as its caller keeps it: it remembers what it derived for one plan, so that the next one
//! costs what changed and not what there is.
//!
//! What it remembers never decides anything: a planner that has followed a cluster for a year makes the
//! same plan as one that is new. It may be dropped, or shown any view at any time.

use crate::balance::Preview;
use crate::cache::Cache;
use crate::limits::CHECK_WHOLE_EVERY;
use crate::lint::{lint, lint_touched};
use crate::plan::Plan;
use crate::publish::Publisher;
use crate::round::{Round, RoundError};
use crate::steps;
use crate::view::ClusterView;

/// Makes plans and carries out rounds, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    cache: Cache,
    publisher: Publisher,
    /// Rounds since it last began from nothing.
    rounds: u64,
}

impl Planner {
    /// Makes a plan from a view.
    #[must_use]
    pub fn plan(&mut self, view: &ClusterView<'_>) -> Plan {
        self.cache.follow(view);
        steps::plan(view, &self.cache)
    }

    /// Shows what a rebalance would do with a cluster, without doing it.
    #[must_use]
    pub fn preview(&mut self, view: &ClusterView<'_>) -> Preview {
        self.cache.follow(view);
        steps::preview(view, &self.cache)
    }

    /// Carries out one round. The first one, and then one of many, begins from nothing and has the
    /// checker look at the whole ledger.
    ///
    /// # Errors
    /// [`RoundError`] if the plan is not sound. The next round begins from nothing then.
    pub fn round(&mut self, view: &ClusterView<'_>) -> Result<Round, RoundError> {
        if self.rounds >= CHECK_WHOLE_EVERY {
            *self = Self::default();
        }
        let round = self.carry_out(view, self.rounds == 0);
        self.rounds += 1;
        if round.is_err() {
            *self = Self::default();
        }
        round
    }

    fn carry_out(&mut self, view: &ClusterView<'_>, whole: bool) -> Result<Round, RoundError> {
        let plan = self.plan(view);
        let findings = if whole {
            lint(view, &plan)
        } else {
            lint_touched(view, &plan)
        };
        if !findings.is_empty() {
            return Err(RoundError::Findings(findings));
        }
        let mut ledger = view.ledger.clone();
        for step in &plan.steps {
            ledger.apply(step).map_err(RoundError::Illegal)?;
        }
        let documents = self.publisher.publish(&mut ledger, view.intent);
        Ok(Round {
            plan,
            ledger,
            documents,
        })
    }
}
