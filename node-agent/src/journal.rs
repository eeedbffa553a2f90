//! The journal: the agent's last decisions with their reasons, for `dynamicswap explain`.
//!
//! Owns their number and their order. The same decision in a row is one entry, so that an hour of
//! "nothing to do" does not push out the one that mattered.

use std::collections::VecDeque;

use dynamicswap_policy::ContainerName;
use dynamicswap_proto::common::v1::DaemonEvent;
use dynamicswap_proto::control::v1::Decision;

use crate::limits::DECISIONS_MAX;

/// What kind of decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Pages are sent ahead, or not.
    Offload,
    /// Pages come home, or not.
    Return,
    /// The node lends so much.
    Lend,
    /// The breaker opens or closes.
    Break,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Offload => "Offload",
            Self::Return => "Return",
            Self::Lend => "Lend",
            Self::Break => "Break",
        }
    }
}

/// A decision in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What kind.
    pub action: Action,
    /// About which container; none for the node.
    pub container: Option<ContainerName>,
    /// What is the same as long as the decision is: its rule, say.
    pub rule: &'static str,
    /// What was decided.
    pub decision: String,
    /// From which figures, by which rule.
    pub reason: String,
    /// What would change it.
    pub remedy: String,
}

#[derive(Debug)]
struct Entry {
    rule: &'static str,
    decision: Decision,
    /// What it was when it came up, as an event; none where that would be noise.
    event: Option<DaemonEvent>,
}

impl Action {
    /// What an event of it is called; none if it happens all the time.
    const fn event(self) -> Option<&'static str> {
        match self {
            Self::Offload => None,
            Self::Return => Some("Return"),
            Self::Lend => Some("Headroom"),
            Self::Break => Some("Breaker"),
        }
    }
}

/// The last decisions; see the module.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    last: u64,
}

impl Journal {
    /// Notes a decision of `unix_ms`. One by the same rule on the same subject as the last one of its
    /// kind takes that one's place, with the figures of now.
    pub fn note(&mut self, unix_ms: u64, decided: Decided) {
        let container = decided.container.as_ref().map(ContainerName::to_string);
        let container = container.unwrap_or_default();
        let action = decided.action.word();
        let mut of_subject = self.entries.iter_mut().rev().filter(|entry| {
            entry.decision.container == container && entry.decision.action == action
        });
        if let Some(entry) = of_subject.next().filter(|entry| entry.rule == decided.rule) {
            let before = &mut entry.decision;
            before.times = before.times.saturating_add(1);
            before.last_unix_ms = unix_ms;
            before.decision = decided.decision;
            before.reason = decided.reason;
            before.remedy = decided.remedy;
            return;
        }
        self.last += 1;
        let event = decided.action.event().map(|kind| DaemonEvent {
            sequence: self.last,
            unix_ms,
            kind: kind.to_owned(),
            message: match &decided.container {
                Some(name) => format!("{name}: {}: {}", decided.decision, decided.reason),
                None => format!("{}: {}", decided.decision, decided.reason),
            },
        });
        self.entries.push_back(Entry {
            rule: decided.rule,
            event,
            decision: Decision {
                sequence: self.last,
                first_unix_ms: unix_ms,
                last_unix_ms: unix_ms,
                times: 1,
                container,
                action: action.to_owned(),
                decision: decided.decision,
                reason: decided.reason,
                remedy: decided.remedy,
            },
        });
        if self.entries.len() > DECISIONS_MAX {
            self.entries.pop_front();
        }
    }

    /// All of it, oldest first.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        let entries = self.entries.iter();
        entries.map(|entry| entry.decision.clone()).collect()
    }
}

impl Journal {
    /// What is worth an event, oldest first; an event never changes.
    #[must_use]
    pub fn events(&self) -> Vec<DaemonEvent> {
        let events = self.entries.iter().filter_map(|entry| entry.event.as_ref());
        events.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(container: &str, rule: &'static str, decision: &str) -> Decided {
        Decided {
            action: Action::Return,
            container: Some(ContainerName {
                namespace: "default".to_owned(),
                name: container.to_owned(),
            }),
            rule,
            decision: decision.to_owned(),
            reason: String::new(),
            remedy: String::new(),
        }
    }

    #[test]
    fn same_decision_in_a_row_is_one_entry_with_the_figures_of_now() {
        let mut journal = Journal::default();
        journal.note(1, decided("web", "no room", "nothing"));
        journal.note(2, decided("db", "room", "4Mi"));
        journal.note(3, decided("web", "no room", "still nothing"));
        journal.note(4, decided("web", "room", "8Mi"));
        journal.note(5, decided("web", "no room", "nothing"));
        let all = journal.decisions();
        let told: Vec<_> = all
            .iter()
            .map(|it| (it.sequence, it.times, it.decision.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1, 2, "still nothing"),
                (2, 1, "4Mi"),
                (3, 1, "8Mi"),
                (4, 1, "nothing")
            ]
        );
        assert_eq!((all[0].first_unix_ms, all[0].last_unix_ms), (1, 3));
    }

    #[test]
    fn event_is_what_the_decision_was_when_it_came_up() {
        let mut journal = Journal::default();
        journal.note(1, decided("web", "room", "4Mi"));
        let first = journal.events();
        journal.note(2, decided("web", "room", "8Mi"));
        assert_eq!(journal.events(), first);
        assert_eq!((first[0].kind.as_str(), first[0].unix_ms), ("Return", 1));
        assert!(first[0].message.starts_with("default/web: 4Mi"));
        let offload = Decided {
            action: Action::Offload,
            ..decided("db", "probe", "1Mi")
        };
        journal.note(3, offload);
        assert_eq!(journal.events().len(), 1);
    }

    #[test]
    fn journal_is_bounded_and_keeps_the_last() {
        let mut journal = Journal::default();
        for number in 0..100_u64 {
            let container = format!("web-{number}");
            journal.note(number, decided(&container, "room", "4Mi"));
        }
        let all = journal.decisions();
        assert_eq!(all.len(), DECISIONS_MAX);
        assert_eq!(all.last().map(|it| it.sequence), Some(100));
    }
}
