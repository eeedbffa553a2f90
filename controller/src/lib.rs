//! The cluster controller: knows every agent, has the planner place slabs, persists what it
//! grants and only then hands it out.
//!
//! Owns the gRPC server, the one task that holds the state, and the store. Decisions are the
//! planner's; this crate brings it facts, time and a disk.
#![forbid(unsafe_code)]

mod clock;
mod config;
mod convert;
mod events;
mod kubernetes;
mod limits;
mod overlaps;
mod owner;
mod policies;
mod serve;
mod server;
mod store;
mod tls;
mod verdicts;
mod views;

pub use config::{Args, Config};
pub use serve::{Refusal, run};
