//! The engine process of swapd: serves the device's requests from one I/O thread.
//!
//! Owns everything that an engine process has. What outlives it (the FUSE connection, the memory
//! file, the control socket) belongs to the holder, which starts it with inherited descriptors.

pub mod carrier;
pub mod control;
pub mod document;
mod inherited;
pub mod io_thread;
mod kept;
pub mod latencies;
pub mod local;
pub mod mailbox;
pub mod memory;
pub mod options;
pub mod paths;
mod report;
mod sentences;
pub mod spill;
mod start;

pub use start::main;

/// Exit code of an engine whose device the kernel has taken away.
pub const EXIT_GONE: u8 = 3;
/// Exit code of an engine that a newer one has fenced.
pub const EXIT_FENCED: u8 = 4;
