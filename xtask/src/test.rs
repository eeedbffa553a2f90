//! `cargo xtask test`: every layer of tests in one run, each counted, none skipped in silence.

mod report;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::host;
use report::{Report, Status};
use steps::{Step, Work};

/// Layers that `DYNAMICSWAP_REQUIRE` may name.
const LAYERS: [&str; 3] = ["native", "cluster", "lab"];

/// What to run and where the report goes.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder for test.json.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the steps with these names, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

/// Runs every step; code 1 if one failed.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let required = std::env::var_os("DYNAMICSWAP_REQUIRE");
    let required = host::required_layers(required.as_deref(), &LAYERS)?;
    let steps = steps::chosen(&options.only)?;
    for needs in [
        &host::RUN_NEEDS[..],
        &host::CONTROL_PLANE_NEEDS,
        &host::LAB_NEEDS,
    ] {
        if let Err(error) = host::install(needs) {
            eprintln!("{error:#}");
        }
    }
    let mut report = Report::default();
    for step in steps {
        run_step(root, &step, &required, &mut report)?;
    }
    for layer in steps::absent_layers(&required) {
        let reason = "required, but this layer does not exist yet".to_owned();
        report.add(
            layer,
            Status::Failed(reason),
            std::time::Duration::ZERO,
            (0, 1),
        );
    }
    if let Some(folder) = &options.out {
        report.write(folder)?;
    }
    report.print();
    Ok(ExitCode::from(u8::from(report.failed() > 0)))
}

fn run_step(root: &Path, step: &Step, required: &[String], report: &mut Report) -> Result<()> {
    let is_required = required.iter().any(|name| name == step.name);
    if let Some(reason) = step.obstacle.and_then(|obstacle| obstacle()) {
        println!("SKIPPED {}: {reason}", step.name);
        let (status, counts) = if is_required {
            (Status::Failed(format!("required, but {reason}")), (0, 1))
        } else {
            (Status::Skipped(reason), (0, 0))
        };
        report.add(step.name, status, std::time::Duration::ZERO, counts);
        return Ok(());
    }
    println!("== {}: {}", step.name, step.proves);
    let start = std::time::Instant::now();
    let outcome = match step.work {
        Work::Command(command) | Work::Tests(command) => steps::run_command(&mut command(root))?,
        Work::Tidy => steps::run_tidy(root)?,
        Work::Chart => steps::run_chart(root)?,
    };
    let (status, counts) = match step.work {
        Work::Tests(_) => outcome.verdict_of_tests(is_required),
        _ if outcome.succeeded => (Status::Passed, outcome.counts()),
        _ => (outcome.failure(), outcome.counts()),
    };
    report.add(step.name, status, start.elapsed(), counts);
    Ok(())
}
