//! `status`: one look at a cluster, or as many as it takes until nothing is missing.
//!
//! Owns what counts as ready. Draws nothing itself.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dynamicswap_crds::RemoteMemoryPolicy;
use dynamicswap_proto::control::v1::{self as pb, GetRequest};
use dynamicswap_proto::identity::Right;

use crate::args::StatusArgs;
use crate::client::Client;
use crate::cluster::record::ClusterRecord;
use crate::connect;
use crate::forget::may_swap;
use crate::interrupt::Interrupt;
use crate::ui::{Tone, Ui, human_bytes};
use crate::view::summary::Summary;
use crate::view::text::{self, Screen};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows the cluster, once it is ready if that is asked for.
///
/// # Errors
/// If the controller does not answer, or the cluster is not ready in time.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let (mut client, title) = connect(&args.connect, Right::Look)?;
    let interrupt = Interrupt::listen()?;
    let mut ui = Ui::new();
    let summary = if args.unused {
        wait_unused(args, &mut client, &interrupt, &mut ui)?
    } else if args.wait {
        wait(args, &mut client, &interrupt, &mut ui)?
    } else {
        Summary::of(&client.status(0)?)
    };
    for line in text::lines(&summary, &ui.paint(Tone::Bold, &title), screen(), &ui) {
        ui.line(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// What standard output has room for.
fn screen() -> Screen {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 => Screen::of_terminal(size.ws_row, size.ws_col),
        Ok(_) | Err(_) => Screen::DEFAULT,
    }
}

fn wait(
    args: &StatusArgs,
    client: &mut Client,
    interrupt: &Interrupt,
    ui: &mut Ui,
) -> Result<Summary> {
    let nodes = nodes_of_record(args)?;
    let deadline = Instant::now() + args.timeout.as_duration();
    loop {
        let missing = match look(client) {
            Ok((summary, is_swap_wanted)) => {
                let missing = missing(&summary, &nodes, is_swap_wanted);
                if missing.is_empty() {
                    ui.clear_live();
                    return Ok(summary);
                }
                missing
            }
            // It may be about to start.
            Err(error) => vec![format!("{error:#}")],
        };
        if Instant::now() >= deadline {
            ui.clear_live();
            bail!("not ready after {}: {}", args.timeout, missing.join("; "));
        }
        if let Some(first) = missing.first() {
            ui.live(&format!("waiting: {first}"));
        }
        interrupt.wait(LOOK_EVERY)?;
    }
}

/// Waits until no device is attached. While a policy is in force that would never come.
fn wait_unused(
    args: &StatusArgs,
    client: &mut Client,
    interrupt: &Interrupt,
    ui: &mut Ui,
) -> Result<Summary> {
    let deadline = Instant::now() + args.timeout.as_duration();
    loop {
        let policies = policies(client)?;
        let in_force = policies.iter().filter(|policy| policy.in_force());
        let names: Vec<String> = in_force
            .map(|policy| policy.metadata.name.clone().unwrap_or_default())
            .collect();
        if !names.is_empty() {
            ui.clear_live();
            bail!(
                "in use: {} in force, so devices stay attached; delete the policies (kubectl delete rmp) and try again",
                names.join(", ")
            );
        }
        let status = client.status(0)?;
        let summary = Summary::of(&status);
        let mut used = attached(&summary);
        used.extend(unknown(&status));
        let Some(first) = used.first() else {
            ui.clear_live();
            return Ok(summary);
        };
        if Instant::now() >= deadline {
            ui.clear_live();
            bail!("in use after {}: {}", args.timeout, used.join("; "));
        }
        ui.live(&format!("waiting: {first}"));
        interrupt.wait(LOOK_EVERY)?;
    }
}

/// Devices that still are swap, one sentence each.
fn attached(summary: &Summary) -> Vec<String> {
    let attached = summary.devices.iter().filter(|device| device.attached);
    let told = attached.map(|device| {
        let used = human_bytes(device.used);
        format!(
            "the swap device of {} is attached, {used} in use",
            device.node
        )
    });
    told.collect()
}

/// Borrowers of which nobody knows whether their device is swap, one sentence each.
fn unknown(status: &pb::ClusterStatus) -> Vec<String> {
    let doubt = |node: &pb::NodeStatus| {
        let name = &node.node;
        let Some(report) = node.report.as_ref().filter(|_| node.connected) else {
            return Some(format!(
                "the agent of {name} is not connected, so nobody knows whether its device is in use: start \
                 it, or 'dynamicswap forget {name}' if the node is gone for good"
            ));
        };
        (report.swap_device.is_none() && may_swap(report))
            .then(|| format!("swapd of {name} does not answer, and the node has swap in use"))
    };
    let borrowers = status.nodes.iter().filter(|node| node.borrower);
    borrowers.filter_map(doubt).collect()
}

/// The nodes that a local cluster was started with; none are known of another one.
fn nodes_of_record(args: &StatusArgs) -> Result<Vec<String>> {
    if args.connect.controller.is_some() || args.connect.kubernetes {
        return Ok(Vec::new());
    }
    let record = ClusterRecord::load(&args.connect.target.name)?;
    Ok(record.shape.node_names())
}

/// The cluster, and whether a policy in force wants its devices attached.
fn look(client: &mut Client) -> Result<(Summary, bool)> {
    let summary = Summary::of(&client.status(0)?);
    let is_swap_wanted = policies(client)?.iter().any(RemoteMemoryPolicy::in_force);
    Ok((summary, is_swap_wanted))
}

/// The policies that this program understands; the controller, of the same version, puts no other in
/// force.
fn policies(client: &mut Client) -> Result<Vec<RemoteMemoryPolicy>> {
    let request = GetRequest {
        kind: RemoteMemoryPolicy::KIND.to_owned(),
        ..GetRequest::default()
    };
    let texts = client.get(request)?;
    let understood = texts
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok());
    Ok(understood.collect())
}

/// What is missing until the cluster is ready, one sentence each.
fn missing(summary: &Summary, nodes: &[String], is_swap_wanted: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if summary.nodes.is_empty() && nodes.is_empty() {
        missing.push("no agent has connected".to_owned());
    }
    let known = |name: &String| summary.nodes.iter().any(|node| node.name == *name);
    let absent = nodes.iter().filter(|name| !known(name));
    missing.extend(absent.map(|name| format!("the agent of {name} has not connected")));
    let troubled = summary.nodes.iter().filter(|node| !node.problem.is_empty());
    missing.extend(troubled.map(|node| format!("{}: {}", node.name, node.problem)));
    if is_swap_wanted {
        if summary.devices.is_empty() {
            missing.push("no swap device is reported".to_owned());
        }
        let detached = summary.devices.iter().filter(|device| !device.attached);
        missing.extend(detached.map(|d| format!("the swap device of {} is detached", d.node)));
    }
    let degraded = summary.degraded();
    if degraded > 0 {
        missing.push(format!("{} have too few copies", human_bytes(degraded)));
    }
    // Why that may be so.
    if !missing.is_empty() {
        missing.extend(summary.notes.iter().cloned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::summary::tests::status;

    fn healthy() -> Summary {
        let mut summary = Summary::of(&status());
        for node in &mut summary.nodes {
            node.problem.clear();
        }
        for device in &mut summary.devices {
            device.degraded = 0;
        }
        summary
    }

    #[test]
    fn healthy_cluster_lacks_nothing() {
        let nodes = ["donor-1".to_owned(), "borrower".to_owned()];
        assert_eq!(missing(&healthy(), &nodes, true), Vec::<String>::new());
        let mut noted = healthy();
        noted.notes = vec!["4 daemons: no".to_owned()];
        assert_eq!(missing(&noted, &nodes, true), Vec::<String>::new());
    }

    #[test]
    fn cluster_without_nodes_is_not_ready() {
        let empty = Summary::default();
        assert_eq!(missing(&empty, &[], false), ["no agent has connected"]);
        let nodes = ["donor-9".to_owned()];
        let told = ["the agent of donor-9 has not connected"];
        assert_eq!(missing(&empty, &nodes, false), told);
        assert_eq!(missing(&healthy(), &nodes, false), told);
    }

    #[test]
    fn detached_device_matters_once_a_policy_is_in_force() {
        let mut summary = healthy();
        summary.devices[0].attached = false;
        assert_eq!(missing(&summary, &[], false), Vec::<String>::new());
        let told = ["the swap device of borrower is detached"];
        assert_eq!(missing(&summary, &[], true), told);
        summary.devices.clear();
        assert_eq!(missing(&summary, &[], true), ["no swap device is reported"]);
    }

    #[test]
    fn attached_devices_are_named_with_what_is_on_them() {
        let mut summary = healthy();
        summary.devices[0].attached = true;
        summary.devices[0].used = 3 << 30;
        let told = ["the swap device of borrower is attached, 3.0 GiB in use"];
        assert_eq!(attached(&summary), told);
        summary.devices[0].attached = false;
        assert!(attached(&summary).is_empty());
    }

    #[test]
    fn borrower_of_which_nobody_knows_is_taken_for_one_that_swaps() {
        let mut status = status();
        let at = status.nodes.iter().position(|node| node.borrower);
        let at = at.expect("a borrower");
        assert!(unknown(&status).is_empty());
        status.nodes[at].connected = false;
        let told = unknown(&status);
        assert!(told[0].contains("forget borrower"), "{told:?}");
        status.nodes[at].connected = true;
        let mut report = status.nodes[at].report.clone().expect("one");
        report.swap_device = None;
        let mut pressure = report.node_pressure.unwrap_or_default();
        pressure.swap_total_bytes = 0;
        report.node_pressure = Some(pressure);
        status.nodes[at].report = Some(report.clone());
        assert!(unknown(&status).is_empty(), "a node without swap uses none");
        report.node_pressure.as_mut().expect("set").swap_total_bytes = 1;
        status.nodes[at].report = Some(report);
        assert!(unknown(&status)[0].contains("does not answer"));
        status.nodes[at].report = None;
        assert_eq!(unknown(&status).len(), 1);
    }

    #[test]
    fn troubled_node_and_pages_with_too_few_copies_are_named_with_the_reason() {
        let mut summary = Summary::of(&status());
        summary.notes = vec!["the plan waits".to_owned()];
        assert_eq!(
            missing(&summary, &[], true),
            [
                "donor-2: connection refused",
                "400 KiB have too few copies",
                "the plan waits"
            ]
        );
    }
}
