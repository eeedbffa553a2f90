//! Lost and damaged memory: what is served, what is refused, who dies.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_native_tests::TWO_COPIES;
use dynamicswap_native_tests::cluster::Cluster;
use dynamicswap_native_tests::workload::{Size, Workload};
use dynamicswap_types::Bytes;
use rustix::process::Signal;

/// The largest file below a memory server's memory directory: its slots.
pub fn memory_file(cluster: &Cluster, donor: &str) -> Result<PathBuf> {
    let directory = cluster.paths.node(donor, "memory-server").join("memory");
    let largest = largest_file(&directory)?;
    largest.with_context(|| format!("no memory file below {}", directory.display()))
}

fn largest_file(directory: &Path) -> Result<Option<PathBuf>> {
    let mut best: Option<(u64, PathBuf)> = None;
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let size = entry.metadata()?.len();
        if best.as_ref().is_none_or(|(other, _)| size > *other) {
            best = Some((size, entry.path()));
        }
    }
    Ok(best.map(|(_, path)| path))
}

/// Flips one bit in every page of a memory file that holds something, beyond its first eighth,
/// where its tables are.
fn flip_bits(path: &Path) -> Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let pages = file.metadata()?.len() / 4096;
    let mut flipped = 0;
    for page in pages / 8..pages {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, page * 4096 + 2048)?;
        if word != [0; 8] {
            word[3] ^= 0x10;
            file.write_all_at(&word, page * 4096 + 2048)?;
            flipped += 1;
        }
    }
    Ok(flipped)
}

pub fn flipped_bit() -> Result<()> {
    let mut cluster = Cluster::up("native-flip", &["--donor-capacity", "256Mi"])?;
    cluster.apply(TWO_COPIES)?;
    let mut workload = Workload::start(&cluster, "verify", Size::HALF_IN_RAM)?;
    workload.wait_churn()?;
    workload.run_for(Duration::from_secs(1))?;
    let flipped = flip_bits(&memory_file(&cluster, "donor-1")?)?;
    ensure!(
        flipped > 100,
        "only {flipped} pages of donor-1 held something"
    );
    let end = workload.finish()?;
    ensure!(end.wrong_pages == 0, "{end:?}");
    let counters = cluster.device()?.counters.context("no counters")?;
    ensure!(
        counters.integrity_failures > 0,
        "no damage was noticed: {counters:?}"
    );
    ensure!(
        counters.pages_repaired > 0,
        "nothing was repaired: {counters:?}"
    );
    ensure!(
        counters.pages_lost == 0 && counters.read_failures == 0,
        "{counters:?}"
    );
    cluster.down()
}

pub fn both_copies_gone() -> Result<()> {
    let options = ["--donors", "2", "--donor-capacity", "256Mi"];
    let mut cluster = Cluster::up("native-loss", &options)?;
    cluster.apply(TWO_COPIES)?;
    let mut owner = Workload::start(&cluster, "owner", Size::HALF_IN_RAM)?;
    // Everybody else: its memory stays in RAM.
    let in_ram = Size {
        owned: Bytes::from_mib(16),
        limit: Bytes::from_mib(64),
    };
    let mut other = Workload::start(&cluster, "other", in_ram)?;
    other.wait_churn()?;
    owner.wait_churn()?;
    owner.run_for(Duration::from_millis(500))?;
    for donor in ["donor-1", "donor-2"] {
        cluster.kill(&format!("{donor}/memory-server"))?;
    }
    let status = owner.wait_death()?;
    // `dynamicswap run` tells a death by signal as 128 and the signal, as a shell does.
    ensure!(
        status.code() == Some(128 + Signal::BUS.as_raw()),
        "the owner did not die of SIGBUS: {status}"
    );
    other.run_for(Duration::from_secs(1))?;
    let end = other.finish()?;
    ensure!(end.wrong_pages == 0, "{end:?}");
    let counters = cluster.device()?.counters.context("no counters")?;
    ensure!(counters.read_failures > 0, "no read failed: {counters:?}");
    cluster.down()
}

pub fn full_pool() -> Result<()> {
    // Two copies of 48 MiB fit, on a device of 64: the workload's 32 MiB beyond its limit do, and
    // all of its 96 MiB do not.
    let options = ["--donor-capacity", "32Mi", "--slab", "4Mi"];
    let mut cluster = Cluster::up(
        "native-full",
        &[&options[..], &["--device-size", "64Mi"]].concat(),
    )?;
    cluster.apply(TWO_COPIES)?;
    let size = Size {
        owned: Bytes::from_mib(96),
        limit: Bytes::from_mib(64),
    };
    let mut workload = Workload::start(&cluster, "verify", size)?;
    workload.wait_churn()?;
    workload.run_for(Duration::from_secs(1))?;
    // Ask the kernel for more than the donors can take: it must keep the pages, not kill anybody.
    let cgroup = cluster.paths.container_cgroup("verify");
    let deadline = Instant::now() + Duration::from_secs(30);
    while failed_writes(&mut cluster)? == 0 {
        ensure!(Instant::now() < deadline, "no write has failed in 30 s");
        push_out(&cgroup);
    }
    workload.run_for(Duration::from_secs(1))?;
    let end = workload.finish()?;
    ensure!(end.wrong_pages == 0, "{end:?}");
    let counters = cluster.device()?.counters.context("no counters")?;
    ensure!(
        counters.read_failures == 0 && counters.pages_lost == 0,
        "{counters:?}"
    );
    let device = cluster.device()?;
    let longest = device.write_latency.context("no latencies")?.max_us;
    ensure!(
        longest <= 3_000_000,
        "a write was held for {longest} us, and the policy says 2 s"
    );
    cluster.down()
}

pub fn disk_stands_in() -> Result<()> {
    let options = ["--spill", "--donors", "1", "--device-size", "256Mi"];
    let mut cluster = Cluster::up("native-spill", &options)?;
    let one_and_disk = TWO_COPIES.replace("copies: 2", "copies: 1");
    cluster.apply(&one_and_disk.replace("spill: None", "spill: Async"))?;
    let mut workload = Workload::start(&cluster, "verify", Size::HALF_IN_RAM)?;
    workload.wait_churn()?;
    workload.run_for(Duration::from_secs(1))?;
    let before = cluster.device()?.counters.context("no counters")?;
    // The only donor, at a moment when writes are on their way to both; it does not come back.
    cluster.kill("donor-1/memory-server")?;
    workload.run_for(Duration::from_secs(2))?;
    let end = workload.finish()?;
    ensure!(end.wrong_pages == 0 && end.swap_ins > 0, "{end:?}");
    let after = cluster.device()?.counters.context("no counters")?;
    ensure!(
        after.pages_lost == 0 && after.read_failures == 0,
        "{after:?}"
    );
    ensure!(
        after.pages_read > before.pages_read,
        "nothing was read back: {before:?}, {after:?}"
    );
    cluster.down()
}

fn failed_writes(cluster: &mut Cluster) -> Result<u64> {
    let counters = cluster.device()?.counters.context("no counters")?;
    Ok(counters.write_failures)
}

/// Asks the kernel to swap out everything of a cgroup. It says that not everything could leave,
/// which is the point.
fn push_out(cgroup: &str) {
    let memory = Path::new("/sys/fs/cgroup/memory").join(cgroup);
    let _not_all = if memory.exists() {
        std::fs::write(memory.join("memory.force_empty"), "1")
    } else {
        let unified = Path::new("/sys/fs/cgroup").join(cgroup);
        std::fs::write(unified.join("memory.reclaim"), "96M")
    };
}
