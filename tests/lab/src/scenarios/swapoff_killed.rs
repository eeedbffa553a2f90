//! A swapoff that is killed halfway: the device goes on as if nobody had asked.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Lab;
use crate::daemons::{Device, LONG, number, production, storm, unharmed, verified};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);
const KILLS: u32 = 5;
/// With room for what comes home, as long as it does: else its owner would be killed for its limit.
const KILL_ONE: &str = "pgrep -f 'workload verify' >/dev/null || exit 9; \
    limit=/sys/fs/cgroup/dynamicswap-workload/memory.max; \
    echo max > $limit; \
    swapoff /dev/ublkb0 & sleep 0.3; kill -9 $! && wait $!; \
    echo 96M > $limit; \
    grep ^/dev/ublkb0 /proc/swaps";

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (_donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    storm(&mut borrower, "120Mi", 12_000)?;
    for _ in 0..KILLS {
        let swaps = borrower.succeed(KILL_ONE, LONG)?;
        print!("{swaps}");
    }
    lab.note("swapoffs_killed", KILLS);
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = unharmed(lab, &mut borrower)?;
    ensure!(number(&after, "bytes_read")? > 0, "no page came back");
    // And one that is left alone comes to its end.
    borrower.succeed("swapoff /dev/ublkb0", LONG)?;
    Ok(())
}
