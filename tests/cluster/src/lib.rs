//! The cluster harness: a whole Kubernetes on one machine.
//!
//! Owns the build of Kubernetes' own programs, a control plane made of them, and nodes as virtual
//! machines. [`control_plane::ControlPlane`] alone is what integration tests of other crates
//! want: a real API server within seconds, without any guest, gone when its handle is dropped.
//! Knows nothing of DynamicSwap.
#![forbid(unsafe_code)]

pub mod certificates;
pub mod client;
pub mod control_plane;
pub mod down;
pub mod family;
pub mod host;
pub mod image;
pub mod install;
pub mod kubeconfig;
pub mod namespace;
pub mod node;
pub mod power;
pub mod programs;
pub mod record;
pub mod scenarios;
pub mod store;
pub mod up;
