//! `dynamicswap-bench --lab`: the production data path in virtual machines, beside what a kernel has
//! for the same purpose: NBD, NVMe over fabrics, a disk, zram, and perftest for the verbs alone.
//!
//! Owns the order. One borrower and two donors, new in each run; every figure is made in each run, and
//! a ratio is that of two figures of the same run.

mod figures;
mod guests;
mod link;
mod peers;
mod samples;
mod swap;

use anyhow::{Context as _, Result};
use dynamicswap_lab::Lab;
use dynamicswap_lab::image::Image;

use crate::Args;
use crate::plot;
use crate::report::Report;
use guests::Guests;
use samples::Samples;

/// What guests run of the project.
const PROGRAMS: [&str; 6] = [
    "dynamicswap-bench",
    "dynamicswap-memory-server",
    "dynamicswap-swapd",
    "dynamicswap-swapd-engine",
    "dynamicswap-workload",
    "examples/grant",
];

/// A group of measurements in one boot of the guests.
type Group = (
    &'static str,
    fn(&Args, &mut Guests, &mut Samples) -> Result<()>,
);

const GROUPS: [Group; 2] = [("link", link::measure), ("swap", swap::measure)];

/// Makes the runs and leaves bench.json and bench.svg; false if one failed.
pub fn run(args: &Args) -> Result<bool> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make --out {}", args.out.display()))?;
    let image = Image::prepare(&args.out, &PROGRAMS)?;
    let mut samples = Samples::default();
    let mut report = Report::default();
    let mut all_ran = true;
    for run in 1..=args.runs {
        for (name, measure) in GROUPS {
            if !args.wants(name) {
                continue;
            }
            eprintln!("bench: run {run} of {}, {name}", args.runs);
            samples.begin();
            let logs = args.out.join(format!("guests-{run}-{name}"));
            let measured = Lab::new(&image, &logs, false)
                .and_then(|mut lab| Guests::start(&mut lab))
                .and_then(|mut guests| measure(args, &mut guests, &mut samples));
            match measured {
                Ok(()) => std::fs::remove_dir_all(&logs).context("cannot remove the logs")?,
                Err(error) => {
                    all_ran = false;
                    eprintln!("bench: run {run}, {name} failed: {error:#}");
                    report.missing(&format!("{name}, run {run}"), &format!("{error:#}"));
                }
            }
        }
    }
    figures::add(&samples, &mut report);
    report.print();
    report.write(&args.out)?;
    plot::write(&args.out, &figures::bars(&samples))?;
    Ok(all_ran)
}
