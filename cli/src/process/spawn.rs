//! Starting a process in a session of its own, with its output in a log file.
//!
//! The crate's only file with unsafe code.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Process, ProcessRecord};

/// Starts `command` as `name`, in a session of its own, so that neither Ctrl-C nor the end of the
/// terminal reaches it. Its standard error is appended to `log`, and so is its output, unless the
/// command has a place for it already.
///
/// # Errors
/// If the log cannot be opened or the program not started.
pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    let output = file
        .try_clone()
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output).stderr(file);
    spawn_prepared(name, command, log)
}

/// As [`spawn`], with the standard streams as `command` has them.
///
/// # Errors
/// If the program cannot be started.
pub fn spawn_prepared(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
    // SAFETY: between fork and exec the closure makes one system call and touches no memory.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
    let program = command.get_program().to_owned();
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
    let pid = i32::try_from(child.id()).context("a process id beyond 31 bits")?;
    let record = ProcessRecord::of(name, pid, log)?;
    Ok(Process { record, child })
}
