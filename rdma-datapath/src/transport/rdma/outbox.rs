//! Writes that wait for room on the queue pair.

use dynamicswap_engine::operation::Operation;

use super::super::segments::{Segment, WriteQueue};

/// Pages of a segment: 32 KiB. On 100 Gb/s they take 2.6 us, as long as the way there and back, and
/// posting one takes a twentieth of that.
pub(super) const SEGMENT_PAGES: u32 = 8;
/// Segments under way at once: 128 KiB, what 100 Gb/s carry in 10 us, there and back across a large
/// network. With less, an engine that is woken late finds the link idle: with 32 KiB, emulated machines
/// carried a fifth of what they could.
pub(super) const SEGMENTS_MAX: u32 = 4;

/// The queue, and how much of it is under way.
pub(super) struct Outbox {
    queue: WriteQueue,
    /// Pages of segments that have not ended.
    under_way: u32,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queue: WriteQueue::new(),
            under_way: 0,
        }
    }

    /// A new connection begins, with nothing under way. What waits belongs to the old one: take it
    /// out before.
    pub(super) fn begin(&mut self) {
        debug_assert!(self.queue.is_empty());
        self.under_way = 0;
    }

    /// Writes that are not posted whole.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn push(&mut self, write: Operation) {
        self.queue.push(write);
    }

    /// What may be posted next.
    pub(super) fn next(&self) -> Option<Segment> {
        let segment = self.queue.next(SEGMENT_PAGES)?;
        let room = self.under_way + segment.pages <= SEGMENTS_MAX * SEGMENT_PAGES;
        room.then_some(segment)
    }

    /// [`Self::next`] was posted.
    pub(super) fn posted(&mut self, segment: &Segment) {
        self.under_way += segment.pages;
        self.queue.posted(segment);
    }

    /// A segment ended.
    pub(super) const fn ended(&mut self, segment: &Segment) {
        self.under_way = self.under_way.saturating_sub(segment.pages);
    }

    /// Takes the first write out, to be posted again from its begin or given up.
    pub(super) fn take_first(&mut self) -> Option<Operation> {
        self.queue.take_first()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::segments::tests::operation;
    use super::*;
    use dynamicswap_engine::operation::Direction;

    fn post_all(outbox: &mut Outbox) -> Vec<Segment> {
        std::iter::from_fn(|| {
            let segment = outbox.next()?;
            outbox.posted(&segment);
            Some(segment)
        })
        .collect()
    }

    #[test]
    fn more_waits_until_what_is_under_way_ends() {
        let mut outbox = Outbox::new();
        outbox.push(operation(1, Direction::Write, 256));
        let posted = post_all(&mut outbox);
        assert_eq!(posted.len(), SEGMENTS_MAX as usize, "not the whole request");
        assert_eq!(outbox.len(), 1, "not posted whole");
        outbox.ended(&posted[0]);
        assert_eq!(post_all(&mut outbox).len(), 1);
    }

    #[test]
    fn new_connection_has_room_again() {
        let mut outbox = Outbox::new();
        outbox.push(operation(1, Direction::Write, 256));
        let posted = post_all(&mut outbox);
        let first = outbox.take_first().expect("half posted");
        outbox.begin();
        outbox.push(first);
        assert_eq!(post_all(&mut outbox), posted);
    }
}
