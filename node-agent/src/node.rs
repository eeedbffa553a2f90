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
    /// Reads it; a figure that the host does not have is zero.
    #[must_use]
    pub fn read() -> Self {
        let Ok(memory) = Meminfo::current() else {
            return Self::default();
        };
        Self {
            total: Bytes::new(memory.mem_total),
            available: Bytes::new(memory.mem_available.unwrap_or(0)),
            swap_total: Bytes::new(memory.swap_total),
            swap_used: Bytes::new(memory.swap_total.saturating_sub(memory.swap_free)),
        }
    }
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
    fn node_and_process_have_memory() {
        let memory = NodeMemory::read();
        assert!(memory.total > Bytes::ZERO && memory.available <= memory.total);
        assert!(own_resident_bytes() > 0);
    }
}
