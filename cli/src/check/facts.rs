//! What the host has, read from /proc, /sys and /dev. Changes nothing.

use std::fs;
use std::path::Path;

use dynamicswap_types::Bytes;

use crate::cluster::caution::{self, kernel_release};
use crate::cluster::host;

/// Everything that the judgement needs to know.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Release of the kernel, as uname has it.
    pub kernel: String,
    /// Whether the user is root.
    pub is_root: bool,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Why /dev/fuse cannot be used; none if it can.
    pub fuse_trouble: Option<String>,
    /// Whether loop devices can be made.
    pub has_loop: bool,
    /// Whether ublk devices can be made.
    pub has_ublk: bool,
    /// Tools that are not installed.
    pub tools_missing: Vec<&'static str>,
    /// Whether cgroup v2 has the memory controller.
    pub has_memory_v2: bool,
    /// Whether cgroup v1 has it.
    pub has_memory_v1: bool,
    /// Whether the kernel reports memory pressure.
    pub has_psi: bool,
    /// What /proc/sys/kernel/io_uring_disabled says; none on kernels without it.
    pub io_uring_disabled: Option<u32>,
    /// RDMA devices.
    pub rdma_devices: Vec<String>,
    /// What other swap spoils, in words.
    pub other_swap: Option<String>,
    /// Memory that could be had now.
    pub available: Bytes,
}

impl Facts {
    /// Looks at this host.
    #[must_use]
    pub fn gather() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: kernel_release(),
            is_root: rustix::process::geteuid().is_root(),
            capabilities: caution::capabilities().unwrap_or_default(),
            fuse_trouble: host::fuse_trouble(),
            has_loop: Path::new("/dev/loop-control").exists(),
            has_ublk: Path::new("/dev/ublk-control").exists(),
            tools_missing: host::tools_missing(),
            has_memory_v2: has_word(&read("/sys/fs/cgroup/cgroup.controllers"), "memory"),
            has_memory_v1: Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists(),
            has_psi: Path::new("/proc/pressure/memory").exists(),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
                .trim()
                .parse()
                .ok(),
            rdma_devices: names("/sys/class/infiniband"),
            other_swap: caution::swap(),
            available: host::available(&read("/proc/meminfo")).unwrap_or_default(),
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_whole_words() {
        assert!(has_word("cpu memory io", "memory"));
        assert!(!has_word("cpu hugememory", "memory"));
    }
}
