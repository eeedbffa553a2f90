//! Homecoming: brings the swapped pages of a container back into RAM, from outside, without
//! stopping it.
//!
//! Owns the thread that does it, one container at a time, within the bytes that the policy gives it
//! and no faster than it says. Decides nothing but the order of the pages ([`pages`]).

#[expect(unsafe_code, reason = "the kernel's calls on another process's memory")]
mod foreign;
pub mod pages;
mod processes;
mod worker;

pub use worker::{Homecoming, Order, Outcome};
