//! Every developer task: `cargo xtask demo|test|tidy|bench|lab|cluster|sim|chart|image|crd`.
//!
//! Owns the command line and the order of steps. Must not know how a product part works: it
//! starts programs and reads their exit codes and their last lines.
#![forbid(unsafe_code)]

mod bench;
mod chart;
mod cluster;
mod crd;
mod demo;
mod exec;
mod host;
mod image;
mod lab;
mod sim;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

/// Developer tasks of DynamicSwap.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs every test: format, lints, tidy, unit tests, docs, simulation, build, native and cluster tests.
    Test(test::Options),
    /// Checks what the compiler does not: layers, sizes, words, documentation.
    Tidy(tidy::Options),
    /// Builds the release and runs `dynamicswap demo` with the arguments that follow.
    Demo(Passed),
    /// Runs the benchmarks and writes bench.json.
    Bench(bench::Options),
    /// Runs scenarios in virtual machines: `--scenario NAME`, `--out DIR`, `--list`.
    Lab(Passed),
    /// A whole Kubernetes on this machine: `up`, `down`, `shell`, `run -- COMMAND`.
    Cluster(Passed),
    /// Renders the Helm chart with the real helm and compares it with the golden files.
    Chart(chart::Options),
    /// Builds the programs and packs them as image archives, without a container engine.
    Image(image::Options),
    /// Runs the deterministic simulation: `--seed N`, or `--seeds A..B`.
    Sim(Passed),
    /// Writes the custom resource definitions as YAML: `--check` only compares.
    Crd(crd::Options),
}

/// Arguments handed to another program as they are.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
struct Passed {
    /// Arguments of the program; `--help` shows them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let outcome = workspace_root().and_then(|root| match Cli::parse().task {
        Task::Test(options) => test::run(&root, &options),
        Task::Tidy(options) => tidy::run(&root, &options),
        Task::Demo(passed) => demo::run(&root, &passed.arguments),
        Task::Bench(options) => bench::run(&root, &options),
        Task::Lab(passed) => lab::run(&root, &passed.arguments),
        Task::Cluster(passed) => cluster::run(&root, &passed.arguments),
        Task::Chart(options) => chart::run(&root, &options),
        Task::Image(options) => image::run(&root, &options),
        Task::Sim(passed) => sim::run(&root, &passed.arguments),
        Task::Crd(options) => crd::run(&root, &options),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The folder of the workspace: the parent of this package's.
fn workspace_root() -> Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set; run this program as `cargo xtask`")?;
    let mut root = PathBuf::from(package);
    root.pop();
    Ok(root)
}
