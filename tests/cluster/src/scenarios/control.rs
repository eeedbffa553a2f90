//! Scenarios of the control plane, and of upgrades: what pages must not notice.

use std::time::Instant;

use anyhow::Result;
use dynamicswap_proto::identity::LEASE;

use super::pods::Pod;
use super::stage::{Deletion, NODE_TIME_MAX, Stage};
use crate::client::Client;
use crate::install::NAMESPACE;

pub(super) fn leader_killed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("leader-killed", 60);
    stage.storm(&pod)?;
    let leader = leader(stage.client)?;
    let begun = Instant::now();
    let force = ["--force", "--grace-period=0", "--namespace", NAMESPACE];
    let delete = [&["delete", "pod", leader.as_str()], &force[..]].concat();
    stage.client.kubectl(&delete)?;
    let next = stage.wait_for("the next leader", NODE_TIME_MAX, || {
        let next = self::leader(stage.client)?;
        Ok((!next.is_empty() && next != leader).then_some(next))
    })?;
    stage.note("next_leader_s", begun.elapsed().as_secs());
    stage.note("next_leader", next);
    pod.check_alive(stage.client)?;
    stage.ends_well(&pod)
}

/// The pod that holds the controllers' lease.
fn leader(client: &Client) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    client.kubectl(&[
        "get",
        "lease",
        LEASE,
        "--namespace",
        NAMESPACE,
        "--output",
        path,
    ])
}

pub(super) fn agent_upgraded(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("agent-upgraded", 60);
    stage.storm(&pod)?;
    let begun = Instant::now();
    stage.upgrade("agent.lookEveryMs=1900")?;
    let wait = format!("--timeout={}s", NODE_TIME_MAX.as_secs());
    let rollout = ["rollout", "status", "daemonset/dynamicswap-agent", &wait];
    let rollout = [&rollout[..], &["--namespace", NAMESPACE]].concat();
    stage.client.kubectl(&rollout)?;
    stage.note("agents_replaced_s", begun.elapsed().as_secs());
    pod.check_alive(stage.client)?;
    stage.ends_well(&pod)
}

pub(super) fn data_plane_upgraded(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("data-plane-upgraded", 120);
    stage.storm(&pod)?;
    stage.upgrade("swapd.unservedTimeoutMs=170000,memoryServer.connectionsMax=63")?;
    // A swapd that is asked to end brings its pages home first, for which a busy node has no room.
    let parts = [
        ("memory-server", "node-2", Deletion::Graceful),
        ("memory-server", "node-3", Deletion::Graceful),
        ("swapd", "node-1", Deletion::Forced),
    ];
    for (component, node, way) in parts {
        stage.replace(component, node, way)?;
        stage.whole(NODE_TIME_MAX)?;
        pod.check_alive(stage.client)?;
    }
    stage.ends_well(&pod)
}
