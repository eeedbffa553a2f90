//! The ublk front end: requests of a `/dev/ublkbN` by io_uring, for production.
//!
//! One queue, served by the engine's I/O thread. The device is made with USER_RECOVERY and
//! USER_RECOVERY_REISSUE: it outlives every engine, new requests wait while there is none, and what a
//! dead one had taken comes again. Data is copied by reads and writes of `/dev/ublkcN` (USER_COPY),
//! so that no buffer is tied to a tag: the pool's locked pages serve. See docs/adr/0007.

mod abi;
mod codec;
mod control;
pub mod device;
mod queue;
mod starter;

use std::os::fd::BorrowedFd;

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::limits::REQUESTS_MAX;
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_types::{Bytes, MonotonicTime, PageIndex};
use rustix::io::Errno;

pub use control::{Control, ControlError};

use super::in_flight::{DoneKind, Entry, InFlight};
use super::pool::{BufferClasses, Pool};
use super::{Completion, Done, FrontEnd, FrontEndCounters, FrontEndError};
use codec::{Call, Pages};
use queue::{Queue, QueueError};
use starter::Starter;

/// Tags of the queue, and so requests that the engine has at once.
pub const DEPTH: u16 = 128;
/// Tags that the block layer leaves alone, see `device/queue.rs`: a kernel of 6.12 notices the death
/// of a server by its idle tags, and with none idle by a timer of 30 s.
pub const DEPTH_SPARE: u16 = 8;
/// Requests answered without the engine in one [`FrontEnd::take`], at most.
const ANSWERED_MAX: usize = 64;

const _: () = assert!((DEPTH as usize) < REQUESTS_MAX);
const _: () = assert!(DEPTH.is_power_of_two() && DEPTH_SPARE < DEPTH / 8);

/// The front end.
#[derive(Debug)]
pub struct Ublk {
    number: u32,
    size: Bytes,
    queue: Queue,
    starter: Starter,
    buffers: BufferClasses,
    in_flight: InFlight,
    /// A tag whose request has no buffer yet.
    parked: Option<u16>,
    counters: FrontEndCounters,
    /// When the present [`FrontEnd::take`] began.
    now: MonotonicTime,
}

/// What became of one tag's request.
enum Taken {
    Request(Request),
    Answered,
    NoRoom,
}

impl Ublk {
    /// Serves device `number`, which has `size`. To be called by the thread that will serve it, once
    /// it has all else that needs the right to administer the host, which is given up here, and
    /// before it opens any file of RDMA: see `starter.rs`.
    ///
    /// # Errors
    /// [`FrontEndError`] if the host does not permit it.
    pub fn new(number: u32, size: Bytes) -> Result<Self, FrontEndError> {
        let queue = Queue::new().map_err(|source| FrontEndError::Io {
            action: "making the ring of",
            source,
        })?;
        Ok(Self {
            number,
            size,
            queue,
            starter: Starter::new()?,
            buffers: BufferClasses::new(),
            in_flight: InFlight::new(),
            parked: None,
            counters: FrontEndCounters::default(),
            now: MonotonicTime::ZERO,
        })
    }

    fn dispatch(&mut self, tag: u16, pool: &mut Pool<'_>) -> Result<Taken, FrontEndError> {
        if !self.in_flight.has_room() {
            return Ok(Taken::NoRoom);
        }
        match codec::parse(&self.queue.descriptor(tag), self.size) {
            Call::Read(pages) => Ok(self.start_read(tag, pages)),
            Call::Write(pages) => self.start_write(tag, pages, pool),
            Call::Discard(pages) => Ok(self.start(tag, RequestKind::Discard, pages)),
            Call::Flush => Ok(self.start(tag, RequestKind::Flush, NO_PAGES)),
            Call::Refused(errno) => {
                self.counters.refused += 1;
                self.answer(tag, -errno)?;
                Ok(Taken::Answered)
            }
        }
    }

    fn start_read(&mut self, tag: u16, pages: Pages) -> Taken {
        match self.take_buffer(pages) {
            Some(buffer) => self.start(tag, RequestKind::Read { buffer }, pages),
            None => Taken::NoRoom,
        }
    }

    fn start_write(
        &mut self,
        tag: u16,
        pages: Pages,
        pool: &mut Pool<'_>,
    ) -> Result<Taken, FrontEndError> {
        let Some(buffer) = self.take_buffer(pages) else {
            return Ok(Taken::NoRoom);
        };
        if let Err(errno) = self.queue.copy_out(tag, pool.bytes_mut(buffer)) {
            self.buffers.give_back(buffer);
            tracing::warn!("a write's data cannot be had from the kernel: {errno}");
            // The kernel keeps the page and writes it again later.
            self.answer(tag, -libc::EIO)?;
            return Ok(Taken::Answered);
        }
        Ok(self.start(tag, RequestKind::Write { buffer }, pages))
    }

    fn take_buffer(&mut self, pages: Pages) -> Option<BufferRange> {
        let buffer = self.buffers.take(pages.count);
        self.counters.waits_for_buffer += u64::from(buffer.is_none());
        buffer
    }

    fn start(&mut self, tag: u16, kind: RequestKind, pages: Pages) -> Taken {
        let (done, buffer) = match kind {
            RequestKind::Read { buffer } => (DoneKind::Read, Some(buffer)),
            RequestKind::Write { buffer } => (DoneKind::Write, Some(buffer)),
            RequestKind::Discard => (DoneKind::Discard, None),
            RequestKind::Flush => (DoneKind::Flush, None),
        };
        let entry = Entry {
            unique: tag.into(),
            kind: done,
            pages: pages.count,
            bytes: buffer.map_or(0, |buffer| {
                u32::try_from(buffer.byte_len()).unwrap_or(u32::MAX)
            }),
            buffer,
            taken: self.now,
        };
        let Some(request) = self.in_flight.insert(entry) else {
            if let Some(buffer) = buffer {
                self.buffers.give_back(buffer);
            }
            return Taken::NoRoom;
        };
        Taken::Request(Request {
            tag: request,
            page: pages.first,
            pages: pages.count,
            kind,
        })
    }

    fn next_tag(&mut self) -> Result<Option<u16>, FrontEndError> {
        if let Some(parked) = self.parked.take() {
            return Ok(Some(parked));
        }
        self.queue.next().map_err(|error| match error {
            QueueError::Aborted => FrontEndError::Gone,
            QueueError::System(source) => FrontEndError::Io {
                action: "taking a request from",
                source,
            },
        })
    }

    fn answer(&mut self, tag: u16, result: i32) -> Result<(), FrontEndError> {
        let answered = self.queue.answer(tag, result);
        answered.map_err(|source| FrontEndError::Io {
            action: "answering a request on",
            source,
        })
    }

    /// What the kernel is told of a request that ended well: bytes, or the error of a read whose
    /// bytes it does not take.
    fn success(&mut self, tag: u16, entry: &Entry, data: Option<&[u8]>) -> i32 {
        let bytes = i32::try_from(entry.bytes).unwrap_or(i32::MAX);
        match (entry.kind, data) {
            (DoneKind::Write, _) => bytes,
            (DoneKind::Discard | DoneKind::Flush, _) => 0,
            (DoneKind::Read, Some(data)) if data.len() >= entry.bytes as usize => {
                match self.queue.copy_in(tag, &data[..entry.bytes as usize]) {
                    Ok(()) => bytes,
                    Err(errno) => {
                        self.counters.answers_unwanted += u64::from(errno == Errno::INVAL);
                        -libc::EIO
                    }
                }
            }
            (DoneKind::Read, _) => -libc::EIO,
        }
    }
}

/// A flush covers none.
const NO_PAGES: Pages = Pages {
    first: PageIndex::new(0),
    count: 0,
};

/// The kernel's tag of an entry.
fn kernel_tag(entry: &Entry) -> u16 {
    u16::try_from(entry.unique).unwrap_or(u16::MAX)
}

impl FrontEnd for Ublk {
    /// Takes the device over from the engine before, if there was one, and starts it if not.
    fn recover(&mut self) -> Result<(), FrontEndError> {
        let queue = &mut self.queue;
        self.starter
            .begin(self.number, |number| queue.begin(number))
    }

    fn take(
        &mut self,
        pool: &mut Pool<'_>,
        now: MonotonicTime,
    ) -> Result<Option<Request>, FrontEndError> {
        self.now = now;
        self.starter.check()?;
        for _ in 0..ANSWERED_MAX {
            let Some(tag) = self.next_tag()? else {
                return Ok(None);
            };
            match self.dispatch(tag, pool)? {
                Taken::Request(request) => return Ok(Some(request)),
                Taken::Answered => {}
                Taken::NoRoom => {
                    self.parked = Some(tag);
                    return Ok(None);
                }
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
        let tag = kernel_tag(&entry);
        let result = match completion.result {
            Ok(()) => self.success(tag, &entry, completion.data.map(|data| pool.bytes(data))),
            Err(_) => -libc::EIO,
        };
        self.answer(tag, result)?;
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
            self.answer(kernel_tag(&entry), -libc::EIO)?;
        }
        self.release(tag);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool, FrontEndError> {
        let flushed = self.queue.flush();
        flushed.map_err(|source| FrontEndError::Io {
            action: "answering requests on",
            source,
        })?;
        Ok(!self.queue.has_unsent())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.queue.event_fd()
    }

    fn wants_requests(&self) -> bool {
        self.parked.is_none() && self.in_flight.has_room()
    }

    fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    fn counters(&self) -> FrontEndCounters {
        self.counters
    }
}
