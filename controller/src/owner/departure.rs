//! A node that has left for good: its device is gone, and what it was granted goes back. What others have on
//! it is made elsewhere, and then it lends nothing any more either.

use dynamicswap_planner::Ledger;
use dynamicswap_types::NodeName;
use tonic::Status;

use super::Owner;

impl Owner {
    /// Takes back what a node holds that has swapped off and stopped, or is no more. Refuses one whose agent
    /// is connected: it has not left. In force and persisted when this returns.
    pub(super) fn forget_node(&mut self, node: &str) -> Result<String, Status> {
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
        let holds = self.kept.holds_slots(&node);
        self.decide(&failure, |ledger| forget(ledger, &node))?;
        // What it said last is no news of daemons that may come after it.
        self.memory.remove(&node);
        if let Some(seen) = self.seen.get_mut(&node) {
            (seen.device, seen.device_error) = (None, true);
            if !holds {
                seen.server = None;
            }
        }
        self.events.note(node.as_str(), "NodeForgotten", "");
        Ok(if holds {
            format!("node {node} borrows no more; what lies on it is made elsewhere first")
        } else {
            format!("node {node} is forgotten")
        })
    }
}

/// Its generations stay on record: should the node come back, its agent has a document of them.
fn forget(ledger: &mut Ledger, node: &NodeName) {
    let devices = ledger.devices.values_mut();
    for device in devices.filter(|device| device.node == *node) {
        device.gone = true;
    }
    let holds = ledger.holds_slots(node);
    if let Some(record) = ledger.nodes.get_mut(node) {
        record.borrower = false;
        if !holds {
            (record.donor, record.server) = (false, None);
        }
    }
}
