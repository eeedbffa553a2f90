//! Custom resources of the `dynamicswap.io` group: what a user writes and what `get` shows.
//!
//! Owns the types, their schemas and rules for the API server, their strict parsing from YAML
//! (unknown fields and impossible values are refused with line and column) and the rules that no
//! single field can check. Must not do I/O and must not know who stores or acts on an object.
#![forbid(unsafe_code)]
#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column of a kind says its type and priority"
)]

mod condition;
mod crd;
mod document;
mod duration;
mod kind;
mod memory_server;
mod meta;
mod percent;
mod policy;
mod repaging;
mod schema;
mod slab;
mod slab_map;
mod swap_device;

pub use condition::{ConditionTimes, Verdict};
pub use crd::{crd_file, crds};
pub use document::{DocumentError, parse_policies};
pub use duration::{DurationError, PolicyDuration};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
pub use kind::{Kind, UnknownKind};
pub use memory_server::{DrainSpec, MemoryServer, MemoryServerSpec, MemoryServerStatus};
pub use meta::{API_VERSION, GROUP, ObjectKey, ObjectName, ObjectNameError};
pub use percent::{Percent, PercentError};
pub use policy::{
    DurabilitySpec, LabelSelector, LimitsSpec, PolicyRuleError, PressureSpec, RebuildSpec,
    RemoteMemoryPolicy, RemoteMemoryPolicySpec, RemoteMemoryPolicyStatus, StallSpec,
};
pub use repaging::{OffloadSpec, ReturnSpec};
pub use slab::{Slab, SlabReplica};
pub use slab_map::{
    SlabMap, SlabMapSpec, SlabMapStatus, SlabSeat, SlabSeatPhase, SlabSet, SlabSetStage,
};
pub use swap_device::{SwapDevice, SwapDeviceSpec, SwapDeviceStatus};
