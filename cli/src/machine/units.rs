//! The systemd units of a machine that lends or borrows without Kubernetes: their text.
//!
//! Pure. What each setting is for stands in the unit itself, where an operator reads it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use dynamicswap_types::{Bytes, Integrity, NodeName, SlabSize};

use super::args::{CONTROLLER_PORT, DATA_PORT};
use super::paths::{RUN, STATE};

/// A unit: its file's name and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Such as `dynamicswap-agent.service`.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

/// The agent's unit; both roles have one.
pub const AGENT: &str = "dynamicswap-agent.service";
/// The controller's, on the lender.
pub const CONTROLLER: &str = "dynamicswap-controller.service";
/// The memory server's, on the lender.
pub const MEMORY_SERVER: &str = "dynamicswap-memory-server.service";
/// The swap device's, on the borrower.
pub const SWAPD: &str = "dynamicswap-swapd.service";
/// All of them, in the order in which they are stopped: pages come home while the agent still
/// says so.
pub const ALL: [&str; 4] = [SWAPD, AGENT, MEMORY_SERVER, CONTROLLER];

/// What a lender's units say.
#[derive(Debug, Clone)]
pub struct Lender<'a> {
    /// Directory of the programs.
    pub programs: &'a Path,
    /// This machine.
    pub node: &'a NodeName,
    /// Its address.
    pub address: IpAddr,
    /// Memory to lend.
    pub capacity: Bytes,
    /// Slabs' size.
    pub slab: SlabSize,
}

/// What a borrower's units say.
#[derive(Debug, Clone)]
pub struct Borrower<'a> {
    /// Directory of the programs.
    pub programs: &'a Path,
    /// This machine.
    pub node: &'a NodeName,
    /// The lender's controller.
    pub controller: SocketAddr,
    /// The device's size.
    pub size: Bytes,
    /// Slabs' size, the lender's.
    pub slab: SlabSize,
    /// Whether there is a spill file.
    pub spill: bool,
    /// What protects the device's pages.
    pub integrity: Integrity,
}

/// Where the lender's controller is.
#[must_use]
pub fn controller_of(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, CONTROLLER_PORT)
}

impl Lender<'_> {
    /// Controller, memory server, agent: in the order of their start.
    #[must_use]
    pub fn units(&self) -> Vec<Unit> {
        let controller = controller_of(self.address);
        let data = SocketAddr::new(self.address, DATA_PORT);
        let (node, capacity, slab) = (self.node, self.capacity, self.slab);
        let controller_line =
            format!("controller --listen {controller} --store {STATE}/controller/store.redb");
        let server_line = format!(
            "memory-server --node {node} --listen {data} --rdma-listen {data} \
             --state-dir {RUN}/memory-server --capacity {capacity} --slab {slab} \
             --control-socket {RUN}/memory-server/control.sock"
        );
        let agent_line = agent_line(
            node,
            controller,
            &format!("--memory-server-socket {RUN}/memory-server/control.sock"),
        );
        vec![
            self.unit(CONTROLLER, "controller", "", &controller_line),
            self.unit(
                MEMORY_SERVER,
                "memory server",
                SERVER_SETTINGS,
                &server_line,
            ),
            self.unit(AGENT, "agent", "", &agent_line),
        ]
    }

    fn unit(&self, name: &'static str, what: &str, settings: &str, line: &str) -> Unit {
        unit(self.programs, name, what, settings, line)
    }
}

impl Borrower<'_> {
    /// swapd, agent: in the order of their start.
    #[must_use]
    pub fn units(&self) -> Vec<Unit> {
        let (node, size, slab, integrity) = (self.node, self.size, self.slab, self.integrity);
        let spill = if self.spill {
            format!(" --spill-file {STATE}/swapd/pages")
        } else {
            String::new()
        };
        let engine = self.programs.join("dynamicswap-swapd-engine");
        let swapd_line = format!(
            "swapd --node {node} --state-dir {RUN}/swapd --size {size} --slab {slab} \
             --control-socket {RUN}/swapd/control.sock --engine {} --integrity {integrity} \
             --when-unserved abort{spill}",
            engine.display()
        );
        let agent_line = agent_line(
            node,
            self.controller,
            &format!("--swapd-socket {RUN}/swapd/control.sock --containers-dir {RUN}/containers"),
        );
        vec![
            unit(
                self.programs,
                SWAPD,
                "swap device",
                SWAPD_SETTINGS,
                &swapd_line,
            ),
            unit(self.programs, AGENT, "agent", "", &agent_line),
        ]
    }
}

fn agent_line(node: &NodeName, controller: SocketAddr, daemon: &str) -> String {
    format!(
        "agent --node {node} --failure-domain {node} --controller http://{controller} \
         --state-dir {STATE}/agent {daemon}"
    )
}

/// Settings of the memory server.
const SERVER_SETTINGS: &str = "\
# It keeps the borrowers' pages in a memory file: a new process finds them there.
KillMode=process
OOMScoreAdjust=-1000
";
/// Settings of swapd.
const SWAPD_SETTINGS: &str = "\
ExecStartPre=-/sbin/modprobe -a fuse loop ublk_drv
# A stop swaps the device off first, which takes as long as its pages take to come home. The engine
# goes on meanwhile: only the main process is told to stop, and nobody is killed for being slow.
KillMode=process
TimeoutStopSec=infinity
SendSIGKILL=no
OOMScoreAdjust=-1000
";

fn unit(programs: &Path, name: &'static str, what: &str, settings: &str, line: &str) -> Unit {
    let program = programs.join("dynamicswap-");
    let text = format!(
        "# Made by dynamicswap; 'dynamicswap leave' removes it.
[Unit]
Description=DynamicSwap {what}
# Stopped before the network is: pages come home over it.
Wants=network-online.target
After=network-online.target
# The address, or the other machine, may come up long after this one.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={}{line}
{settings}Restart=always
RestartSec=1
LimitMEMLOCK=infinity
# What serves swap must never be swapped out itself.
MemorySwapMax=0
RuntimeDirectory=dynamicswap-machine dynamicswap-machine/containers
RuntimeDirectoryPreserve=yes
StateDirectory=dynamicswap-machine dynamicswap-machine/controller dynamicswap-machine/swapd

[Install]
WantedBy=multi-user.target
",
        program.display()
    );
    Unit { name, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of<'u>(units: &'u [Unit], name: &str) -> &'u str {
        let unit = units.iter().find(|unit| unit.name == name);
        &unit.expect("the unit").text
    }

    #[test]
    fn lender_serves_on_its_address_by_tcp_and_rdma() {
        let node = "lender".parse().expect("a name");
        let lender = Lender {
            programs: Path::new("/opt/bin"),
            node: &node,
            address: IpAddr::from([10, 0, 0, 1]),
            capacity: Bytes::from_mib(256),
            slab: SlabSize::DEFAULT,
        };
        let units = lender.units();
        let server = text_of(&units, MEMORY_SERVER);
        assert!(server.contains("ExecStart=/opt/bin/dynamicswap-memory-server --node lender"));
        assert!(server.contains("--listen 10.0.0.1:7701 --rdma-listen 10.0.0.1:7701"));
        assert!(server.contains("--capacity 256Mi"));
        assert!(text_of(&units, CONTROLLER).contains("--listen 10.0.0.1:7700"));
        assert!(text_of(&units, AGENT).contains("--controller http://10.0.0.1:7700"));
    }

    #[test]
    fn borrower_s_device_is_not_killed_for_being_slow() {
        let node = "borrower".parse().expect("a name");
        let borrower = |spill| Borrower {
            programs: Path::new("/opt/bin"),
            node: &node,
            controller: controller_of(IpAddr::from([10, 0, 0, 1])),
            size: Bytes::from_mib(224),
            slab: SlabSize::DEFAULT,
            spill,
            integrity: Integrity::Full,
        };
        let units = borrower(true).units();
        let swapd = text_of(&units, SWAPD);
        for setting in [
            "KillMode=process",
            "TimeoutStopSec=infinity",
            "SendSIGKILL=no",
        ] {
            assert!(swapd.lines().any(|line| line == setting), "{setting}");
        }
        assert!(swapd.contains("--spill-file /var/lib/dynamicswap-machine/swapd/pages"));
        assert!(swapd.contains(" --integrity full "));
        assert!(swapd.lines().any(|line| line == "MemorySwapMax=0"));
        let without = borrower(false).units();
        assert!(!text_of(&without, SWAPD).contains("--spill-file"));
    }

    #[test]
    fn every_unit_is_known_to_who_removes_them() {
        assert_eq!(ALL.len(), 4);
        for name in [AGENT, CONTROLLER, MEMORY_SERVER, SWAPD] {
            assert!(ALL.contains(&name));
        }
    }
}
