//! Pure core of the data path.
//!
//! Owns the slab table, the page table, the life of each request, the completion rule of each
//! durability class, fencing, rebuild, the wire codec and the memory server's slot table.
//! Must not do I/O, read a clock, draw random numbers, or allocate after start.
#![forbid(unsafe_code)]

mod budget;
pub mod buffer;
pub mod checksum;
mod copy;
mod deadlines;
pub mod document;
pub mod effect;
pub mod engine;
pub mod heat;
mod in_flight;
mod invariants;
pub mod limits;
pub mod link;
pub mod operation;
pub mod page_guard;
mod page_set;
mod pages;
pub mod patience;
mod progress;
mod read;
mod repair;
pub mod report;
pub mod request;
pub mod reserve;
pub mod sets;
pub mod slots;
pub mod tables;
pub mod wire;
mod write;
