//! What the data-plane daemons share: start-up protection, memory files, the control socket,
//! events, time and latency.
//!
//! Owns the calls to the host that both need. Must not know what a slot, a slab or a device is.

pub mod change;
pub mod clock;
pub mod control_server;
pub mod events;
pub mod histogram;
pub mod mapped_file;
pub mod memory_mount;
pub mod options;
pub mod protection;
pub mod random;
pub mod signals;
pub mod spin;
pub mod threads;
