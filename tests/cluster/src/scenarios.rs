//! `scenarios`: what a cluster with the product installed must do, one after another, on real nodes.
//!
//! Owns the order, what is done to the cluster and what must hold. They belong together: the last one
//! takes the product away. A run leaves `cluster.json`: scenario, passed, figures.

mod pods;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_cli::interrupt::Interrupt;
use serde::Serialize;
use serde_json::Value;

use crate::client::Client;
use crate::install::{NAMESPACE, RELEASE, source};
use pods::Pod;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Something that a busy node does.
const NODE_TIME_MAX: Duration = Duration::from_secs(420);
/// A workload's longest time.
const WORK_TIME_MAX: Duration = Duration::from_secs(900);
/// What the controllers hold to lead.
const LEASE: &str = "dynamicswap-controller";
/// Bytes in the device that count as use.
const USED_MIN: u64 = 24 << 20;

/// What is played with.
#[derive(Debug)]
pub struct Stage<'a> {
    client: &'a Client,
    interrupt: &'a Interrupt,
    figures: BTreeMap<String, Value>,
}

/// A scenario: its name, what it proves, and how it is played.
type Scenario = (&'static str, &'static str, fn(&mut Stage<'_>) -> Result<()>);

const ALL: [Scenario; 6] = [
    (
        "pages_are_remote",
        "a pod at twice its memory pages to two donors, and every word is right",
        pages_are_remote,
    ),
    (
        "donor_pod_killed",
        "a donor's pod is deleted by force under load: no word and no process is lost",
        donor_pod_killed,
    ),
    (
        "swapd_pod_killed",
        "the borrower's data plane is deleted by force under load: the next pod goes on with its pages",
        swapd_pod_killed,
    ),
    (
        "controller_leader_killed",
        "the leading controller is deleted by force under load: the other leads, and no page notices",
        controller_leader_killed,
    ),
    (
        "agent_upgraded",
        "helm upgrade replaces the agents while their nodes swap",
        agent_upgraded,
    ),
    (
        "uninstall",
        "helm uninstall is refused while anything swaps, then leaves nothing",
        uninstall,
    ),
];

/// A scenario's end.
#[derive(Debug, Serialize)]
struct Outcome {
    scenario: &'static str,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    seconds: f64,
    figures: BTreeMap<String, Value>,
}

/// Plays those that are named, or all; gives how many failed.
///
/// # Errors
/// A name that there is none of, or what the host does not permit.
pub fn play(client: &Client, names: &[String], out: &Path, interrupt: &Interrupt) -> Result<usize> {
    if let Some(unknown) = names
        .iter()
        .find(|name| ALL.iter().all(|it| it.0 != **name))
    {
        let known: Vec<&str> = ALL.iter().map(|it| it.0).collect();
        bail!(
            "there is no scenario '{unknown}': choose among {}",
            known.join(", ")
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let chosen = ALL
        .iter()
        .filter(|(name, ..)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    let mut outcomes = Vec::new();
    for (name, proves, scenario) in chosen {
        println!("{name}: {proves}");
        let begun = Instant::now();
        let mut stage = Stage {
            client,
            interrupt,
            figures: BTreeMap::new(),
        };
        let played = scenario(&mut stage);
        interrupt.check()?;
        let seconds = begun.elapsed().as_secs_f64();
        match &played {
            Ok(()) => println!("  passed in {seconds:.0} s"),
            Err(error) => println!("  FAILED after {seconds:.0} s: {error:#}"),
        }
        outcomes.push(Outcome {
            scenario: name,
            passed: played.is_ok(),
            error: played.err().map(|error| format!("{error:#}")),
            seconds,
            figures: stage.figures,
        });
        write(out, &outcomes)?;
    }
    Ok(outcomes.iter().filter(|outcome| !outcome.passed).count())
}

fn write(out: &Path, outcomes: &[Outcome]) -> Result<()> {
    let path: PathBuf = out.join("cluster.json");
    let text = serde_json::to_string_pretty(outcomes).context("outcomes are plain values")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

impl Stage<'_> {
    fn note(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("    {name}: {value}");
        self.figures.insert(name.to_owned(), value);
    }

    /// Looks until there is something to see.
    fn wait_for<T>(
        &self,
        what: &str,
        time: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            // On a busy machine a look may fail; the next one may not.
            let seen = look();
            if let Ok(Some(seen)) = seen {
                return Ok(seen);
            }
            if begun.elapsed() > time {
                let why = seen
                    .err()
                    .map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("waited {time:?} for {what}{why}");
            }
            self.interrupt.wait(LOOK_EVERY)?;
        }
    }

    fn objects(&self, kind: &str) -> Result<Vec<Value>> {
        let said = self.client.kubectl(&["get", kind, "--output", "json"])?;
        let list: Value = serde_json::from_str(&said).context("kubectl's answer is no JSON")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Starts a pod, and waits until it has pages in its node's device.
    fn storm(&self, pod: &Pod) -> Result<()> {
        self.client.apply(&pod.manifest()?)?;
        self.wait_for("pages in the device", NODE_TIME_MAX, || {
            pod.check_alive(self.client)?;
            let devices = self.objects("swapdevices")?;
            let used = devices.iter().map(used).max().unwrap_or(0);
            Ok((used >= USED_MIN).then_some(()))
        })
    }

    /// Waits until a pod has ended well, every word right; then removes it.
    fn ends_well(&mut self, pod: &Pod) -> Result<()> {
        let end = self.wait_for("the pod's end", WORK_TIME_MAX, || pod.end(self.client))?;
        self.note("workload", end.clone());
        ensure!(end["wrong_pages"] == 0, "pages were wrong: {end}");
        ensure!(end["swap_ins"].as_u64() > Some(0), "it did not swap: {end}");
        let delete = ["delete", "pod", pod.name(), "--wait=false"];
        self.client.kubectl(&delete)?;
        Ok(())
    }

    /// Deletes a part's pods by force, as a node does that has lost them, and waits for the next.
    fn replace(&mut self, component: &str, node: &str) -> Result<()> {
        let selector = format!("app.kubernetes.io/component={component}");
        let field = format!("spec.nodeName={node}");
        let which = [
            "--namespace",
            NAMESPACE,
            "--selector",
            &selector,
            "--field-selector",
            &field,
        ];
        let force = [
            &["delete", "pod"],
            &which[..],
            &["--force", "--grace-period=0"],
        ]
        .concat();
        let begun = Instant::now();
        self.client.kubectl(&force)?;
        self.wait_for("the next pod", NODE_TIME_MAX, || {
            let list = [&["get", "pods"], &which[..], &["--output", "json"]].concat();
            let list: Value = serde_json::from_str(&self.client.kubectl(&list)?)?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            Ok(pods.iter().any(pods::is_ready).then_some(()))
        })?;
        self.note("next_pod_ready_s", begun.elapsed().as_secs());
        Ok(())
    }
}

fn used(device: &Value) -> u64 {
    let text = device["status"]["bytesUsed"].as_str().unwrap_or_default();
    text.parse::<dynamicswap_types::Bytes>()
        .map_or(0, dynamicswap_types::Bytes::get)
}

fn pages_are_remote(stage: &mut Stage<'_>) -> Result<()> {
    let begun = Instant::now();
    let pod = Pod::new("verify", 60);
    stage.storm(&pod)?;
    stage.note("pages_remote_after_s", begun.elapsed().as_secs());
    for device in stage.objects("swapdevices")? {
        let status = &device["status"];
        ensure!(status["attached"] == true, "{status}");
        stage.note("front_end", status["frontEnd"].clone());
    }
    let lent = |server: &Value| server["status"]["lent"].as_str() != Some("0");
    let donors = stage
        .objects("memoryservers")?
        .iter()
        .filter(|it| lent(it))
        .count();
    stage.note("donors_that_lend", donors);
    ensure!(donors >= 2, "{donors} donors lend");
    stage.ends_well(&pod)
}

fn donor_pod_killed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("donor-killed", 90);
    stage.storm(&pod)?;
    stage.replace("memory-server", "node-2")?;
    stage.ends_well(&pod)
}

fn swapd_pod_killed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("swapd-killed", 120);
    stage.storm(&pod)?;
    stage.replace("swapd", "node-1")?;
    pod.check_alive(stage.client)?;
    stage.ends_well(&pod)
}

fn controller_leader_killed(stage: &mut Stage<'_>) -> Result<()> {
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

fn agent_upgraded(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("agent-upgraded", 60);
    stage.storm(&pod)?;
    let begun = Instant::now();
    let chart = source("charts/dynamicswap");
    let output = stage.client.helm(&[
        "upgrade",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--reuse-values",
        "--set",
        "agent.lookEveryMs=900",
    ])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm upgrade: {}", said.trim());
    let wait = format!("--timeout={}s", NODE_TIME_MAX.as_secs());
    let rollout = ["rollout", "status", "daemonset/dynamicswap-agent", &wait];
    let rollout = [&rollout[..], &["--namespace", NAMESPACE]].concat();
    stage.client.kubectl(&rollout)?;
    stage.note("agents_replaced_s", begun.elapsed().as_secs());
    pod.check_alive(stage.client)?;
    stage.ends_well(&pod)
}

fn uninstall(stage: &mut Stage<'_>) -> Result<()> {
    let (succeeded, said) = helm_uninstall(stage.client)?;
    ensure!(
        !succeeded,
        "helm uninstall was not refused while a policy is in force: {said}"
    );
    stage.note("refused", said.trim());
    let log = [
        "logs",
        "--namespace",
        NAMESPACE,
        "job/dynamicswap-uninstall",
    ];
    let log = stage.client.kubectl(&log)?;
    ensure!(log.contains("in force"), "the job says: {log}");
    stage.note("job_says", log.trim());
    let parts = stage
        .client
        .kubectl(&["get", "pods", "--namespace", NAMESPACE])?;
    ensure!(
        parts.contains("dynamicswap-swapd"),
        "it was removed all the same: {parts}"
    );
    let kind = "remotememorypolicies";
    stage
        .client
        .kubectl(&["delete", kind, "--all", "--all-namespaces"])?;
    let begun = Instant::now();
    let (succeeded, said) = helm_uninstall(stage.client)?;
    ensure!(succeeded, "helm uninstall: {said}");
    stage.wait_for("the pods' end", NODE_TIME_MAX, || {
        let pods = ["get", "pods", "--namespace", NAMESPACE, "--output", "name"];
        let pods = stage.client.kubectl(&pods)?;
        let ours = pods
            .lines()
            .filter(|name| !name.contains("dynamicswap-uninstall"));
        Ok((ours.count() == 0).then_some(()))
    })?;
    stage.note("removed_after_s", begun.elapsed().as_secs());
    Ok(())
}

fn helm_uninstall(client: &Client) -> Result<(bool, String)> {
    let output = client.helm(&[
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--timeout",
        "10m",
    ])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}
