//! Starting a process in a session of its own, with its output in a log file.
//!
//! The crate's only file with unsafe code.

use std::fs::OpenOptions;
use std::io;
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
    let prepare = || {
        rustix::process::setsid()?;
        leave_descriptors_behind()
    };
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory.
    unsafe { command.pre_exec(prepare) };
    let program = command.get_program().to_owned();
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
    let pid = i32::try_from(child.id()).context("a process id beyond 31 bits")?;
    let record = ProcessRecord::of(name, pid, log)?;
    Ok(Process { record, child })
}

/// Everything beyond the standard streams closes at exec: a daemon outlives its caller, and would
/// keep the caller's pipes, locks and sockets open for as long.
fn leave_descriptors_behind() -> io::Result<()> {
    // SAFETY: the call takes numbers only; descriptors are marked here, and closed by exec.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match marked {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Before Linux 5.11: what the caller did not mark stays open, as ever.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}
