//! Where donors of a local cluster take RDMA connections: which address of this machine, if any.
//!
//! Reads sysfs and changes nothing. Whether a borrower really gets there by RDMA is found out, and
//! said, by its engine.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Where the kernel lists its RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";

/// The IPv4 address of the first RDMA port that is up; none where there is no such thing, and pages go
/// over TCP on the loopback.
#[must_use]
pub fn address() -> Option<Ipv4Addr> {
    address_below(Path::new(DEVICES))
}

fn address_below(devices: &Path) -> Option<Ipv4Addr> {
    let devices = children(devices).into_iter();
    let mut ports = devices.flat_map(|device| children(&device.join("ports")));
    ports.find_map(|port| {
        let state = fs::read_to_string(port.join("state")).unwrap_or_default();
        if !state.contains("ACTIVE") {
            return None;
        }
        let gids = children(&port.join("gids")).into_iter();
        gids.filter_map(|gid| fs::read_to_string(gid).ok())
            .find_map(|gid| ipv4_of(&gid))
    })
}

/// RoCE has a GID for each address of the network card: an IPv4 one is mapped into IPv6.
fn ipv4_of(gid: &str) -> Option<Ipv4Addr> {
    let gid: Ipv6Addr = gid.trim().parse().ok()?;
    gid.to_ipv4_mapped()
}

/// What is in a directory, in the order of the names: nothing, if it is not there.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(devices: &Path, device: &str, state: &str, gids: &[&str]) {
        let port = devices.join(device).join("ports/1");
        fs::create_dir_all(port.join("gids")).expect("a directory");
        fs::write(port.join("state"), state).expect("a file");
        for (number, gid) in gids.iter().enumerate() {
            let file = port.join("gids").join(number.to_string());
            fs::write(file, format!("{gid}\n")).expect("a file");
        }
    }

    const LINK_LOCAL: &str = "fe80:0000:0000:0000:5054:00ff:fe00:0001";
    const MAPPED: &str = "0000:0000:0000:0000:0000:ffff:c0a8:4d01";
    const EMPTY: &str = "0000:0000:0000:0000:0000:0000:0000:0000";

    #[test]
    fn first_port_that_is_up_and_has_an_ipv4_address_is_taken() {
        let devices = tempfile::tempdir().expect("a directory");
        port(devices.path(), "mlx5_0", "1: DOWN\n", &[MAPPED]);
        port(
            devices.path(),
            "mlx5_1",
            "4: ACTIVE\n",
            &[LINK_LOCAL, EMPTY],
        );
        assert_eq!(address_below(devices.path()), None);
        port(devices.path(), "rxe0", "4: ACTIVE\n", &[LINK_LOCAL, MAPPED]);
        let expected = Ipv4Addr::new(192, 168, 77, 1);
        assert_eq!(address_below(devices.path()), Some(expected));
    }

    #[test]
    fn machine_without_rdma_has_none() {
        assert_eq!(address_below(Path::new("/nonexistent")), None);
    }
}
