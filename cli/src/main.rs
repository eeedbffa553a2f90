//! `dynamicswap`: hands the command line to the library and its exit code back.
//!
//! Under the name `kubectl-dynamicswap` it is a plugin of kubectl, and asks the controller of the
//! cluster that kubectl is set up for.

use std::env::args_os;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use dynamicswap_cli::args::Cli;

fn main() -> ExitCode {
    let name = args_os().next().unwrap_or_default();
    let is_plugin = Path::new(&name)
        .file_name()
        .is_some_and(|name| name == "kubectl-dynamicswap");
    let mut command = Cli::command();
    if is_plugin {
        command = command.bin_name("kubectl dynamicswap");
    }
    let mut cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if is_plugin && let Some(connect) = cli.command.connect_mut() {
        connect.kubernetes = connect.controller.is_none();
    }
    dynamicswap_cli::run(cli)
}
