//! A small cluster on this machine: every process real, nothing shared but the kernel.
//!
//! Owns starting it, finding it again and taking it away without a trace.

pub mod caution;
pub mod down;
pub mod host;
pub mod leftovers;
pub mod paths;
pub mod rdma;
pub mod record;
pub mod up;
