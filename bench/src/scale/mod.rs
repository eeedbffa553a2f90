//! What agent and controller cost at the size that is promised: the programs themselves, with whatever
//! is around them simulated in this process.

pub mod agent;
mod containers;
pub mod controller;
mod daemons;
mod plane;
mod process;
mod session;
mod socket;

pub use process::Figures;

use std::future::Future;

use anyhow::{Context as _, Result};

/// Runs what is simulated around the measured program.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.context("cannot start the runtime")?.block_on(work)
}
