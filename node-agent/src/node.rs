//! The node's own figures, and this process's, from /proc.

use dynamicswap_policy::Memory;
use dynamicswap_types::Bytes;
use procfs::{Current as _, Meminfo};

/// The node's pressure file.
pub const PRESSURE_FILE: &str = "/proc/pressure/memory";

/// Memory of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeMemory {
    /// All RAM.
    pub total: Bytes,
    /// What could be had without swapping, as the kernel estimates it.
    pub available: Bytes,
    /// All swap.
    pub swap_total: Bytes,
    /// Swap in use.
    pub swap_used: Bytes,
}

impl NodeMemory {
    /// Reads it; a figure that the host does not have is zero, and none is there if it cannot be read: then
    /// nobody must take a node for one without memory.
    #[must_use]
    pub fn read() -> Option<Self> {
        let memory = Meminfo::current().ok()?;
        Some(Self {
            total: Bytes::new(memory.mem_total),
            available: Bytes::new(memory.mem_available.unwrap_or(0)),
            swap_total: Bytes::new(memory.swap_total),
            swap_used: Bytes::new(memory.swap_total.saturating_sub(memory.swap_free)),
        })
    }
}

/// Pages that the kernel has looked at because the node itself was short, not a cgroup of it; none
/// if the host does not say.
#[must_use]
pub fn pages_scanned() -> Option<u64> {
    scanned(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn scanned(vmstat: &str) -> Option<u64> {
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    Some(count("pgscan_kswapd ")?.saturating_add(count("pgscan_direct ")?))
}

impl From<NodeMemory> for Memory {
    fn from(memory: NodeMemory) -> Self {
        Self {
            used: memory.total.saturating_sub(memory.available),
            limit: Some(memory.total),
            swapped: memory.swap_used,
        }
    }
}

/// An attached swap device of the kinds that swapd makes; the first one.
#[must_use]
pub fn swap_device_that_may_be_ours() -> Option<String> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    of_our_kind(&swaps)
}

/// A line says path and type first. The kernel writes the path as seen from here, which for a device that
/// another container turned on may be its last part alone.
fn of_our_kind(swaps: &str) -> Option<String> {
    let mut devices = swaps.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let device = words.next()?;
        (words.next()? == "partition").then_some(device)
    });
    let ours = devices.find(|device| {
        let name = device.rsplit('/').next().unwrap_or(device);
        ["ublkb", "loop"].iter().any(|kind| name.starts_with(kind))
    });
    ours.map(str::to_owned)
}

/// Resident memory of this process.
#[must_use]
pub fn own_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_of_swapd_is_told_from_others() {
        let head = "Filename\t\t\tType\t\tSize\tUsed\tPriority\n";
        let swaps =
            |line: &str| of_our_kind(&format!("{head}/dev/zram0 partition 8 0 100\n{line}"));
        assert_eq!(swaps(""), None);
        let ours = swaps("/dev/ublkb0 partition 8 0 -2\n");
        assert_eq!(ours.as_deref(), Some("/dev/ublkb0"));
        // Turned on by a container that is gone.
        assert!(swaps("/ublkb0 partition 8 0 -2\n").is_some());
        assert_eq!(swaps("/loop file 8 0 -2\n"), None);
    }

    #[test]
    fn scans_are_those_of_the_node_s_own_shortage() {
        let vmstat = "pgscan_kswapd 5\npgscan_direct 7\npgscan_direct_throttle 9\n";
        assert_eq!(scanned(vmstat), Some(12));
        assert_eq!(scanned("nr_free_pages 1\n"), None);
    }

    #[test]
    fn node_and_process_have_memory() {
        let memory = NodeMemory::read().expect("it can be read");
        assert!(memory.total > Bytes::ZERO && memory.available <= memory.total);
        assert!(own_resident_bytes() > 0);
    }
}
