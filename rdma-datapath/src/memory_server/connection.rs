//! One connection: its bytes in, its answers out.
//!
//! A WRITE's payload goes straight into its slot; whether the slot is still in the same hands is
//! looked at before each part of it.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamicswap_engine::operation::OperationError;
use dynamicswap_engine::slots::{ConnectionIndex, Hello, MemoryServerCore, Permit};
use dynamicswap_engine::wire::{
    HANDSHAKE_BYTES, REQUEST_BYTES, Request, RequestKind, Status, WireError,
};
use dynamicswap_types::MonotonicTime;
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, readv};

use super::output::{Output, Sent};
use super::shared::{CloseReason, Counters};

/// Requests of a full pipeline of reads, or seven pages to write, in one system call.
const STAGING_BYTES: usize = 32 << 10;
/// Reads of one connection in one round, so that a busy one does not starve the others.
const READS_MAX: usize = 8;
/// A handshake must be whole after this time.
const GREETING_TIME_MAX: Duration = Duration::from_secs(2);
/// A borrower pings every 150 ms: after this time it is gone, or stopped for long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// What serving works with.
pub(super) struct Service<'a> {
    pub(super) core: &'a mut MemoryServerCore,
    pub(super) slots: &'a mut [u8],
    pub(super) counters: &'a Counters,
    pub(super) now: MonotonicTime,
}

/// A WRITE whose payload is on its way.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    tag: u64,
    /// Where it goes, or why it goes nowhere.
    target: Result<Permit, OperationError>,
    filled: usize,
    len: usize,
}

/// What reading found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Go on when the socket says so.
    Waiting,
    /// A whole hello stands at the beginning of the input.
    Hello,
    /// A malformed frame; the answer that says so is on its way.
    Malformed(WireError),
}

/// A place in the connection table; its buffers are there from the start.
pub(super) struct Connection {
    pub(super) index: ConnectionIndex,
    socket: Option<OwnedFd>,
    pub(super) peer: SocketAddr,
    /// Of an accepted handshake.
    pub(super) hello: Option<Hello>,
    heard: MonotonicTime,
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    incoming: Option<Incoming>,
    output: Output,
    blocked: bool,
    /// What epoll was asked to tell.
    pub(super) interest: EventFlags,
}

fn add(counter: &AtomicU64, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or_default();
    counter.fetch_add(bytes, Ordering::Relaxed);
}

impl Connection {
    pub(super) fn new(index: ConnectionIndex) -> Self {
        Self {
            index,
            socket: None,
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            hello: None,
            heard: MonotonicTime::ZERO,
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            incoming: None,
            output: Output::new(),
            blocked: false,
            interest: EventFlags::IN,
        }
    }

    /// A new peer takes the place.
    pub(super) fn accept(&mut self, socket: OwnedFd, peer: SocketAddr, now: MonotonicTime) {
        self.socket = Some(socket);
        self.peer = peer;
        self.hello = None;
        self.heard = now;
        self.start = 0;
        self.end = 0;
        self.incoming = None;
        self.output.clear();
        self.blocked = false;
        self.interest = EventFlags::IN;
    }

    /// Closes the socket; what it still holds is not applied.
    pub(super) fn close(&mut self) -> Option<Hello> {
        self.socket = None;
        self.hello.take()
    }

    pub(super) const fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self, now: MonotonicTime) -> bool {
        let limit = if self.hello.is_some() {
            IDLE_TIME_MAX
        } else {
            GREETING_TIME_MAX
        };
        self.is_open() && now.since(self.heard) > limit
    }

    /// What epoll should tell: no input while no answer can be added.
    pub(super) fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !self.output.is_full());
        wanted.set(EventFlags::OUT, self.blocked);
        wanted
    }

    /// Takes the hello that [`Progress::Hello`] announced.
    pub(super) fn take_hello(&mut self) -> Option<[u8; HANDSHAKE_BYTES]> {
        self.take()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.staging.get(self.start..self.end)?.first_chunk::<N>()?;
        self.start += N;
        Some(*bytes)
    }

    /// Reads, serves and answers as far as the socket goes.
    pub(super) fn serve(&mut self, service: &mut Service<'_>) -> Result<Progress, CloseReason> {
        let (mut more, mut reads) = (true, 0);
        loop {
            if self.hello.is_none() {
                if self.end - self.start >= HANDSHAKE_BYTES {
                    return Ok(Progress::Hello);
                }
            } else if let Err(error) = self.take_requests(service) {
                self.output.push(0, Status::Malformed, None);
                self.send(service)?;
                return Ok(Progress::Malformed(error));
            }
            let was_full = self.output.is_full();
            self.send(service)?;
            if self.output.is_full() {
                // Blocked: goes on when the socket takes more.
                return Ok(Progress::Waiting);
            }
            if was_full {
                continue;
            }
            if !more || reads == READS_MAX {
                return Ok(Progress::Waiting);
            }
            reads += 1;
            match self.fill(service)? {
                Some(whole) => more = whole,
                None => return Ok(Progress::Waiting),
            }
        }
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self, service: &mut Service<'_>) -> Result<(), CloseReason> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        self.blocked = false;
        if self.output.is_empty() {
            return Ok(());
        }
        match self
            .output
            .send(socket.as_fd(), service.core, service.slots)
        {
            Sent::All => Ok(()),
            Sent::Blocked => {
                self.blocked = true;
                Ok(())
            }
            Sent::TakenBack => Err(CloseReason::SlotTakenBack),
            Sent::Failed(errno) => Err(CloseReason::Network(errno)),
        }
    }

    /// Reads once. Tells whether there may be more; `None` if there was nothing.
    fn fill(&mut self, service: &mut Service<'_>) -> Result<Option<bool>, CloseReason> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        self.staging.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let target = target_bytes(self.incoming.as_mut(), service);
        let direct_len = target.len();
        let free = &mut self.staging[self.end..];
        let wanted = direct_len + free.len();
        let mut slices = [IoSliceMut::new(target), IoSliceMut::new(free)];
        let slices = if direct_len > 0 {
            &mut slices[..]
        } else {
            &mut slices[1..]
        };
        let read = match readv(socket, slices) {
            Ok(0) => return Err(CloseReason::ByPeer),
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(CloseReason::Network(errno)),
        };
        let direct = read.min(direct_len);
        if let Some(incoming) = &mut self.incoming {
            incoming.filled += direct;
        }
        self.end += read - direct;
        self.heard = service.now;
        Ok(Some(read == wanted))
    }

    /// Serves every whole request of the input, as long as answers can be added.
    fn take_requests(&mut self, service: &mut Service<'_>) -> Result<(), WireError> {
        while !self.output.is_full() {
            if let Some(incoming) = self.incoming {
                if !self.take_payload(incoming, service) {
                    return Ok(());
                }
                continue;
            }
            let Some(bytes) = self.take::<REQUEST_BYTES>() else {
                return Ok(());
            };
            self.take_request(Request::decode(&bytes)?, service);
        }
        Ok(())
    }

    fn take_request(&mut self, request: Request, service: &mut Service<'_>) {
        let tag = request.tag;
        match request.kind {
            RequestKind::Ping => self.output.push(tag, Status::Done, None),
            RequestKind::Read(range) => match service.core.check(self.index, range) {
                Ok(permit) => {
                    add(&service.counters.bytes_read, permit.len);
                    self.output.push(tag, Status::Done, Some(permit));
                }
                Err(error) => self.output.push(tag, Status::Refused(error), None),
            },
            RequestKind::Write(range) => {
                self.incoming = Some(Incoming {
                    tag,
                    target: service.core.check(self.index, range),
                    filled: 0,
                    len: usize::try_from(request.payload_len()).unwrap_or_default(),
                });
            }
        }
    }

    /// Moves what the input has of the payload; true once it is whole and answered.
    fn take_payload(&mut self, mut incoming: Incoming, service: &mut Service<'_>) -> bool {
        let target = target_bytes(Some(&mut incoming), service);
        let left = incoming.len - incoming.filled;
        let len = left.min(self.end - self.start);
        let bytes = &self.staging[self.start..self.start + len];
        if let Some(target) = target.get_mut(..len) {
            target.copy_from_slice(bytes);
        }
        self.start += len;
        incoming.filled += len;
        if incoming.filled < incoming.len {
            self.incoming = Some(incoming);
            return false;
        }
        self.incoming = None;
        let status = match incoming.target {
            Ok(permit) => {
                add(&service.counters.bytes_written, permit.len);
                Status::Done
            }
            Err(error) => Status::Refused(error),
        };
        self.output.push(incoming.tag, status, None);
        true
    }
}

/// What is missing of a payload, in its slot; empty if it goes nowhere. A slot that changed
/// hands since the header makes it go nowhere.
fn target_bytes<'a>(incoming: Option<&mut Incoming>, service: &'a mut Service<'_>) -> &'a mut [u8] {
    let Some(incoming) = incoming else {
        return &mut [];
    };
    let Ok(permit) = incoming.target else {
        return &mut [];
    };
    if !service.core.still_valid(permit) {
        incoming.target = Err(OperationError::NotOwner);
        return &mut [];
    }
    let offset = usize::try_from(permit.offset).unwrap_or(usize::MAX);
    let slot = service.slots.get_mut(offset..);
    let pages = slot.and_then(|slot| slot.get_mut(..permit.len));
    pages
        .and_then(|pages| pages.get_mut(incoming.filled..))
        .unwrap_or_default()
}
