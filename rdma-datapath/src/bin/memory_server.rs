//! `dynamicswap-memory-server`: see `dynamicswap_datapath::memory_server`.

use std::process::ExitCode;

use clap::Parser as _;
use dynamicswap_datapath::daemon::options::{exit_code, start_log};
use dynamicswap_datapath::memory_server::{options::Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    start_log();
    exit_code("dynamicswap-memory-server", run(&options))
}
