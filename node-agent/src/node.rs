//! The node's own figures: PSI and memory.

use dynamicswap_proto::control::v1::NodePressure;
use procfs::{Current as _, Meminfo, MemoryPressure};

use crate::containers::pressure_line;

/// Reads them; what the host does not have stays absent.
#[must_use]
pub fn pressure() -> NodePressure {
    let pressure = MemoryPressure::current().ok();
    let memory = Meminfo::current().ok();
    let memory = memory.as_ref();
    NodePressure {
        some: pressure
            .as_ref()
            .map(|pressure| pressure_line(&pressure.some)),
        full: pressure
            .as_ref()
            .map(|pressure| pressure_line(&pressure.full)),
        memory_total_bytes: memory.map_or(0, |memory| memory.mem_total),
        memory_available_bytes: memory.and_then(|memory| memory.mem_available).unwrap_or(0),
        swap_total_bytes: memory.map_or(0, |memory| memory.swap_total),
        swap_used_bytes: memory.map_or(0, |m| m.swap_total.saturating_sub(m.swap_free)),
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
