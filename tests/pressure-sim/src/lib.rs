//! A node in miniature: working sets, a remote device and the kernel's reclaim in steps of a tenth
//! of a second, on which our laws and those of others run in closed loop.
//!
//! Owns the model and the comparison. What it says is about laws, in ratios: no figure of it is
//! a promise about a machine. Time is simulated and randomness seeded, so a seed is a day.
#![forbid(unsafe_code)]

pub mod container;
pub mod device;
pub mod figures;
pub mod law;
pub mod plot;
pub mod psi;
pub mod run;
pub mod scenario;
pub mod table;
pub mod unit;
pub mod world;
