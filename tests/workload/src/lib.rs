//! Workloads that verify every byte they own, and the watchdog that stands beside them.
//!
//! Owns the page register, the `verify` and `redis` workloads, the container (memory cgroup with
//! a limit) that they run in, and the watchdog. Knows no other part of DynamicSwap: it sees the
//! swap device as any program would.

pub mod allowance;
pub mod container;
pub mod control;
pub mod layer;
pub mod line;
pub mod meter;
pub mod page;
pub mod redis;
pub mod region;
pub mod verify;
pub mod watchdog;
