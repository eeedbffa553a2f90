//! Requests of one link: a ring in the order in which they are sent and answered.

use std::io::IoSlice;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::{Direction, Operation};
use dynamicswap_engine::slots::SlotPages;
use dynamicswap_engine::wire::{REQUEST_BYTES, Request, RequestKind};

/// Every operation and one ping.
const RING: usize = LINK_OPERATIONS_MAX + 1;
/// Slices of one system call: 32 writes.
pub(super) const SLICES_MAX: usize = 64;

#[derive(Clone)]
struct Flight {
    header: [u8; REQUEST_BYTES],
    /// `None` is a ping.
    operation: Option<Operation>,
}

impl Flight {
    /// Header and payload.
    fn bytes(&self) -> usize {
        REQUEST_BYTES
            + self
                .payload()
                .map_or(0, |operation| operation.buffer.byte_len())
    }

    /// The operation, if it sends pages.
    fn payload(&self) -> Option<&Operation> {
        let operation = self.operation.as_ref();
        operation.filter(|operation| operation.direction == Direction::Write)
    }
}

/// The ring. The counters only grow; a request's number is its tag on the wire.
pub(super) struct Flights {
    ring: Box<[Flight]>,
    /// Answered.
    done: u64,
    /// Sent whole.
    sent: u64,
    /// Posted.
    posted: u64,
    /// Bytes of request `sent` that are on their way.
    sent_bytes: usize,
}

fn place(number: u64) -> usize {
    usize::try_from(number % RING as u64).unwrap_or_default()
}

impl Flights {
    pub(super) fn new() -> Self {
        let empty = Flight {
            header: [0; REQUEST_BYTES],
            operation: None,
        };
        Self {
            ring: vec![empty; RING].into_boxed_slice(),
            done: 0,
            sent: 0,
            posted: 0,
            sent_bytes: 0,
        }
    }

    /// Adds an operation; false if there is no room.
    pub(super) fn push(&mut self, operation: &Operation) -> bool {
        if self.len() >= LINK_OPERATIONS_MAX {
            return false;
        }
        let range = SlotPages {
            set: operation.set,
            slot: operation.slot,
            page: operation.page,
            pages: operation.buffer.pages,
        };
        let kind = match operation.direction {
            Direction::Read => RequestKind::Read(range),
            Direction::Write => RequestKind::Write(range),
        };
        self.put(kind, Some(*operation));
        true
    }

    /// Adds a ping. Only where nothing else is under way, so there is room.
    pub(super) fn push_ping(&mut self) {
        debug_assert!(self.is_empty());
        self.put(RequestKind::Ping, None);
    }

    fn put(&mut self, kind: RequestKind, operation: Option<Operation>) {
        let tag = self.posted;
        let header = Request { tag, kind }.encode();
        self.ring[place(tag)] = Flight { header, operation };
        self.posted += 1;
    }

    fn len(&self) -> usize {
        usize::try_from(self.posted - self.done).unwrap_or(usize::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.posted == self.done
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.posted
    }

    /// Tag and operation of the request whose answer comes next; `None` if none was sent whole.
    /// A ping has no operation.
    pub(super) fn next_answer(&self) -> Option<(u64, Option<Operation>)> {
        let flight = &self.ring[place(self.done)];
        (self.done < self.sent).then_some((self.done, flight.operation))
    }

    /// The next answer has come whole.
    pub(super) fn answered(&mut self) {
        debug_assert!(self.done < self.sent);
        self.done += 1;
    }

    /// Takes the oldest request out, sent or not: the link is down.
    pub(super) fn abandon(&mut self) -> Option<Option<Operation>> {
        if self.is_empty() {
            return None;
        }
        let operation = self.ring[place(self.done)].operation;
        self.done += 1;
        self.sent = self.sent.max(self.done);
        self.sent_bytes = 0;
        Some(operation)
    }

    /// The bytes to be sent next, header and payload in turn; returns the number of slices.
    pub(super) fn gather<'a>(
        &'a self,
        buffers: &'a dyn Buffers,
        slices: &mut [IoSlice<'a>; SLICES_MAX],
    ) -> usize {
        let mut used = 0;
        let mut skip = self.sent_bytes;
        for number in self.sent..self.posted {
            if used + 2 > SLICES_MAX {
                break;
            }
            let flight = &self.ring[place(number)];
            if skip < REQUEST_BYTES {
                slices[used] = IoSlice::new(&flight.header[skip..]);
                used += 1;
            }
            if let Some(operation) = flight.payload() {
                let begun = skip.saturating_sub(REQUEST_BYTES);
                slices[used] = IoSlice::new(&buffers.bytes(operation.buffer)[begun..]);
                used += 1;
            }
            skip = 0;
        }
        used
    }

    /// `bytes` of what was gathered are on their way.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 && self.has_unsent() {
            let left = self.ring[place(self.sent)].bytes() - self.sent_bytes;
            if bytes < left {
                self.sent_bytes += bytes;
                return;
            }
            bytes -= left;
            self.sent += 1;
            self.sent_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::buffer::BufferRange;
    use dynamicswap_engine::operation::OperationId;
    use dynamicswap_types::{ServerIndex, SetId, SlotIndex};
    use proptest::prelude::*;

    fn operation(id: u64, direction: Direction) -> Operation {
        Operation {
            id: OperationId(id),
            server: ServerIndex::new(0),
            direction,
            set: SetId::new(1),
            slot: SlotIndex::new(0),
            page: 0,
            buffer: BufferRange { first: 0, pages: 1 },
        }
    }

    proptest! {
        /// However the socket cuts it, the stream is the concatenation of headers and payloads.
        #[test]
        fn stream_is_the_same_however_it_is_cut(
            writes in proptest::collection::vec(any::<bool>(), 1..80),
            cuts in proptest::collection::vec(1_usize..9000, 1..400),
        ) {
            let pool = vec![7_u8; 4096];
            let mut flights = Flights::new();
            let mut expected = Vec::new();
            for (id, write) in (0..).zip(writes) {
                let direction = if write { Direction::Write } else { Direction::Read };
                prop_assert!(flights.push(&operation(id, direction)));
                let flight = &flights.ring[place(id)];
                expected.extend_from_slice(&flight.header);
                if write {
                    expected.extend_from_slice(&pool);
                }
            }
            let mut stream = Vec::new();
            for cut in cuts.iter().cycle() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = flights.gather(&pool, &mut slices);
                if used == 0 {
                    break;
                }
                let bytes: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
                let taken = bytes.len().min(*cut);
                stream.extend_from_slice(&bytes[..taken]);
                flights.advance(taken);
            }
            prop_assert!(!flights.has_unsent());
            prop_assert_eq!(stream, expected);
        }
    }

    #[test]
    fn ring_is_bounded_and_answers_come_in_order() {
        let mut flights = Flights::new();
        for id in 0..LINK_OPERATIONS_MAX as u64 {
            assert!(flights.push(&operation(id, Direction::Read)));
        }
        assert!(!flights.push(&operation(999, Direction::Read)));
        assert_eq!(flights.next_answer(), None, "nothing was sent");
        flights.advance(REQUEST_BYTES + 1);
        let next = flights.next_answer().expect("one was sent whole");
        assert_eq!(next, (0, Some(operation(0, Direction::Read))));
        flights.answered();
        assert_eq!(flights.next_answer(), None, "the second is half sent");
        assert!(flights.push(&operation(999, Direction::Read)));
        let abandoned = std::iter::from_fn(|| flights.abandon()).count();
        assert_eq!(abandoned, LINK_OPERATIONS_MAX);
        assert!(flights.is_empty() && !flights.has_unsent());
    }
}
