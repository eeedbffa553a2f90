//! The measured process: touches its own swapped pages at random and times each fault.
//!
//! It runs inside a memory cgroup at half its memory. Only touches of pages that the kernel
//! says are swapped out (bit 62 of /proc/self/pagemap) are timed, so that hits do not flatter.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use dynamicswap_types::Bytes;
use dynamicswap_workload::region::{HugePages, Region};
use hdrhistogram::Histogram;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What the probe does.
#[derive(Args, Debug, Clone)]
pub struct ProbeArgs {
    /// Memory to touch.
    #[arg(long)]
    pub memory: Bytes,
    /// How long to touch it.
    #[arg(long)]
    pub seconds: u32,
    /// Length of one interval of the time line.
    #[arg(long, default_value_t = 50)]
    pub interval_ms: u32,
}

/// What the probe prints, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Touches of swapped pages.
    pub faults: u64,
    /// Latency of such a touch in microseconds.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
    /// Pages whose content was wrong.
    pub wrong_pages: u64,
    /// Touches per interval, from the first on.
    pub timeline: Vec<u64>,
    /// Longest touch that began in each interval, in microseconds.
    pub timeline_max_us: Vec<f64>,
    /// Interval in milliseconds.
    pub interval_ms: u32,
    /// Wall clock at the first interval, in milliseconds since 1970.
    pub began_unix_ms: u64,
}

const SWAPPED: u64 = 1 << 62;
const PAGE: usize = 4096;

/// Words of page `index` at `version`: nothing that zram could compress.
fn fill(page: &mut [u8], index: u64, version: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(index ^ (version << 40));
    rng.fill(page);
}

fn is_swapped(pagemap: &File, address: usize) -> Result<bool> {
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, (address / PAGE * 8) as u64).context("/proc/self/pagemap")?;
    Ok(u64::from_le_bytes(entry) & SWAPPED != 0)
}

/// Touches at random until the time is over.
fn touch(region: &mut Region, args: &ProbeArgs) -> Result<ProbeResult> {
    let pagemap = File::open("/proc/self/pagemap").context("cannot open /proc/self/pagemap")?;
    let pages = region.bytes().len() / PAGE;
    let mut versions = vec![0_u8; pages];
    let mut expected = vec![0_u8; PAGE];
    let mut latencies = Histogram::<u64>::new(3).context("histogram")?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let interval = Duration::from_millis(u64::from(args.interval_ms));
    let began = Instant::now();
    let began_unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut result = ProbeResult {
        faults: 0,
        p50_us: 0.0,
        p99_us: 0.0,
        max_us: 0.0,
        wrong_pages: 0,
        timeline: Vec::with_capacity(1 << 16),
        timeline_max_us: Vec::with_capacity(1 << 16),
        interval_ms: args.interval_ms,
        began_unix_ms: u64::try_from(began_unix.as_millis())?,
    };
    while began.elapsed() < Duration::from_secs(u64::from(args.seconds)) {
        let index = rng.random_range(0..pages);
        let page = &mut region.bytes_mut()[index * PAGE..(index + 1) * PAGE];
        let swapped = is_swapped(&pagemap, page.as_ptr() as usize)?;
        let start = Instant::now();
        let first = std::hint::black_box(&*page)[0];
        let nanos = u64::try_from(start.elapsed().as_nanos())?;
        std::hint::black_box(first);
        record(&mut result, (start - began, interval), nanos);
        if swapped {
            latencies.record(nanos)?;
        }
        fill(&mut expected, index as u64, u64::from(versions[index]));
        result.wrong_pages += u64::from(page != expected.as_slice());
        versions[index] = versions[index].wrapping_add(1);
        fill(page, index as u64, u64::from(versions[index]));
    }
    let micros = |nanos: u64| nanos as f64 / 1e3;
    result.faults = latencies.len();
    result.p50_us = micros(latencies.value_at_quantile(0.5));
    result.p99_us = micros(latencies.value_at_quantile(0.99));
    result.max_us = micros(latencies.max());
    Ok(result)
}

/// Notes a touch in the time line.
fn record(result: &mut ProbeResult, when: (Duration, Duration), nanos: u64) {
    let slot = (when.0.as_nanos() / when.1.as_nanos()) as usize;
    if result.timeline.len() <= slot {
        result.timeline.resize(slot + 1, 0);
        result.timeline_max_us.resize(slot + 1, 0.0);
    }
    result.timeline[slot] += 1;
    result.timeline_max_us[slot] = result.timeline_max_us[slot].max(nanos as f64 / 1e3);
}

/// Runs the probe and prints its result.
pub fn run(args: &ProbeArgs) -> Result<()> {
    ensure!(args.seconds > 0 && args.interval_ms > 0, "seconds and interval must be above 0");
    let mut region = Region::anonymous(args.memory).context("cannot map the probe's memory")?;
    for (index, page) in region.bytes_mut().chunks_exact_mut(PAGE).enumerate() {
        fill(page, index as u64, 0);
    }
    let result = touch(&mut region, args)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&result)?)?;
    Ok(())
}
