//! Taking a cluster, or its policy, away while a program that is none of its own has pages on its device.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_native_tests::TWO_COPIES;
use dynamicswap_native_tests::cluster::{Cluster, device, dynamicswap};
use dynamicswap_native_tests::workload::{Size, Workload};
use rustix::process::{Pid, Signal, kill_process};

/// Name of the policy in [`TWO_COPIES`].
const POLICY: &str = "native";
/// Cgroup of the program that knows nothing of the cluster.
const STRANGER: &str = "native-stranger";
const SERVERS: [&str; 3] = [
    "donor-1/memory-server",
    "donor-2/memory-server",
    "donor-3/memory-server",
];

/// A cluster with a stranger's pages on it.
fn with_a_stranger(name: &str) -> Result<(Cluster, Workload)> {
    let mut cluster = Cluster::up(name, &[])?;
    // A read waits for longer than any of these tests.
    cluster.apply(&TWO_COPIES.replace("readStall: 5s", "readStall: 10m"))?;
    let mut stranger = Workload::start_outside(STRANGER, Size::HALF_IN_RAM)?;
    stranger.wait_churn()?;
    Ok((cluster, stranger))
}

/// Makes room for the stranger's pages: swapoff charges them to its cgroup, and the kernel kills
/// it if they do not fit.
fn make_room() -> Result<()> {
    let version_1 = Path::new("/sys/fs/cgroup/memory").join(STRANGER);
    let limit = if version_1.exists() {
        version_1.join("memory.limit_in_bytes")
    } else {
        Path::new("/sys/fs/cgroup")
            .join(STRANGER)
            .join("memory.max")
    };
    let room = (Size::HALF_IN_RAM.owned.get() * 2).to_string();
    std::fs::write(&limit, room).with_context(|| format!("cannot write {}", limit.display()))
}

pub fn dead_holder() -> Result<()> {
    let (cluster, mut stranger) = with_a_stranger("native-holder")?;
    cluster.kill("borrower/swapd")?;
    // The engine serves on, and nobody watches it.
    stranger.run_for(Duration::from_secs(1))?;
    make_room()?;
    cluster.down()?;
    let end = stranger.finish()?;
    ensure!(end.swap_ins > 0, "{end:?}");
    Ok(())
}

pub fn pages_that_cannot_come_home() -> Result<()> {
    let (cluster, stranger) = with_a_stranger("native-kept")?;
    make_room()?;
    for server in SERVERS {
        cluster.signal(server, Signal::STOP)?;
    }
    let refused = cluster.try_down(&["--patience", "4s"]);
    for server in SERVERS {
        cluster.signal(server, Signal::CONT)?;
    }
    let (code, said) = refused?;
    ensure!(code == 1 && said.contains("--force"), "{code}: {said}");
    let swaps = std::fs::read_to_string("/proc/swaps")?;
    ensure!(swaps.lines().count() == 2, "the device is gone: {swaps}");
    cluster.down()?;
    let end = stranger.finish()?;
    ensure!(end.swap_ins > 0, "{end:?}");
    Ok(())
}

pub fn nobody_serves() -> Result<()> {
    let (cluster, stranger) = with_a_stranger("native-lifeless")?;
    let engine = cluster.pid("borrower/engine")?;
    // The holder first, or it would start another engine.
    cluster.kill("borrower/swapd")?;
    let engine = Pid::from_raw(engine).context("process id 0")?;
    kill_process(engine, Signal::KILL).context("cannot kill the engine")?;
    // No request hangs: each fails at once. The device must not stay swap for all that.
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string("/proc/swaps")?.lines().count() > 1 {
        ensure!(Instant::now() < deadline, "a dead device is still swap");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // Its pages are lost, and nobody else's.
    let status = stranger.wait_death()?;
    ensure!(!status.success(), "{status}");
    cluster.down()
}

/// The device goes with its last page. The swap is the whole machine's: a process that has nothing to
/// do with this test may have pages there too, and then the device must stay.
fn wait_detached_once_empty(cluster: &mut Cluster) -> Result<()> {
    let mut empty_since = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.device()?.attached {
        let swaps = std::fs::read_to_string("/proc/swaps")?;
        let used = swaps
            .lines()
            .nth(1)
            .and_then(|line| line.split_whitespace().nth(3));
        match used {
            Some("0") => {
                let since = *empty_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < Duration::from_secs(10),
                    "empty and attached: {swaps}"
                );
            }
            _ if Instant::now() > deadline => {
                println!("kept by pages of others: {swaps}");
                return Ok(());
            }
            _ => empty_since = None,
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    Ok(())
}

pub fn policy_deleted() -> Result<()> {
    let (mut cluster, mut stranger) = with_a_stranger("native-policy")?;
    let (code, said) = dynamicswap(&["delete", "--name", "native-policy", "rmp", POLICY])?;
    ensure!(code == 0, "{code}: {said}");
    // At its limit, with as much again on the device: its pages must stay where they are.
    stranger.run_for(Duration::from_secs(3))?;
    cluster.wait("the device says why it stays", |status| {
        device(status).is_some_and(|device| {
            device.attached
                && device
                    .warnings
                    .iter()
                    .any(|it| it.contains("no policy wants"))
        })
    })?;
    let end = stranger.finish()?;
    ensure!(end.swap_ins > 0, "{end:?}");
    wait_detached_once_empty(&mut cluster)?;
    cluster.down()
}
