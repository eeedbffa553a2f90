//! Writes that wait for room on the link, and the cutting of them into segments.
//!
//! A queue pair takes its work in order. The kernel swaps out megabytes at once, and a process that
//! waits for one page would wait for all of them. So writes are posted a segment at a time, as many
//! as keep the link busy, and a read goes ahead of all that are not posted yet.

use std::collections::VecDeque;

use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::Operation;

/// Bytes of a segment: eight pages. On 100 Gb/s they take 2.6 us, as long as the way there and back,
/// and posting one takes a twentieth of that.
pub(super) const SEGMENT_BYTES: usize = 32 << 10;
/// Segments under way at once: 128 KiB, what 100 Gb/s carry in 10 us, there and back across a large
/// network. With less, an engine that is woken late finds the link idle: with 32 KiB, emulated machines
/// carried a fifth of what they could.
pub(super) const SEGMENTS_MAX: usize = 4;

/// A piece of a write that may be posted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The whole write.
    pub(super) operation: Operation,
    /// Where the piece begins, in bytes.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// The write ends with it.
    pub(super) last: bool,
}

/// The queue. Writes leave it in the order in which they came.
pub(super) struct Outbox {
    held: VecDeque<Operation>,
    /// Bytes of the first one that are posted.
    begun: usize,
    /// Bytes of segments that have not ended.
    under_way: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            begun: 0,
            under_way: 0,
        }
    }

    /// A new connection begins, with nothing under way. What waits belongs to the old one: take it
    /// out before.
    pub(super) fn begin(&mut self) {
        debug_assert!(self.held.is_empty());
        self.under_way = 0;
    }

    /// Writes that are not posted whole.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn push(&mut self, write: Operation) {
        self.held.push_back(write);
    }

    /// What may be posted next.
    pub(super) fn next(&self) -> Option<Segment> {
        let operation = *self.held.front()?;
        let left = operation.buffer.byte_len() - self.begun;
        let bytes = left.min(SEGMENT_BYTES);
        let room = self.under_way + bytes <= SEGMENTS_MAX * SEGMENT_BYTES;
        room.then_some(Segment {
            operation,
            offset: self.begun,
            bytes,
            last: bytes == left,
        })
    }

    /// [`Self::next`] was posted.
    pub(super) fn posted(&mut self, segment: &Segment) {
        self.under_way += segment.bytes;
        self.begun += segment.bytes;
        if segment.last {
            self.begun = 0;
            self.held.pop_front();
        }
    }

    /// A segment of so many bytes ended.
    pub(super) fn ended(&mut self, bytes: usize) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }

    /// Takes the first write out, to be posted again from its begin or given up.
    pub(super) fn take_first(&mut self) -> Option<Operation> {
        self.begun = 0;
        self.held.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::buffer::BufferRange;
    use dynamicswap_engine::operation::{Direction, OperationId};
    use dynamicswap_types::{ServerIndex, SetId, SlotIndex};

    fn write(id: u64, pages: u32) -> Operation {
        Operation {
            id: OperationId(id),
            server: ServerIndex::new(0),
            direction: Direction::Write,
            set: SetId::new(1),
            slot: SlotIndex::new(0),
            page: 0,
            buffer: BufferRange { first: 0, pages },
        }
    }

    fn post_all(outbox: &mut Outbox) -> Vec<Segment> {
        std::iter::from_fn(|| {
            let segment = outbox.next()?;
            outbox.posted(&segment);
            Some(segment)
        })
        .collect()
    }

    #[test]
    fn writes_are_cut_in_order_and_only_the_last_piece_ends_one() {
        let mut outbox = Outbox::new();
        outbox.push(write(1, 17));
        outbox.push(write(2, 1));
        let posted = post_all(&mut outbox);
        let seen: Vec<_> = posted
            .iter()
            .map(|it| (it.operation.id.0, it.offset, it.bytes, it.last))
            .collect();
        let segment = SEGMENT_BYTES;
        let expected = [
            (1, 0, segment, false),
            (1, segment, segment, false),
            (1, 2 * segment, 4096, true),
            (2, 0, 4096, true),
        ];
        assert_eq!(seen, expected);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn more_waits_until_what_is_under_way_ends() {
        let mut outbox = Outbox::new();
        outbox.push(write(1, 256));
        let posted = post_all(&mut outbox);
        assert_eq!(posted.len(), SEGMENTS_MAX, "not the whole request");
        assert_eq!(outbox.len(), 1, "not posted whole");
        outbox.ended(SEGMENT_BYTES);
        assert_eq!(post_all(&mut outbox).len(), 1);
    }

    #[test]
    fn write_that_is_taken_out_begins_anew() {
        let mut outbox = Outbox::new();
        outbox.push(write(1, 256));
        let _ = post_all(&mut outbox);
        let first = outbox.take_first().expect("half posted");
        assert_eq!(outbox.len(), 0);
        outbox.begin();
        outbox.push(first);
        assert_eq!(outbox.next().map(|segment| segment.offset), Some(0));
    }
}
