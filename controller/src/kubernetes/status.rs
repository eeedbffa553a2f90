//! What becomes of a status before it is written: pure.
//!
//! Conditions get the time of their last change, and figures that change all the time are no
//! reason to write.

use serde_json::{Map, Value, json};

/// Fields of a status that are figures: they change with the load.
const FIGURES: [&str; 8] = [
    "bytesUsed",
    "bytesRemote",
    "pagesDegraded",
    "setsReserved",
    "slabsBound",
    "slotsLent",
    "lent",
    "containersMatched",
];

/// The status with a `lastTransitionTime` in each condition: the one of `before` while the
/// condition's status is the same, else `now` (RFC 3339).
pub fn with_times(mut status: Value, before: Option<&Value>, now: &str) -> Value {
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return status;
    };
    for condition in conditions {
        let kept = before.and_then(|before| {
            let before = before["conditions"].as_array()?;
            let same = before.iter().find(|other| {
                other["type"] == condition["type"] && other["status"] == condition["status"]
            })?;
            same["lastTransitionTime"].as_str()
        });
        condition["lastTransitionTime"] = json!(kept.unwrap_or(now));
    }
    status
}

/// Whether two statuses differ in more than figures.
pub fn differs_in_kind(before: &Value, after: &Value) -> bool {
    let rest = |status: &Value| -> Map<String, Value> {
        let mut rest = status.as_object().cloned().unwrap_or_default();
        rest.retain(|field, _| !FIGURES.contains(&field.as_str()));
        rest
    };
    rest(before) != rest(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: &str, used: &str) -> Value {
        json!({"conditions": [{"type": "Ready", "status": ready}], "bytesUsed": used})
    }

    #[test]
    fn condition_keeps_its_time_while_its_status_is_the_same() {
        let first = with_times(status("True", "0"), None, "t1");
        assert_eq!(first["conditions"][0]["lastTransitionTime"], "t1");
        let second = with_times(status("True", "5"), Some(&first), "t2");
        assert_eq!(second["conditions"][0]["lastTransitionTime"], "t1");
        let third = with_times(status("False", "5"), Some(&second), "t3");
        assert_eq!(third["conditions"][0]["lastTransitionTime"], "t3");
    }

    #[test]
    fn figures_alone_are_no_difference_in_kind() {
        let (calm, used) = (status("True", "0"), status("True", "5"));
        assert!(!differs_in_kind(&calm, &used));
        assert!(differs_in_kind(&calm, &status("False", "0")));
    }
}
