//! What operators decide of a donor: open, cordoned or draining.

use std::time::Duration;

use dynamicswap_planner::Ledger;
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_types::NodeName;
use tonic::Status;

use super::Owner;
use crate::store::changes_between;

impl Owner {
    /// Closes a donor for new slabs, empties it, or opens it again. In force and persisted when this
    /// returns.
    pub(super) fn admit_donor(&mut self, request: &AdmitRequest) -> Result<String, Status> {
        let node: NodeName = request.node.parse().map_err(|error| {
            Status::invalid_argument(format!("'{}' is no node name: {error}", request.node))
        })?;
        let (cordoned, drain, word) = match request.admission() {
            Admission::Open => (false, None, "uncordoned"),
            Admission::Cordoned => (true, None, "cordoned"),
            Admission::Draining => {
                let within = Duration::from_millis(request.within_ms);
                (true, Some(within), "draining")
            }
            Admission::Unspecified => {
                return Err(Status::invalid_argument(
                    "the request does not say what the donor shall take",
                ));
            }
        };
        let known = self.draft.nodes.get(&node).filter(|record| record.donor);
        let Some(record) = known else {
            return Err(Status::not_found(format!(
                "no donor {node} is known: 'dynamicswap get memoryservers' lists them"
            )));
        };
        let name = format!("memoryserver.dynamicswap.io/{node}");
        if (record.cordoned, record.drain) == (cordoned, drain) {
            return Ok(format!("{name} unchanged"));
        }
        // Persisted alone and at once: what the draft holds beside it waits for a plan that is
        // sound, and this must not.
        let failure = format!("{node} stays as it is");
        self.decide(&failure, |ledger| {
            if let Some(record) = ledger.nodes.get_mut(&node) {
                (record.cordoned, record.drain) = (cordoned, drain);
            }
        })?;
        let result = format!("{name} {word}");
        self.events
            .note(node.as_str(), "DonorAdmission", result.clone());
        Ok(result)
    }

    /// What an object says of a donor is in force.
    pub(super) fn observe(&mut self, node: &str, generation: i64) {
        let node = node.parse::<NodeName>().ok();
        if let Some(memory) = node.and_then(|node| self.memory.get_mut(&node)) {
            memory.generation = Some(generation);
        }
    }

    /// Changes the record by an operator's decision: persisted first, then in force.
    pub(super) fn decide(
        &mut self,
        failure: &str,
        change: impl Fn(&mut Ledger),
    ) -> Result<(), Status> {
        if self.clock.now() < self.store_rests_until {
            let trouble = self.trouble.as_deref().unwrap_or("the store failed");
            return Err(Status::unavailable(format!(
                "{failure}: {trouble}; try again"
            )));
        }
        let mut next = self.kept.clone();
        change(&mut next);
        let changes = changes_between(&self.kept, &next);
        self.commit(&changes).map_err(|error| {
            let error = anyhow::Error::from(error);
            Status::internal(format!("{failure}: {error:#}"))
        })?;
        self.kept = next;
        change(&mut self.draft);
        self.dirty = true;
        Ok(())
    }
}
