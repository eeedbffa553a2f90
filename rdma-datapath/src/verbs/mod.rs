//! RDMA verbs: what the `rdma` transport and the memory server need of libibverbs and librdmacm.
//!
//! Safe types over hand-written bindings. Each owns its part of the hardware and gives it back
//! when it is dropped, children before parents: a connection holds its queue pair, that its
//! completion queue and protection domain, a region its domain.

mod abi;
mod connection;
mod library;
mod objects;
mod queue;

pub use abi::WorkCompletion;
pub use connection::{CmEventKind, CmKey, CmNews, Connection, EventChannel, PrivateData};
pub use library::{Verbs, VerbsError};
pub use objects::{
    Access, CompletionChannel, CompletionQueue, Device, MemoryRegion, ProtectionDomain,
    QueuePairKey, SharedWords,
};
pub use queue::{Batch, Posting};
