//! Why a link is not up, over any network.

use dynamicswap_engine::wire::{Refusal, WireError};
use dynamicswap_types::Bytes;
use rustix::io::Errno;
use thiserror::Error;

/// Why a link is not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The host or the network.
    #[error("{0}")]
    Network(Errno),
    /// The server closed the connection.
    #[error("the memory server closed the connection")]
    Closed,
    /// No connection or no handshake in time.
    #[error("the memory server did not answer the connection in time")]
    ConnectTime,
    /// No byte although an answer is due.
    #[error("the memory server has not answered for 800 ms")]
    Silent,
    /// The engine asked for a new connection.
    #[error("the connection was reset: an operation was overdue")]
    Reset,
    /// The server refused the handshake.
    #[error("{0}")]
    Refused(Refusal),
    /// The server sent something malformed.
    #[error("{0}")]
    Wire(WireError),
    /// The server answered something that was not asked.
    #[error("the memory server's answers do not fit the requests")]
    OutOfStep,
    /// The server found a request malformed.
    #[error("the memory server found a request malformed")]
    Malformed,
    /// Another slot size.
    #[error("the memory server's slots have {0}, which is not this device's slab size")]
    SlotSize(Bytes),
    /// A step of RDMA was refused by this host.
    #[error("{call}: {errno}")]
    Verbs {
        /// Which.
        call: &'static str,
        /// The host's answer.
        errno: Errno,
    },
    /// The address is reached through no RDMA device that was there at the start.
    #[error("no RDMA device of this host leads to the memory server")]
    NoDevice,
    /// Nobody listens, by RDMA, at the address.
    #[error("nothing takes RDMA connections at the memory server's address")]
    NotListening,
    /// The server's device refused a key: the slot was taken back.
    #[error("the memory server's device refused the slot's key: the slot was taken back")]
    KeyRefused,
    /// No acknowledgement from the server's device.
    #[error("the memory server's device does not acknowledge")]
    Unacknowledged,
    /// An operation ended with this status.
    #[error("an RDMA operation ended with status {0}")]
    Status(u32),
}
