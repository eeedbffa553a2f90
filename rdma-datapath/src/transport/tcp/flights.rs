//! Requests of one link: those that wait, and a ring of the others in the order in which they are
//! sent and answered.
//!
//! A read goes ahead of every write that waits, and writes enter the ring a segment at a time, as the
//! socket takes them: what a process waits for is never behind a megabyte that reclaim sends away.

use std::collections::VecDeque;
use std::io::IoSlice;

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::{Direction, Operation, OperationError, OperationResult};
use dynamicswap_engine::slots::SlotPages;
use dynamicswap_engine::wire::{REQUEST_BYTES, Request, RequestKind};

use super::super::segments::{Segment, WriteQueue};

/// As many as the server keeps answers of, and one ping.
const RING: usize = LINK_OPERATIONS_MAX + 1;
/// Slices of one system call: 32 writes.
pub(super) const SLICES_MAX: usize = 64;
/// Pages of a segment: 64 KiB, which 10 Gb/s carry in 52 us. A header and an answer for each are a
/// thousandth of its bytes.
const SEGMENT_PAGES: u32 = 16;
/// Bytes that the ring holds beyond what the socket has taken; more of the writes wait.
const UNSENT_BYTES: usize = 64 << 10;

#[derive(Clone)]
struct Flight {
    header: [u8; REQUEST_BYTES],
    /// `None` is a ping.
    segment: Option<Segment>,
}

impl Flight {
    /// Header and payload.
    fn bytes(&self) -> usize {
        REQUEST_BYTES + self.payload().map_or(0, |buffer| buffer.byte_len())
    }

    /// The pages that it sends.
    fn payload(&self) -> Option<BufferRange> {
        let segment = self.segment.as_ref();
        segment
            .filter(|segment| segment.operation.direction == Direction::Write)
            .map(Segment::buffer)
    }
}

/// Requests. The counters only grow; a request's number is its tag on the wire.
pub(super) struct Flights {
    reads: VecDeque<Operation>,
    writes: WriteQueue,
    ring: Box<[Flight]>,
    /// Answered.
    done: u64,
    /// Sent whole.
    sent: u64,
    /// Entered into the ring.
    posted: u64,
    /// Bytes of request `sent` that are on their way.
    sent_bytes: usize,
    /// Bytes of the ring that are not.
    unsent_bytes: usize,
    /// Operations that end in the ring.
    ends: usize,
    /// What an earlier segment of the write that is being answered met.
    refused: Option<OperationError>,
}

fn place(number: u64) -> usize {
    usize::try_from(number % RING as u64).unwrap_or_default()
}

impl Flights {
    pub(super) fn new() -> Self {
        let empty = Flight {
            header: [0; REQUEST_BYTES],
            segment: None,
        };
        Self {
            reads: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            writes: WriteQueue::new(),
            ring: vec![empty; RING].into_boxed_slice(),
            done: 0,
            sent: 0,
            posted: 0,
            sent_bytes: 0,
            unsent_bytes: 0,
            ends: 0,
            refused: None,
        }
    }

    /// Adds an operation; false if there is no room.
    pub(super) fn push(&mut self, operation: &Operation) -> bool {
        if self.ends + self.reads.len() + self.writes.len() >= LINK_OPERATIONS_MAX {
            return false;
        }
        match operation.direction {
            Direction::Read => self.reads.push_back(*operation),
            Direction::Write => self.writes.push(*operation),
        }
        true
    }

    /// Adds a ping. Only where nothing else is under way, so there is room.
    pub(super) fn push_ping(&mut self) {
        debug_assert!(self.is_empty());
        self.put(RequestKind::Ping, None);
    }

    /// Enters what is to be sent next into the ring: reads first. True if there is anything to send.
    pub(super) fn prepare(&mut self) -> bool {
        while self.in_ring() < LINK_OPERATIONS_MAX {
            if let Some(read) = self.reads.pop_front() {
                self.put_segment(Segment::whole(read));
            } else if self.unsent_bytes < UNSENT_BYTES
                && let Some(segment) = self.writes.next(SEGMENT_PAGES)
            {
                self.put_segment(segment);
                self.writes.posted(&segment);
            } else {
                break;
            }
        }
        self.sent < self.posted
    }

    fn put_segment(&mut self, segment: Segment) {
        let operation = &segment.operation;
        let range = SlotPages {
            set: operation.set,
            slot: operation.slot,
            page: segment.page(),
            pages: segment.pages,
        };
        let kind = match operation.direction {
            Direction::Read => RequestKind::Read(range),
            Direction::Write => RequestKind::Write(range),
        };
        self.ends += usize::from(segment.is_last());
        self.put(kind, Some(segment));
    }

    fn put(&mut self, kind: RequestKind, segment: Option<Segment>) {
        let tag = self.posted;
        let header = Request { tag, kind }.encode();
        let flight = Flight { header, segment };
        self.unsent_bytes += flight.bytes();
        self.ring[place(tag)] = flight;
        self.posted += 1;
    }

    fn in_ring(&self) -> usize {
        usize::try_from(self.posted - self.done).unwrap_or(usize::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.posted == self.done && self.reads.is_empty() && self.writes.is_empty()
    }

    /// Tag and segment of the request whose answer comes next; `None` if none was sent whole. A ping
    /// has no segment.
    pub(super) fn next_answer(&self) -> Option<(u64, Option<Segment>)> {
        let flight = &self.ring[place(self.done)];
        (self.done < self.sent).then_some((self.done, flight.segment))
    }

    /// The next answer has come whole; gives the operation that ends with it, and how.
    pub(super) fn answered(
        &mut self,
        result: OperationResult,
    ) -> Option<(Operation, OperationResult)> {
        debug_assert!(self.done < self.sent);
        let segment = self.ring[place(self.done)].segment;
        self.done += 1;
        let segment = segment?;
        self.ends -= usize::from(segment.is_last());
        if segment.operation.direction == Direction::Read {
            return Some((segment.operation, result));
        }
        // The segments of one write are answered before those of the next.
        self.refused = self.refused.or(result.err());
        segment
            .is_last()
            .then(|| (segment.operation, self.refused.take().map_or(Ok(()), Err)))
    }

    /// Takes the oldest operation out, sent or not: the link is down.
    pub(super) fn abandon(&mut self) -> Option<Operation> {
        while self.done < self.posted {
            let segment = self.ring[place(self.done)].segment;
            self.done += 1;
            if let Some(last) = segment.filter(Segment::is_last) {
                self.ends -= 1;
                return Some(last.operation);
            }
        }
        self.sent = self.done;
        self.sent_bytes = 0;
        self.unsent_bytes = 0;
        self.refused = None;
        self.writes.take_first().or_else(|| self.reads.pop_front())
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
            if let Some(buffer) = flight.payload() {
                let begun = skip.saturating_sub(REQUEST_BYTES);
                slices[used] = IoSlice::new(&buffers.bytes(buffer)[begun..]);
                used += 1;
            }
            skip = 0;
        }
        used
    }

    /// `bytes` of what was gathered are on their way.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        while bytes > 0 && self.sent < self.posted {
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
    use super::super::super::segments::tests::operation;
    use super::*;
    use proptest::prelude::*;

    /// Sends up to `bytes`, and gives them.
    fn send(flights: &mut Flights, pool: &[u8], bytes: usize) -> Vec<u8> {
        let pool = pool.to_vec();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = flights.gather(&pool, &mut slices);
        let mut sent: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
        sent.truncate(bytes);
        flights.advance(sent.len());
        sent
    }

    proptest! {
        /// However the socket cuts it, what arrives are whole requests, whose payloads are every
        /// write's bytes, once and in order; and every operation ends once.
        #[test]
        fn stream_holds_every_operation_whole_however_it_is_cut(
            operations in proptest::collection::vec((any::<bool>(), 1_u32..40), 1..60),
            cuts in proptest::collection::vec(1_usize..90_000, 1..400),
        ) {
            let pool: Vec<u8> = (0..40_u8).flat_map(|page| [page; 4096]).collect();
            let mut flights = Flights::new();
            for (id, (write, pages)) in (0..).zip(&operations) {
                let direction = if *write { Direction::Write } else { Direction::Read };
                prop_assert!(flights.push(&operation(id, direction, *pages)));
            }
            let mut stream = Vec::new();
            for cut in cuts.iter().cycle() {
                if !flights.prepare() {
                    break;
                }
                stream.extend(send(&mut flights, &pool, *cut));
            }
            let (mut at, mut tag, mut pages) = (0, 0, [0_u64; 2]);
            while at < stream.len() {
                let header = stream[at..at + REQUEST_BYTES].try_into().expect("a header");
                let request = Request::decode(&header).expect("valid");
                prop_assert_eq!(request.tag, tag);
                tag += 1;
                at += REQUEST_BYTES;
                let (RequestKind::Read(range) | RequestKind::Write(range)) = request.kind else {
                    panic!("a ping");
                };
                let writes = matches!(request.kind, RequestKind::Write(_));
                pages[usize::from(writes)] += u64::from(range.pages);
                if writes {
                    let first = range.page as usize * 4096;
                    let len = range.pages as usize * 4096;
                    prop_assert_eq!(&stream[at..at + len], &pool[first..first + len]);
                    at += len;
                }
            }
            for (writes, seen) in [(false, pages[0]), (true, pages[1])] {
                let mine = operations.iter().filter(|it| it.0 == writes);
                prop_assert_eq!(mine.map(|it| u64::from(it.1)).sum::<u64>(), seen);
            }
            let mut ended: Vec<u64> = (0..tag)
                .filter_map(|_| flights.answered(Ok(())))
                .map(|(operation, _)| operation.id.0)
                .collect();
            ended.sort_unstable();
            prop_assert_eq!(ended, (0..operations.len() as u64).collect::<Vec<_>>());
            prop_assert!(flights.is_empty());
        }
    }

    #[test]
    fn read_goes_ahead_of_writes_that_the_socket_has_not_taken() {
        let pool = vec![7_u8; 256 * 4096];
        let mut flights = Flights::new();
        for id in 0..4 {
            assert!(flights.push(&operation(id, Direction::Write, 256)));
        }
        assert!(flights.prepare());
        let segment = REQUEST_BYTES + SEGMENT_PAGES as usize * 4096;
        send(&mut flights, &pool, segment);
        assert!(flights.push(&operation(9, Direction::Read, 1)));
        assert!(flights.prepare());
        let mut before = 0;
        while flights.ring[place(flights.sent)]
            .segment
            .is_some_and(|it| it.operation.id.0 != 9)
        {
            before += send(&mut flights, &pool, segment).len();
            assert!(flights.prepare());
        }
        assert!(before <= UNSENT_BYTES + segment, "{before} bytes before it");
    }

    #[test]
    fn refused_segment_fails_its_write_once_and_no_other() {
        let pool = vec![7_u8; 40 * 4096];
        let mut flights = Flights::new();
        for id in 0..2 {
            assert!(flights.push(&operation(id, Direction::Write, 40)));
        }
        while flights.prepare() {
            send(&mut flights, &pool, usize::MAX);
        }
        let mut ended = Vec::new();
        for number in 0..6 {
            let result = if number == 1 {
                Err(OperationError::NotOwner)
            } else {
                Ok(())
            };
            ended.extend(flights.answered(result));
        }
        let ended: Vec<_> = ended.iter().map(|(it, how)| (it.id.0, *how)).collect();
        assert_eq!(ended, [(0, Err(OperationError::NotOwner)), (1, Ok(()))]);
    }

    #[test]
    fn ring_is_bounded_and_answers_come_in_order() {
        let pool = vec![7_u8; 4096];
        let mut flights = Flights::new();
        for id in 0..LINK_OPERATIONS_MAX as u64 {
            assert!(flights.push(&operation(id, Direction::Read, 1)));
        }
        assert!(!flights.push(&operation(999, Direction::Read, 1)));
        assert!(flights.prepare());
        assert_eq!(flights.next_answer(), None, "nothing was sent");
        send(&mut flights, &pool, REQUEST_BYTES + 1);
        let (tag, segment) = flights.next_answer().expect("one was sent whole");
        assert_eq!((tag, segment.map(|it| it.operation.id.0)), (0, Some(0)));
        assert!(flights.answered(Ok(())).is_some());
        assert_eq!(flights.next_answer(), None, "the second is half sent");
        assert!(flights.push(&operation(999, Direction::Read, 1)));
        let abandoned = std::iter::from_fn(|| flights.abandon()).count();
        assert_eq!(abandoned, LINK_OPERATIONS_MAX);
        assert!(flights.is_empty() && !flights.prepare());
    }
}
