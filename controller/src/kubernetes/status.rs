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

/// The status with the generation of the object that it is about, in itself and in each condition:
/// its own if it has one, else `found`.
pub fn with_generation(mut status: Value, found: Option<i64>) -> Value {
    let generation = status["observedGeneration"].as_i64().or(found);
    let Some((generation, fields)) = generation.zip(status.as_object_mut()) else {
        return status;
    };
    fields.insert("observedGeneration".to_owned(), json!(generation));
    let conditions = fields.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        condition["observedGeneration"] = json!(generation);
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
    fn conditions_are_of_the_generation_that_the_status_is_of() {
        let own = json!({"observedGeneration": 4, "conditions": [{"type": "Ready"}]});
        let own = with_generation(own, Some(9));
        assert_eq!(own["observedGeneration"], 4);
        assert_eq!(own["conditions"][0]["observedGeneration"], 4);
        let found = with_generation(status("True", "0"), Some(2));
        assert_eq!(found["observedGeneration"], 2);
        assert_eq!(found["conditions"][0]["observedGeneration"], 2);
        let none = status("True", "0");
        assert_eq!(with_generation(none.clone(), None), none);
        assert_eq!(with_generation(Value::Null, Some(2)), Value::Null);
    }

    #[test]
    fn figures_alone_are_no_difference_in_kind() {
        let (calm, used) = (status("True", "0"), status("True", "5"));
        assert!(!differs_in_kind(&calm, &used));
        assert!(differs_in_kind(&calm, &status("False", "0")));
    }
}
