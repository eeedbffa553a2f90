//! A node's power: off as when its plug is pulled, and on again with nothing but what it boots from.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::down::KILL_TIME_MAX;
use crate::family::{Family, Lifetime};
use crate::record::{Paths, Record};

/// A node that is off, and what starts it.
#[derive(Debug)]
pub struct Off {
    name: String,
    command: Vec<OsString>,
}

/// Turns a node off: neither its kernel nor anything on it has time for a word.
///
/// # Errors
/// If the cluster has no such node, or it does not end.
pub fn off(paths: &Paths, name: &str) -> Result<Off> {
    let record = Record::load(paths)?;
    let mut processes = record.processes.iter();
    let node = processes.find(|it| it.name == name && it.is_alive());
    let node = node.with_context(|| format!("no node '{name}' runs"))?;
    let line = format!("/proc/{}/cmdline", node.pid);
    let line = fs::read(&line).with_context(|| format!("cannot read {line}"))?;
    let words = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let command = words.map(|word| OsString::from_vec(word.to_vec()));
    let off = Off {
        name: name.to_owned(),
        command: command.collect(),
    };
    node.signal(Signal::KILL);
    ensure!(node.wait_end(KILL_TIME_MAX), "{name} does not end");
    Ok(off)
}

/// Turns it on again.
///
/// # Errors
/// If it cannot be started.
pub fn on(paths: &Paths, off: Off) -> Result<()> {
    let (program, arguments) = off.command.split_first().context("an empty command")?;
    let mut command = paths.namespace.command(program);
    command.args(arguments);
    let mut family = Family::new(&paths.folder.join("logs"), Lifetime::Keepable)?;
    family.start(&off.name, command)?;
    let mut record = Record::load(paths)?;
    record.processes.retain(|it| it.name != off.name);
    record.processes.extend(family.records());
    // What is not written down is ended with the family.
    record.save(paths)?;
    let _kept = family.keep();
    Ok(())
}
