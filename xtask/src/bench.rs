//! `cargo xtask bench`: builds the release and becomes the benchmark program.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{demo, exec, host};

/// What to run and where the report goes.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder for bench.json.
    #[arg(long, value_name = "DIR", default_value = "bench-report")]
    out: PathBuf,
    /// In virtual machines: the production data path against NBD, NVMe over fabrics and perftest.
    #[arg(long)]
    lab: bool,
    /// Arguments of the benchmark program, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds and becomes the benchmark program.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let mut needs = [&host::RUN_NEEDS[..], &host::BENCH_NEEDS].concat();
    let mut build = demo::build_release(root);
    build.args(["--package", "dynamicswap-bench"]);
    if options.lab {
        needs.extend(host::LAB_NEEDS);
        build.args(["--example", "grant"]);
    }
    host::install(&needs)?;
    exec::run(&mut build).context("the release build failed; see above")?;
    let mut program = Command::new(demo::release_folder(root).join("dynamicswap-bench"));
    program
        .arg("--out")
        .arg(&options.out)
        .args(options.lab.then_some("--lab"))
        .args(&options.arguments);
    exec::become_program(&mut program)
}
