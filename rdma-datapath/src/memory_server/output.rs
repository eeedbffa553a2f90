//! Answers of one connection, in the order of its requests, sent straight from the slots.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::OperationError;
use dynamicswap_engine::slots::{MemoryServerCore, Permit};
use dynamicswap_engine::wire::{RESPONSE_BYTES, Response, Status};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// What a borrower may have under way, and a ping.
const RING: usize = LINK_OPERATIONS_MAX + 1;
/// Slices of one system call.
const SLICES_MAX: usize = 64;

#[derive(Clone)]
struct Answer {
    tag: u64,
    header: [u8; RESPONSE_BYTES],
    payload: Option<Permit>,
}

impl Answer {
    fn bytes(&self) -> usize {
        RESPONSE_BYTES + self.payload.map_or(0, |permit| permit.len)
    }
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing is left.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// A slot was taken back while its pages were on their way: close the connection.
    TakenBack,
    /// The network failed.
    Failed(Errno),
}

/// The ring.
pub(super) struct Output {
    ring: Box<[Answer]>,
    first: usize,
    count: usize,
    /// Bytes of the first answer that are on their way.
    sent_bytes: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        let empty = Answer {
            tag: 0,
            header: [0; RESPONSE_BYTES],
            payload: None,
        };
        Self {
            ring: vec![empty; RING].into_boxed_slice(),
            first: 0,
            count: 0,
            sent_bytes: 0,
        }
    }

    pub(super) const fn clear(&mut self) {
        self.count = 0;
        self.sent_bytes = 0;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no answer can be added: requests must wait.
    pub(super) const fn is_full(&self) -> bool {
        self.count == RING
    }

    /// Adds an answer; `payload` is what a READ that succeeded gives.
    pub(super) fn push(&mut self, tag: u64, status: Status, payload: Option<Permit>) {
        debug_assert!(!self.is_full());
        let payload_len = payload.map_or(0, |permit| u32::try_from(permit.len).unwrap_or(u32::MAX));
        let header = Response {
            tag,
            status,
            payload_len,
        };
        self.ring[(self.first + self.count) % RING] = Answer {
            tag,
            header: header.encode(),
            payload,
        };
        self.count += 1;
    }

    /// Sends what the socket takes. Each slot is looked at again: what was taken back since the
    /// request goes to nobody.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        core: &MemoryServerCore,
        slots: &[u8],
    ) -> Sent {
        while self.count > 0 {
            if !self.revoke_taken_back(core) {
                return Sent::TakenBack;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = self.gather(slots, &mut slices);
            let mut control = SendAncillaryBuffer::default();
            match sendmsg(socket, &slices[..used], &mut control, SendFlags::NOSIGNAL) {
                Ok(bytes) => self.advance(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Blocked,
                Err(errno) => return Sent::Failed(errno),
            }
        }
        Sent::All
    }

    /// Turns answers with pages of slots that changed hands into refusals; false if one of them
    /// is half sent.
    fn revoke_taken_back(&mut self, core: &MemoryServerCore) -> bool {
        for number in 0..self.count.min(SLICES_MAX) {
            let answer = &mut self.ring[(self.first + number) % RING];
            if answer.payload.is_none_or(|permit| core.still_valid(permit)) {
                continue;
            }
            if number == 0 && self.sent_bytes > 0 {
                return false;
            }
            let refusal = Response {
                tag: answer.tag,
                status: Status::Refused(OperationError::NotOwner),
                payload_len: 0,
            };
            answer.header = refusal.encode();
            answer.payload = None;
        }
        true
    }

    fn gather<'a>(&'a self, slots: &'a [u8], slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut used = 0;
        let mut skip = self.sent_bytes;
        for number in 0..self.count {
            if used + 2 > SLICES_MAX {
                break;
            }
            let answer = &self.ring[(self.first + number) % RING];
            if skip < RESPONSE_BYTES {
                slices[used] = IoSlice::new(&answer.header[skip..]);
                used += 1;
            }
            if let Some(permit) = answer.payload {
                let begun = skip.saturating_sub(RESPONSE_BYTES);
                slices[used] = IoSlice::new(&slot_pages(slots, permit)[begun..]);
                used += 1;
            }
            skip = 0;
        }
        used
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 && self.count > 0 {
            let left = self.ring[self.first].bytes() - self.sent_bytes;
            if bytes < left {
                self.sent_bytes += bytes;
                return;
            }
            bytes -= left;
            self.first = (self.first + 1) % RING;
            self.count -= 1;
            self.sent_bytes = 0;
        }
    }
}

/// The pages that a permit is for.
pub(super) fn slot_pages(slots: &[u8], permit: Permit) -> &[u8] {
    let offset = usize::try_from(permit.offset).unwrap_or(usize::MAX);
    slots
        .get(offset..)
        .and_then(|rest| rest.get(..permit.len))
        .unwrap_or_default()
}
