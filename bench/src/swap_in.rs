//! Swap-in per random access, on the same work: our device over TCP with two copies, the same
//! device on local memory (the floor), a disk file, zram.

use anyhow::{Context as _, Result};
use dynamicswap_types::Bytes;

use crate::Args;
use crate::cluster::Cluster;
use crate::peers::{LocalDevice, PageCluster, SwapArea, require_no_swap};
use crate::report::{Bar, Report};
use crate::workload::{Plan, Running};

/// Swap of each peer: room for all of the workload.
const SWAP_SIZE: Bytes = Bytes::from_mib(512);

/// Latency of a swap-in in microseconds.
struct Latency {
    p50: f64,
    p99: f64,
}

fn run(args: &Args, name: &str) -> Result<Latency> {
    eprintln!("bench:   swap-in on {name}");
    let plan = Plan {
        seconds: args.seconds,
        progress_ms: 500,
        threads: 1,
        write_percent: 50,
    };
    let finished = Running::start("dynamicswap-bench", plan)?.finish()?;
    Ok(Latency {
        p50: finished.median_of(|progress| progress.p50_us)?,
        p99: finished.median_of(|progress| progress.p99_us)?,
    })
}

/// Measures all four.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    require_no_swap()?;
    let _readahead = PageCluster::off()?;
    let floor = {
        let _device = LocalDevice::start(SWAP_SIZE).context("the device on local memory")?;
        run(args, "the device on local memory")?
    };
    let ours = {
        let _cluster = Cluster::up().context("the cluster")?;
        run(args, "TCP, two copies")?
    };
    let zram = {
        let _area = SwapArea::zram(SWAP_SIZE).context("zram")?;
        run(args, "zram")?
    };
    let disk = {
        let _area = SwapArea::disk_file(&args.out, SWAP_SIZE).context("a swap file")?;
        run(args, "a disk file")?
    };
    let local = "fuse-loop on local memory";
    report.against(
        "swap-in p50, TCP, two copies [us]",
        ours.p50,
        (local, floor.p50),
        Bar::AtMost(1.8),
    );
    report.against(
        "swap-in p99, TCP, two copies [us]",
        ours.p99,
        (local, floor.p99),
        Bar::AtMost(3.0),
    );
    for (peer, theirs) in [("swap on a disk file", disk), ("zram", zram)] {
        report.against(
            "swap-in p50, TCP, two copies [us]",
            ours.p50,
            (peer, theirs.p50),
            Bar::None,
        );
        report.against(
            "swap-in p99, TCP, two copies [us]",
            ours.p99,
            (peer, theirs.p99),
            Bar::None,
        );
    }
    Ok(())
}
