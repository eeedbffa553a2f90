//! The node agent: reports a node's pressure and daemons to the controller, and brings the
//! controller's whole documents to the daemons.
//!
//! Owns the control side of a node. The data path needs none of it once slabs are mapped.
#![deny(unsafe_code)]

pub mod agent;
pub mod allowance;
pub mod attachment;
pub mod cgroup;
pub mod config;
pub mod containers;
pub mod courier;
pub mod credentials;
pub mod daemon;
pub mod document;
pub mod guards;
pub mod homecoming;
pub mod journal;
pub mod kubernetes;
pub mod lending;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod originals;
pub mod policies;
pub mod pressure;
pub mod repaging;
pub mod report;
pub mod session;
pub mod watches;
