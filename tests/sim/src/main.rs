//! The simulation's command line: a sweep of seeds, one seed with its story, or the mutations.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use dynamicswap_sim::coverage::Coverage;
use dynamicswap_sim::mutation::Mutation;
use dynamicswap_sim::scenario::Planning;
use dynamicswap_sim::sweep::{Failure, Sweep, notice, run_seed, sweep};

/// Seeds above which every required thing must have been seen.
const COVERAGE_SEEDS_MIN: u64 = 5000;
/// Failures after which a sweep stops.
const FAILURES_MAX: usize = 5;

/// Deterministic simulation of the data path.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", disable_version_flag = true)]
struct Cli {
    /// Runs this seed and prints the end of its story.
    #[arg(long, conflicts_with_all = ["seeds", "mutations"])]
    seed: Option<u64>,
    /// Prints the whole story of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs the seeds from A to B, without B.
    #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..10000")]
    seeds: Range<u64>,
    /// Who plans; by the seed unless given.
    #[arg(long, value_enum, conflicts_with = "mutations")]
    planning: Option<Planning>,
    /// Checks that every deliberately broken rule is noticed.
    #[arg(long, conflicts_with = "seeds")]
    mutations: bool,
    /// Prints in how many seeds each thing was seen.
    #[arg(long)]
    coverage: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let numbers = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let range = numbers.filter(|range: &Range<u64>| range.start < range.end);
    range.ok_or_else(|| format!("'{text}' is no range of seeds: write one as 0..10000"))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A broken invariant is reported with its seed; the panic's own text would come twice.
    std::panic::set_hook(Box::new(|_| {}));
    let good = if cli.mutations {
        check_mutations()
    } else if let Some(seed) = cli.seed {
        let planning = cli.planning.unwrap_or_else(|| Planning::of(seed));
        tell(seed, planning, cli.trace)
    } else {
        sweep_all(cli.seeds, cli.planning, cli.coverage)
    };
    ExitCode::from(u8::from(!good))
}

fn tell(seed: u64, planning: Planning, whole: bool) -> bool {
    let ending = run_seed(seed, planning, None, if whole { usize::MAX } else { 60 });
    for line in &ending.story {
        println!("{line}");
    }
    match &ending.failure {
        Some(failure) => println!("seed {seed} FAILED: {failure}"),
        None => println!("seed {seed} passed"),
    }
    ending.failure.is_none()
}

fn sweep_all(seeds: Range<u64>, planning: Option<Planning>, with_coverage: bool) -> bool {
    let start = Instant::now();
    let count = seeds.end - seeds.start;
    let result = sweep(seeds, None, planning, FAILURES_MAX);
    if with_coverage {
        print_coverage(&result.coverage);
    }
    report_failures(&result);
    // Either planning alone does not meet everything.
    let whole = count >= COVERAGE_SEEDS_MIN && planning.is_none();
    let missing = if whole && result.failures.is_empty() {
        result.coverage.missing()
    } else {
        Vec::new()
    };
    for what in &missing {
        println!("never seen in {count} seeds: {what}");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s, {} failed, {} things never seen",
        result.seeds,
        result.failures.len(),
        missing.len()
    );
    result.failures.is_empty() && missing.is_empty()
}

fn print_coverage(coverage: &Coverage) {
    for (what, seeds) in coverage.iter() {
        println!("{seeds:>8} {what}");
    }
}

fn report_failures(result: &Sweep) {
    for Failure {
        seed,
        planning,
        failure,
    } in &result.failures
    {
        let word = planning.word();
        println!("seed {seed} FAILED ({word} planned): {failure}");
        println!("  replay: cargo xtask sim --seed {seed} --planning {word} --trace");
    }
}

fn check_mutations() -> bool {
    let mut good = true;
    for mutation in Mutation::ALL {
        let within = mutation.seeds_max();
        match notice(mutation) {
            Ok(Some(Failure { seed, failure, .. })) => {
                println!("{mutation:?}: noticed by seed {seed}: {failure}");
                continue;
            }
            Ok(None) => println!("{mutation:?}: NOT noticed in {within} seeds"),
            Err(Failure { seed, failure, .. }) => {
                println!("{mutation:?}: seed {seed} FAILED without it as well: {failure}");
            }
        }
        good = false;
    }
    good
}
