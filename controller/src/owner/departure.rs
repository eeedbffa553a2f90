//! A borrower that has left for good: its device is gone, and what it was granted goes back.

use dynamicswap_planner::Ledger;
use dynamicswap_types::NodeName;
use tonic::Status;

use super::Owner;

impl Owner {
    /// Takes back what a borrower holds that has swapped off and stopped. Refuses one whose agent is
    /// connected: it has not left. In force and persisted when this returns.
    pub(super) fn forget_borrower(&mut self, node: &str) -> Result<String, Status> {
        let node: NodeName = node.parse().map_err(|error| {
            Status::invalid_argument(format!("'{node}' is no node name: {error}"))
        })?;
        if !self.kept.nodes.contains_key(&node) {
            return Err(Status::not_found(format!("no node {node} is known")));
        }
        if self.sessions.contains_key(&node) {
            return Err(Status::failed_precondition(format!(
                "the agent of node {node} is connected: stop it first"
            )));
        }
        let failure = format!("{node} is not forgotten");
        self.decide(&failure, |ledger| forget(ledger, &node))?;
        // What it said last is no news of a device that may come after it.
        self.memory.remove(&node);
        if let Some(seen) = self.seen.get_mut(&node) {
            (seen.device, seen.device_error) = (None, true);
        }
        self.events.note(node.as_str(), "BorrowerLeft", "");
        Ok(format!("node {node} borrows no more"))
    }
}

fn forget(ledger: &mut Ledger, node: &NodeName) {
    let devices = ledger.devices.values_mut();
    for device in devices.filter(|device| device.node == *node) {
        device.gone = true;
    }
    if let Some(record) = ledger.nodes.get_mut(node) {
        record.borrower = false;
    }
}
