//! What happened in a daemon, for its report: a bounded ring, oldest first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dynamicswap_proto::common::v1::DaemonEvent;

use super::change::ChangeCounter;
use super::clock::unix_ms;

/// Events kept: a mass failure of 64 servers with four events each.
pub const EVENTS_MAX: usize = 256;

/// The ring. Not for the I/O path: it allocates and logs.
#[derive(Debug)]
pub struct EventLog {
    change: Arc<ChangeCounter>,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    next_sequence: u64,
    events: VecDeque<DaemonEvent>,
}

impl EventLog {
    /// An empty ring, whose events bump `change`.
    #[must_use]
    pub fn new(change: Arc<ChangeCounter>) -> Self {
        Self {
            change,
            ring: Mutex::new(Ring::default()),
        }
    }

    /// Adds an event and logs it. `kind` is one CamelCase word, `message` a sentence.
    pub fn push(&self, kind: &'static str, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(kind, "{message}");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = ring.next_sequence;
        ring.next_sequence += 1;
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(DaemonEvent {
            sequence,
            unix_ms: unix_ms(),
            kind: kind.to_owned(),
            message,
        });
        drop(ring);
        self.change.bump();
    }

    /// The kept events, oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<DaemonEvent> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_newest_and_numbers_for_ever() {
        let change = Arc::new(ChangeCounter::default());
        let log = EventLog::new(Arc::clone(&change));
        for number in 0..EVENTS_MAX + 3 {
            log.push("Tested", format!("number {number}"));
        }
        let events = log.snapshot();
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!(events[0].sequence, 3);
        assert_eq!(events[0].message, "number 3");
        assert_eq!(change.current(), 259);
    }
}
