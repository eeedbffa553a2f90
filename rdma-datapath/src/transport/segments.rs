//! Parts of operations that a link carries by themselves, and the writes that wait to be cut into them.
//!
//! A link carries what it is given in order. The kernel swaps out megabytes at once, and a process
//! that waits for one page would wait for all of them; so links take writes a segment at a time, and
//! reads ahead of those that wait.

use std::collections::VecDeque;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::Operation;

/// A part of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The whole operation.
    pub(super) operation: Operation,
    /// First page, within the operation.
    first: u32,
    /// Number of pages.
    pub(super) pages: u32,
}

impl Segment {
    /// All of an operation.
    pub(super) const fn whole(operation: Operation) -> Self {
        Self {
            operation,
            first: 0,
            pages: operation.buffer.pages,
        }
    }

    /// Its part of the operation's buffer.
    pub(super) fn buffer(&self) -> BufferRange {
        self.operation.buffer.part(self.first, self.pages)
    }

    /// First page within the slot.
    pub(super) const fn page(&self) -> u32 {
        self.operation.page + self.first
    }

    /// Whether the operation ends with it.
    pub(super) const fn is_last(&self) -> bool {
        self.first + self.pages == self.operation.buffer.pages
    }
}

/// Writes that are not posted whole. They leave in the order in which they came.
pub(super) struct WriteQueue {
    held: VecDeque<Operation>,
    /// Pages of the first one that are posted.
    begun: u32,
}

impl WriteQueue {
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            begun: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn push(&mut self, write: Operation) {
        self.held.push_back(write);
    }

    /// What is to be posted next, of so many pages at the most.
    pub(super) fn next(&self, pages_max: u32) -> Option<Segment> {
        let operation = *self.held.front()?;
        Some(Segment {
            operation,
            first: self.begun,
            pages: pages_max.min(operation.buffer.pages - self.begun),
        })
    }

    /// [`Self::next`] was posted.
    pub(super) fn posted(&mut self, segment: &Segment) {
        self.begun += segment.pages;
        if segment.is_last() {
            self.take_first();
        }
    }

    /// Takes the first write out: it is posted, or to be posted again from its begin, or given up.
    pub(super) fn take_first(&mut self) -> Option<Operation> {
        self.begun = 0;
        self.held.pop_front()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use dynamicswap_engine::operation::{Direction, OperationId};
    use dynamicswap_types::{ServerIndex, SetId, SlotIndex};

    /// An operation on the first pages of a slot and of the pool.
    pub(in super::super) fn operation(id: u64, direction: Direction, pages: u32) -> Operation {
        Operation {
            id: OperationId(id),
            server: ServerIndex::new(0),
            direction,
            set: SetId::new(1),
            slot: SlotIndex::new(0),
            page: 0,
            buffer: BufferRange { first: 0, pages },
        }
    }

    #[test]
    fn writes_are_cut_in_order_and_only_the_last_piece_ends_one() {
        let mut queue = WriteQueue::new();
        queue.push(operation(1, Direction::Write, 17));
        queue.push(operation(2, Direction::Write, 1));
        let mut seen = Vec::new();
        while let Some(segment) = queue.next(8) {
            queue.posted(&segment);
            let id = segment.operation.id.0;
            assert_eq!(segment.page(), segment.buffer().first, "both begin at 0");
            seen.push((id, segment.page(), segment.pages, segment.is_last()));
        }
        let expected = [
            (1, 0, 8, false),
            (1, 8, 8, false),
            (1, 16, 1, true),
            (2, 0, 1, true),
        ];
        assert_eq!(seen, expected);
        assert!(queue.is_empty());
    }

    #[test]
    fn write_that_is_taken_out_begins_anew() {
        let mut queue = WriteQueue::new();
        queue.push(operation(1, Direction::Write, 256));
        let begun = queue.next(8).expect("one waits");
        queue.posted(&begun);
        let first = queue.take_first().expect("half posted");
        assert_eq!(queue.len(), 0);
        queue.push(first);
        assert_eq!(queue.next(8), Some(begun));
    }
}
