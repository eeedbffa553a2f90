//! Units on this machine: put there, started, stopped, removed. All I/O with systemd is here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::paths::UNITS;
use super::units::{ALL, Unit};
use crate::failure::Refusal;
use crate::refuse_unless;

/// Restarts after which a unit counts as failing: a daemon may wait for another one's start once.
const RESTARTS_MAX: u32 = 3;
/// Lines of a unit's log that tell why it failed.
const LOG_LINES: &str = "4";

fn file(name: &str) -> PathBuf {
    Path::new(UNITS).join(name)
}

/// Refuses a machine that systemd does not run.
///
/// # Errors
/// A refusal.
pub fn check() -> Result<()> {
    refuse_unless!(
        Path::new("/run/systemd/system").exists(),
        "systemd does not run this machine, and it is what starts the daemons: start them yourself \
         with the command lines that --print-units shows"
    );
    Ok(())
}

/// Names of our units on this machine.
#[must_use]
pub fn present() -> Vec<&'static str> {
    ALL.into_iter().filter(|name| file(name).exists()).collect()
}

/// Writes the units, starts them in their order, and has them start at boot.
///
/// # Errors
/// If a file cannot be written or a unit does not start.
pub fn install(units: &[Unit]) -> Result<()> {
    for unit in units {
        let path = file(unit.name);
        fs::write(&path, &unit.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    systemctl(&["daemon-reload"])?;
    for unit in units {
        systemctl(&["enable", "--now", "--quiet", unit.name])
            .map_err(|error| error.context(log_of(unit.name)))?;
    }
    Ok(())
}

/// Asks a unit to stop and returns at once.
///
/// # Errors
/// If systemd refuses.
pub fn begin_stop(unit: &str) -> Result<()> {
    systemctl(&["stop", "--no-block", unit])
}

/// Whether a unit runs, starts or stops.
#[must_use]
pub fn is_active(unit: &str) -> bool {
    let state = Command::new("systemctl").args(["is-active", unit]).output();
    let state = state.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    state.is_ok_and(|state| !matches!(state.as_str(), "inactive" | "failed" | "unknown"))
}

/// Whether a unit that should run does not, or is started again and again.
#[must_use]
pub fn is_failing(unit: &str) -> bool {
    let shown = Command::new("systemctl")
        .args(["show", "--value", "--property=NRestarts", unit])
        .output();
    let restarts = shown.map(|output| String::from_utf8_lossy(&output.stdout).trim().parse());
    let again = matches!(restarts, Ok(Ok(RESTARTS_MAX..=u32::MAX)));
    again || !is_active(unit)
}

/// Removes a unit that has stopped.
///
/// # Errors
/// If its file cannot be removed.
pub fn remove(unit: &str) -> Result<()> {
    systemctl(&["disable", "--quiet", unit])?;
    let path = file(unit);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    systemctl(&["daemon-reload"])
}

/// The end of a unit's log, for a message.
#[must_use]
pub fn log_of(unit: &str) -> String {
    let log = Command::new("journalctl")
        .args([
            "--quiet",
            "--no-pager",
            "--output=cat",
            "-n",
            LOG_LINES,
            "-u",
            unit,
        ])
        .output();
    let said = log.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match said {
        Ok(said) if !said.is_empty() => {
            format!("{unit} said:\n    {}", said.replace('\n', "\n    "))
        }
        _ => format!("{unit} said nothing; see 'systemctl status {unit}'"),
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run systemctl")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Refusal::error(format!(
        "systemctl {} failed: {}",
        arguments.join(" "),
        said.trim()
    )))
}
