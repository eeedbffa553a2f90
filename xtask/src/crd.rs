//! `cargo xtask crd`: writes the custom resource definitions, or checks what is written.
//!
//! The definitions are made by a program of `crds`, so that this one need not link what they take.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{demo, exec};

/// The program that makes them.
const PROGRAM: &str = "dynamicswap-crds";
/// Folders that hold them: for people, and for the chart.
const FOLDERS: [&str; 2] = ["crds/yaml", "charts/dynamicswap/files/crds"];

/// What to do.
#[derive(Debug, Args)]
pub struct Options {
    /// Writes nothing; fails if a file is not what the types say.
    #[arg(long)]
    check: bool,
}

/// Builds the program and becomes it.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    // Of the whole workspace: the package alone would resolve other features and build its
    // dependencies again.
    let mut build = exec::cargo(root);
    exec::run(build.args(["build", "--quiet", "--workspace", "--bin", PROGRAM]))?;
    let mut command = Command::new(demo::target_folder(root).join("debug").join(PROGRAM));
    command.current_dir(root);
    if options.check {
        command.arg("--check");
    }
    exec::become_program(command.args(FOLDERS))
}
