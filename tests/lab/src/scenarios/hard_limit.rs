//! A hard limit that is hit as hard as a program can, with a memory server that answers 50 ms later:
//! the kernel waits for the device, and kills nobody while remote memory is free.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{Device, SHORT, holds, number, production, shape, spawn, unharmed, verified};
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(400);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    for guest in [&mut donor, &mut borrower] {
        shape(guest, "delay 25ms limit 100000")?;
    }
    spawn(
        &mut borrower,
        "verify",
        "/lab/dynamicswap-workload contain --limit 32Mi -- /lab/dynamicswap-workload verify \
         --size 128Mi --threads 4 --write-percent 90 --ops 1500 --progress-ms 2000",
    )?;
    // The launcher sets a soft limit below the hard one: here nothing slows the program before it.
    let hard = "cd /sys/fs/cgroup/dynamicswap-workload && echo max > memory.high && \
                grep -q 41943040 memory.max";
    wait_for(&mut borrower, "the hard limit alone", SHORT, hard)?;
    holds(&mut borrower, 60)?;
    let events = "cat /sys/fs/cgroup/dynamicswap-workload/memory.events";
    let events = borrower.succeed(events, SHORT)?;
    lab.note("memory_events", events.trim());
    ensure!(events.contains("oom_kill 0"), "{events}");
    ensure!(!events.contains("max 0"), "the limit was not hit: {events}");
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = unharmed(lab, &mut borrower)?;
    ensure!(number(&after, "bytes_read")? > 0, "no page came back");
    Ok(())
}
