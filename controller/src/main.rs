//! The `dynamicswap-controller` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dynamicswap_controller::{Args, Config, Refusal, run};
use tracing_subscriber::EnvFilter;

/// Exit code for bad input, as for a wrong command line.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match Config::try_from(Args::parse())
        .map_err(anyhow::Error::from)
        .and_then(run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Refusal>() => {
            eprintln!("dynamicswap-controller: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
        Err(error) => {
            eprintln!("dynamicswap-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
