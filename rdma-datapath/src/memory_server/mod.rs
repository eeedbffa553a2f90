//! The memory server: lends slots of locked memory to borrowers, over TCP and RDMA.
//!
//! Owns the process: start-up, the memory file, one I/O thread over all connections, a zeroing
//! thread, the control socket. Who may do what is decided by `dynamicswap_engine::slots`.

mod connection;
mod control;
mod io_thread;
mod lock;
mod mailbox;
mod memory_file;
pub mod options;
mod output;
mod rdma;
mod shared;
mod start;
mod zeroing;

pub use start::run;
