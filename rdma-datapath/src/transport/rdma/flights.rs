//! Operations of one queue pair: a ring in the order in which they are posted and end.

use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::operation::Operation;

use super::super::segments::Segment;
use super::outbox::SEGMENTS_MAX;
use super::windows::LOOKUPS_MAX;

/// Every operation, pieces of writes that do not end one, every look into the directory with its
/// wish, and one ping.
pub(super) const RING: usize = LINK_OPERATIONS_MAX + SEGMENTS_MAX as usize + 2 * LOOKUPS_MAX + 1;

/// What was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    /// The engine's: a read, or a part of a write.
    Segment(Segment),
    /// A look into the directory, at this place of the lookups.
    Lookup(usize),
    /// A wish, or a look only to see that the server's device is there.
    Aside,
}

impl Flight {
    /// The operation of the engine's that ends with it.
    pub(super) fn operation(&self) -> Option<Operation> {
        match self {
            Self::Segment(segment) => segment.is_last().then_some(segment.operation),
            Self::Lookup(_) | Self::Aside => None,
        }
    }
}

/// The ring. The counters only grow; an operation's number is its name in completions. A queue
/// pair ends its operations in the order in which they were posted, so a completion tells of
/// everything before it as well.
pub(super) struct Flights {
    ring: Box<[Flight]>,
    done: u64,
    posted: u64,
    /// Operations of the engine's that end with one of those under way.
    operations: usize,
}

fn place(number: u64) -> usize {
    usize::try_from(number % RING as u64).unwrap_or_default()
}

impl Flights {
    pub(super) fn new() -> Self {
        Self {
            ring: vec![Flight::Aside; RING].into_boxed_slice(),
            done: 0,
            posted: 0,
            operations: 0,
        }
    }

    /// Adds a flight and gives its number. The caller has seen to it that there is room.
    pub(super) fn push(&mut self, flight: Flight) -> u64 {
        debug_assert!(self.posted - self.done < RING as u64);
        self.operations += usize::from(flight.operation().is_some());
        let number = self.posted;
        self.ring[place(number)] = flight;
        self.posted += 1;
        number
    }

    /// The engine's operations that end with something under way.
    pub(super) const fn operations(&self) -> usize {
        self.operations
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.posted == self.done
    }

    /// The next flight that has ended, if everything up to `number` has.
    pub(super) fn next_done(&mut self, number: u64) -> Option<Flight> {
        (self.done <= number).then(|| self.abandon()).flatten()
    }

    /// Takes the oldest flight out: it has ended, or the link is down.
    pub(super) fn abandon(&mut self) -> Option<Flight> {
        if self.is_empty() {
            return None;
        }
        let flight = self.ring[place(self.done)];
        self.operations -= usize::from(flight.operation().is_some());
        self.done += 1;
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_ends_everything_before_it() {
        let mut flights = Flights::new();
        let numbers: Vec<u64> = (0..5).map(|n| flights.push(Flight::Lookup(n))).collect();
        let ended: Vec<Flight> = std::iter::from_fn(|| flights.next_done(numbers[2])).collect();
        assert_eq!(ended, [0, 1, 2].map(Flight::Lookup));
        assert_eq!(flights.next_done(numbers[2]), None, "told once");
        assert_eq!(flights.operations(), 0, "lookups are none of the engine's");
        let left = std::iter::from_fn(|| flights.abandon()).count();
        assert_eq!(left, 2);
        assert!(flights.is_empty());
    }

    #[test]
    fn ring_takes_whatever_a_link_may_have_under_way() {
        let mut flights = Flights::new();
        for round in 0..3 {
            for n in 0..RING {
                let number = flights.push(Flight::Lookup(n));
                assert_eq!(number, (round * RING + n) as u64);
            }
            while flights.abandon().is_some() {}
        }
    }
}
