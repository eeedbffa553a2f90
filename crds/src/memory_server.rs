//! `MemoryServer`: a donor's memory for others.

use std::time::Duration;

use dynamicswap_types::{Bytes, FailureDomain, IncarnationId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::duration::PolicyDuration;
use crate::schema;

/// What an operator decides of a memory server. All else is reported by its node.
#[derive(
    CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[kube(
    group = "dynamicswap.io",
    version = "v1alpha1",
    kind = "MemoryServer",
    plural = "memoryservers",
    shortname = "msrv",
    category = "dynamicswap",
    status = "MemoryServerStatus",
    derive = "PartialEq",
    cel,
    doc = "MemoryServer is the memory that one node lends to others, named after the node. The \
           controller makes it; users write spec.cordoned and spec.drain.",
    selectable = ".spec.cordoned",
    selectable = ".status.failureDomain",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Its agent has a session and its daemon answers"
    ),
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = ".status.capacity",
        description = "Memory for slots"
    ),
    printcolumn(
        name = "Lent",
        type_ = "string",
        json_path = ".status.lent",
        description = "Memory in slots on record as lent"
    ),
    printcolumn(
        name = "Domain",
        type_ = "string",
        json_path = ".status.failureDomain",
        description = "What fails together with it"
    ),
    printcolumn(
        name = "Cordoned",
        type_ = "boolean",
        json_path = ".spec.cordoned",
        description = "Takes no new slabs"
    ),
    printcolumn(
        name = "Draining",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Draining\")].status",
        description = "What it holds moves elsewhere"
    ),
    printcolumn(
        name = "Pressured",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Pressured\")].status",
        description = "Its node wants memory back",
        priority = 1
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.address",
        description = "ip:port of its data path",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct MemoryServerSpec {
    /// Takes no new slabs; what it holds stays.
    #[serde(default)]
    pub cordoned: bool,
    /// Present: every copy shall leave this server, which takes no new ones. Remove it to end the
    /// drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainSpec>,
}

impl MemoryServerSpec {
    /// What was decided of a donor: whether it takes no new slabs, and within which time what it holds
    /// shall leave, if it shall. A longer time than an object can say becomes the longest.
    #[must_use]
    pub fn of(cordoned: bool, drain: Option<Duration>) -> Self {
        let within = |drain: Duration| {
            let millis = u32::try_from(drain.as_millis()).unwrap_or(u32::MAX);
            Some(PolicyDuration::from_millis(millis))
        };
        let drain = drain.map(|drain| DrainSpec {
            within: within(drain),
        });
        Self { cordoned, drain }
    }

    /// The change, as a JSON merge patch, after which an object says this and nothing of before: null
    /// takes a drain back.
    #[must_use]
    pub fn merge_patch(&self) -> String {
        let spec = json!({"cordoned": self.cordoned, "drain": self.drain});
        json!({ "spec": spec }).to_string()
    }
}

/// How a server is emptied.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DrainSpec {
    /// Time after which a copy leaves as soon as any other whole one, or the disk, has its pages;
    /// 10m if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_duration")]
    pub within: Option<PolicyDuration>,
}

/// What is known of a memory server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = schema::without_defaults)]
pub struct MemoryServerStatus {
    /// Generation of the object that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What fails together with it: two copies of a slab never share one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::name")]
    pub failure_domain: Option<FailureDomain>,
    /// The life of its memory: another one after its content was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::id")]
    pub incarnation: Option<IncarnationId>,
    /// ip:port of its data path over TCP.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// ip:port of its data path over RDMA; absent if it offers none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rdma_address: String,
    /// Memory for slots.
    #[schemars(schema_with = "schema::bytes")]
    pub capacity: Bytes,
    /// Size of a slot.
    #[schemars(schema_with = "schema::bytes")]
    pub slot_size: Bytes,
    /// Slots in all.
    #[schemars(schema_with = "schema::count")]
    pub slots: u32,
    /// Slots on record as lent.
    #[schemars(schema_with = "schema::count")]
    pub slots_lent: u32,
    /// The lent slots' size.
    #[schemars(schema_with = "schema::bytes")]
    pub lent: Bytes,
    /// Ready: its agent has a session and its daemon answers. Pressured: its node wants memory
    /// back. Draining: what it holds moves elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_says_what_was_decided_and_nothing_of_before() {
        let patch = |cordoned, drain| MemoryServerSpec::of(cordoned, drain).merge_patch();
        let cordoned = r#"{"spec":{"cordoned":true,"drain":null}}"#;
        assert_eq!(patch(true, None), cordoned);
        let open = r#"{"spec":{"cordoned":false,"drain":null}}"#;
        assert_eq!(patch(false, None), open);
        let drained = r#"{"spec":{"cordoned":true,"drain":{"within":"90s"}}}"#;
        assert_eq!(patch(true, Some(Duration::from_secs(90))), drained);
        let for_ever = patch(true, Some(Duration::MAX));
        assert!(for_ever.contains("4294967295ms"), "{for_ever}");
    }
}
