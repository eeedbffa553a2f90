//! The fuse-loop front end: one file of a FUSE mount, which a loop device with direct I/O makes
//! a block device. Needs no module beyond what every kernel has.
//!
//! Speaks the protocol of `/dev/fuse` itself, on a descriptor that the holder opened: a new
//! engine process goes on where the old one died, without a new INIT, and asks for the requests
//! that the old one had read (`FUSE_NOTIFY_RESEND`). There is exactly one descriptor: requests
//! read from a clone of it are lost when the clone is closed.

mod abi;
mod codec;
pub mod connection;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_types::{Bytes, MonotonicTime, PAGE_SIZE, PageIndex};
use rustix::io::Errno;

pub use codec::{FILE_NAME, HEAD_BYTES, Init};

use super::in_flight::{DoneKind, Entry, InFlight};
use super::pool::{BufferClasses, CLASSES, Pool};
use super::{Completion, Done, FrontEnd, FrontEndCounters, FrontEndError};
use codec::{Answer, Call, Incoming};

/// Housekeeping requests answered in one [`FrontEnd::take`], at most.
const HOUSEKEEPING_MAX: usize = 64;

/// The buffers into which the next request is read. Its size is not known before, so one of each
/// class lies ready: a single page, the usual case, then needs no copy and no large buffer.
#[derive(Debug, Clone, Copy)]
struct Landing {
    page: BufferRange,
    medium: BufferRange,
    large: BufferRange,
}

/// A request that was read but has no buffer yet.
#[derive(Debug, Clone, Copy)]
struct Parked {
    unique: u64,
    first: PageIndex,
    pages: u32,
    bytes: u32,
    taken: MonotonicTime,
}

/// The front end.
#[derive(Debug)]
pub struct FuseLoop {
    descriptor: OwnedFd,
    size: Bytes,
    head: [u8; HEAD_BYTES],
    buffers: BufferClasses,
    landing: [Option<BufferRange>; CLASSES.len()],
    in_flight: InFlight,
    parked: Option<Parked>,
    init: Option<Init>,
    counters: FrontEndCounters,
    /// When the present [`FrontEnd::take`] began.
    now: MonotonicTime,
}

/// What became of one read of the descriptor.
enum Taken {
    Request(Request),
    Housekeeping,
    NothingNow,
}

impl FuseLoop {
    /// Serves a device of `size` on a `/dev/fuse` descriptor, which must be non-blocking.
    #[must_use]
    pub fn new(descriptor: OwnedFd, size: Bytes) -> Self {
        Self {
            descriptor,
            size,
            head: [0; HEAD_BYTES],
            buffers: BufferClasses::new(),
            landing: [None; CLASSES.len()],
            in_flight: InFlight::new(),
            parked: None,
            init: None,
            counters: FrontEndCounters::default(),
            now: MonotonicTime::ZERO,
        }
    }

    /// What the kernel announced to this process; `None` if an earlier one got it.
    #[must_use]
    pub fn init(&self) -> Option<Init> {
        self.init
    }

    /// One buffer of each class for the next request, or `None` while one class is empty.
    fn landing(&mut self) -> Option<Landing> {
        for (class, place) in self.landing.iter_mut().enumerate() {
            if place.is_none() {
                *place = self.buffers.take_of(class, CLASSES[class].pages);
            }
        }
        match self.landing {
            [Some(page), Some(medium), Some(large)] => Some(Landing {
                page,
                medium,
                large,
            }),
            _ => None,
        }
    }

    fn read_one(&mut self, pool: &mut Pool<'_>) -> Result<Taken, FrontEndError> {
        let Some(landing) = self.landing() else {
            self.counters.waits_for_buffer += 1;
            return Ok(Taken::NothingNow);
        };
        let read = match read_request(&self.descriptor, &mut self.head, landing, pool) {
            Ok(read) => read,
            Err(Errno::AGAIN) => return Ok(Taken::NothingNow),
            // The kernel took the request back while it was being read.
            Err(Errno::NOENT | Errno::INTR) => return Ok(Taken::Housekeeping),
            Err(errno) => return Err(failed("reading a request from", errno)),
        };
        let incoming = codec::parse(&self.head, read).map_err(|malformed| FrontEndError::Io {
            action: "reading a request from",
            source: io::Error::new(io::ErrorKind::InvalidData, malformed),
        })?;
        self.counters.resent += u64::from(incoming.is_resent());
        self.dispatch(incoming, landing, pool)
    }

    fn dispatch(
        &mut self,
        incoming: Incoming,
        landing: Landing,
        pool: &mut Pool<'_>,
    ) -> Result<Taken, FrontEndError> {
        let Incoming { unique, node, call } = incoming;
        match call {
            Call::Read { offset, size } => self.start_read(unique, offset, size),
            Call::Write { offset, size } => self.start_write(unique, (offset, size), landing, pool),
            Call::PunchHole { offset, length } => self.start_discard(unique, offset, length),
            Call::Sync => self.start(unique, RequestKind::Flush, (PageIndex::new(0), 0)),
            Call::Init(init) => {
                self.send(&self.answer_init(unique, init))?;
                self.init = Some(init);
                if !init.is_supported() {
                    let Init { major, minor, .. } = init;
                    return Err(FrontEndError::Protocol { major, minor });
                }
                Ok(Taken::Housekeeping)
            }
            other => {
                if let Some(answer) = self.housekeeping(unique, node, other) {
                    self.send(&answer)?;
                }
                Ok(Taken::Housekeeping)
            }
        }
    }

    fn answer_init(&self, unique: u64, init: Init) -> Answer {
        if init.is_supported() {
            Answer::init(unique, init)
        } else {
            Answer::errno(unique, libc::EPROTO)
        }
    }

    /// The answer to a request that does not concern pages; `None` if there is none.
    fn housekeeping(&mut self, unique: u64, node: u64, call: Call) -> Option<Answer> {
        Some(match call {
            Call::Lookup { is_file: true } => Answer::entry(unique, self.size),
            Call::Lookup { is_file: false } => Answer::errno(unique, libc::ENOENT),
            Call::Attributes => Answer::attributes(unique, node, self.size),
            Call::Open => Answer::opened(unique),
            Call::OpenDirectory => Answer::opened_directory(unique),
            Call::Statfs => Answer::statfs(unique, self.size),
            // The listing shows nothing: an empty answer ends it.
            Call::Nothing | Call::ReadDirectory => Answer::errno(unique, 0),
            Call::Silent => return None,
            // ENOSYS would stop every later punching of holes too.
            Call::Fallocate => Answer::errno(unique, libc::EOPNOTSUPP),
            // The kernel then does without, for good: it asks once whether a kind of call exists,
            // an interrupt or an attribute among them.
            _ => Answer::errno(unique, libc::ENOSYS),
        })
    }

    fn start_read(&mut self, unique: u64, offset: u64, size: u32) -> Result<Taken, FrontEndError> {
        // A direct read may reach beyond the end; it gets what there is.
        let left = self.size.get().saturating_sub(offset);
        let bytes = size.min(u32::try_from(left).unwrap_or(u32::MAX));
        let Some((first, pages)) = whole_pages(offset, bytes) else {
            return self.turn_down(unique, libc::EINVAL);
        };
        if pages == 0 {
            self.send(&Answer::errno(unique, 0))?;
            return Ok(Taken::Housekeeping);
        }
        self.parked = Some(Parked {
            unique,
            first,
            pages,
            bytes,
            taken: self.now,
        });
        Ok(self.unpark().map_or(Taken::NothingNow, Taken::Request))
    }

    /// Gives the read that waits for a buffer one, if there is one now.
    fn unpark(&mut self) -> Option<Request> {
        let parked = self.parked.filter(|_| self.in_flight.has_room())?;
        let Some(buffer) = self.buffers.take(parked.pages) else {
            self.counters.waits_for_buffer += 1;
            return None;
        };
        self.parked = None;
        let entry = Entry {
            unique: parked.unique,
            kind: DoneKind::Read,
            pages: parked.pages,
            bytes: parked.bytes,
            buffer: Some(buffer),
            taken: parked.taken,
        };
        let tag = self.in_flight.insert(entry)?;
        Some(Request {
            tag,
            page: parked.first,
            pages: parked.pages,
            kind: RequestKind::Read { buffer },
        })
    }

    fn start_write(
        &mut self,
        unique: u64,
        (offset, size): (u64, u32),
        landing: Landing,
        pool: &mut Pool<'_>,
    ) -> Result<Taken, FrontEndError> {
        let inside = offset
            .checked_add(u64::from(size))
            .is_some_and(|end| end <= self.size.get());
        let pages = whole_pages(offset, size).filter(|(_, pages)| inside && *pages > 0);
        let Some((first, pages)) = pages else {
            return self.turn_down(unique, libc::EINVAL);
        };
        let (class, buffer) = settle(landing, pages, pool);
        self.landing[class] = None;
        let entry = Entry {
            unique,
            kind: DoneKind::Write,
            pages,
            bytes: size,
            buffer: Some(buffer),
            taken: self.now,
        };
        let Some(tag) = self.in_flight.insert(entry) else {
            return self.turn_down(unique, libc::EIO);
        };
        Ok(Taken::Request(Request {
            tag,
            page: first,
            pages,
            kind: RequestKind::Write { buffer },
        }))
    }

    fn start_discard(
        &mut self,
        unique: u64,
        offset: u64,
        length: u64,
    ) -> Result<Taken, FrontEndError> {
        // Pages that lie wholly inside; a part of a page is kept, as the kernel expects.
        let end = offset.saturating_add(length).min(self.size.get()) / PAGE_SIZE.get();
        let first = offset.div_ceil(PAGE_SIZE.get());
        match u32::try_from(end.saturating_sub(first)) {
            Ok(0) => {
                self.send(&Answer::errno(unique, 0))?;
                Ok(Taken::Housekeeping)
            }
            Ok(pages) => {
                let range = (PageIndex::new(first), pages);
                self.start(unique, RequestKind::Discard, range)
            }
            Err(_) => self.turn_down(unique, libc::EINVAL),
        }
    }

    /// A request without data.
    fn start(
        &mut self,
        unique: u64,
        kind: RequestKind,
        (page, pages): (PageIndex, u32),
    ) -> Result<Taken, FrontEndError> {
        let entry = Entry {
            unique,
            kind: if kind == RequestKind::Discard {
                DoneKind::Discard
            } else {
                DoneKind::Flush
            },
            pages,
            bytes: 0,
            buffer: None,
            taken: self.now,
        };
        let Some(tag) = self.in_flight.insert(entry) else {
            return self.turn_down(unique, libc::EIO);
        };
        Ok(Taken::Request(Request {
            tag,
            page,
            pages,
            kind,
        }))
    }

    fn turn_down(&mut self, unique: u64, errno: i32) -> Result<Taken, FrontEndError> {
        self.counters.refused += 1;
        self.send(&Answer::errno(unique, errno))?;
        Ok(Taken::Housekeeping)
    }

    fn send(&self, answer: &Answer) -> Result<(), FrontEndError> {
        self.send_with(answer, &[]).map(|_| ())
    }

    /// Returns whether the kernel still wanted the answer.
    fn send_with(&self, answer: &Answer, data: &[u8]) -> Result<bool, FrontEndError> {
        let parts = [io::IoSlice::new(answer.as_bytes()), io::IoSlice::new(data)];
        let parts = if data.is_empty() {
            &parts[..1]
        } else {
            &parts[..]
        };
        match rustix::io::writev(&self.descriptor, parts) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("answering a request on", errno)),
        }
    }
}

impl FrontEnd for FuseLoop {
    /// Needs Linux 6.9.
    fn recover(&mut self) -> Result<(), FrontEndError> {
        match rustix::io::write(&self.descriptor, Answer::resend_notification().as_bytes()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("asking for unanswered requests on", errno)),
        }
    }

    fn take(
        &mut self,
        pool: &mut Pool<'_>,
        now: MonotonicTime,
    ) -> Result<Option<Request>, FrontEndError> {
        self.now = now;
        if self.parked.is_some() {
            return Ok(self.unpark());
        }
        if !self.in_flight.has_room() {
            return Ok(None);
        }
        for _ in 0..HOUSEKEEPING_MAX {
            match self.read_one(pool)? {
                Taken::Request(request) => return Ok(Some(request)),
                Taken::NothingNow => return Ok(None),
                Taken::Housekeeping => {}
            }
        }
        Ok(None)
    }

    fn complete(
        &mut self,
        completion: Completion,
        pool: &Pool<'_>,
        now: MonotonicTime,
    ) -> Result<Option<Done>, FrontEndError> {
        let Some(entry) = self.in_flight.answer(completion.tag) else {
            return Ok(None);
        };
        let wanted = match (completion.result, entry.kind, completion.data) {
            (Err(_), _, _) | (Ok(()), DoneKind::Read, None) => {
                self.send_with(&Answer::errno(entry.unique, libc::EIO), &[])?
            }
            (Ok(()), DoneKind::Read, Some(data)) => {
                let bytes = pool.bytes(data);
                let bytes = &bytes[..bytes.len().min(entry.bytes as usize)];
                self.send_with(&Answer::read(entry.unique, bytes.len()), bytes)?
            }
            (Ok(()), DoneKind::Write, _) => {
                self.send_with(&Answer::written(entry.unique, entry.bytes), &[])?
            }
            (Ok(()), DoneKind::Discard | DoneKind::Flush, _) => {
                self.send_with(&Answer::errno(entry.unique, 0), &[])?
            }
        };
        self.counters.answers_unwanted += u64::from(!wanted);
        Ok(Some(Done {
            kind: entry.kind,
            pages: entry.pages,
            latency: now.since(entry.taken),
        }))
    }

    fn release(&mut self, tag: RequestTag) {
        if let Some(buffer) = self.in_flight.remove(tag).and_then(|entry| entry.buffer) {
            self.buffers.give_back(buffer);
        }
    }

    fn refuse(&mut self, tag: RequestTag) -> Result<(), FrontEndError> {
        self.counters.refused += 1;
        if let Some(entry) = self.in_flight.answer(tag) {
            self.send_with(&Answer::errno(entry.unique, libc::EIO), &[])?;
        }
        self.release(tag);
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn wants_requests(&self) -> bool {
        let landing_possible = (0..CLASSES.len())
            .all(|class| self.landing[class].is_some() || self.buffers.has_free(class));
        self.parked.is_none() && self.in_flight.has_room() && landing_possible
    }

    fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    fn counters(&self) -> FrontEndCounters {
        self.counters
    }
}

/// First page and number of pages of a range; `None` if it is not made of whole pages or longer
/// than a buffer.
fn whole_pages(offset: u64, bytes: u32) -> Option<(PageIndex, u32)> {
    let page = PAGE_SIZE.get();
    let aligned = offset.is_multiple_of(page) && u64::from(bytes).is_multiple_of(page);
    let pages = u32::try_from(u64::from(bytes) / page).ok()?;
    let fits = pages <= dynamicswap_engine::limits::REQUEST_PAGES_MAX;
    (aligned && fits).then(|| (PageIndex::new(offset / page), pages))
}

/// Reads one request: its head, then data over the three landing buffers, each of which leaves
/// room at its beginning for what landed before it.
fn read_request(
    descriptor: &OwnedFd,
    head: &mut [u8; HEAD_BYTES],
    landing: Landing,
    pool: &mut Pool<'_>,
) -> Result<usize, Errno> {
    let Landing {
        page,
        medium,
        large,
    } = landing;
    let bytes = |range: BufferRange, skip: u32| {
        let part = range.part(skip, range.pages - skip);
        part.byte_offset()..part.byte_offset() + part.byte_len()
    };
    let ranges = [
        bytes(page, 0),
        bytes(medium, page.pages),
        bytes(large, medium.pages),
    ];
    let Ok([first, second, third]) = pool.all_mut().get_disjoint_mut(ranges) else {
        return Err(Errno::FAULT);
    };
    let mut parts = [
        io::IoSliceMut::new(head),
        io::IoSliceMut::new(first),
        io::IoSliceMut::new(second),
        io::IoSliceMut::new(third),
    ];
    rustix::io::readv(descriptor, &mut parts)
}

/// Puts a write's data together in the smallest landing buffer that holds all of it; returns the
/// class of that buffer and its part.
fn settle(landing: Landing, pages: u32, pool: &mut Pool<'_>) -> (usize, BufferRange) {
    let Landing {
        page,
        medium,
        large,
    } = landing;
    let mut copy = |from: BufferRange, skip: u32, to: BufferRange| {
        let part = from.part(skip, from.pages - skip);
        let source = part.byte_offset()..part.byte_offset() + part.byte_len();
        pool.all_mut()
            .copy_within(source, to.part(skip, 1).byte_offset());
    };
    if pages <= page.pages {
        return (0, page.part(0, pages));
    }
    if pages <= medium.pages {
        copy(page, 0, medium);
        return (1, medium.part(0, pages));
    }
    copy(page, 0, large);
    copy(medium, page.pages, large);
    (2, large.part(0, pages))
}

fn failed(action: &'static str, errno: Errno) -> FrontEndError {
    match errno {
        Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED => FrontEndError::Gone,
        other => FrontEndError::Io {
            action,
            source: other.into(),
        },
    }
}

#[cfg(test)]
mod tests;
