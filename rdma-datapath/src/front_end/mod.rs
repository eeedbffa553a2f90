//! Front ends: how the kernel hands the swap device's requests to the engine process.
//!
//! Owns the trait, the request buffers and the table of requests under way. `fuse_loop` is a
//! one-file FUSE mount under a loop device, `ublk` the kernel's driver for devices served by a process.
//! Must not decide anything about pages: that is the engine's.

pub mod choice;
pub mod fuse_loop;
pub mod in_flight;
pub mod pool;
pub mod ublk;

use std::io;
use std::os::fd::BorrowedFd;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::request::{Request, RequestError, RequestTag};
use dynamicswap_types::MonotonicTime;
use thiserror::Error;

pub use in_flight::Done;
pub use pool::Pool;

/// Why a front end cannot go on.
#[derive(Debug, Error)]
pub enum FrontEndError {
    /// The kernel took the device away: unmounted, or aborted as a last resort.
    #[error("the kernel closed the device's connection: it was unmounted or aborted")]
    Gone,
    /// The kernel speaks a protocol that is too old or another one.
    #[error("the kernel speaks FUSE {major}.{minor}: 7.31 or later is needed (Linux 5.8)")]
    Protocol {
        /// Major version it announced.
        major: u32,
        /// Minor version it announced.
        minor: u32,
    },
    /// Reading requests or writing answers failed.
    #[error("{action} the device's connection failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Counts of what a front end has seen since its process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrontEndCounters {
    /// Requests that an earlier engine process had read and the kernel handed over again.
    pub resent: u64,
    /// Requests refused before they reached the engine (unaligned, out of range, unknown).
    pub refused: u64,
    /// Times that no buffer was free, so that a request had to wait in the kernel.
    pub waits_for_buffer: u64,
    /// Answers that the kernel no longer wanted.
    pub answers_unwanted: u64,
}

/// How a request ended, as the engine says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The request.
    pub tag: RequestTag,
    /// How it ended.
    pub result: Result<(), RequestError>,
    /// A read's bytes.
    pub data: Option<BufferRange>,
}

/// One swap device as the kernel shows it to this process. Belongs to one I/O thread; nothing
/// here blocks or, after the start, allocates.
pub trait FrontEnd {
    /// Asks the kernel to hand over again what an earlier process had taken and not answered. To
    /// be called once, before the first [`Self::take`].
    ///
    /// # Errors
    /// [`FrontEndError`]; other than `Gone`, those requests then stay unanswered.
    fn recover(&mut self) -> Result<(), FrontEndError>;

    /// The next request, in one of the pool's buffers; `None` if there is none now, or no buffer
    /// for it (see [`Self::wants_requests`]).
    ///
    /// # Errors
    /// [`FrontEndError`] if the device is gone: the process must end.
    fn take(
        &mut self,
        pool: &mut Pool<'_>,
        now: MonotonicTime,
    ) -> Result<Option<Request>, FrontEndError>;

    /// Answers the kernel. Returns what ended, for the counters; `None` for a tag that is not
    /// under way. The buffer stays taken until [`Self::release`].
    ///
    /// # Errors
    /// [`FrontEndError`] if the device is gone.
    fn complete(
        &mut self,
        completion: Completion,
        pool: &Pool<'_>,
        now: MonotonicTime,
    ) -> Result<Option<Done>, FrontEndError>;

    /// The request's buffer and tag are free again.
    fn release(&mut self, tag: RequestTag);

    /// Refuses a request that the engine does not take, with an input/output error.
    ///
    /// # Errors
    /// [`FrontEndError`] if the device is gone.
    fn refuse(&mut self, tag: RequestTag) -> Result<(), FrontEndError>;

    /// Hands answers to the kernel that [`Self::complete`] and [`Self::refuse`] have only noted. To
    /// be called before sleeping; false if the kernel could not take all of them yet.
    ///
    /// # Errors
    /// [`FrontEndError`] if the device is gone.
    fn flush(&mut self) -> Result<bool, FrontEndError> {
        Ok(true)
    }

    /// Becomes readable when [`Self::take`] has something to do.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Whether a request could be taken now; false while no buffer is free, and then the caller
    /// must not wait for [`Self::event_fd`].
    fn wants_requests(&self) -> bool;

    /// Requests that were taken and not released.
    fn under_way(&self) -> usize;

    /// What was seen so far.
    fn counters(&self) -> FrontEndCounters;
}
