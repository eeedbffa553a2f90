//! `scenarios`: what a cluster with the product installed must do, one after another, on real nodes.
//!
//! Owns the order. They belong together: the last one takes the product away. A run leaves `cluster.json`: scenario, passed, figures.

mod control;
mod data_path;
mod limits;
mod node_shell;
mod pods;
mod stage;
mod uninstall;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use dynamicswap_cli::interrupt::Interrupt;
use serde::Serialize;
use serde_json::Value;

use crate::record::{Paths, Record};
use stage::Stage;

/// A scenario: its name, what it proves, and how it is played.
type Scenario = (&'static str, &'static str, fn(&mut Stage<'_>) -> Result<()>);

const ALL: [Scenario; 13] = [
    (
        "pages_are_remote",
        "a pod at twice its memory pages to two donors, and every word is right",
        data_path::pages_are_remote,
    ),
    (
        "plugin_tests",
        "kubectl dynamicswap test: its job swaps, every page is right, and it leaves nothing",
        data_path::plugin_tests,
    ),
    (
        "donor_pod_killed",
        "a donor's pod is deleted by force under load: no word and no process is lost",
        data_path::donor_pod_killed,
    ),
    (
        "swapd_pod_killed",
        "the borrower's data plane is deleted by force under load, twice: the next pod goes on with its pages",
        data_path::swapd_pod_killed,
    ),
    (
        "engine_killed",
        "the engine is killed inside the data plane's pod under load: the pod goes on",
        data_path::engine_killed,
    ),
    (
        "donor_drained",
        "a donor is drained under load by the plugin: its slabs move, the drain ends, it lends again",
        data_path::donor_drained,
    ),
    (
        "donor_powered_off",
        "a donor's node loses its power under load: the other copies serve, and it comes back",
        data_path::donor_powered_off,
    ),
    (
        "controller_leader_killed",
        "the leading controller is deleted by force under load: the other leads, and no page notices",
        control::leader_killed,
    ),
    (
        "agent_upgraded",
        "helm upgrade replaces the agents while their nodes swap",
        control::agent_upgraded,
    ),
    (
        "data_plane_upgraded",
        "helm upgrade, then the data plane's pods one node after another, while the node swaps",
        control::data_plane_upgraded,
    ),
    (
        "limits_come_back",
        "systemd, containerd and kubelet begin anew: who may swap is as before within 5 s",
        limits::come_back,
    ),
    (
        "policies_change",
        "a policy is changed, joined by another for the same pods, paused and deleted: limits follow",
        limits::policies_change,
    ),
    (
        "uninstall",
        "helm uninstall is refused while anything swaps, then leaves nothing",
        uninstall::uninstall,
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
pub fn play(paths: &Paths, names: &[String], out: &Path, interrupt: &Interrupt) -> Result<usize> {
    let client = &Record::load(paths)?.client(paths);
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
            paths,
            interrupt,
            figures: BTreeMap::new(),
        };
        let played = scenario(&mut stage);
        interrupt.check()?;
        if played.is_err()
            && let Err(error) = stage.clear()
        {
            println!("  what it left could not be removed: {error:#}");
        }
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
