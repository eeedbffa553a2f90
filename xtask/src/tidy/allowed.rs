//! Exceptions to the rules, each with its reason. A finding says which list to look at; an
//! exception that no longer excuses anything is a finding itself.

use super::source::Tree;
use super::{Finding, safety, words};

/// An exception.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// The file.
    pub path: &'static str,
    /// Why.
    #[expect(
        dead_code,
        reason = "read by people: an exception without a reason is none"
    )]
    pub reason: &'static str,
}

/// An exception of one word in one file, or in a folder that ends with '/'.
#[derive(Debug, Clone, Copy)]
pub struct WordException {
    /// The file or folder.
    pub path: &'static str,
    /// The word as the rule prints it.
    pub word: &'static str,
    /// Why.
    #[expect(
        dead_code,
        reason = "read by people: an exception without a reason is none"
    )]
    pub reason: &'static str,
}

/// Files that may hold unsafe code.
pub const UNSAFE_FILES: &[Exception] = &[
    Exception {
        path: "node-agent/src/homecoming/foreign.rs",
        reason: "calls on another process's memory that no library wraps",
    },
    Exception {
        path: "rdma-datapath/src/holder/pinned.rs",
        reason: "the engine's program is mapped and locked, so that starting it needs no disk",
    },
    Exception {
        path: "rdma-datapath/src/swapd/inherited.rs",
        reason: "descriptors that the holder hands over are taken by number",
    },
    Exception {
        path: "rdma-datapath/src/swapd/memory.rs",
        reason: "the memory file is seen as the engine's tables and as the buffer pool",
    },
    Exception {
        path: "rdma-datapath/src/swapd/spill.rs",
        reason: "submission to io_uring has no safe call",
    },
    Exception {
        path: "rdma-datapath/tests/io_path_allocates_nothing.rs",
        reason: "a global allocator is an unsafe trait; it counts allocations",
    },
    Exception {
        path: "rdma-datapath/src/verbs/abi.rs",
        reason: "types of the calls that the headers of libibverbs inline; it calls none",
    },
    Exception {
        path: "rdma-datapath/src/verbs/library.rs",
        reason: "loads libibverbs and librdmacm at run time",
    },
    Exception {
        path: "rdma-datapath/src/verbs/objects.rs",
        reason: "calls libibverbs: devices, domains, regions, completion queues",
    },
    Exception {
        path: "rdma-datapath/src/verbs/queue.rs",
        reason: "chains work requests by pointers, as libibverbs wants them",
    },
    Exception {
        path: "rdma-datapath/src/verbs/connection.rs",
        reason: "calls librdmacm: connections and their queue pairs",
    },
    Exception {
        path: "rdma-datapath/src/transport/rdma/mod.rs",
        reason: "registers the buffer pool with the devices",
    },
    Exception {
        path: "rdma-datapath/src/memory_server/rdma/session.rs",
        reason: "registers slots with the device",
    },
    Exception {
        path: "bench/src/counting_allocator.rs",
        reason: "a global allocator is an unsafe trait; it counts allocations",
    },
    Exception {
        path: "cli/src/process/spawn.rs",
        reason: "a new session between fork and exec has no safe call",
    },
    Exception {
        path: "rdma-datapath/src/daemon/mapped_file.rs",
        reason: "memory files are mapped and split into words and bytes",
    },
    Exception {
        path: "rdma-datapath/src/daemon/signals.rs",
        reason: "rustix has no signal masks",
    },
    Exception {
        path: "rdma-datapath/src/device/loop_device.rs",
        reason: "ioctls of the loop driver",
    },
    Exception {
        path: "rdma-datapath/src/device/raw.rs",
        reason: "ioctls of the block layer",
    },
    Exception {
        path: "rdma-datapath/src/front_end/ublk/control.rs",
        reason: "commands to the ublk driver name buffers, and go by io_uring",
    },
    Exception {
        path: "rdma-datapath/src/front_end/ublk/queue.rs",
        reason: "requests come by io_uring, and in memory shared with the kernel",
    },
    Exception {
        path: "rdma-datapath/src/front_end/ublk/starter.rs",
        reason: "a thread's scheduling class has no safe call",
    },
    Exception {
        path: "rdma-datapath/src/device/swap_area.rs",
        reason: "swapon and swapoff have no safe call",
    },
    Exception {
        path: "rdma-datapath/tests/no_allocation.rs",
        reason: "a global allocator is an unsafe trait; it counts allocations",
    },
    Exception {
        path: "tests/workload/src/container.rs",
        reason: "entering a cgroup between fork and exec has no safe call",
    },
    Exception {
        path: "tests/workload/src/region.rs",
        reason: "owns anonymous memory that the kernel may swap",
    },
];

/// Words to avoid that stand somewhere for a reason.
pub const WORDS: &[WordException] = &[
    WordException {
        path: "docs/glossary.md",
        word: concat!("mas", "ter"),
        reason: "names the words to avoid",
    },
    WordException {
        path: "docs/glossary.md",
        word: concat!("sla", "ve"),
        reason: "names the words to avoid",
    },
    WordException {
        path: "docs/glossary.md",
        word: concat!("chu", "nk"),
        reason: "names the words to avoid",
    },
    WordException {
        path: "rdma-datapath/src/front_end/fuse_loop/connection.rs",
        word: concat!("mas", "ter"),
        reason: "a field of /proc/self/mountinfo as the kernel prints it",
    },
    WordException {
        path: "tests/cluster/src/control_plane.rs",
        word: concat!("mas", "ter"),
        reason: "Kubernetes' name of the group that may do everything",
    },
    WordException {
        path: "tests/cluster/src/namespace.rs",
        word: concat!("mas", "ter"),
        reason: "iproute2's word for the bridge of an interface",
    },
    WordException {
        path: "xtask/src/tidy/words.rs",
        word: concat!("chu", "nk"),
        reason: "lists methods of the standard library that hold it",
    },
];

/// Exceptions that excuse nothing.
pub fn stale(tree: &Tree) -> Vec<Finding> {
    let list = "xtask/src/tidy/allowed.rs";
    let remedy = "delete the exception";
    let unsafe_files = UNSAFE_FILES.iter().filter(|exception| {
        let file = tree.rust.iter().find(|file| file.path == exception.path);
        !file.is_some_and(safety::has_unsafe)
    });
    let mut findings: Vec<Finding> = unsafe_files
        .map(|exception| {
            Finding::new(
                list,
                1,
                format!("{} has no unsafe code", exception.path),
                remedy,
            )
        })
        .collect();
    let idle = WORDS.iter().filter(|exception| {
        let mut texts = tree
            .texts
            .iter()
            .filter(|file| file.path.starts_with(exception.path));
        !texts.any(|file| words::has_word(&file.text, exception.word))
    });
    findings.extend(idle.map(|exception| {
        let what = format!("{} does not hold '{}'", exception.path, exception.word);
        Finding::new(list, 1, what, remedy)
    }));
    findings
}
