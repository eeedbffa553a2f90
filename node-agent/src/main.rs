//! `dynamicswap-agent`: start and end of the node agent.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use dynamicswap_agent::agent::Agent;
use dynamicswap_agent::config::{Args, Config, Refusal};
use dynamicswap_agent::document::{DocumentError, KeptDocument};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for bad input, as for a wrong command line.
const EXIT_REFUSED: u8 = 2;
/// Exit code for what is nobody's input.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamicswap-agent: {error:#}");
            let refused = error.is::<Refusal>() || error.is::<DocumentError>();
            ExitCode::from(if refused { EXIT_REFUSED } else { EXIT_FAILED })
        }
    }
}

fn run(args: Args) -> Result<()> {
    let config = Config::try_from(args)?;
    let kept = KeptDocument::load(&config.state_dir)?;
    // One thread does: nothing here computes, and a small agent leaves the node to its work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        tokio::select! {
            () = Agent::new(config, kept).run() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}
