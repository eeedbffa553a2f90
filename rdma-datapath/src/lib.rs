//! The data-plane daemons: swapd (holder and engine process) and the memory server.
//!
//! Owns the devices, the transports and the processes around the pure engine. Must not link
//! kube, tonic or an async runtime.

pub mod daemon;
pub mod device;
pub mod front_end;
pub mod holder;
pub mod memory_server;
pub mod swapd;
pub mod transport;
pub mod verbs;
