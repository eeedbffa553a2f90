//! Custom resources of the `dynamicswap.io` group: what a user writes and what `get` shows.
//!
//! Owns the types, their strict parsing from YAML (unknown fields and impossible values are
//! refused with line and column) and the rules that no single field can check. Must not do I/O
//! and must not know who stores or acts on an object.
#![forbid(unsafe_code)]

mod document;
mod duration;
mod meta;
mod percent;
mod policy;
mod views;

pub use document::{DocumentError, parse_policies};
pub use duration::{DurationError, PolicyDuration};
pub use meta::{API_VERSION, GROUP, ObjectKey, ObjectMeta, ObjectName, ObjectNameError};
pub use percent::{Percent, PercentError};
pub use policy::{
    DurabilitySpec, LabelSelector, LimitsSpec, PolicyRuleError, PressureSpec, RemoteMemoryPolicy,
    RemoteMemoryPolicySpec, StallSpec,
};
pub use views::{
    Kind, MemoryServer, MemoryServerSpec, MemoryServerStatus, SlabMap, SlabMapEntry, SlabMapSpec,
    SlabMapStatus, SlabReplica, SwapDevice, SwapDeviceSpec, SwapDeviceStatus, UnknownKind,
};
