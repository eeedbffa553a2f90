//! Swap-in per random access, on the same work: our device over TCP with two copies, the same
//! device on local memory (the floor), a disk file, zram. And on the floor plus one page's round
//! trip over raw TCP: the least that any way over this network could take.

use anyhow::{Context as _, Result};
use dynamicswap_types::Bytes;

use crate::Args;
use crate::cluster::Cluster;
use crate::peers::{LocalDevice, PageCluster, SwapArea, require_no_swap};
use crate::report::{Bar, Report};
use crate::round_trip;
use crate::workload::{Plan, Running};

/// Swap of each peer: room for all of the workload.
const SWAP_SIZE: Bytes = Bytes::from_mib(512);

const P50: &str = "swap-in p50, TCP, two copies [us]";
const P99: &str = "swap-in p99, TCP, two copies [us]";

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
    let network = round_trip::measure().context("the raw round trip")?;
    compare_with_floor(&ours, &floor, network, report);
    let disk = SwapArea::disk_file(&args.out, SWAP_SIZE);
    compare_with(args, &ours, ("swap on a disk file", disk), report);
    compare_with(args, &ours, ("zram", SwapArea::zram(SWAP_SIZE)), report);
    Ok(())
}

fn compare_with_floor(ours: &Latency, floor: &Latency, network: (f64, f64), report: &mut Report) {
    let (network_p50, network_p99) = network;
    let peer = "fuse-loop on local memory";
    let reason = format!(
        "the way over the network comes on top of the floor, and a raw TCP round trip of one page \
         alone takes {network_p50:.0} us (p50) and {network_p99:.0} us (p99) on this host, where \
         the server shares the processors with the workload"
    );
    report
        .against(P50, ours.p50, (peer, floor.p50), Bar::AtMost(1.8))
        .if_missed(&reason);
    report
        .against(P99, ours.p99, (peer, floor.p99), Bar::AtMost(3.0))
        .if_missed(&reason);
    let peer = "fuse-loop on local memory, plus a page's round trip over raw TCP";
    report.against(P50, ours.p50, (peer, floor.p50 + network_p50), Bar::None);
}

/// A peer that this host does not have is noted, and takes nothing from the other figures.
fn compare_with(
    args: &Args,
    ours: &Latency,
    (name, area): (&str, Result<SwapArea>),
    report: &mut Report,
) {
    // The kernel's OOM killer now and then takes a workload at its limit whatever it swaps to. A
    // peer gets a second try; ours does not.
    let measured = area.and_then(|_area| run(args, name).or_else(|_| run(args, name)));
    match measured {
        Ok(theirs) => {
            report.against(P50, ours.p50, (name, theirs.p50), Bar::None);
            report.against(P99, ours.p99, (name, theirs.p99), Bar::None);
        }
        Err(error) => report.missing(&format!("swap-in on {name}"), &format!("{error:#}")),
    }
}
