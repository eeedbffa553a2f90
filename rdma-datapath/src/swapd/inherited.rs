//! Descriptors that the holder left open for this process.
//!
//! One of the few files with unsafe code: a number becomes a descriptor here.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::daemon::options::BadInput;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::options::Options;

/// What the holder gave.
#[derive(Debug)]
pub struct Inherited {
    /// The FUSE connection, of a fuse-loop device.
    pub fuse: Option<OwnedFd>,
    /// The memory file.
    pub memory: OwnedFd,
    /// The listening control socket.
    pub control: OwnedFd,
    /// The state directory's lock; never looked at, only kept.
    pub lock: OwnedFd,
    /// The spill file.
    pub spill: Option<OwnedFd>,
}

impl Inherited {
    /// Takes the descriptors that the command line names. Call it once, before anything is opened.
    ///
    /// # Errors
    /// [`BadInput`] if one is not open, or named twice.
    pub fn take(options: &Options) -> Result<Self, BadInput> {
        let mut numbers = vec![options.memory_fd, options.control_fd, options.lock_fd];
        numbers.extend(options.fuse_fd);
        numbers.extend(options.spill_fd);
        numbers.sort_unstable();
        let distinct = numbers.windows(2).all(|pair| pair[0] != pair[1]);
        if !distinct || numbers.iter().any(|number| *number <= 2) {
            return Err(BadInput::new(
                "the descriptors are not distinct: this program is started by dynamicswap-swapd",
            ));
        }
        Ok(Self {
            fuse: options.fuse_fd.map(adopt).transpose()?,
            memory: adopt(options.memory_fd)?,
            control: adopt(options.control_fd)?,
            lock: adopt(options.lock_fd)?,
            spill: options.spill_fd.map(adopt).transpose()?,
        })
    }
}

fn adopt(number: RawFd) -> Result<OwnedFd, BadInput> {
    let missing = || {
        BadInput::new(format!(
            "descriptor {number} is not open: this program is started by dynamicswap-swapd"
        ))
    };
    // SAFETY: only looked at; whether it is open is the question.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl_getfd(borrowed).map_err(|_| missing())?;
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| missing())?;
    // SAFETY: it is open, it came over exec, so nothing in this process owns it, and the caller
    // checked that each number is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
