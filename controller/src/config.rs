//! The command line, and the configuration that it is checked into.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::limits::REPLACE_AFTER_MS_MAX;
use crate::serve::Refusal;

/// The cluster controller of DynamicSwap: plans which memory server holds which slab, persists
/// the plan and serves agents and operators.
#[derive(Debug, Parser)]
#[command(version, name = "dynamicswap-controller")]
pub struct Args {
    /// Address to serve on, as IP:PORT. Port 0 takes a free one; --ready-file says which.
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// File that keeps policies, grants and generations. Made if it does not exist.
    #[arg(long, value_name = "PATH")]
    store: PathBuf,
    /// Time from the loss of a memory server to the replacement of its copies, in milliseconds.
    #[arg(long, default_value_t = 300, value_name = "MS")]
    replace_after_ms: u64,
    /// File to write the address to once the controller serves.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

/// What the controller runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// The store's file.
    pub store: PathBuf,
    /// Time from the loss of a memory server to the replacement of its copies.
    pub replace_after: Duration,
    /// File to write the address to once the controller serves.
    pub ready_file: Option<PathBuf>,
}

impl TryFrom<Args> for Config {
    type Error = Refusal;
    fn try_from(args: Args) -> Result<Self, Refusal> {
        if args.replace_after_ms > REPLACE_AFTER_MS_MAX {
            return Err(Refusal::new(format!(
                "--replace-after-ms {} is over an hour: write at most {REPLACE_AFTER_MS_MAX}",
                args.replace_after_ms
            )));
        }
        Ok(Self {
            listen: args.listen,
            store: args.store,
            replace_after: Duration::from_millis(args.replace_after_ms),
            ready_file: args.ready_file,
        })
    }
}
