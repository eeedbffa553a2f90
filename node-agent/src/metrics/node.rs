//! The node and its agent.

use std::time::Duration;

use dynamicswap_proto::control::v1::{ContainerReport, NodePressure, PressureLine};

use super::{Family, Kind, Snapshot};

/// States of a container's pressure.
const STATES: [&str; 4] = ["Calm", "Pressured", "Stalled", "Unknown"];

pub(super) fn families(snapshot: &Snapshot) -> Vec<Family> {
    let report = &snapshot.report;
    let mut families = of_agent(snapshot);
    families.extend(of_containers(&report.containers));
    if let Some(pressure) = &report.node_pressure {
        families.push(stalled(pressure));
    }
    if let Some(lendable) = report.lendable_bytes {
        families.push(Family::gauge(
            "dynamicswap_lendable_bytes",
            "Memory that the node can lend in all now",
            lendable,
        ));
    }
    families
}

fn of_agent(snapshot: &Snapshot) -> Vec<Family> {
    let report = &snapshot.report;
    vec![
        Family::gauge(
            "dynamicswap_agent_session_up",
            "Whether the agent has a session with the controller",
            snapshot.has_session,
        ),
        Family::gauge(
            "dynamicswap_agent_generation",
            "Generation of the document that the agent has",
            report.generation,
        ),
        Family::gauge(
            "dynamicswap_agent_resident_bytes",
            "Resident memory of the agent",
            report.agent_rss_bytes,
        ),
        Family::gauge(
            "dynamicswap_agent_warnings",
            "What the host does not permit the agent, and what it leaves out",
            report.warnings.len() as u64,
        ),
        Family::gauge(
            "dynamicswap_agent_refusals",
            "Refusals of the present document by a daemon",
            report.refusals.len() as u64,
        ),
        Family::gauge(
            "dynamicswap_breaker_open",
            "Whether pages are no longer sent ahead because they only travel to and fro",
            report.breaker_open,
        ),
    ]
}

/// Sums are gauges: what a container had goes with it.
fn of_containers(containers: &[ContainerReport]) -> Vec<Family> {
    let sum = |of: fn(&ContainerReport) -> u64| containers.iter().map(of).sum::<u64>();
    vec![
        Family::gauge(
            "dynamicswap_containers_offloaded_bytes",
            "Bytes of the present containers that were sent ahead of the need so far",
            sum(|container| container.offloaded_bytes),
        ),
        Family::gauge(
            "dynamicswap_containers_returned_bytes",
            "Bytes of the present containers that were brought home before they were asked for so far",
            sum(|container| container.returned_bytes),
        ),
        Family::gauge(
            "dynamicswap_containers_swap_bytes",
            "Swap that the watched containers use",
            sum(|container| container.swap_bytes),
        ),
        of_states(containers),
    ]
}

fn stalled(pressure: &NodePressure) -> Family {
    let mut family = Family::new(
        "dynamicswap_node_memory_stall_seconds",
        "Time that some or all tasks of the node waited for memory",
        Kind::Counter,
    );
    for (share, line) in [("some", &pressure.some), ("full", &pressure.full)] {
        if let Some(PressureLine { total_us, .. }) = line {
            let seconds = Duration::from_micros(*total_us).as_secs_f64();
            family.add(&[("share", share)], seconds);
        }
    }
    family
}

fn of_states(containers: &[ContainerReport]) -> Family {
    let mut family = Family::new(
        "dynamicswap_containers",
        "Watched containers by the state of their pressure",
        Kind::Gauge,
    );
    for state in STATES {
        let count = containers.iter().filter(|it| it.pressure_state == state);
        family.add(&[("state", state)], count.count() as u64);
    }
    family
}
