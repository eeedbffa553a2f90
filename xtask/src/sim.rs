//! `cargo xtask sim`: builds the simulation and becomes it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::exec;

/// Package and program of the simulation.
pub const PACKAGE: &str = "dynamicswap-sim";

/// The simulation under cargo, in the development profile (which optimises enough for it).
pub fn command(root: &Path) -> Command {
    let mut command = exec::cargo(root);
    command.args([
        "run",
        "--quiet",
        "--package",
        PACKAGE,
        "--bin",
        PACKAGE,
        "--",
    ]);
    command
}

/// Becomes the simulation with these arguments.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    exec::become_program(command(root).args(arguments))
}
