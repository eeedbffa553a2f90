//! `dynamicswap-bench`: every promised number as a ratio, measured in one run.
//!
//! Owns the order of the measurements and the command line; each module owns one measurement.
//! Exit code 0 when everything ran, whether or not each bar was reached: a bar that was missed
//! is a figure of the report. A measurement that failed stands in the report with its reason and
//! makes the exit code 1; the others are made all the same.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dynamicswap_cli::failure::{Interrupted, exit_code};
use dynamicswap_cli::interrupt::Interrupt;

mod borrower;
mod cluster;
mod counting_allocator;
mod engine_cost;
mod faults;
mod lab;
mod link_cost;
mod memory_server;
mod peers;
mod plot;
mod report;
mod round_trip;
mod scale;
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
    /// In virtual machines: ublk and RDMA, against NBD, NVMe over fabrics and perftest.
    #[arg(long)]
    lab: bool,
    /// Runs in virtual machines, each with new ones; figures are their medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// In virtual machines: only swap devices whose name contains this text; may be given more than
    /// once.
    #[arg(long, requires = "lab")]
    device: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

impl Args {
    /// Whether the measurement of this name is to be made.
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    /// Whether the swap device of this name is to be measured.
    fn wants_device(&self, name: &str) -> bool {
        self.device.is_empty() || self.device.iter().any(|text| name.contains(text))
    }
}

/// What a guest of the lab runs of this program.
#[derive(Debug, Subcommand)]
enum Part {
    /// Measures a link to a memory server, without a device.
    Link(link_cost::Options),
}

/// One measurement: its name and what runs it.
type Measurement = (&'static str, fn(&Args, &mut Report) -> Result<()>);

/// In order: what needs no device first, so that a broken device still leaves figures.
const MEASUREMENTS: [Measurement; 6] = [
    ("engine", engine_cost::measure),
    ("throughput", throughput::measure),
    ("agent", scale::agent::measure),
    ("controller", scale::controller::measure),
    ("swap-in", swap_in::measure),
    ("faults", faults::measure),
];

/// Makes the measurements and leaves the report, whatever became of each; false if one failed.
fn run(args: &Args) -> Result<bool> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make --out {}", args.out.display()))?;
    // Ctrl-C ends the workload that is measured, and so its measurement; what this program has
    // set up is taken down on the way out.
    let interrupt = Interrupt::listen()?;
    let mut report = Report::default();
    let mut all_ran = true;
    for (name, measure) in MEASUREMENTS {
        if !args.wants(name) {
            continue;
        }
        eprintln!("bench: {name}");
        let measured = measure(args, &mut report);
        interrupt.check()?;
        if let Err(error) = measured {
            all_ran = false;
            eprintln!("bench: {name} failed: {error:#}");
            report.missing(name, &format!("{error:#}"));
        }
    }
    report.print();
    report.write(&args.out)?;
    Ok(all_ran)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.part {
        Some(Part::Link(options)) => link_cost::run(options).map(|()| true),
        None if args.lab => lab::run(&args),
        None => run(&args),
    };
    match done {
        Ok(all_ran) => ExitCode::from(u8::from(!all_ran)),
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => exit_code(&error),
        Err(error) => {
            eprintln!("dynamicswap-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
