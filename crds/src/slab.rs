//! `Slab`: what one replica set holds now, as `get slabs` shows it.
//!
//! No custom resource: it changes each second, and nothing keeps it.

use dynamicswap_types::{NodeName, SetId, SlabIndex, SlotIndex};
use serde::{Deserialize, Serialize};

/// One replica set with what its borrower says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slab {
    /// The borrower's node.
    pub node: NodeName,
    /// The set's id.
    pub set_id: SetId,
    /// The slab that it holds; absent in the reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slab: Option<SlabIndex>,
    /// Pages of the slab that are read each second, of late.
    pub reads_per_second: u64,
    /// Pages of the slab that are written each second, of late.
    pub writes_per_second: u64,
    /// Its copies.
    pub replicas: Vec<SlabReplica>,
}

impl Slab {
    /// The words by which people ask for slabs, in lower case.
    pub const WORDS: [&'static str; 2] = ["slab", "slabs"];
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlabReplica {
    /// The donor.
    pub node: NodeName,
    /// The slot there.
    pub slot: SlotIndex,
    /// `Granting`, `Serving`, `Revoked`, `Moving`, `Leaving` or `Freeing` on the controller's side, with the
    /// borrower's own word (`Live`, `Rebuilding`, `Stale`) behind it where it has said one.
    pub state: String,
}
