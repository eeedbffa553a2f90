//! The holder: opens the device, keeps its descriptors and memory, and starts, watches and
//! replaces the engine process that serves it.
//!
//! One thread, no I/O on the device: whatever may wait for the device runs in an engine or in a
//! helper process. An upgrade replaces the engine, never the holder.

mod attachment;
mod front;
mod helper;
mod leftovers;
pub mod options;
mod pinned;
mod process;
mod resources;
mod supervisor;
mod takeover;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::daemon::options::{BadInput, exit_code, start_log};
use crate::daemon::protection::Protection;
use crate::daemon::signals::Signals;
use options::{CommandLine, Options};
use resources::Resources;
use rustix::process::Signal;
use watch::Watch;

/// The program `dynamicswap-swapd`.
#[must_use]
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    start_log();
    match (line.helper, line.holder) {
        (Some(helper), _) => helper::run(helper),
        (None, Some(options)) => exit_code("dynamicswap-swapd", hold(&options)),
        (None, None) => exit_code(
            "dynamicswap-swapd",
            Err(BadInput::new("nothing to do: see --help").into()),
        ),
    }
}

fn hold(options: &Options) -> anyhow::Result<()> {
    options.validate()?;
    if !rustix::process::geteuid().is_root() {
        let sentence = "swap devices need root: run as root with CAP_SYS_ADMIN";
        return Err(BadInput::new(sentence).into());
    }
    let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP])?;
    for warning in Protection::start().warnings() {
        tracing::warn!("{warning}");
    }
    let (resources, engine) = Resources::make(options)?;
    Watch::new(options, resources, signals, engine)?.run()
}
