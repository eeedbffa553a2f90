//! A law: looks at the node every tenth of a second and orders.
//!
//! Each looks at no more than what its original reads from the kernel, and as often.

mod dynamicswap;
mod peers;

use crate::world::World;

pub use dynamicswap::{DynamicSwap, Parts, Record};
pub use peers::{Fixed, Katalyst, Kernel, OomdSenpai, SenpaiScript};

/// What a law orders, for the container with an index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// Swap so many pages out (`memory.reclaim`).
    Reclaim(usize, f64),
    /// Hold it down to so many pages (`memory.high`).
    High(usize, f64),
    /// Bring so many pages home.
    Return(usize, f64),
    /// Whether its pages are coming home.
    Returning(usize, bool),
    /// Whether nothing may go out at all.
    Block(bool),
    /// It was found under pressure, or near its limit, and the law does for it what it can.
    Reacted(usize),
}

/// A law.
pub trait Law {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Looks at the node and orders.
    fn look(&mut self, world: &World, acts: &mut Vec<Act>);
}

/// Ours with some of its parts off, and the others, by the order of the table.
#[must_use]
pub fn all(containers: usize) -> Vec<Box<dyn Law>> {
    let whole = Parts::default();
    let parts = [
        whole,
        Parts {
            returns: false,
            ..whole
        },
        Parts {
            device_term: false,
            ..whole
        },
        Parts {
            hold_limits: true,
            ..whole
        },
    ];
    let mut laws: Vec<Box<dyn Law>> = Vec::new();
    for parts in parts {
        laws.push(Box::new(DynamicSwap::new(containers, parts)));
    }
    laws.push(Box::new(SenpaiScript::new(containers)));
    laws.push(Box::new(OomdSenpai::new(containers)));
    laws.push(Box::new(Katalyst::new(containers)));
    laws.push(Box::new(Fixed));
    laws.push(Box::new(Kernel));
    laws
}
