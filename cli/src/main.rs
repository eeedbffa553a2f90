//! `dynamicswap`, also installed as `kubectl-dynamicswap`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    dynamicswap_cli::run(dynamicswap_cli::args::Cli::parse())
}
