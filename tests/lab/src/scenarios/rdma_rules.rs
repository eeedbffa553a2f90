//! The tests of `rdma-datapath/tests/rdma.rs`, in a guest that has what they need.

use anyhow::{Result, ensure};

use crate::Lab;
use crate::daemons::{LONG, soft_roce};

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut donor = lab.start("donor", 512)?;
    soft_roce(&mut donor)?;
    let (code, said) = donor.run(
        "export DYNAMICSWAP_RDMA_IP=$address DYNAMICSWAP_REQUIRE=lab \
         DYNAMICSWAP_MEMORY_SERVER=/lab/dynamicswap-memory-server; \
         /lab/rdma-tests --test-threads 1 --nocapture",
        LONG,
    )?;
    println!("{said}");
    ensure!(code == 0, "the tests failed");
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    lab.note("tests", u64::try_from(passed)?);
    Ok(())
}
