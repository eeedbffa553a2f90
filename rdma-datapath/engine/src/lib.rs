//! Pure core of the data path.
//!
//! Owns the slab table, the page table, the life of each request, the completion rule of each
//! durability class, fencing, rebuild, the wire codec and the memory server's slot table.
//! Must not do I/O, read a clock, draw random numbers, or allocate after start.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod document;
pub mod effect;
pub mod engine;
pub mod limits;
pub mod link;
pub mod operation;
pub mod request;
pub mod slots;
pub mod tables;
pub mod wire;
