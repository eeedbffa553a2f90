//! Requests of the block device's front end, and how they end.

use dynamicswap_types::PageIndex;
use thiserror::Error;

use crate::buffer::BufferRange;

/// Names a request from submission to completion; chosen by the front end (the FUSE `unique`,
/// the ublk tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestTag(pub u64);

/// What the kernel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill `buffer` with the pages.
    Read {
        /// As many pages as the request has; the engine's until [`crate::effect::Effect::Release`].
        buffer: BufferRange,
    },
    /// Store the pages from `buffer`.
    Write {
        /// As many pages as the request has; the engine's until [`crate::effect::Effect::Release`].
        buffer: BufferRange,
    },
    /// The pages are free: forget them.
    Discard,
    /// Complete after every write that was submitted before.
    Flush,
}

/// A request of `pages` pages from `page` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub tag: RequestTag,
    /// First page.
    pub page: PageIndex,
    /// Number of pages; for Read and Write at most [`crate::limits::REQUEST_PAGES_MAX`]; 0 for Flush.
    pub pages: u32,
    /// What to do.
    pub kind: RequestKind,
}

/// Why a request is not taken. Nothing of it has happened then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// Every place in the in-flight table is taken: submit again after a completion.
    #[error("the in-flight table is full")]
    Full,
    /// Beyond the device's end, empty, too long, or a buffer of another length.
    #[error("the request lies outside of the device or has a wrong length")]
    Invalid,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A write that the durability class could not satisfy in time: the kernel keeps the page.
    #[error("the durability class could not be satisfied in time")]
    NotDurable,
    /// A read of a page of which every copy is proven lost.
    #[error("every copy of a page is lost")]
    Lost,
}
