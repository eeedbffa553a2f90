//! Desired state of the device, as the engine takes it: parsed and with servers as indexes.

use std::time::Duration;

use dynamicswap_types::{Durability, Generation, IncarnationId, ServerIndex, SetId, SlotIndex};

/// One memory server of the document. Its position in [`Document::servers`] is its
/// [`ServerIndex`], which the shell keeps stable for the device's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDescriptor {
    /// The life of its memory in which this device's slots were granted; `None` for a server
    /// that the document no longer names (its index stays taken).
    pub incarnation: Option<IncarnationId>,
    /// Failure domain, as a number that is equal for equal domains.
    pub domain: u16,
}

/// One copy's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaPlace {
    /// The memory server.
    pub server: ServerIndex,
    /// The slot there.
    pub slot: SlotIndex,
}

/// A granted replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetGrant {
    /// Its id.
    pub id: SetId,
    /// Its copies, 1 to 3, on distinct servers.
    pub replicas: Vec<ReplicaPlace>,
}

/// The whole desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Version; an older one is refused.
    pub generation: Generation,
    /// The class to satisfy.
    pub durability: Durability,
    /// How long a write waits for its class to become satisfiable before it fails.
    pub write_hold: Duration,
    /// How long a read waits for an unreachable copy before the page counts as lost.
    pub read_stall: Duration,
    /// How long an empty slab keeps its set.
    pub empty_slab_hold: Duration,
    /// Unbound sets to keep.
    pub reserve_sets_max: u32,
    /// Servers by index.
    pub servers: Vec<ServerDescriptor>,
    /// Granted sets.
    pub sets: Vec<SetGrant>,
}
