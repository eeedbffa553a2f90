//! The three machines of a run.

use anyhow::{Context as _, Result};
use dynamicswap_lab::Lab;
use dynamicswap_lab::daemons::{SHORT, memory_server, soft_roce};
use dynamicswap_lab::guest::Guest;

/// One borrows, two lend.
#[derive(Debug)]
pub struct Guests {
    /// Borrows, and runs the workload.
    pub borrower: Guest,
    /// Lends; the peers' servers run here as well.
    pub donor: Guest,
    /// Lends for the second copy.
    pub second: Guest,
}

impl Guests {
    /// Starts them, each with an RDMA device and the lending ones with a memory server.
    pub fn start(lab: &mut Lab) -> Result<Self> {
        let mut donor = lab.start("donor", 640)?;
        let mut second = lab.start("second", 448)?;
        let mut borrower = lab.start("borrower", 512)?;
        for guest in [&mut donor, &mut second, &mut borrower] {
            soft_roce(guest)?;
        }
        for guest in [&mut donor, &mut second] {
            memory_server(guest, "128Mi")?;
        }
        // Readahead would measure the kernel's guess, not the device.
        borrower.succeed("sysctl -qw vm.page-cluster=0", SHORT)?;
        Ok(Self {
            borrower,
            donor,
            second,
        })
    }

    /// Jiffies that the donor's processor has worked so far, for whatever it did.
    pub fn donor_work(&mut self) -> Result<f64> {
        number(
            &mut self.donor,
            "awk '/^cpu /{print $2+$3+$4+$7+$8}' /proc/stat",
        )
    }

    /// Bytes that the borrower has swapped in and out so far.
    pub fn swapped(&mut self) -> Result<f64> {
        let pages = "awk '/^pswp/{n+=$2} END{print n}' /proc/vmstat";
        Ok(number(&mut self.borrower, pages)? * 4096.0)
    }
}

fn number(guest: &mut Guest, script: &str) -> Result<f64> {
    let said = guest.succeed(script, SHORT)?;
    said.trim()
        .parse()
        .with_context(|| format!("{script} printed {said}"))
}
