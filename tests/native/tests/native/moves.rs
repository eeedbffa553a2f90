//! Slabs that move while their pages are read and written.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_native_tests::TWO_COPIES;
use dynamicswap_native_tests::cluster::{Cluster, device, dynamicswap};
use dynamicswap_native_tests::workload::{Size, Workload};
use dynamicswap_proto::control::v1::ClusterStatus;

/// Copies of bound or unbound sets on a donor, as the borrower's engine lists them.
fn copies_on(status: &ClusterStatus, donor: &str) -> usize {
    let sets = device(status).map_or(&[][..], |device| &device.sets);
    let here = sets
        .iter()
        .filter(|set| !set.released && set.replicas.iter().any(|copy| copy.node == donor));
    here.count()
}

/// A donor is drained under load, and the engine is killed in the middle of it.
pub fn drained_donor_is_emptied() -> Result<()> {
    let name = "native-drain";
    let mut cluster = Cluster::up(name, &[])?;
    cluster.apply(&format!(
        "{TWO_COPIES}\n  rebuild: {{bandwidthMax: 32Mi}}\n"
    ))?;
    let mut workload = Workload::start(&cluster, "verify", Size::HALF_IN_RAM)?;
    workload.wait_churn()?;
    workload.run_for(Duration::from_secs(1))?;
    let before = copies_on(&cluster.status()?, "donor-1");
    ensure!(before > 8, "{before} copies on the donor");
    let drain = ["drain", "server", "donor-1", "--no-wait", "--name", name];
    let (code, said) = dynamicswap(&drain)?;
    ensure!(code == 0 && said.contains("donor-1 draining"), "{said}");
    cluster.wait("a part of the donor's copies has left", |status| {
        copies_on(status, "donor-1") * 4 < before * 3
    })?;
    cluster.kill("borrower/engine")?;
    workload.run_for(Duration::from_millis(500))?;
    cluster.wait("the donor is empty", |status| {
        let node = status.nodes.iter().find(|node| node.node == "donor-1");
        let report = node.and_then(|node| node.report.as_ref());
        let server = report.and_then(|report| report.memory_server.as_ref());
        server.is_some_and(|server| server.grants.is_empty()) && copies_on(status, "donor-1") == 0
    })?;
    let followed = ["drain", "server", "donor-1", "--name", name];
    let (code, said) = dynamicswap(&followed)?;
    ensure!(
        code == 0 && said.contains("nothing lies on it any more"),
        "{said}"
    );
    cluster.wait_whole()?;
    let end = workload.finish()?;
    ensure!(end.wrong_pages == 0 && end.swap_ins > 0, "{end:?}");
    let seen = cluster.device()?.counters.context("no counters")?;
    eprintln!("{before} copies moved, {} pages copied", seen.pages_rebuilt);
    ensure!(seen.pages_rebuilt > 1_000, "{seen:?}");
    ensure!(
        seen.pages_lost == 0 && seen.integrity_failures == 0,
        "{seen:?}"
    );
    cluster.down()
}
