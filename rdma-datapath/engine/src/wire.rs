//! Wire codec of the data path, TCP and RDMA: byte layouts, their checks and their names for what is wrong.
//!
//! Owns every byte that crosses a data-path connection except page contents, which the engine
//! checksums itself. Little-endian, fixed sizes, no allocation, no I/O. Answers of one
//! connection come in the order of its requests. docs/protocol.md tells the exchange.

mod frame;
mod handshake;
mod rdma;
#[cfg(test)]
mod tests;

use crc_fast::{CrcAlgorithm, checksum};
use dynamicswap_types::{Epoch, PAGE_SIZE};
use thiserror::Error;

use crate::limits::REQUEST_PAGES_MAX;

pub use frame::{REQUEST_BYTES, RESPONSE_BYTES, Request, RequestKind, Response, Status};
pub use handshake::{
    Accepted, HANDSHAKE_BYTES, Refusal, VersionRange, decode_hello, decode_reply, encode_accepted,
    encode_hello, encode_refusal,
};
pub use rdma::{
    Directory, DirectoryEntry, ENTRY_BYTES, ENTRY_WORDS, RDMA_HELLO_BYTES, RDMA_REPLY_BYTES,
    WISHES, decode_entry, decode_rdma_hello, decode_rdma_reply, encode_entry, encode_rdma_accepted,
    encode_rdma_hello,
};

/// Bytes of one page on the wire.
const PAGE_BYTES: u32 = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE.get());

/// What is wrong with received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not a DynamicSwap data path.
    #[error("the peer does not speak the DynamicSwap data path")]
    Magic,
    /// A bit was flipped on the way.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// No common version.
    #[error("no common protocol version: the peer speaks {} to {}, this program {} to {}",
        .peer.min, .peer.max, VersionRange::OURS.min, VersionRange::OURS.max)]
    Version {
        /// What the peer speaks.
        peer: VersionRange,
    },
    /// A kind of request that does not exist.
    #[error("request kind {0} does not exist")]
    Kind(u8),
    /// A status that does not exist.
    #[error("status {0} does not exist")]
    Status(u16),
    /// Pages or payload length that the kind does not allow.
    #[error("a request for {pages} pages with {payload} bytes of payload is not allowed")]
    Length {
        /// Pages asked for.
        pages: u32,
        /// Payload announced.
        payload: u32,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A value that no peer sends.
    #[error("{0} is not valid")]
    Value(&'static str),
}

/// CRC-32C of `bytes`, as it stands behind each header.
fn crc(bytes: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc & u64::from(u32::MAX)).unwrap_or_default()
}

/// Whether a request may be this long.
const fn pages_allowed(pages: u32) -> bool {
    pages >= 1 && pages <= REQUEST_PAGES_MAX
}

/// An epoch that may stand on the wire: zero means "unknown" in a refusal.
const fn epoch(value: u64) -> Option<Epoch> {
    if value == 0 {
        None
    } else {
        Some(Epoch::new(value))
    }
}
