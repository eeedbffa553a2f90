//! Deterministic simulation of the data path and its control plane.
//!
//! One seed is one world: the real engine, the real memory server core, the loopback and fault
//! transports, a control plane, a kernel that checks every page, virtual time, and troubles drawn
//! from the seed. Nothing reads a clock or draws from anywhere else, so that a seed tells the same
//! story on every machine.
#![forbid(unsafe_code)]

pub mod coverage;
mod disk;
mod donors;
mod kernel;
pub mod mutation;
mod plane;
mod process;
pub mod scenario;
pub mod story;
pub mod sweep;
mod trouble;
mod world;
