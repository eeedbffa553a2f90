//! What the agent knows, as messages.

use dynamicswap_policy::{ContainerName, Share, Sight, Stall, Verdict};
use dynamicswap_proto::control::v1::{ContainerReport, NodePressure, PressureLine};

use crate::cgroup::CgroupError;
use crate::node::NodeMemory;

/// An error of a kernel file with its cause.
#[must_use]
pub fn sentence(error: &CgroupError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A verdict in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// `Calm`, `Pressured`, `Stalled`, or `Unknown` where there are no figures.
    pub state: String,
    /// Why.
    pub reason: String,
    /// `trigger` or `timer`.
    pub noticed_by: String,
}

/// A verdict in words; without one, the problem stands for the reason.
#[must_use]
pub fn judged(verdict: Option<Verdict>, problem: Option<&str>) -> Judged {
    match verdict {
        Some(verdict) => Judged {
            state: verdict.level.to_string(),
            reason: verdict.reason.to_string(),
            noticed_by: verdict.noticed_by.to_string(),
        },
        None => Judged {
            state: "Unknown".to_owned(),
            reason: problem.unwrap_or("not looked at yet").to_owned(),
            noticed_by: String::new(),
        },
    }
}

/// The node.
#[must_use]
pub fn node(sight: &Sight, memory: &NodeMemory, judged: Judged) -> NodePressure {
    let pressure = sight.pressure.as_ref();
    NodePressure {
        some: pressure.map(|pressure| line(&pressure.some)),
        full: pressure.map(|pressure| line(&pressure.full)),
        memory_total_bytes: memory.total.get(),
        memory_available_bytes: memory.available.get(),
        swap_total_bytes: memory.swap_total.get(),
        swap_used_bytes: memory.swap_used.get(),
        pressure_state: judged.state,
        pressure_reason: judged.reason,
        noticed_by: judged.noticed_by,
    }
}

/// A container.
#[must_use]
pub fn container(
    name: &ContainerName,
    sight: &Sight,
    judged: Judged,
    policy: String,
) -> ContainerReport {
    let pressure = sight.pressure.as_ref();
    ContainerReport {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        some: pressure.map(|pressure| line(&pressure.some)),
        full: pressure.map(|pressure| line(&pressure.full)),
        memory_bytes: sight.memory.used.get(),
        memory_limit_bytes: sight.memory.limit.map_or(0, |limit| limit.get()),
        swap_bytes: sight.memory.swapped.get(),
        pressure_state: judged.state,
        pressure_reason: judged.reason,
        noticed_by: judged.noticed_by,
        policy,
        ..ContainerReport::default()
    }
}

fn line(stall: &Stall) -> PressureLine {
    let percent = |share: Share| f64::from(share.hundredths()) / 100.0;
    PressureLine {
        avg10: percent(stall.avg10),
        avg60: percent(stall.avg60),
        avg300: percent(stall.avg300),
        total_us: u64::try_from(stall.total.as_micros()).unwrap_or(u64::MAX),
    }
}
