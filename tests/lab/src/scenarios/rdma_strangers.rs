//! Keys that are not one's own: tried while a borrower swaps.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    LONG, donor_and_borrower, events, is_by_rdma, memory_server, note_falls, report, swap_device,
    verified, verify,
};
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = donor_and_borrower(lab)?;
    memory_server(&mut donor, "256Mi")?;
    swap_device(&mut borrower, &donor, "224Mi")?;
    verify(&mut borrower, "120Mi", 6_000)?;
    let swapping = "test $(awk '/loop/{print $4}' /proc/swaps) -gt 16000";
    wait_for(&mut borrower, "16 MB in the device", LONG, swapping)?;
    let tried = borrower.succeed(
        &format!("/lab/foreign_key --server {}:7000", donor.address()),
        LONG,
    )?;
    print!("{tried}");
    let refused = tried.lines().filter(|line| line.starts_with("refused"));
    lab.note("refused", u64::try_from(refused.count())?);
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = report(&mut borrower)?;
    is_by_rdma(&after)?;
    note_falls(lab, &after);
    let refusals = after.matches("refused the slot's key").count();
    ensure!(
        refusals == 0,
        "the borrower's own keys were refused: {}",
        events(&after)
    );
    Ok(())
}
