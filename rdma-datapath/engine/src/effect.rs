//! What the engine wants done: effects are values, and shells carry them out.

use dynamicswap_types::{PageIndex, ServerIndex, SetId, SlabIndex};

use crate::buffer::BufferRange;
use crate::operation::{Operation, OperationId};
use crate::request::{RequestError, RequestTag};

/// One thing for the shell to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Hand the operation to the transport.
    Post(Operation),
    /// An operation is overdue: tear down the link to the server and build it anew, unless the
    /// transport sees it move. It completes every operation under way there with `LinkDown`, then
    /// reports `Link::Down`.
    Reset(ServerIndex),
    /// Read from or write to the spill file.
    Spill(SpillOperation),
    /// Answer the kernel. For a read, `data` says where the bytes are; it stays readable until
    /// the `Release` of the same tag.
    Complete {
        /// The request.
        tag: RequestTag,
        /// How it ended.
        result: Result<(), RequestError>,
        /// A read's bytes; its own buffer or one of the engine's.
        data: Option<BufferRange>,
    },
    /// The request is over and its buffer the shell's again. Comes once after each `Complete`, at
    /// once or later.
    Release(RequestTag),
    /// Something for the log, the report and the metrics.
    Event(EngineEvent),
}

/// An access to the spill file: page `i` of the device is page `i` of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpillOperation {
    /// Its name; shares the name space of remote operations.
    pub id: OperationId,
    /// First page on the device.
    pub page: PageIndex,
    /// Whether to write; else read.
    pub write: bool,
    /// Local side.
    pub buffer: BufferRange,
}

/// What happened, as a fact; the shell makes the sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineEvent {
    /// A slab got its set.
    SlabBound(SlabIndex, SetId),
    /// An empty slab gave its set back to the reserve.
    SlabReturned(SlabIndex, SetId),
    /// A set will not be used again.
    SetReleased(SetId),
    /// A copy is being made again on the server.
    RebuildStarted(SetId, ServerIndex),
    /// A copy is whole again.
    RebuildFinished(SetId, ServerIndex),
    /// A copy missed a write or was lost.
    ReplicaStale(SetId, ServerIndex),
    /// A page from the server did not match its checksum.
    IntegrityFailure(PageIndex, ServerIndex),
    /// The bad copy was overwritten with the good one.
    PageRepaired(PageIndex, ServerIndex),
    /// Every copy of the page is lost.
    PageLost(PageIndex),
    /// Writes wait for their class to be satisfiable, one to this slab among them. Told once for all
    /// that begin to wait within a few seconds.
    WritesHeld(SlabIndex),
    /// No set is left in the reserve for a slab that the kernel writes to.
    ReserveEmpty(SlabIndex),
    /// The spill file refused a write that begins at this page.
    SpillFailed(PageIndex),
    /// A newer epoch of this device exists: this engine must stop.
    Fenced(ServerIndex),
}
