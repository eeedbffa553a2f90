//! Shared vocabulary of DynamicSwap: ids, units, epochs and durability classes.
//!
//! Owns the newtypes that cross a module boundary, with their parsing and printing.
//! Must not do I/O, read a clock, or know any other crate of the workspace.
#![forbid(unsafe_code)]

mod backoff;
mod durability;
mod id;
mod integrity;
mod name;
mod time;
mod unit;
mod version;

pub use backoff::Backoff;
pub use durability::{Copies, Durability, DurabilityError, Spill};
pub use id::{
    IdError, IncarnationId, PageIndex, ServerIndex, SessionId, SetId, SlabIndex, SlotIndex,
    SwapDeviceId,
};
pub use integrity::{Integrity, IntegrityError};
pub use name::{FailureDomain, NameError, NodeName};
pub use time::MonotonicTime;
pub use unit::{Bytes, PAGE_SIZE, PageCount, QuantityError, SlabSize, SlabSizeError};
pub use version::{Epoch, Generation, PageVersion, Term};
