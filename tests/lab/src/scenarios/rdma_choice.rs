//! Which way a link goes: every reason for TCP, in the words of the report.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    LONG, SHORT, events, memory_server, report, restart_swapd, soft_roce, swap_device, verified,
    verify,
};
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(300);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut donor = lab.start("donor", 640)?;
    let mut borrower = lab.start("borrower", 512)?;
    soft_roce(&mut donor)?;
    memory_server(&mut donor, "256Mi")?;
    swap_device(&mut borrower, &donor, "224Mi")?;
    let said = report(&mut borrower)?;
    ensure!(
        said.contains("the server offers RDMA, this host has none"),
        "{}",
        events(&said)
    );
    verify(&mut borrower, "108Mi", 2_000)?;
    let end = verified(&mut borrower, WORK)?;
    lab.note("over_tcp", end);
    // An RDMA device that leads elsewhere.
    borrower.succeed(
        "modprobe -a ib_core ib_uverbs rdma_ucm rdma_cm rdma_rxe dummy && \
         ip link add away type dummy && ip addr add 10.99.0.1/24 dev away && \
         ip link set away up && rdma link add rxe0 type rxe netdev away",
        SHORT,
    )?;
    restart_swapd(&mut borrower)?;
    let instead = "/lab/grant --swapd /run/ds/swapd.sock --report | grep 'RDMA does not reach'";
    let reason = wait_for(&mut borrower, "TCP instead of RDMA", LONG, instead)?;
    lab.note("reason", reason.trim());
    verify(&mut borrower, "108Mi", 2_000)?;
    verified(&mut borrower, WORK)?;
    Ok(())
}
