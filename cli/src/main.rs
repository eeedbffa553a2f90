//! `dynamicswap`: hands the command line to the library and its exit code back.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    dynamicswap_cli::run(dynamicswap_cli::args::Cli::parse())
}
