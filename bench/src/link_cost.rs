//! `dynamicswap-bench link`: what a link to a memory server costs without any device in front of it.
//! Run where the borrower is; prints one JSON object.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use dynamicswap_engine::operation::Direction;
use dynamicswap_types::{Bytes, SlabSize};
use serde::{Deserialize, Serialize};

use crate::borrower::{Borrower, Network};
use crate::memory_server;

/// Which link, and how long it is measured.
#[derive(Debug, Args)]
pub struct Options {
    /// Control socket of the memory server, whose first slot is used: no device may have any.
    #[arg(long)]
    control: PathBuf,
    /// Which way to go.
    #[arg(long, value_enum)]
    network: Network,
    /// Pages whose time is taken, in either direction.
    #[arg(long, default_value_t = 2_000)]
    count: usize,
    /// Seconds of each stream.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkCost {
    /// A page's read, alone on the link: median in microseconds.
    pub read_p50_us: f64,
    /// A page's write, the same.
    pub write_p50_us: f64,
    /// Reads of 128 KiB, 32 under way.
    pub read_mb_s: f64,
    /// Writes, the same.
    pub write_mb_s: f64,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.count > 0, "--count must be above 0");
    let report = memory_server::report(&options.control)?;
    memory_server::grant(&options.control, &report)?;
    let slot_size = SlabSize::try_from(Bytes::new(report.slot_bytes))?;
    let address = match options.network {
        Network::Tcp => &report.tcp_address,
        Network::Rdma => &report.rdma_address,
    };
    ensure!(!address.is_empty(), "the memory server offers no RDMA");
    let mut borrower = Borrower::connect(options.network, address, slot_size)?;
    let time = Duration::from_secs(options.seconds);
    let (write_p50_us, _) = borrower.round_trips(Direction::Write, options.count)?;
    let (read_p50_us, _) = borrower.round_trips(Direction::Read, options.count)?;
    let cost = LinkCost {
        read_p50_us,
        write_p50_us,
        write_mb_s: borrower.stream(Direction::Write, time)?,
        read_mb_s: borrower.stream(Direction::Read, time)?,
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
