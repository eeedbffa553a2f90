//! `dynamicswap-bench`: every promised number as a ratio, measured in one run.
//!
//! Owns the order of the measurements and the command line; each module owns one measurement.
//! Exit code 0 when everything ran, whether or not each bar was reached: a bar that was missed
//! is a figure of the report, a measurement that failed is an error.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

mod cluster;
mod counting_allocator;
mod engine_cost;
mod faults;
mod peers;
mod report;
mod swap_in;
mod throughput;
mod workload;

use report::Report;

/// Measures DynamicSwap against its peers in one run.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where bench.json goes.
    #[arg(long, default_value = "bench-report")]
    out: PathBuf,
    /// Only the measurements whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Seconds of each swap measurement.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
}

/// One measurement: its name and what runs it.
type Measurement = (&'static str, fn(&Args, &mut Report) -> Result<()>);

/// In order: what needs no device first, so that a broken device still leaves figures.
const MEASUREMENTS: [Measurement; 4] = [
    ("engine", engine_cost::measure),
    ("throughput", throughput::measure),
    ("swap-in", swap_in::measure),
    ("faults", faults::measure),
];

fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    for (name, measure) in MEASUREMENTS {
        if args.only.as_deref().is_none_or(|only| name.contains(only)) {
            eprintln!("bench: {name}");
            measure(args, &mut report).with_context(|| format!("measurement '{name}'"))?;
        }
    }
    report.print();
    report.write(&args.out)
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamicswap-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
