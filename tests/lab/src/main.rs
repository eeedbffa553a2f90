//! `dynamicswap-lab`: runs scenarios and leaves lab.json. `cargo xtask lab` builds and starts it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use dynamicswap_lab::Lab;
use dynamicswap_lab::image::Image;
use dynamicswap_lab::report::{self, Outcome};
use dynamicswap_lab::scenarios::{ALL, Scenario};

/// What guests run of the project.
const PROGRAMS: [&str; 12] = [
    "dynamicswap",
    "dynamicswap-agent",
    "dynamicswap-controller",
    "dynamicswap-memory-server",
    "dynamicswap-swapd",
    "dynamicswap-swapd-engine",
    "dynamicswap-workload",
    "examples/grant",
    "examples/foreign_key",
    "examples/revoke_watch",
    "examples/canary",
    "deps/rdma",
];

/// Runs scenarios in virtual machines.
#[derive(Debug, Parser)]
struct Options {
    /// Only this scenario, with the guests' consoles shown; may be given more than once.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only the short ones, which `cargo xtask test` plays.
    #[arg(long, conflicts_with = "scenario")]
    short: bool,
    /// Names the scenarios and what each proves.
    #[arg(long)]
    list: bool,
    /// Where lab.json and the guests' logs go.
    #[arg(long, default_value = "target/lab")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dynamicswap-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for scenario in ALL {
            println!("{:<20} {}", scenario.name, scenario.proves);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = chosen(&options.scenario)?;
    chosen.retain(|scenario| scenario.is_short || !options.short);
    std::fs::create_dir_all(&options.out).context("cannot make the output directory")?;
    let image = Image::prepare(&options.out, &PROGRAMS)?;
    let shown = options.scenario.len() == 1;
    let mut outcomes = Vec::new();
    for scenario in chosen {
        outcomes.push(play(&image, scenario, options, shown)?);
        report::write(&options.out, &outcomes)?;
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    // As test programs close, so that whoever counts those counts these.
    println!(
        "test result: {verdict}. {} passed; {failed} failed",
        outcomes.len() - failed
    );
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| match ALL.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario '{name}': see --list"),
    };
    names.iter().map(find).collect()
}

fn play(image: &Image, scenario: &Scenario, options: &Options, shown: bool) -> Result<Outcome> {
    println!("{}: {}", scenario.name, scenario.proves);
    let directory = options.out.join(scenario.name);
    let begun = Instant::now();
    let mut lab = Lab::new(image, &directory, shown)?;
    let played = (scenario.play)(&mut lab);
    let outcome = Outcome {
        scenario: scenario.name.to_owned(),
        passed: played.is_ok(),
        error: played.err().map(|error| format!("{error:#}")),
        seconds: begun.elapsed().as_secs_f64(),
        figures: lab.figures,
    };
    match &outcome.error {
        None => {
            println!("  passed in {:.0} s", outcome.seconds);
            // Logs of what went well would only hide those of what did not.
            std::fs::remove_dir_all(&directory).context("cannot remove the logs")?;
        }
        Some(error) => println!(
            "  FAILED after {:.0} s: {error}\n  logs are in {}",
            outcome.seconds,
            directory.display()
        ),
    }
    Ok(outcome)
}
