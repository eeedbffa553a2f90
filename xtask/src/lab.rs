//! `cargo xtask lab`: builds the workspace and becomes the lab.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{demo, exec, host};

/// Program of the lab.
const PROGRAM: &str = "dynamicswap-lab";

/// Becomes the lab with these arguments. The whole workspace is built, as the tests build it:
/// guests run its programs and examples.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    host::install(&host::LAB_NEEDS)?;
    exec::run(exec::cargo(root).args(["build", "--workspace", "--all-targets", "--quiet"]))?;
    exec::become_program(built(root).args(arguments))
}

/// The lab as the workspace's build left it.
pub fn built(root: &Path) -> Command {
    let program = demo::target_folder(root).join("debug").join(PROGRAM);
    let mut lab = Command::new(program);
    lab.current_dir(root);
    lab
}
