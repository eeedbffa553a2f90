//! Contracts between the processes of DynamicSwap.
//!
//! Owns the messages of the control plane (gRPC, feature `grpc`) and of the daemons' unix
//! sockets, both generated from `proto/`, and the conversions between messages and the types of
//! the `types` crate. Must not do I/O.
#![forbid(unsafe_code)]

mod convert;
pub mod exchange;
pub mod frame;
pub mod identity;

// Named by the generated code alone.
#[cfg(feature = "grpc")]
use tonic as _;

pub use convert::InvalidMessage;

/// Documents and reports that both the control plane and the daemons speak.
pub mod common {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated; documented in proto/common.proto"
    )]
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/dynamicswap.common.v1.rs"));
    }
}

/// The daemons' unix-socket contract.
pub mod daemon {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated; documented in proto/daemon.proto"
    )]
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/dynamicswap.daemon.v1.rs"));
    }
}

/// The gRPC control plane.
#[cfg(feature = "grpc")]
pub mod control {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated; documented in proto/control.proto"
    )]
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/dynamicswap.control.v1.rs"));
    }
}

/// Version of the control-plane session; `Hello.protocol`.
pub const SESSION_PROTOCOL: u32 = 1;
