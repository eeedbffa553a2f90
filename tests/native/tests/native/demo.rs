//! The demo itself, as a user starts it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_cli::cluster::leftovers::Leftovers;
use dynamicswap_cli::cluster::paths::{ClusterName, ClusterPaths};
use dynamicswap_native_tests::host;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `dynamicswap demo` with its reports in `out`.
fn demo(out: &std::path::Path, options: &[&str]) -> Result<Command> {
    let mut command = Command::new(host::program("dynamicswap")?);
    command.arg("demo").args(options).arg("--out").arg(out);
    command.stdin(Stdio::null());
    Ok(command)
}

/// What is left of the demo's cluster.
fn left_behind() -> Result<Vec<String>> {
    let name: ClusterName = "demo".parse().map_err(anyhow::Error::msg)?;
    Ok(Leftovers::find(&ClusterPaths::new(&name)).list())
}

pub fn redis_keeps_its_data_set() -> Result<()> {
    let out = tempfile::tempdir().context("no directory for the reports")?;
    let options = ["--workload", "redis", "--memory", "128Mi", "--calm", "1"];
    let output = demo(out.path(), &options)?.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let text = std::fs::read(out.path().join("report.json")).context("no report.json")?;
    let report: Value = serde_json::from_slice(&text)?;
    let figure = |name: &str| report[name].as_u64().with_context(|| format!("no {name}"));
    ensure!(figure("pages_remote_peak")? > 1000, "{report}");
    ensure!(figure("pages_checked")? > 1000, "{report}");
    ensure!(figure("wrong_pages")? == 0 && figure("processes_lost")? == 0);
    let kills = report["kills"].as_array().context("no kills")?;
    ensure!(kills.len() == 2, "not both kills: {kills:?}");
    let digest = &report["digest"];
    ensure!(digest["before"].is_string() && digest["before"] == digest["after"]);
    ensure!(report["left_behind"].as_array().is_some_and(Vec::is_empty));
    ensure!(out.path().join("report.html").exists(), "no report.html");
    let left = left_behind()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

pub fn interrupted_demo_leaves_nothing() -> Result<()> {
    let out = tempfile::tempdir().context("no directory for the reports")?;
    let mut child = demo(out.path(), &["--memory", "128Mi", "--calm", "60"])?
        .stdout(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_paging = || -> Result<bool> {
        let swaps = std::fs::read_to_string("/proc/swaps")?;
        let used = swaps
            .lines()
            .nth(1)
            .and_then(|line| line.split_whitespace().nth(3));
        Ok(used.is_some_and(|used| used != "0"))
    };
    while !is_paging()? {
        ensure!(Instant::now() < deadline, "the demo does not page in 60 s");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("process id 0")?, Signal::INT)?;
    let status = child.wait()?;
    ensure!(
        status.code() == Some(128 + Signal::INT.as_raw()),
        "an interrupted demo ended with {status}"
    );
    let left = left_behind()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
