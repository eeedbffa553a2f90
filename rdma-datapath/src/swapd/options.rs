//! The engine process's command line; the holder writes it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Parser;
use dynamicswap_types::NodeName;

use crate::holder::options::Backend;

/// Serves a swap device. Started by dynamicswap-swapd, with inherited descriptors.
#[derive(Debug, Parser)]
#[command(name = "dynamicswap-swapd-engine", version)]
pub struct Options {
    /// Name of this node.
    #[arg(long)]
    pub node: NodeName,
    /// The holder's state directory.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Descriptor of the FUSE connection, of a fuse-loop device.
    #[arg(long, required_unless_present = "ublk", conflicts_with = "ublk")]
    pub fuse_fd: Option<RawFd>,
    /// Number of the ublk device.
    #[arg(long)]
    pub ublk: Option<u32>,
    /// Why this front end serves.
    #[arg(long, default_value = "")]
    pub front_end_reason: String,
    /// Descriptor of the memory file.
    #[arg(long)]
    pub memory_fd: RawFd,
    /// Descriptor of the listening control socket.
    #[arg(long)]
    pub control_fd: RawFd,
    /// Descriptor of the state directory's lock, kept open for as long as this process lives.
    #[arg(long)]
    pub lock_fd: RawFd,
    /// Descriptor of the spill file.
    #[arg(long)]
    pub spill_fd: Option<RawFd>,
    /// Where page contents go.
    #[arg(long, value_enum, default_value = "remote")]
    pub backend: Backend,
    /// Microseconds to spin before sleeping.
    #[arg(long, default_value_t = 50)]
    pub spin_us: u32,
}
