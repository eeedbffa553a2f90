//! `cargo xtask sim`: builds the simulation and becomes it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{demo, exec};

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

/// The simulation as the build of the whole workspace left it. Building it alone would resolve
/// other features and build its dependencies again.
pub fn built(root: &Path) -> Command {
    let mut command = Command::new(demo::target_folder(root).join("debug").join(PACKAGE));
    command.current_dir(root);
    command
}

/// Becomes the simulation with these arguments.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    exec::become_program(command(root).args(arguments))
}
