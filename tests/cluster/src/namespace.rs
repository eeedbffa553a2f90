//! The network of one cluster: a network namespace with a bridge, and a tap for each node.
//!
//! Everything is inside the namespace, so clusters do not meet, and its members are exactly the
//! processes of the cluster and the shells that people opened in it.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::client::printed;

/// Where `ip netns` names namespaces.
const NAMES: &str = "/run/netns";
/// The bridge inside of the namespace.
const BRIDGE: &str = "br0";
/// Largest frame between nodes. Soft-RoCE sends a whole page in one of them.
const MTU: &str = "4500";

/// The address of the control plane at the bridge; nodes have the others of this network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);
/// Bits of the nodes' network.
const PREFIX: u8 = 24;

/// A network namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The one of the cluster with this name, which may not exist.
    #[must_use]
    pub fn of(cluster: impl std::fmt::Display) -> Self {
        Self {
            name: format!("dynamicswap-{cluster}"),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.place().exists()
    }

    /// Its file, the same as each of its processes has for its network.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Makes it, with its bridge.
    ///
    /// # Errors
    /// If it is there already, or this process may not.
    pub fn create(&self) -> Result<()> {
        ip(&["netns", "add", &self.name])?;
        let address = format!("{GATEWAY}/{PREFIX}");
        self.ip(&["link", "set", "lo", "up"])?;
        self.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        self.ip(&["address", "add", &address, "dev", BRIDGE])?;
        self.ip(&["link", "set", BRIDGE, "mtu", MTU, "up"])
    }

    /// Makes a tap with this name, joined to the bridge.
    ///
    /// # Errors
    /// If this machine has no taps.
    pub fn add_tap(&self, name: &str) -> Result<()> {
        self.ip(&["tuntap", "add", name, "mode", "tap"])?;
        self.ip(&["link", "set", name, "master", BRIDGE, "mtu", MTU, "up"])
    }

    /// A command that runs `program` inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Ids of the processes inside.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let said = ip(&["netns", "pids", &self.name])?;
        Ok(said.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Removes it, with its bridge and taps. It lives on without a name while processes are
    /// inside.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn remove(&self) -> Result<()> {
        ip(&["netns", "delete", &self.name]).map(drop)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()], arguments].concat()).map(drop)
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip: install the package iproute2")?;
    printed("ip", arguments, output)
}
