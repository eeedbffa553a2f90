//! One-sided operations on a memory server: what the engine posts and a transport carries.

use dynamicswap_types::{ServerIndex, SetId, SlotIndex};
use thiserror::Error;

use crate::buffer::BufferRange;

/// Names an operation from its post to its completion. Chosen by the engine; a transport gives
/// it back as it is. Never used again while the operation is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// Direction, seen from the borrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the slot into the buffer.
    Read,
    /// From the buffer into the slot.
    Write,
}

/// A one-sided READ or WRITE: `buffer.pages` pages at `page` of `slot` on `server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// The memory server.
    pub server: ServerIndex,
    /// READ or WRITE.
    pub direction: Direction,
    /// The set for which the slot was granted. The server compares it: an operation may be on its
    /// way for so long that its slot was taken back and granted to another set meanwhile.
    pub set: SetId,
    /// The slot.
    pub slot: SlotIndex,
    /// First page within the slot.
    pub page: u32,
    /// Local side; it belongs to the transport until the completion.
    pub buffer: BufferRange,
}

/// Why an operation did not happen, or may not have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OperationError {
    /// The link went down; the operation may or may not have reached the server.
    #[error("the link to the memory server went down")]
    LinkDown,
    /// The server answered that the slot belongs to another device, another set or to nobody.
    #[error("the memory server refused: this device does not own the slot for this set")]
    NotOwner,
    /// The server answered that a newer writer of this device exists.
    #[error("the memory server refused: a newer epoch of this device is known")]
    OldEpoch,
    /// Outside of the slot, or longer than the server takes.
    #[error("the memory server refused: the range lies outside of the slot")]
    OutOfRange,
}

/// How an operation ended.
pub type OperationResult = Result<(), OperationError>;
