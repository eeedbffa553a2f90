//! One round: plan, persist, send.

use std::sync::Arc;

use dynamicswap_planner::{
    ClusterView, Plan, Planner, Reason, Rebalance, Round, Settings, stamp_rebalanced, stamp_revokes,
};
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_types::{MonotonicTime, NodeName};
use tracing::{error, info};

use super::{Outgoing, Owner};
use crate::store::{Change, StoreError, changes_between};

impl Owner {
    /// Makes a plan of the present view. What it leads to is in force only once it is persisted.
    pub(super) fn round(&mut self) {
        self.dirty = false;
        let now = self.clock.now();
        if now < self.store_rests_until {
            // Nothing could be kept of it. Documents that follow from what is kept go out all the same.
            self.plan.wake_at = Some(self.store_rests_until);
            self.send_documents();
            return;
        }
        stamp_revokes(&self.draft, &mut self.seen, now);
        match self.with_planner(|planner, view| planner.round(view)) {
            Ok(round) => self.carry_out(round),
            Err(error) => {
                error!(%error, "the plan is not sound, the documents stay as they are");
                self.stumble("PlanRefused", error.to_string());
            }
        }
        self.send_documents();
    }

    /// Shows the planner the present view.
    pub(super) fn with_planner<T>(
        &mut self,
        work: impl FnOnce(&mut Planner, &ClusterView<'_>) -> T,
    ) -> T {
        let mut planner = std::mem::take(&mut self.planner);
        let made = work(&mut planner, &self.view(self.clock.now()));
        self.planner = planner;
        made
    }

    /// What a plan is made from.
    fn view(&self, now: MonotonicTime) -> ClusterView<'_> {
        let rebalance = if self.rebalance_now {
            Rebalance::Now
        } else {
            self.rebalance
        };
        ClusterView {
            ledger: &self.draft,
            nodes: &self.seen,
            intent: self.intent.as_ref(),
            settings: Settings {
                replace_after: self.replace_after,
                protocol: SESSION_PROTOCOL,
                rebalance,
            },
            rebalanced: &self.rebalanced,
            now,
            seed: now.as_nanos(),
        }
    }

    fn carry_out(&mut self, round: Round) {
        let changes = changes_between(&self.kept, &round.ledger);
        if let Err(error) = self.commit(&changes) {
            let error = anyhow::Error::from(error);
            error!(error = %format!("{error:#}"), "nothing is handed out until the store works");
            self.stumble("StoreFailed", format!("{error:#}"));
            self.plan.wake_at = Some(self.store_rests_until);
            return;
        }
        self.trouble = None;
        if !round.plan.steps.is_empty() {
            info!(plan = %round.plan, "carried out");
        }
        for line in round
            .plan
            .report
            .iter()
            .filter(|line| !line.reason.is_wait())
        {
            let node = line.reason.told_on().map_or("", NodeName::as_str);
            self.events.note(node, line.reason.kind(), line.to_string());
        }
        self.tell_what_begins(&round.plan);
        self.rebalance_now &= round.plan.rebalancing;
        stamp_rebalanced(&mut self.rebalanced, &round.plan, self.clock.now());
        self.kept.clone_from(&round.ledger);
        self.draft = round.ledger;
        self.documents = round.documents;
        self.plan = round.plan;
    }

    /// Has the store keep changes. After a failure it rests, longer each time.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let committed = tokio::task::block_in_place(|| self.store.commit(changes));
        match committed {
            Ok(()) => self.store_pauses.reset(),
            // It was not tried.
            Err(StoreError::Refused(_)) => {}
            Err(_) => {
                let pause = self.store_pauses.pause();
                self.store_rests_until = self.clock.now().after(pause);
            }
        }
        committed
    }

    /// Notes what waits for a person and did not in the plan before.
    fn tell_what_begins(&mut self, plan: &Plan) {
        for line in &plan.report {
            // The same of the same node with other figures is no news.
            let told = |of: &Reason| (of.kind(), of.told_on().cloned());
            let mut known = self.plan.report.iter();
            let is_new = !known.any(|known| told(&known.reason) == told(&line.reason));
            let waits = line.reason.is_wait() && is_new;
            if let Some(node) = line.reason.told_on().filter(|_| waits) {
                let kind = line.reason.kind();
                self.events.note(node.as_str(), kind, line.to_string());
            }
        }
    }

    fn stumble(&mut self, kind: &str, sentence: String) {
        if self.trouble.as_ref() != Some(&sentence) {
            self.events.note("", kind, sentence.clone());
        }
        self.trouble = Some(sentence);
    }

    /// Hands each session the document that its node does not have yet.
    fn send_documents(&mut self) {
        for (node, session) in &mut self.sessions {
            let Some(document) = self.documents.get(node) else {
                continue;
            };
            if session.sent == Some(document.generation) {
                continue;
            }
            let document = Arc::clone(document);
            session.sent = Some(document.generation);
            let outgoing = Outgoing::Document(document, self.term);
            session.outbox.send_replace(outgoing);
        }
    }
}
