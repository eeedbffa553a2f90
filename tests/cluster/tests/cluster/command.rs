//! The command: a cluster without nodes comes up in a network of its own, is used, and goes
//! without a trace.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::cluster::paths::ClusterName;
use dynamicswap_cluster::record::{Paths, Record};

/// Takes the cluster down if the test has failed before it did.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        // A refusal, if all went well: it is gone already.
        let _refused = harness(&["down", "--name", &self.0]);
    }
}

pub fn up_and_down() -> Result<()> {
    let name = format!("test-{}", std::process::id());
    let parsed: ClusterName = name.parse().map_err(anyhow::Error::msg)?;
    let paths = Paths::of(&parsed);
    let _cleanup = Cleanup(name.clone());
    let name = name.as_str();

    let early = harness(&["down", "--name", name])?;
    ensure!(early.status.code() == Some(2), "down before up: {early:?}");
    succeed(&["up", "--nodes", "0", "--name", name])?;
    let again = harness(&["up", "--nodes", "0", "--name", name])?;
    ensure!(again.status.code() == Some(2), "second up: {again:?}");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(said.contains("is there already"), "second up said: {said}");

    let kubectl = |arguments: &[&str]| {
        succeed(&[&["run", "--name", name, "--", "kubectl"], arguments].concat())
    };
    kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
    let word = kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
    ensure!(word == "kept", "read back: '{word}'");

    let record = Record::load(&paths)?;
    ensure!(record.processes.len() == 4, "{:?}", record.processes);
    succeed(&["down", "--name", name])?;
    for process in &record.processes {
        ensure!(!process.is_alive(), "{} still lives", process.name);
    }
    ensure!(!paths.exist(), "something of {paths:?} is there");
    Ok(())
}

fn harness(arguments: &[&str]) -> Result<Output> {
    Command::new(Path::new(env!("CARGO_BIN_EXE_dynamicswap-cluster")))
        .args(arguments)
        .output()
        .context("cannot start dynamicswap-cluster")
}

fn succeed(arguments: &[&str]) -> Result<String> {
    let output = harness(arguments)?;
    ensure!(
        output.status.success(),
        "'{}' ended with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
