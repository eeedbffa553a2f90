//! The cluster's recent events: a bounded ring, numbered for ever within one controller process.

use std::collections::VecDeque;

use dynamicswap_proto::common::v1::DaemonEvent;
use dynamicswap_proto::control::v1::ClusterEvent;

use crate::clock::unix_ms;
use crate::limits::EVENT_RING_MAX;

/// The ring.
#[derive(Debug, Default)]
pub struct EventRing {
    events: VecDeque<ClusterEvent>,
    last: u64,
}

impl EventRing {
    /// Notes something that happened now, on a node or, with an empty name, in the controller.
    pub fn note(&mut self, node: &str, kind: &str, message: impl Into<String>) {
        self.push(node, unix_ms(), kind, message.into());
    }

    /// Forwards the events of a daemon that its last report did not have.
    pub fn forward(&mut self, node: &str, before: &[DaemonEvent], now: &[DaemonEvent]) {
        for event in now.iter().filter(|event| !before.contains(event)) {
            self.push(node, event.unix_ms, &event.kind, event.message.clone());
        }
    }

    /// Events after a sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<ClusterEvent> {
        let newer = self.events.iter().filter(|event| event.sequence > sequence);
        newer.cloned().collect()
    }

    fn push(&mut self, node: &str, unix_ms: u64, kind: &str, message: String) {
        self.last += 1;
        if self.events.len() == EVENT_RING_MAX {
            self.events.pop_front();
        }
        self.events.push_back(ClusterEvent {
            sequence: self.last,
            unix_ms,
            node: node.to_owned(),
            kind: kind.to_owned(),
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_event(sequence: u64) -> DaemonEvent {
        DaemonEvent {
            sequence,
            unix_ms: 1_000 + sequence,
            kind: "LinkUp".to_owned(),
            message: format!("event {sequence}"),
        }
    }

    #[test]
    fn ring_is_bounded_and_keeps_numbering() {
        let mut ring = EventRing::default();
        for index in 0..EVENT_RING_MAX + 10 {
            ring.note("n", "Test", index.to_string());
        }
        let all = ring.after(0);
        assert_eq!(all.len(), EVENT_RING_MAX);
        assert_eq!(all.first().map(|event| event.sequence), Some(11));
        assert_eq!(ring.after(all[all.len() - 2].sequence).len(), 1);
    }

    #[test]
    fn daemon_events_are_forwarded_once_also_after_the_daemon_restarts() {
        let mut ring = EventRing::default();
        let first = vec![daemon_event(1), daemon_event(2)];
        ring.forward("n", &[], &first);
        let second = vec![daemon_event(2), daemon_event(3)];
        ring.forward("n", &first, &second);
        let mut restarted = daemon_event(1);
        restarted.unix_ms = 9_000;
        ring.forward("n", &second, &[restarted]);
        let messages: Vec<String> = ring.after(0).into_iter().map(|e| e.message).collect();
        assert_eq!(messages, ["event 1", "event 2", "event 3", "event 1"]);
    }
}
