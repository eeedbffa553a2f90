//! Starting other programs: with their output shown, kept, or taking over this process.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

/// `cargo` as it was called, in the workspace's folder.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// The command line as a person would type it.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs the command with its output shown; an error if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command
        .status()
        .with_context(|| format!("'{line}' could not be started"))?;
    if !status.success() {
        bail!("'{line}' ended with {status}");
    }
    Ok(())
}

/// Runs the command, shows its standard output and hands each line of it to `line_seen`.
/// Returns whether it succeeded.
pub fn run_watched(command: &mut Command, mut line_seen: impl FnMut(&str)) -> Result<bool> {
    let name = describe(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("'{name}' could not be started"))?;
    let output = child
        .stdout
        .take()
        .context("standard output is not piped")?;
    let mut shown = std::io::stdout().lock();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("reading the output of '{name}'"))?;
        let line = String::from_utf8_lossy(&line);
        writeln!(shown, "{line}").context("standard output is closed")?;
        line_seen(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for '{name}'"))?;
    Ok(status.success())
}

/// Becomes the command: its signals, output and exit code are this process's. Returns only on
/// failure to start it.
pub fn become_program(command: &mut Command) -> Result<ExitCode> {
    let line = describe(command);
    Err(command.exec()).with_context(|| format!("'{line}' could not be started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_command_hands_over_each_line_and_its_verdict() {
        let mut lines = Vec::new();
        let mut command = Command::new("printf");
        let good = run_watched(command.arg("a\\nb\\n"), |line| lines.push(line.to_owned()));
        assert!(good.expect("printf runs"));
        assert_eq!(lines, ["a", "b"]);
        let bad = run_watched(&mut Command::new("false"), |_| {});
        assert!(!bad.expect("false runs"));
    }

    #[test]
    fn failure_names_the_command() {
        let error = run(Command::new("false").arg("now")).expect_err("false fails");
        assert!(error.to_string().contains("'false now' ended with"));
    }
}
