//! One node: what it is told by its drive, and the QEMU process that it is.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::control_plane::ControlPlane;
use crate::image::{Image, make_drive};
use crate::namespace::{GATEWAY, Namespace};

/// Most nodes: each has one address of a network of 254, one of which is the control plane's.
pub const NODES_MAX: u8 = 250;

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// From 1; makes its name and its addresses.
    pub number: u8,
    /// Labels, `KEY=VALUE`, separated by commas.
    pub labels: String,
    /// Its memory.
    pub memory_mib: u32,
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        name(self.number)
    }

    fn tap(&self) -> String {
        format!("tap{}", self.number)
    }

    /// Makes its tap and its drive, and gives the command that is this node.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn prepare(&self, plane: &ControlPlane, cluster: &Cluster) -> Result<Command> {
        cluster.namespace.add_tap(&self.tap())?;
        let drive = self.drive(plane, cluster.count)?;
        let log = format!("{}.console.log", self.name());
        let console = plane.client().file("logs").join(log);
        Ok(self.qemu(cluster, &drive, &console))
    }

    /// The drive that tells it what it is.
    fn drive(&self, plane: &ControlPlane, count: u8) -> Result<PathBuf> {
        let name = self.name();
        let folder = plane.client().file("nodes").join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let kubelet = plane.kubeconfig_of(&format!("system:node:{name}"), Some("system:nodes"))?;
        let proxy = plane.kubeconfig_of("system:kube-proxy", None)?;
        let files = [
            ("node.env", self.environment()),
            ("routes", self.routes(count)),
            ("ca.crt", plane.authority()),
            ("kubelet.kubeconfig", kubelet),
            ("kube-proxy.kubeconfig", proxy),
        ];
        for (file, text) in files {
            fs::write(folder.join(file), text).with_context(|| format!("cannot write {file}"))?;
        }
        let drive = folder.with_extension("ext4");
        make_drive(&folder, &drive, 0)?;
        Ok(drive)
    }

    fn environment(&self) -> String {
        let Self { number, labels, .. } = self;
        format!(
            "NODE_NAME={}\nNODE_ADDRESS={}\nNODE_GATEWAY={GATEWAY}\nNODE_PODS={}\nNODE_LABELS={labels}\n",
            self.name(),
            address(*number),
            pods(*number),
        )
    }

    /// Where the other nodes' pods are.
    fn routes(&self, count: u8) -> String {
        let others = (1..=count).filter(|number| *number != self.number);
        others.fold(String::new(), |mut text, number| {
            // Writing to a text does not fail.
            let _written = writeln!(text, "{} {}", pods(number), address(number));
            text
        })
    }

    fn qemu(&self, cluster: &Cluster, own: &Path, console: &Path) -> Command {
        let Cluster { image, .. } = cluster;
        let drive = |path: &Path, more: &str| {
            format!("file={},if=virtio,format=raw,{more}", path.display())
        };
        let mut command = cluster.namespace.command("qemu-system-x86_64");
        command
            // As the lab: a /dev/kvm that is there need not work inside of a virtual machine.
            .args(["-accel", "tcg,thread=multi"])
            .args(["-cpu", "max,la57=off", "-smp", "1"])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-display", "none", "-monitor", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(image.kernel())
            .arg("-initrd")
            .arg(image.initrd())
            .args(["-drive", &drive(&image.root(), "snapshot=on")])
            .args(["-drive", &drive(own, "readonly=on")])
            .args(["-drive", &drive(&cluster.store, "snapshot=on")])
            .arg("-netdev")
            .arg(format!(
                "tap,id=n0,ifname={},script=no,downscript=no",
                self.tap()
            ))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=n0,mac=52:54:00:09:00:{:02x},host_mtu=4500",
                self.number
            ))
            .arg("-append")
            // Without the coldplug of every device: minutes of it, in a guest without hardware
            // help. And without what makes system calls harder to attack: a third of their time.
            .arg(
                "console=ttyS0 panic=-1 mitigations=off audit=0 quiet net.ifnames=0 \
                 init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off lsm= nowatchdog \
                 systemd.mask=systemd-udev-trigger.service",
            );
        command
    }
}

/// What the nodes of a cluster have in common.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its network.
    pub namespace: Namespace,
    /// What nodes boot.
    pub image: Image,
    /// How many nodes it has.
    pub count: u8,
    /// The drive with containerd's store; nodes must not write to it.
    pub store: PathBuf,
}

/// The name of the node with this number.
#[must_use]
pub fn name(number: u8) -> String {
    format!("node-{number}")
}

fn address(number: u8) -> Ipv4Addr {
    let [a, b, c, _] = GATEWAY.octets();
    Ipv4Addr::new(a, b, c, number)
}

/// Addresses of a node's pods.
fn pods(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_told_itself_and_the_way_to_the_others() {
        let node = Node {
            number: 2,
            labels: "a=b,c=d".to_owned(),
            memory_mib: 2048,
        };
        let environment = node.environment();
        assert!(environment.contains("NODE_NAME=node-2\nNODE_ADDRESS=10.9.0.2\n"));
        assert!(environment.ends_with("NODE_PODS=10.244.2.0/24\nNODE_LABELS=a=b,c=d\n"));
        assert_eq!(
            node.routes(3),
            "10.244.1.0/24 10.9.0.1\n10.244.3.0/24 10.9.0.3\n"
        );
    }
}
