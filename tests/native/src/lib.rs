//! Fixtures of the native tests: a real local cluster, a watchdog beside it, workloads inside
//! memory cgroups, and kill -9.
//!
//! Owns what a test starts, from start to removal. The rules are in `tests/native.rs`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod host;
pub mod workload;

/// Policy of two copies without a disk, with short waits so that a test sees their ends.
pub const TWO_COPIES: &str = "apiVersion: dynamicswap.io/v1alpha1
kind: RemoteMemoryPolicy
metadata:
  name: native
spec:
  podSelector: {}
  durability:
    copies: 2
    spill: None
  stall:
    writeHold: 2s
    readStall: 5s
";
