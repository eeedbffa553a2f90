//! Engines that die while pages are on their way by RDMA.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    LONG, donor_and_borrower, is_by_rdma, kill_engine, memory_server, number, report, swap_device,
    verified, verify,
};
use crate::{Lab, wait_for};

const KILLS: u64 = 5;
/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = donor_and_borrower(lab)?;
    memory_server(&mut donor, "256Mi")?;
    swap_device(&mut borrower, &donor, "224Mi")?;
    verify(&mut borrower, "120Mi", 8_000)?;
    let swapping = "test $(awk '/loop/{print $4}' /proc/swaps) -gt 16000";
    wait_for(&mut borrower, "16 MB in the device", LONG, swapping)?;
    for _ in 0..KILLS {
        kill_engine(&mut borrower)?;
        let up = "/lab/grant --swapd /run/ds/swapd.sock --report | grep -q 'transport: \"rdma\"'";
        wait_for(&mut borrower, "a new engine over RDMA", LONG, up)?;
    }
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = report(&mut borrower)?;
    is_by_rdma(&after)?;
    let starts = number(&after, "engine_starts")?;
    ensure!(starts > KILLS, "the engine was started {starts} times");
    lab.note("engine_starts", starts);
    Ok(())
}
