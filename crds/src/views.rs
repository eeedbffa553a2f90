//! The kinds that only the controller writes, as `get` shows them, and the names of all kinds.

use dynamicswap_types::{
    Bytes, Durability, Epoch, FailureDomain, IncarnationId, NodeName, PageCount, SetId, SlabIndex,
    SlabSize, SlotIndex, SwapDeviceId,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::meta::{API_VERSION, ObjectMeta};

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no kind of dynamicswap.io: choose remotememorypolicies (rmp), memoryservers (msrv), \
     swapdevices (swd) or slabmaps"
)]
pub struct UnknownKind(
    /// The word.
    pub String,
);

/// The kinds of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `RemoteMemoryPolicy`, namespaced.
    RemoteMemoryPolicy,
    /// `MemoryServer`, one per donor.
    MemoryServer,
    /// `SwapDevice`, one per borrower.
    SwapDevice,
    /// `SlabMap`, the assignment of one swap device.
    SlabMap,
}

impl Kind {
    /// All of them, in the order in which `get` lists them.
    pub const ALL: [Self; 4] = [
        Self::RemoteMemoryPolicy,
        Self::MemoryServer,
        Self::SwapDevice,
        Self::SlabMap,
    ];

    /// As `kind` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RemoteMemoryPolicy => "RemoteMemoryPolicy",
            Self::MemoryServer => "MemoryServer",
            Self::SwapDevice => "SwapDevice",
            Self::SlabMap => "SlabMap",
        }
    }

    /// Singular, plural and short names, in lower case.
    #[must_use]
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::RemoteMemoryPolicy => &["remotememorypolicy", "remotememorypolicies", "rmp"],
            Self::MemoryServer => &["memoryserver", "memoryservers", "msrv"],
            Self::SwapDevice => &["swapdevice", "swapdevices", "swd"],
            Self::SlabMap => &["slabmap", "slabmaps", "slabs"],
        }
    }

    /// The kind that a person means by `word`, in any case.
    ///
    /// # Errors
    /// [`UnknownKind`] with the words that exist.
    pub fn from_word(word: &str) -> Result<Self, UnknownKind> {
        let lower = word.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|kind| kind.words().contains(&lower.as_str()))
            .ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

macro_rules! view {
    ($(#[$doc:meta])* $name:ident, $spec:ident, $status:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        pub struct $name {
            /// `dynamicswap.io/v1alpha1`.
            pub api_version: String,
            /// The kind's name.
            pub kind: String,
            /// Name; these kinds are cluster-wide.
            pub metadata: ObjectMeta,
            /// What is wanted.
            pub spec: $spec,
            /// What is known.
            pub status: $status,
        }
    };
}

view!(
    /// A donor's memory server. Named after its node.
    MemoryServer, MemoryServerSpec, MemoryServerStatus
);
view!(
    /// A borrower's swap device. Named after its node.
    SwapDevice, SwapDeviceSpec, SwapDeviceStatus
);
view!(
    /// Which slots hold which slab of one swap device. Named after its node.
    SlabMap, SlabMapSpec, SlabMapStatus
);

impl MemoryServer {
    /// Puts an object together.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: MemoryServerSpec, status: MemoryServerStatus) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Kind::MemoryServer.name().to_owned(),
            metadata,
            spec,
            status,
        }
    }
}

impl SwapDevice {
    /// Puts an object together.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: SwapDeviceSpec, status: SwapDeviceStatus) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Kind::SwapDevice.name().to_owned(),
            metadata,
            spec,
            status,
        }
    }
}

impl SlabMap {
    /// Puts an object together.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: SlabMapSpec, status: SlabMapStatus) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Kind::SlabMap.name().to_owned(),
            metadata,
            spec,
            status,
        }
    }
}

/// What a memory server offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MemoryServerSpec {
    /// What fails together with it.
    pub failure_domain: FailureDomain,
    /// Takes no new slabs.
    pub cordoned: bool,
    /// What it holds moves elsewhere.
    pub draining: bool,
}

/// What is known of a memory server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MemoryServerStatus {
    /// Its agent has a session and its daemon answers.
    pub ready: bool,
    /// Why not, in one sentence; empty if ready.
    pub reason: String,
    /// The life of its memory.
    pub incarnation: IncarnationId,
    /// Address of its data path.
    pub address: String,
    /// Memory for slots.
    pub capacity: Bytes,
    /// Size of a slot.
    pub slot_size: Bytes,
    /// Slots in all.
    pub slots: u32,
    /// Slots on record as lent.
    pub slots_lent: u32,
    /// The lent slots' size.
    pub lent: Bytes,
}

/// What a swap device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SwapDeviceSpec {
    /// The device's life.
    pub device_id: SwapDeviceId,
    /// The class in force.
    pub durability: Durability,
}

/// What is known of a swap device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SwapDeviceStatus {
    /// Its agent has a session and its daemon answers.
    pub ready: bool,
    /// Why not, in one sentence; empty if ready.
    pub reason: String,
    /// Used as swap now.
    pub attached: bool,
    /// How it is made: `fuse-loop` or `ublk`.
    pub front_end: String,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// Its size.
    pub size: Bytes,
    /// Its slabs' size.
    pub slab_size: SlabSize,
    /// Content out there.
    pub bytes_used: Bytes,
    /// Slabs with a replica set.
    pub slabs_bound: u32,
    /// Replica sets in reserve.
    pub sets_reserved: u32,
    /// Pages whose class is not satisfied now.
    pub pages_degraded: PageCount,
}

/// The assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SlabMapSpec {
    /// The device's life.
    pub device_id: SwapDeviceId,
    /// Every set on record, by id.
    pub sets: Vec<SlabMapEntry>,
}

/// The assignment in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SlabMapStatus {
    /// Sets on record.
    pub sets: u32,
    /// Sets that hold a slab.
    pub bound: u32,
}

/// One replica set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SlabMapEntry {
    /// Its id.
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

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SlabReplica {
    /// The donor.
    pub node: NodeName,
    /// The slot there.
    pub slot: SlotIndex,
    /// `Granting`, `Serving`, `Revoked`, `Leaving` or `Freeing` on the controller's side, with the
    /// borrower's own word (`Live`, `Rebuilding`, `Stale`) behind it where it has said one.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_kind_names_it_in_any_case() {
        for kind in Kind::ALL {
            for word in kind.words() {
                assert_eq!(Kind::from_word(word), Ok(kind));
            }
            assert_eq!(Kind::from_word(kind.name()), Ok(kind));
        }
        assert!(Kind::from_word("pods").is_err());
    }
}
