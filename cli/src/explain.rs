//! `explain`: why a container, a donor, a node or a slab is as it is.
//!
//! Owns the words around the decisions; the decisions and their reasons are the agents' own. Pure but
//! for the one question to the controller.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use dynamicswap_proto::common::v1 as common;
use dynamicswap_proto::control::v1 as pb;
use dynamicswap_proto::identity::Right;

use crate::args::{ExplainArgs, ExplainKind};
use crate::connect;
use crate::failure::Refusal;
use crate::ui::human_bytes;

/// Explains one thing.
///
/// # Errors
/// A refusal if there is no such thing; if the controller does not answer.
pub fn run(args: &ExplainArgs) -> Result<ExitCode> {
    let (mut client, _) = connect(&args.connect, Right::Look)?;
    let status = client.status(0)?;
    let text = match args.kind {
        ExplainKind::Container => container(&status, &args.object),
        ExplainKind::Server => server(&status, &args.object),
        ExplainKind::Node => node(&status, &args.object),
        ExplainKind::Slab => slab(&status, &args.object),
    };
    print!("{}", text.map_err(Refusal::error)?);
    Ok(ExitCode::SUCCESS)
}

/// One line with a label.
fn line(text: &mut String, label: &str, value: &str) {
    if !value.is_empty() {
        let _infallible = writeln!(text, "  {label:<10} {value}");
    }
}

fn reports(status: &pb::ClusterStatus) -> impl Iterator<Item = (&str, &pb::NodeReport)> {
    let nodes = status.nodes.iter();
    nodes.filter_map(|node| Some((node.node.as_str(), node.report.as_ref()?)))
}

/// What there is to choose from, for a name that is none.
fn nothing(kind: &str, name: &str, known: &[String]) -> String {
    if known.is_empty() {
        return format!("there is no {kind} '{name}', and no other: look at 'dynamicswap status'");
    }
    format!(
        "there is no {kind} '{name}': choose one of {}",
        known.join(", ")
    )
}

/// A container by namespace/name, by the name alone, or by its pod.
fn container(status: &pb::ClusterStatus, wanted: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut known = Vec::new();
    for (node, report) in reports(status) {
        for it in &report.containers {
            let full = format!("{}/{}", it.namespace, it.name);
            let pod = it.name.split('/').next().unwrap_or_default();
            if [full.as_str(), it.name.as_str(), pod].contains(&wanted)
                || wanted == format!("{}/{pod}", it.namespace)
            {
                describe_container(&mut text, node, it, report);
            }
            known.push(full);
        }
    }
    if text.is_empty() {
        return Err(nothing("container", wanted, &known));
    }
    Ok(text)
}

fn describe_container(
    text: &mut String,
    node: &str,
    it: &pb::ContainerReport,
    report: &pb::NodeReport,
) {
    let full = format!("{}/{}", it.namespace, it.name);
    let _infallible = writeln!(text, "container {full} on {node}");
    let limit = match it.memory_limit_bytes {
        0 => "no limit".to_owned(),
        limit => format!("a limit of {}", human_bytes(limit)),
    };
    let memory = format!(
        "{} in RAM of {limit}, {} swapped out",
        human_bytes(it.memory_bytes),
        human_bytes(it.swap_bytes)
    );
    line(text, "memory", &memory);
    let pressure = format!("{}: {}", it.pressure_state, it.pressure_reason);
    line(text, "pressure", &pressure);
    let policy = match it.selected_by.split_first() {
        None => "none selects it".to_owned(),
        Some((only, [])) => only.clone(),
        Some((first, others)) => format!("{first} decides; also {}", others.join(", ")),
    };
    line(text, "policy", &policy);
    line(text, "may swap", &it.swap_reason);
    let sent = [
        it.offload_reason.clone(),
        moved("sent ahead", it.offloaded_bytes),
    ];
    line(text, "offload", &joined(&sent));
    let home = [
        it.return_reason.clone(),
        moved("brought home", it.returned_bytes),
    ];
    line(text, "return", &joined(&home));
    decisions(text, report, &full);
}

fn moved(how: &str, bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!("{} {how} so far", human_bytes(bytes)),
    }
}

fn joined(parts: &[String]) -> String {
    let parts: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|it| !it.is_empty())
        .collect();
    parts.join("; ")
}

/// The decisions about one subject, oldest first.
fn decisions(text: &mut String, report: &pb::NodeReport, container: &str) {
    let of_it: Vec<_> = report
        .decisions
        .iter()
        .filter(|it| it.container == container)
        .collect();
    if of_it.is_empty() {
        return;
    }
    let now = report
        .decisions
        .iter()
        .map(|it| it.last_unix_ms)
        .max()
        .unwrap_or(0);
    let _infallible = writeln!(text, "  lately");
    for it in of_it {
        let ago = now.saturating_sub(it.last_unix_ms) / 1000;
        let times = if it.times > 1 {
            format!(", {} times", it.times)
        } else {
            String::new()
        };
        let _infallible = writeln!(
            text,
            "    {ago:>4} s earlier  {:<8} {}{times}: {}; changes with {}",
            it.action, it.decision, it.reason, it.remedy
        );
    }
}

/// A donor by its node.
fn server(status: &pb::ClusterStatus, wanted: &str) -> Result<String, String> {
    let donors = status.nodes.iter().filter(|node| node.donor);
    let known: Vec<String> = donors.map(|node| node.node.clone()).collect();
    let node = status
        .nodes
        .iter()
        .find(|node| node.node == wanted && node.donor);
    let node = node.ok_or_else(|| nothing("memory server", wanted, &known))?;
    let mut text = format!("memory server {wanted}\n");
    let takes = match (node.draining, node.cordoned) {
        (true, _) => {
            "no new slabs, what it holds moves elsewhere: it is drained; 'dynamicswap uncordon' ends that"
        }
        (false, true) => "no new slabs: it is cordoned; 'dynamicswap uncordon' ends that",
        (false, false) => "new slabs",
    };
    line(&mut text, "takes", takes);
    let Some(report) = reported(&mut text, node) else {
        return Ok(text);
    };
    if let Some(it) = &report.memory_server {
        let lent = it.grants.len() as u64 * it.slot_bytes;
        let held = format!(
            "{} of its host's memory: {} lent, {} given back to the host",
            human_bytes(it.memory_bytes),
            human_bytes(lent),
            human_bytes(u64::from(it.slots_given_back) * it.slot_bytes)
        );
        line(&mut text, "holds", &held);
    }
    line(&mut text, "problem", &report.memory_server_error);
    if let Some(bytes) = report.lendable_bytes {
        let lends = joined(&[human_bytes(bytes), report.lend_reason.clone()]);
        line(&mut text, "lends", &lends);
    }
    plan(&mut text, status, wanted);
    decisions(&mut text, report, "");
    Ok(text)
}

/// A node's report; says so if there is none.
fn reported<'a>(text: &mut String, node: &'a pb::NodeStatus) -> Option<&'a pb::NodeReport> {
    if node.report.is_none() {
        let why = "its agent has not reported since the controller started";
        line(text, "report", why);
    }
    node.report.as_ref()
}

/// What the plan says of a subject.
fn plan(text: &mut String, status: &pb::ClusterStatus, subject: &str) {
    for said in status
        .plan_report
        .iter()
        .filter(|said| said.contains(subject))
    {
        line(text, "plan", said);
    }
}

fn node(status: &pb::ClusterStatus, wanted: &str) -> Result<String, String> {
    let known: Vec<String> = status.nodes.iter().map(|node| node.node.clone()).collect();
    let node = status.nodes.iter().find(|node| node.node == wanted);
    let node = node.ok_or_else(|| nothing("node", wanted, &known))?;
    let mut text = format!("node {wanted}\n");
    let Some(report) = reported(&mut text, node) else {
        return Ok(text);
    };
    if let Some(it) = &report.node_pressure {
        let memory = format!(
            "{} available of {}",
            human_bytes(it.memory_available_bytes),
            human_bytes(it.memory_total_bytes)
        );
        line(&mut text, "memory", &memory);
        line(
            &mut text,
            "pressure",
            &format!("{}: {}", it.pressure_state, it.pressure_reason),
        );
    }
    line(&mut text, "breaker", &report.breaker_reason);
    for warning in &report.warnings {
        line(&mut text, "note", warning);
    }
    plan(&mut text, status, wanted);
    decisions(&mut text, report, "");
    Ok(text)
}

/// A slab as NODE/NUMBER, of the device of that node.
fn slab(status: &pb::ClusterStatus, wanted: &str) -> Result<String, String> {
    let devices =
        || reports(status).filter_map(|(node, it)| Some((node, it.swap_device.as_ref()?)));
    let known: Vec<String> = devices()
        .map(|(node, device)| {
            let count = device.sets.iter().filter(|set| set.slab.is_some()).count();
            format!("{node}/0 and on ({count} are in use)")
        })
        .collect();
    let parsed = wanted.split_once('/').and_then(|(node, number)| {
        let number: u32 = number.parse().ok()?;
        Some((node, number))
    });
    let (node, number) = parsed.ok_or_else(|| {
        format!(
            "'{wanted}' is no slab: write NODE/NUMBER, such as {}",
            known.join(", ")
        )
    })?;
    let (_, device) = devices()
        .find(|(name, _)| *name == node)
        .ok_or_else(|| nothing("borrower", node, &known))?;
    let set = device
        .sets
        .iter()
        .find(|set| set.slab == Some(number) && !set.released);
    let mut text = format!("slab {number} of {node}\n");
    let Some(set) = set else {
        line(
            &mut text,
            "holds",
            "nothing: no page was written there since it was last empty",
        );
        return Ok(text);
    };
    describe_slab(&mut text, set, device);
    plan(&mut text, status, &format!("set {} ", set.set_id));
    Ok(text)
}

fn describe_slab(text: &mut String, set: &common::SetReport, device: &common::SwapDeviceReport) {
    let pages = u64::from(set.pages_used);
    let holds = format!(
        "{} of {}",
        human_bytes(pages * 4096),
        human_bytes(device.slab_bytes)
    );
    line(text, "holds", &holds);
    for replica in &set.replicas {
        let state = match replica.state() {
            common::ReplicaState::Live => "whole",
            common::ReplicaState::Rebuilding => "being made",
            common::ReplicaState::Stale => "stale, to be made again",
            common::ReplicaState::Unspecified => "unknown",
        };
        line(
            text,
            "copy",
            &format!("{} in slot {}: {state}", replica.node, replica.slot),
        );
    }
    if set.on_disk {
        line(text, "copy", "the spill file has every page of it");
    }
    let mut heats: Vec<u64> = device
        .sets
        .iter()
        .map(|it| it.read_heat + it.write_heat)
        .collect();
    heats.sort_unstable();
    let own = set.read_heat + set.write_heat;
    let colder = heats.partition_point(|heat| *heat < own);
    let heat = format!(
        "{} pages/s of late, more than {colder} of {} slabs: the coldest leave a donor first",
        own / 1000,
        heats.len()
    );
    line(text, "heat", &heat);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::summary::tests::status;

    #[test]
    fn everything_in_a_cluster_can_be_explained() {
        let status = status();
        let containers = reports(&status).flat_map(|(_, it)| &it.containers);
        let names: Vec<String> = containers
            .map(|it| format!("{}/{}", it.namespace, it.name))
            .collect();
        assert!(!names.is_empty());
        for name in &names {
            let text = container(&status, name).expect("known");
            assert!(text.contains("pressure"), "{text}");
        }
        for it in &status.nodes {
            assert!(node(&status, &it.node).is_ok());
            assert_eq!(server(&status, &it.node).is_ok(), it.donor);
        }
        for (name, report) in reports(&status) {
            for set in report.swap_device.iter().flat_map(|device| &device.sets) {
                if let Some(number) = set.slab {
                    let text = slab(&status, &format!("{name}/{number}")).expect("known");
                    assert!(text.contains("copy") && text.contains("heat"), "{text}");
                }
            }
        }
    }

    #[test]
    fn decision_is_told_with_figures_rule_and_what_would_change_it() {
        let mut status = status();
        let report = status
            .nodes
            .iter_mut()
            .find_map(|node| node.report.as_mut());
        let report = report.expect("one");
        report.containers = vec![pb::ContainerReport {
            namespace: "shop".to_owned(),
            name: "web-0/app".to_owned(),
            selected_by: vec!["shop/web".to_owned(), "shop/all".to_owned()],
            ..pb::ContainerReport::default()
        }];
        report.decisions = vec![pb::Decision {
            container: "shop/web-0/app".to_owned(),
            action: "Return".to_owned(),
            decision: "bring 8 MiB home".to_owned(),
            reason: "64 MiB fit (return: rule)".to_owned(),
            remedy: "less room".to_owned(),
            times: 3,
            ..pb::Decision::default()
        }];
        for name in ["shop/web-0/app", "web-0", "shop/web-0"] {
            let text = container(&status, name).expect("known");
            assert!(
                text.contains(
                    "bring 8 MiB home, 3 times: 64 MiB fit (return: rule); changes with less room"
                ),
                "{text}"
            );
            assert!(text.contains("shop/web decides; also shop/all"), "{text}");
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let status = status();
        assert!(
            container(&status, "none")
                .expect_err("unknown")
                .contains("choose one of")
        );
        assert!(
            slab(&status, "7")
                .expect_err("no slab")
                .contains("NODE/NUMBER")
        );
        assert!(
            server(&pb::ClusterStatus::default(), "x")
                .expect_err("none")
                .contains("no other")
        );
    }
}
