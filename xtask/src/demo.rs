//! `cargo xtask demo`: installs what is missing, builds the release, becomes `dynamicswap demo`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{exec, host};

/// Packages whose programs a running cluster consists of.
const PROGRAM_PACKAGES: [&str; 5] = [
    "dynamicswap-cli",
    "dynamicswap-controller",
    "dynamicswap-agent",
    "dynamicswap-datapath",
    "dynamicswap-workload",
];

/// The command that builds every program of the cluster for release.
pub fn build_release(root: &Path) -> Command {
    let mut command = exec::cargo(root);
    command.args(["build", "--release", "--bins"]);
    for package in PROGRAM_PACKAGES {
        command.args(["--package", package]);
    }
    command
}

/// Folder of everything that cargo builds.
pub fn target_folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| root.join("target"))
}

/// Folder of the release programs.
pub fn release_folder(root: &Path) -> PathBuf {
    target_folder(root).join("release")
}

/// Builds and becomes `dynamicswap demo`: Ctrl-C and the exit code are that program's.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    host::install(&host::RUN_NEEDS)?;
    exec::run(&mut build_release(root)).context("the release build failed; see above")?;
    let mut program = Command::new(release_folder(root).join("dynamicswap"));
    program.arg("demo").args(arguments);
    exec::become_program(&mut program)
}
