//! A ublk device whose pages go by RDMA, as in production: also of an engine that comes after one
//! which was killed at work.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::daemons::{
    LONG, SHORT, donor_and_borrower, is_by_rdma, kill_engine, memory_server, note_ends, note_falls,
    number, report, swap_device, verified, verify,
};
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = donor_and_borrower(lab)?;
    memory_server(&mut donor, "256Mi")?;
    borrower.succeed("modprobe ublk_drv", SHORT)?;
    swap_device(&mut borrower, &donor, "224Mi")?;
    borrower.succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
    is_by_rdma(&report(&mut borrower)?)?;
    verify(&mut borrower, "120Mi", 8_000)?;
    let swapping = "test $(awk '/ublkb/{print $4}' /proc/swaps) -gt 16000";
    wait_for(&mut borrower, "16 MB in the device", LONG, swapping)?;
    kill_engine(&mut borrower)?;
    let again = "/lab/grant --swapd /run/ds/swapd.sock --report | grep -q 'transport: \"rdma\"'";
    wait_for(&mut borrower, "a new engine over RDMA", LONG, again)?;
    borrower.succeed("pgrep -f 'workload verify'", SHORT)?;
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = report(&mut borrower)?;
    is_by_rdma(&after)?;
    note_falls(lab, &after);
    note_ends(lab, &mut borrower)?;
    for name in ["engine_starts", "bytes_read", "bytes_written"] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    ensure!(number(&after, "engine_starts")? == 2, "one was killed");
    ensure!(
        number(&after, "bytes_read")? > 0,
        "no page came back by RDMA"
    );
    for name in ["integrity_failures", "pages_lost", "read_failures"] {
        ensure!(number(&after, name)? == 0, "{name}: {after}");
    }
    borrower.succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
    Ok(())
}
