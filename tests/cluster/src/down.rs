//! `down`: ends every process of a cluster and removes its network and its folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dynamicswap_cli::failure::Refusal;
use dynamicswap_cli::process::ProcessRecord;
use rustix::process::Signal;

use crate::namespace::Namespace;
use crate::record::{Paths, Record};

/// A killed process ends within it, unless the kernel holds it.
pub(crate) const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// Takes a cluster down; says what could not be removed.
///
/// # Errors
/// A refusal if there is none, or if this process is inside.
pub fn down(paths: &Paths) -> Result<Vec<String>> {
    if !paths.exist() {
        return Err(Refusal::error(format!(
            "no cluster '{}' is up: there is nothing to remove",
            paths.name
        )));
    }
    if paths.namespace.exists() && is_inside(&paths.namespace, "self")? {
        return Err(Refusal::error(
            "this shell is inside of the cluster's network, and would end with it: leave it first",
        ));
    }
    // A record that cannot be read hides nothing: the namespace knows its processes, too.
    let record = Record::read(paths).ok().flatten();
    let processes = record.map_or_else(Vec::new, |record| record.processes);
    Ok(take_down(paths, &processes))
}

/// Ends these processes and all others in the cluster's namespace, and removes the rest; says
/// what could not be removed.
pub fn take_down(paths: &Paths, processes: &[ProcessRecord]) -> Vec<String> {
    let mut left = Vec::new();
    // Of a machine that has booted since, the record's processes are not alive: an id that was
    // given away again has another start time.
    for process in processes {
        process.signal(Signal::KILL);
    }
    let deadline = Instant::now() + KILL_TIME_MAX;
    let rest = |process: &&ProcessRecord| {
        !process.wait_end(deadline.saturating_duration_since(Instant::now()))
    };
    left.extend(processes.iter().filter(rest).map(describe));
    if paths.namespace.exists() {
        left.extend(empty(&paths.namespace, deadline));
        if let Err(error) = paths.namespace.remove() {
            left.push(format!("{error:#}"));
        }
    }
    if paths.folder.exists()
        && let Err(error) = fs::remove_dir_all(&paths.folder)
    {
        left.push(format!("{}: {error}", paths.folder.display()));
    }
    if let Some(root) = paths.folder.parent() {
        // Unless other clusters are in it.
        let _in_use = fs::remove_dir(root);
    }
    left
}

fn describe(process: &ProcessRecord) -> String {
    format!("{} (pid {})", process.name, process.pid)
}

/// Ends all processes in a namespace: shells that are open there, and what an `up` that was
/// killed had not written down. Gives those that do not end.
fn empty(namespace: &Namespace, deadline: Instant) -> Vec<String> {
    loop {
        let members = members(namespace);
        if members.is_empty() {
            return Vec::new();
        }
        if Instant::now() > deadline {
            return members.iter().map(describe).collect();
        }
        for member in &members {
            member.signal(Signal::KILL);
        }
        for member in &members {
            let _ended = member.wait_end(Duration::from_secs(1));
        }
    }
}

/// The processes in a namespace. Each is looked up by its id and then once more for where it is,
/// so an id that another process takes meanwhile is not mistaken.
fn members(namespace: &Namespace) -> Vec<ProcessRecord> {
    let pids = namespace.processes().unwrap_or_default();
    let records = pids
        .into_iter()
        .filter_map(|pid| ProcessRecord::of("in the namespace", pid, Path::new("")).ok());
    records
        .filter(|record| {
            is_inside(namespace, &record.pid.to_string()).unwrap_or(false) && record.is_alive()
        })
        .collect()
}

/// Whether a process is in a namespace.
fn is_inside(namespace: &Namespace, process: &str) -> Result<bool> {
    let own = fs::metadata(format!("/proc/{process}/ns/net"))
        .with_context(|| format!("cannot look at process {process}"))?;
    let other = fs::metadata(namespace.place())
        .with_context(|| format!("cannot look at {}", namespace.place().display()))?;
    Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
}
