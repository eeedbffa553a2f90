//! A machine of 192 MiB, and a workload of three times what the kernel and swapd leave of it: no limit
//! holds it back, so that swapd, the network and the kernel's own needs compete with it for every page,
//! and a task that waits too long ends the machine.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Lab;
use crate::daemons::{
    Device, SHORT, holds, memory_server, production_device, soft_roce, spawn, unharmed, verified,
};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(540);
const MEMORY_MIB: u32 = 192;
/// How many times what is available the workload owns.
const OVERCOMMIT: u64 = 3;

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut donor = lab.start("donor", 768)?;
    let mut borrower = lab.start("borrower", MEMORY_MIB)?;
    soft_roce(&mut donor)?;
    soft_roce(&mut borrower)?;
    memory_server(&mut donor, "384Mi")?;
    production_device(&mut borrower, &[&donor], Device::plain("352Mi"))?;
    // The network allocates what it receives: without a reserve that reclaim leaves to it, nothing arrives
    // any more that could end the shortage. docs/operations.md says so of small machines.
    let set = "sysctl -qw kernel.hung_task_panic=1 vm.min_free_kbytes=16384";
    borrower.succeed(set, SHORT)?;
    let memory = borrower.succeed(
        "grep -E 'MemTotal|MemAvailable|Mlocked' /proc/meminfo",
        SHORT,
    )?;
    lab.note("memory", memory.trim());
    let available = borrower.succeed("awk '/MemAvailable/{print $2}' /proc/meminfo", SHORT)?;
    let available: u64 = available.trim().parse().context("a number of KiB")?;
    let size = format!("{}Mi", OVERCOMMIT * available / 1024);
    lab.note("workload_size", size.clone());
    let command = format!(
        "/lab/dynamicswap-workload verify --size {size} --threads 2 --ops 2000 --progress-ms 5000"
    );
    spawn(&mut borrower, "verify", &command)?;
    holds(&mut borrower, 60)?;
    let end = verified(&mut borrower, WORK)?;
    let pages = end["pages_final"].as_u64().context("a number of pages")?;
    lab.note("pages_checked_at_the_end", pages);
    lab.note("workload", end);
    unharmed(lab, &mut borrower)?;
    Ok(())
}
