//! A ublk device whose pages go by RDMA, as in production: also of an engine that comes after one
//! which was killed at work.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Lab;
use crate::daemons::{
    Device, SHORT, by_rdma_again, is_by_rdma, kill_engine, number, production, storm, unharmed,
    verified,
};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (_donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    storm(&mut borrower, "120Mi", 8_000)?;
    kill_engine(&mut borrower)?;
    by_rdma_again(&mut borrower)?;
    borrower.succeed("pgrep -f 'workload verify'", SHORT)?;
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = unharmed(lab, &mut borrower)?;
    is_by_rdma(&after)?;
    ensure!(number(&after, "engine_starts")? == 2, "one was killed");
    ensure!(
        number(&after, "bytes_read")? > 0,
        "no page came back by RDMA"
    );
    borrower.succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
    Ok(())
}
