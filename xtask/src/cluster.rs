//! `cargo xtask cluster`: builds the cluster harness and becomes it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{demo, exec, host};

/// Program of the harness.
const PROGRAM: &str = "dynamicswap-cluster";

/// Becomes the harness with these arguments. Features are the workspace's, as in every other
/// build, or half of the dependencies would be built again.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    if arguments.first().is_some_and(|command| command == "up") {
        host::install(&host::CLUSTER_NEEDS)?;
    }
    exec::run(exec::cargo(root).args(["build", "--workspace", "--bin", PROGRAM, "--quiet"]))?;
    let program = demo::target_folder(root).join("debug").join(PROGRAM);
    exec::become_program(Command::new(program).args(arguments))
}
