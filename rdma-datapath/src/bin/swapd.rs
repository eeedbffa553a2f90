//! `dynamicswap-swapd`: the holder of a swap device. See [`dynamicswap_datapath::holder`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamicswap_datapath::holder::main()
}
