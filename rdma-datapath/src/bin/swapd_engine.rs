//! `dynamicswap-swapd-engine`: serves a swap device. See [`dynamicswap_datapath::swapd`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamicswap_datapath::swapd::main()
}
