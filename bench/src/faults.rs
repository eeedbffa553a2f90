//! What a killed memory server and a killed engine cost a workload that pages.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

use crate::Args;
use crate::cluster::Cluster;
use crate::peers::{PageCluster, require_no_swap};
use crate::report::{Bar, Report};
use crate::scale::Figures;
use crate::workload::{Finished, Plan, Running};

/// Calm load before the kill.
const BEFORE: Duration = Duration::from_secs(4);
/// Seconds of load in all.
const SECONDS: u32 = 12;
/// Length of an interval; the resolution of the figures.
const INTERVAL_MS: u32 = 50;
/// Size of the device of the benchmark's cluster, in MiB.
const DEVICE_MIB: f64 = 2048.0;
/// Window that must be back at 90 %.
const WINDOW: usize = 10;

/// What a kill did to the workload.
struct Cost {
    /// Seconds until throughput is back at 90 % of what it was.
    back: f64,
    /// Longest single access after the kill, in milliseconds.
    stall: f64,
}

fn cost(finished: &Finished, killed: Instant) -> Result<Cost> {
    let (before, after): (Vec<_>, Vec<_>) =
        finished.churn.iter().partition(|(when, _)| *when < killed);
    let steady = &before[before.len().saturating_sub(40)..];
    let total: u64 = steady.iter().map(|(_, progress)| progress.ops).sum();
    let usual = total as f64 / steady.len().max(1) as f64;
    let back = after
        .windows(WINDOW)
        .find(|window| {
            let ops: u64 = window.iter().map(|(_, progress)| progress.ops).sum();
            ops as f64 / WINDOW as f64 >= 0.9 * usual
        })
        .context("throughput did not come back to 90 % before the workload ended")?;
    let stall = after
        .iter()
        .map(|(_, p)| p.max_us.max(p.waiting_us))
        .max()
        .unwrap_or(0);
    Ok(Cost {
        back: back[0].0.saturating_duration_since(killed).as_secs_f64(),
        stall: stall as f64 / 1e3,
    })
}

fn run(kill: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let plan = Plan {
        seconds: SECONDS,
        progress_ms: INTERVAL_MS,
        threads: 2,
        write_percent: 30,
    };
    let mut workload = Running::start("dynamicswap-bench", plan)?;
    workload.wait_churn(BEFORE)?;
    let killed = Instant::now();
    kill()?;
    cost(&workload.finish()?, killed)
}

/// Kills a memory server in one run, the engine in another, in one cluster.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    require_no_swap()?;
    let _readahead = PageCluster::off()?;
    let cluster = Cluster::up().context("the cluster")?;
    let engine = run(|| {
        let pid = Pid::from_raw(cluster.engine_pid()?).context("the engine's process id")?;
        rustix::process::kill_process(pid, Signal::KILL).context("cannot kill the engine")
    })
    .context("the engine killed under load")?;
    report.absolute(
        "engine killed: longest access [ms]",
        engine.stall,
        Bar::AtMost(500.0),
    );
    let server = run(|| {
        cluster
            .process("donor-1/memory-server")?
            .signal(Signal::KILL);
        Ok(())
    })
    .context("a memory server killed under load")?;
    let name = "server killed: throughput back at 90 % after [s]";
    report.absolute(name, server.back, Bar::AtMost(2.0));
    report.absolute(
        "server killed: longest access [ms]",
        server.stall,
        Bar::AtMost(1000.0),
    );
    memory(&cluster, report)
}

/// Resident memory of agents and engine, as they report it themselves.
fn memory(cluster: &Cluster, report: &mut Report) -> Result<()> {
    // Resident memory counts the tables in the memory file, too: 16 bytes a page of the device.
    let tables = DEVICE_MIB * 256.0 * 16.0 / f64::from(1 << 20);
    let engine = resident_mib(cluster.engine_pid()?)? - tables;
    let agent = resident_mib(cluster.process("borrower/agent")?.pid)?;
    report.absolute("agent, resident memory [MiB]", agent, Bar::AtMost(32.0));
    report.absolute(
        "engine, resident memory beyond its tables [MiB]",
        engine,
        Bar::AtMost(64.0),
    );
    Ok(())
}

fn resident_mib(pid: i32) -> Result<f64> {
    let pid = u32::try_from(pid).context("a process id")?;
    Ok(Figures::of(pid)?.resident_mib())
}
