//! Conditions: what is so of an object, why, and since when.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::kind::Kind;

/// One condition before it has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its type, such as `Ready`.
    pub name: &'static str,
    /// Whether it is so.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence; may be empty.
    pub message: String,
}

/// Since when conditions are as they are, as far as this process has seen.
#[derive(Debug, Default)]
pub struct ConditionTimes {
    since: BTreeMap<(Kind, String), BTreeMap<&'static str, (bool, Timestamp)>>,
}

impl ConditionTimes {
    /// The conditions of an object. Each keeps its time while it is as it was before, and has
    /// `unix_ms` otherwise.
    pub fn stamp(
        &mut self,
        object: (Kind, &str),
        verdicts: Vec<Verdict>,
        unix_ms: u64,
    ) -> Vec<Condition> {
        let now = i64::try_from(unix_ms).ok();
        let now = now.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let now = now.unwrap_or(Timestamp::UNIX_EPOCH);
        let key = (object.0, object.1.to_owned());
        let times = self.since.entry(key).or_default();
        let stamped = verdicts.into_iter().map(|verdict| {
            let time = times.entry(verdict.name).or_insert((verdict.holds, now));
            if time.0 != verdict.holds {
                *time = (verdict.holds, now);
            }
            Condition {
                type_: verdict.name.to_owned(),
                status: if verdict.holds { "True" } else { "False" }.to_owned(),
                reason: verdict.reason.to_owned(),
                message: verdict.message,
                last_transition_time: Time(time.1),
                observed_generation: None,
            }
        });
        stamped.collect()
    }

    /// Forgets the objects of a kind that are not among `names`.
    pub fn retain(&mut self, kind: Kind, is_there: impl Fn(&str) -> bool) {
        self.since
            .retain(|(of, name), _| *of != kind || is_there(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(holds: bool) -> Vec<Verdict> {
        vec![Verdict {
            name: "Ready",
            holds,
            reason: "Serving",
            message: String::new(),
        }]
    }

    #[test]
    fn condition_keeps_its_time_until_it_changes() {
        let mut times = ConditionTimes::default();
        let mut at = |holds, unix_ms| {
            let object = (Kind::MemoryServer, "d1");
            let condition = times.stamp(object, ready(holds), unix_ms).remove(0);
            let seconds = condition.last_transition_time.0.as_second();
            (condition.status, seconds)
        };
        assert_eq!(at(true, 1_000), ("True".to_owned(), 1));
        assert_eq!(at(true, 2_000), ("True".to_owned(), 1));
        assert_eq!(at(false, 3_000), ("False".to_owned(), 3));
        assert_eq!(at(false, 4_000), ("False".to_owned(), 3));
    }

    #[test]
    fn forgotten_object_begins_anew() {
        let mut times = ConditionTimes::default();
        let object = (Kind::MemoryServer, "d1");
        times.stamp(object, ready(true), 1_000);
        times.retain(Kind::SwapDevice, |_| false);
        assert_eq!(times.since.len(), 1, "another kind's objects stay");
        times.retain(Kind::MemoryServer, |name| name != "d1");
        let condition = times.stamp(object, ready(true), 9_000).remove(0);
        assert_eq!(condition.last_transition_time.0.as_second(), 9);
    }
}
