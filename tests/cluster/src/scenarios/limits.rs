//! Scenarios of who may swap: limits of containers, as the node's own files have them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node_shell::NodeShell;
use super::pods::Pod;
use super::stage::{NODE_TIME_MAX, POLICY, Stage};

/// A limit that somebody overwrote is back within it: what issue and chart promise.
const BACK_MAX: Duration = Duration::from_secs(5);
/// A limit of the policy, which no other part of the system would write.
const LIMIT: u64 = 80 << 20;
/// What the second policy allows.
const STRICTER: u64 = 72 << 20;
const SECOND: &str = "verify-stricter";

/// Watches a container's limit through what makes the node's managers begin anew, and leaves for each
/// the longest time in which it was another one, in milliseconds.
const RELOADS: &str = include_str!("reloads.sh");

pub(super) fn come_back(stage: &mut Stage<'_>) -> Result<()> {
    let shell = NodeShell::start(stage, "node-1")?;
    stage.change_policy(
        POLICY,
        &json!({"limits": {"perContainer": LIMIT.to_string()}}),
    )?;
    let pod = Pod::new("limits-come-back", 60);
    stage.storm(&pod)?;
    let limit = Limit::of(&pod, stage)?;
    limit.becomes(stage, &shell, LIMIT)?;
    let script = RELOADS.replace("CONTAINER_CGROUP", &limit.cgroup);
    shell.detached(stage, "limits-watch", &script)?;
    let said = stage.wait_for("the managers' restarts", NODE_TIME_MAX, || {
        let said = shell.run(stage, "cat /run/limits-watch.out")?;
        Ok(said.contains("done").then_some(said))
    })?;
    for line in said.lines().filter(|line| *line != "done") {
        let (what, away) = line.split_once(' ').context("what the watch says")?;
        let away: u64 = away.parse().with_context(|| format!("{what}: {away}"))?;
        stage.note(&format!("limit_away_ms_{what}"), away);
        ensure!(
            what != "by_hand" || away > 0,
            "the watch has not seen what was written by hand"
        );
        ensure!(
            Duration::from_millis(away) <= BACK_MAX,
            "after {what} the limit was another one for {away} ms"
        );
    }
    pod.check_alive(stage.client)?;
    stage.change_policy(POLICY, &json!({"limits": {"perContainer": null}}))?;
    shell.end(stage)?;
    stage.ends_well(&pod)
}

pub(super) fn policies_change(stage: &mut Stage<'_>) -> Result<()> {
    let shell = NodeShell::start(stage, "node-1")?;
    let pod = Pod::new("policies-change", 60);
    stage.storm(&pod)?;
    let limit = Limit::of(&pod, stage)?;
    let per_container = |bytes: u64| json!({"limits": {"perContainer": bytes.to_string()}});
    let begun = Instant::now();
    stage.change_policy(POLICY, &per_container(LIMIT))?;
    limit.becomes(stage, &shell, LIMIT)?;
    stage.note("change_seen_ms", millis(begun));
    let second = json!({
        "apiVersion": "dynamicswap.io/v1alpha1",
        "kind": "RemoteMemoryPolicy",
        "metadata": {"name": SECOND},
        "spec": {
            "podSelector": {"matchLabels": {"app": "verify"}},
            "limits": {"perContainer": STRICTER.to_string()},
        },
    });
    let begun = Instant::now();
    stage.client.apply(&second.to_string())?;
    limit.becomes(stage, &shell, STRICTER)?;
    stage.note("second_policy_seen_ms", millis(begun));
    stage.wait_for(
        "both policies' condition Overlapping",
        NODE_TIME_MAX,
        || {
            let policies = stage.objects("remotememorypolicies")?;
            let overlapping = policies.iter().filter(|it| overlaps(it)).count();
            Ok((overlapping == 2).then_some(()))
        },
    )?;
    let begun = Instant::now();
    stage.change_policy(SECOND, &json!({"paused": true}))?;
    limit.becomes(stage, &shell, LIMIT)?;
    stage.note("pause_seen_ms", millis(begun));
    let delete = ["delete", "remotememorypolicies", SECOND];
    stage.client.kubectl(&delete)?;
    stage.change_policy(POLICY, &json!({"limits": {"perContainer": null}}))?;
    limit.becomes(stage, &shell, u64::MAX)?;
    let in_force = stage.objects("remotememorypolicies")?;
    ensure!(
        in_force.len() == 1 && in_force[0]["metadata"]["name"] == POLICY,
        "{} policies are left",
        in_force.len()
    );
    pod.check_alive(stage.client)?;
    shell.end(stage)?;
    stage.ends_well(&pod)
}

/// Whether a policy says that another one selects its containers too.
fn overlaps(policy: &Value) -> bool {
    let conditions = policy["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Overlapping" && it["status"] == "True")
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The limit of a pod's container on its node.
struct Limit {
    /// The container's cgroup: a pattern of the shell, for one folder.
    cgroup: String,
}

impl Limit {
    fn of(pod: &Pod, stage: &Stage<'_>) -> Result<Self> {
        let path = "jsonpath={.status.containerStatuses[0].containerID}";
        let id = ["get", "pod", pod.name(), "--output", path];
        let id = stage.client.kubectl(&id)?;
        let id = id.strip_prefix("containerd://");
        let id = id.context("the pod's container has no id of containerd's")?;
        Ok(Self {
            cgroup: format!("/sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-{id}.scope"),
        })
    }

    /// Waits until it is so many bytes; `u64::MAX` for no limit.
    fn becomes(&self, stage: &Stage<'_>, shell: &NodeShell, bytes: u64) -> Result<()> {
        let wanted = if bytes == u64::MAX {
            "max".to_owned()
        } else {
            bytes.to_string()
        };
        let read = format!("cat {}/memory.swap.max", self.cgroup);
        stage.wait_for(&format!("a limit of {wanted}"), NODE_TIME_MAX, || {
            let now = shell.run(stage, &read)?;
            Ok((now.trim() == wanted).then_some(()))
        })
    }
}
