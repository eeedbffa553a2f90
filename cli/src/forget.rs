//! `forget`: a node that is gone for good.

use anyhow::Result;
use dynamicswap_proto::control::v1 as pb;

use crate::args::ForgetArgs;
use crate::client::Client;
use crate::failure::Refusal;
use crate::ui::human_bytes;

/// Has the controller give a node up.
///
/// # Errors
/// A refusal if there is no such node, its agent is connected, or its pages may still be read.
pub fn run(args: &ForgetArgs, client: &mut Client) -> Result<()> {
    let status = client.status(0)?;
    let node = status.nodes.iter().find(|node| node.node == args.node);
    if let Some(doubt) = node.and_then(doubt).filter(|_| !args.pages_are_gone) {
        return Err(Refusal::error(format!(
            "{doubt}. Whoever reads a page of it would be killed. If the node is switched off for good or was \
             installed anew, add --pages-are-gone"
        )));
    }
    println!("{}", client.forget(args.node.clone())?);
    Ok(())
}

/// Whether a node has swap, or has not said: what a swapd that does not answer may still serve.
#[must_use]
pub fn may_swap(report: &pb::NodeReport) -> bool {
    let swap = report.node_pressure.as_ref();
    swap.is_none_or(|it| it.swap_total_bytes > 0)
}

/// Why pages of a node's device may still be read; nothing if it has none.
fn doubt(node: &pb::NodeStatus) -> Option<String> {
    let name = &node.node;
    if !node.borrower || node.connected {
        // The controller refuses who is connected.
        return None;
    }
    let Some(report) = &node.report else {
        return Some(format!(
            "{name} has said nothing since the controller started, so its device may be in use"
        ));
    };
    let Some(device) = &report.swap_device else {
        let doubtful = may_swap(report) || !report.swap_device_error.is_empty();
        return doubtful
            .then(|| format!("swapd of {name} did not answer when the node was last heard"));
    };
    let used = human_bytes(device.pages_used.saturating_mul(4096));
    let in_use = device.attached || device.pages_used > 0;
    in_use.then(|| {
        format!("the device of {name} was in use when it was last heard, with {used} of pages")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borrower() -> pb::NodeStatus {
        pb::NodeStatus {
            node: "n1".to_owned(),
            borrower: true,
            ..pb::NodeStatus::default()
        }
    }

    #[test]
    fn node_whose_pages_may_be_read_is_not_given_up_unasked() {
        let mut node = borrower();
        assert!(doubt(&node).is_some_and(|it| it.contains("said nothing")));
        node.report = Some(pb::NodeReport::default());
        assert!(doubt(&node).is_some(), "nobody knows whether it swaps");
        let pressure = pb::NodePressure::default();
        node.report.as_mut().expect("set").node_pressure = Some(pressure);
        assert_eq!(doubt(&node), None, "it has no swap");
        let device = |attached, pages_used| dynamicswap_proto::common::v1::SwapDeviceReport {
            attached,
            pages_used,
            ..Default::default()
        };
        for (attached, pages, doubtful) in [(false, 0, false), (true, 0, true), (false, 7, true)] {
            let report = node.report.as_mut().expect("set");
            report.swap_device = Some(device(attached, pages));
            assert_eq!(doubt(&node).is_some(), doubtful);
        }
        node.borrower = false;
        assert_eq!(doubt(&node), None, "it only lends");
    }
}
