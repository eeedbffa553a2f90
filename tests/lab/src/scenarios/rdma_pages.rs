//! Pages over RDMA: a real working set, a killed memory server, and the way back.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    LONG, SHORT, donor_and_borrower, is_by_rdma, memory_server, note_falls, number, report,
    swap_device, verified, verify,
};
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(420);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = donor_and_borrower(lab)?;
    memory_server(&mut donor, "256Mi")?;
    swap_device(&mut borrower, &donor, "224Mi")?;
    is_by_rdma(&report(&mut borrower)?)?;
    verify(&mut borrower, "128Mi", 8_000)?;
    let swapping = "test $(awk '/loop/{print $4}' /proc/swaps) -gt 20000";
    wait_for(&mut borrower, "20 MB in the device", LONG, swapping)?;
    donor.succeed("kill -9 $(cat /run/ds/server.pid)", SHORT)?;
    memory_server(&mut donor, "256Mi")?;
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let by_rdma = "/lab/grant --swapd /run/ds/swapd.sock --report | grep -q 'transport: \"rdma\"'";
    wait_for(&mut borrower, "RDMA again", LONG, by_rdma)?;
    let after = report(&mut borrower)?;
    for name in ["integrity_failures", "pages_lost", "pages_used"] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    note_falls(lab, &after);
    for name in ["bytes_read", "bytes_written"] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    ensure!(
        number(&after, "bytes_read")? > 0,
        "no page came back by RDMA"
    );
    ensure!(number(&after, "pages_lost")? == 0, "pages were lost");
    Ok(())
}
