//! Samples over time, as the demo takes them and as report.json keeps them.

use serde::{Deserialize, Serialize};

/// All samples of a run. Times are milliseconds since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Names of the donors, in the order of [`ClusterSample::held`].
    pub donors: Vec<String>,
    /// What the workload tells of itself.
    pub workload: Vec<WorkloadSample>,
    /// What the controller tells.
    pub cluster: Vec<ClusterSample>,
    /// What the kernel tells of the workload's stalls.
    pub pressure: Vec<PressureSample>,
    /// What the kernel tells of the swap device.
    pub device: Vec<DeviceSample>,
}

/// One progress line of the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSample {
    /// When.
    pub t_ms: u64,
    /// Operations a second since the last sample.
    pub ops_per_second: f64,
    /// Bytes touched, in MB a second.
    pub mb_per_second: f64,
    /// Accesses that waited for the device.
    pub swap_ins: u64,
    /// Their median, in microseconds.
    pub p50_us: u64,
    /// Their 99th percentile.
    pub p99_us: u64,
    /// The longest, those still under way included.
    pub max_us: u64,
}

/// One look at the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSample {
    /// When.
    pub t_ms: u64,
    /// Bytes of pages that each donor holds.
    pub held: Vec<u64>,
    /// Bytes of pages on the device: each page once.
    pub used: u64,
    /// Bytes of pages with too few copies.
    pub degraded: u64,
    /// Bytes of its host that each donor's memory server takes.
    #[serde(default)]
    pub memory: Vec<u64>,
}

/// PSI of the workload since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureSample {
    /// When.
    pub t_ms: u64,
    /// Share of the time in which some task stalled, in percent.
    pub some: f64,
    /// Share of the time in which all tasks stalled, in percent.
    pub full: f64,
}

/// The block device since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSample {
    /// When.
    pub t_ms: u64,
    /// Mean time of a read, in microseconds; 0 without reads.
    pub read_us: f64,
    /// Mean time of a write, in microseconds; 0 without writes.
    pub write_us: f64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}
