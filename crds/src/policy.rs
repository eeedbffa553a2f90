//! `RemoteMemoryPolicy`: which containers may use remote memory, how much, and how safely.
//!
//! The fields' own rules are checked while they are read, so that the answer has a line and a
//! column; what concerns two fields at once is in [`RemoteMemoryPolicy::check`].

use std::collections::BTreeMap;

use dynamicswap_types::{Bytes, Copies, Durability, Integrity, Spill};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::duration::PolicyDuration;
use crate::meta::{ObjectKey, ObjectNameError};
use crate::percent::Percent;
use crate::repaging::{OffloadSpec, ReturnSpec};
use crate::schema;

/// What a policy wants. Namespaced; its selector picks pods of its own namespace.
#[derive(
    CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[kube(
    group = "dynamicswap.io",
    version = "v1alpha1",
    kind = "RemoteMemoryPolicy",
    plural = "remotememorypolicies",
    shortname = "rmp",
    category = "dynamicswap",
    namespaced,
    status = "RemoteMemoryPolicyStatus",
    derive = "PartialEq",
    cel,
    doc = "RemoteMemoryPolicy lets pods of its namespace use memory of other nodes, and says how \
           much, how safely, and when they count as under pressure.",
    selectable = ".spec.paused",
    selectable = ".spec.dryRun",
    selectable = ".spec.durability.spill",
    validation = Rule::new("size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')")
        .message("the name is too long or has a dot: write at most 63 lower-case letters, digits \
                  and '-'"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".spec.durability.copies",
                description = "Copies of each page on distinct failure domains"),
    printcolumn(name = "Spill", type_ = "string", json_path = ".spec.durability.spill",
                description = "What the local disk does"),
    printcolumn(name = "Limit", type_ = "string", json_path = ".spec.limits.perContainer",
                description = "Most remote memory of one container"),
    printcolumn(name = "Containers", type_ = "integer", json_path = ".status.containersMatched",
                description = "Containers that it selects"),
    printcolumn(name = "Remote", type_ = "string", json_path = ".status.bytesRemote",
                description = "Their memory that is out now"),
    printcolumn(name = "In-Force", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"InForce\")].status",
                description = "It is accepted, not paused and no dry run"),
    printcolumn(name = "Integrity", type_ = "string", json_path = ".spec.integrity",
                description = "The least that protects pages outside their node", priority = 1),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "Dry-Run", type_ = "boolean", json_path = ".spec.dryRun", priority = 1),
    printcolumn(name = "Reason", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"InForce\")].message",
                description = "Why it is in force or not", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct RemoteMemoryPolicySpec {
    /// Which pods of the namespace; none said means all.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// How many copies, and the disk's part.
    #[serde(default)]
    pub durability: DurabilitySpec,
    /// The least that protects pages outside their node: full, tag64 or none; tag64 if not said. A
    /// swap device that has less is not attached; of several policies in force the strictest counts.
    /// full: AES-256-GCM with its whole tag of 128 bits. tag64: the same with 64 bits of the tag.
    /// none: a checksum alone.
    #[serde(default, deserialize_with = "integrity")]
    #[schemars(schema_with = "schema::integrity")]
    pub integrity: Integrity,
    /// Upper bounds on remote memory.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// When a container counts as under pressure.
    #[serde(default)]
    pub pressure: PressureSpec,
    /// How long an operation may wait.
    #[serde(default)]
    pub stall: StallSpec,
    /// How copies are made again or moved.
    #[serde(default)]
    pub rebuild: RebuildSpec,
    /// When pages leave before the kernel must send them.
    #[serde(default)]
    pub offload: OffloadSpec,
    /// When pages come home before anybody asks for them.
    #[serde(default, rename = "return")]
    pub homecoming: ReturnSpec,
    /// Takes the policy out of force. If no other policy wants the device, it is detached once
    /// its pages have come home.
    #[serde(default)]
    pub paused: bool,
    /// Decide and report, but change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is known of a policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = schema::without_defaults)]
pub struct RemoteMemoryPolicyStatus {
    /// Generation of the policy that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Containers that the policy selects, on all nodes together.
    #[schemars(schema_with = "schema::count")]
    pub containers_matched: u32,
    /// Memory of these containers that is out now.
    #[schemars(schema_with = "schema::bytes")]
    pub bytes_remote: Bytes,
    /// Accepted: the controller understands the policy and acts by it. InForce: it is accepted,
    /// not paused and no dry run. Overlapping: another one in force selects some of its containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Pods by their labels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
// Else the API server would drop a `matchExpressions` with a warning that not every client shows, and what was
// meant to narrow would select everything. Kept, it is refused by the controller with its name.
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct LabelSelector {
    /// Every one of these labels must be there with this value; empty selects all.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

impl LabelSelector {
    /// Whether an object with `labels` is selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// How safely pages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DurabilitySpec {
    /// Copies on distinct failure domains, 1 to 3; 2 if not said.
    #[serde(default = "copies_default", deserialize_with = "copies")]
    #[schemars(schema_with = "schema::copies")]
    pub copies: Copies,
    /// None: remote memory alone. Async: the local disk gets each page too, a little later. Only:
    /// the local disk alone. None if not said.
    #[serde(default, deserialize_with = "spill")]
    #[schemars(schema_with = "schema::spill")]
    pub spill: Spill,
}

impl Default for DurabilitySpec {
    fn default() -> Self {
        Self {
            copies: copies_default(),
            spill: Spill::None,
        }
    }
}

impl From<DurabilitySpec> for Durability {
    fn from(spec: DurabilitySpec) -> Self {
        Self {
            copies: spec.copies,
            spill: spec.spill,
        }
    }
}

/// Upper bounds on what goes out; absent means none.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.perContainer) || !has(self.perNamespace) \
         || !isQuantity(string(self.perContainer)) || !isQuantity(string(self.perNamespace)) \
         || quantity(string(self.perContainer)).compareTo(\
         quantity(string(self.perNamespace))) <= 0")
        .message("limits.perContainer is over limits.perNamespace: write at most what \
                  perNamespace has, or raise perNamespace")
        .field_path(".perContainer")
)]
pub struct LimitsSpec {
    /// Most remote memory of one container, at most 1024Ti.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "limit"
    )]
    #[schemars(schema_with = "schema::limit")]
    pub per_container: Option<Bytes>,
    /// Most remote memory of all selected containers of the namespace together, on each node, at most
    /// 1024Ti.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "limit"
    )]
    #[schemars(schema_with = "schema::limit")]
    pub per_namespace: Option<Bytes>,
}

impl LimitsSpec {
    /// Highest limit, 1 PiB: what is over it was not meant, and the API server compares
    /// quantities up to it without rounding.
    pub const MAX: Bytes = Bytes::new(1 << 50);
}

/// Thresholds on the kernel's pressure figures (PSI) of a container's memory.
///
/// The kernel's average over 10 s takes seconds to rise. So the same share of the last second or
/// two counts as well, whether the kernel's own trigger says so or the agent's timer finds it.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!string(self.fullAvg10Percent).matches('^[0-9]+([.][0-9]+)?$') \
         || !string(self.someAvg10Percent).matches('^[0-9]+([.][0-9]+)?$') \
         || double(string(self.fullAvg10Percent)) <= double(string(self.someAvg10Percent))")
        .message("pressure.fullAvg10Percent is over pressure.someAvg10Percent: full pressure is \
                  never above some pressure, so write at most what someAvg10Percent has")
        .field_path(".fullAvg10Percent")
)]
pub struct PressureSpec {
    /// Pressured from this share of time in which some task waited for memory, over 10 s.
    #[serde(default = "some_default")]
    #[schemars(schema_with = "schema::percent")]
    pub some_avg10_percent: Percent,
    /// Stalled from this share of time in which all tasks waited, over 10 s.
    #[serde(default = "full_default")]
    #[schemars(schema_with = "schema::percent")]
    pub full_avg10_percent: Percent,
    /// Calm again after this time below half of both thresholds.
    #[serde(default = "calm_after_default")]
    #[schemars(schema_with = "schema::any_duration")]
    pub calm_after: PolicyDuration,
}

impl Default for PressureSpec {
    fn default() -> Self {
        Self {
            some_avg10_percent: some_default(),
            full_avg10_percent: full_default(),
            calm_after: calm_after_default(),
        }
    }
}

/// Bounds on waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StallSpec {
    /// A write without enough live copies waits this long for a repair, then fails early and
    /// the page stays in RAM. 100ms to 60s; 2s if not said.
    #[serde(default = "write_hold_default", deserialize_with = "write_hold")]
    #[schemars(schema_with = "schema::write_hold")]
    pub write_hold: PolicyDuration,
    /// A read without a reachable copy waits this long before the page counts as lost, which
    /// kills its owner. 1s to 1h; 30s if not said.
    #[serde(default = "read_stall_default", deserialize_with = "read_stall")]
    #[schemars(schema_with = "schema::read_stall")]
    pub read_stall: PolicyDuration,
}

impl StallSpec {
    /// Shortest and longest write hold. Below, a repair has no chance; above, the kernel's
    /// reclaim stands still longer than its hung-task warning allows for.
    pub const WRITE_HOLD_BOUNDS: (PolicyDuration, PolicyDuration) = (
        PolicyDuration::from_millis(100),
        PolicyDuration::from_secs(60),
    );
    /// Shortest and longest read stall.
    pub const READ_STALL_BOUNDS: (PolicyDuration, PolicyDuration) = (
        PolicyDuration::from_secs(1),
        PolicyDuration::from_secs(3_600),
    );
}

impl Default for StallSpec {
    fn default() -> Self {
        Self {
            write_hold: write_hold_default(),
            read_stall: read_stall_default(),
        }
    }
}

/// How slabs are copied: after a failure, and when a donor wants memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RebuildSpec {
    /// Bytes a second that the copies of one swap device may move. 1Mi to 100Gi; 256Mi if not said,
    /// which leaves nine tenths of a 25 Gb/s link to pages that somebody waits for.
    #[serde(default = "bandwidth_default", deserialize_with = "bandwidth")]
    #[schemars(schema_with = "schema::bandwidth")]
    pub bandwidth_max: Bytes,
}

impl RebuildSpec {
    /// Lowest and highest bandwidth. Below, a slab of 1 GiB would be without a copy for longer than
    /// 17 minutes; above, no network goes.
    pub const BANDWIDTH_BOUNDS: (Bytes, Bytes) = (Bytes::from_mib(1), Bytes::from_mib(100 << 10));
}

impl Default for RebuildSpec {
    fn default() -> Self {
        Self {
            bandwidth_max: bandwidth_default(),
        }
    }
}

const fn bandwidth_default() -> Bytes {
    Bytes::from_mib(256)
}
const fn copies_default() -> Copies {
    Copies::TWO
}
const fn some_default() -> Percent {
    Percent::from_whole(10)
}
const fn full_default() -> Percent {
    Percent::from_whole(5)
}
const fn calm_after_default() -> PolicyDuration {
    PolicyDuration::from_secs(10)
}
const fn write_hold_default() -> PolicyDuration {
    PolicyDuration::from_secs(2)
}
const fn read_stall_default() -> PolicyDuration {
    PolicyDuration::from_secs(30)
}

/// Reads `copies` so that 300, -1 and `two` get the same answer as 4.
fn copies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Copies, D::Error> {
    struct CopiesVisitor;
    fn refuse<E: de::Error>(found: impl std::fmt::Display) -> E {
        E::custom(format!("{found} copies are not possible: write 1, 2 or 3"))
    }
    impl de::Visitor<'_> for CopiesVisitor {
        type Value = Copies;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("1, 2 or 3")
        }
        fn visit_u64<E: de::Error>(self, count: u64) -> Result<Copies, E> {
            u32::try_from(count)
                .ok()
                .and_then(|count| Copies::try_from(count).ok())
                .ok_or_else(|| refuse(count))
        }
        fn visit_i64<E: de::Error>(self, count: i64) -> Result<Copies, E> {
            u64::try_from(count)
                .map_err(|_| refuse(count))
                .and_then(|count| self.visit_u64(count))
        }
        fn visit_f64<E: de::Error>(self, count: f64) -> Result<Copies, E> {
            Err(refuse(count))
        }
        fn visit_str<E: de::Error>(self, count: &str) -> Result<Copies, E> {
            Err(refuse(format_args!("'{count}'")))
        }
    }
    deserializer.deserialize_any(CopiesVisitor)
}

/// Reads `spill` as text first, so that a wrong word is answered with the right ones.
fn spill<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spill, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(de::Error::custom)
}

/// Reads `integrity` in the same way.
fn integrity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Integrity, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(de::Error::custom)
}

/// Reads a quantity that may be a bare number, and keeps the reason when it is neither.
fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct QuantityVisitor;
    impl de::Visitor<'_> for QuantityVisitor {
        type Value = Bytes;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a quantity of bytes such as 512Mi")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bytes, E> {
            Ok(Bytes::new(number))
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bytes, E> {
            self.visit_str(&number.to_string())
        }
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<Bytes, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(QuantityVisitor)
}

/// Reads a limit, which must not be over the highest one.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let (limit, high) = (quantity(deserializer)?, LimitsSpec::MAX);
    if limit > high {
        return Err(de::Error::custom(format!(
            "no limit is as high as {limit}: write at most {high}, or leave it out for no limit"
        )));
    }
    Ok(Some(limit))
}

/// Reads a bandwidth that must lie within its bounds.
pub(crate) fn bandwidth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let (low, high) = RebuildSpec::BANDWIDTH_BOUNDS;
    let bandwidth = quantity(deserializer)?;
    if bandwidth < low || bandwidth > high {
        return Err(de::Error::custom(format!(
            "bandwidthMax {bandwidth} is out of range: write {low} to {high} (bytes a second)"
        )));
    }
    Ok(bandwidth)
}

/// Reads a duration that must lie within `bounds`.
fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
    name: &str,
    bounds: (PolicyDuration, PolicyDuration),
) -> Result<PolicyDuration, D::Error> {
    let duration = PolicyDuration::deserialize(deserializer)?;
    if duration < bounds.0 || duration > bounds.1 {
        return Err(de::Error::custom(format!(
            "{name} {duration} is out of range: write {} to {}",
            bounds.0, bounds.1
        )));
    }
    Ok(duration)
}

fn write_hold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PolicyDuration, D::Error> {
    bounded(deserializer, "writeHold", StallSpec::WRITE_HOLD_BOUNDS)
}

fn read_stall<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PolicyDuration, D::Error> {
    bounded(deserializer, "readStall", StallSpec::READ_STALL_BOUNDS)
}

/// A rule between fields that a policy breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PolicyRuleError {
    /// One container may have more than the whole namespace.
    #[error(
        "limits.perContainer {container} is over limits.perNamespace {namespace}: write at most \
         {namespace}, or raise perNamespace"
    )]
    ContainerOverNamespace {
        /// The container's limit.
        container: Bytes,
        /// The namespace's limit.
        namespace: Bytes,
    },
    /// A limit of nothing.
    #[error("limits.{0} is 0: leave it out for no limit, or write paused: true")]
    ZeroLimit(&'static str),
    /// The kernel never reports more full than some pressure.
    #[error(
        "pressure.fullAvg10Percent {full} is over pressure.someAvg10Percent {some}: full \
         pressure is never above some pressure, so write at most {some}"
    )]
    FullOverSome {
        /// The threshold for full.
        full: Percent,
        /// The threshold for some.
        some: Percent,
    },
    /// Pages would come home and be sent away again.
    #[error(
        "return.stopRoomPercent {stop} is not below return.startRoomPercent {start}: what comes home \
         would be sent away again, so write less than {start}"
    )]
    StopNotBelowStart {
        /// Where they stop to come home.
        stop: Percent,
        /// Where they begin to.
        start: Percent,
    },
}

impl RemoteMemoryPolicySpec {
    /// Checks the rules that concern several fields.
    ///
    /// # Errors
    /// The first [`PolicyRuleError`] that applies.
    pub fn check(&self) -> Result<(), PolicyRuleError> {
        let limits = self.limits;
        for (name, limit) in [
            ("perContainer", limits.per_container),
            ("perNamespace", limits.per_namespace),
        ] {
            if limit == Some(Bytes::ZERO) {
                return Err(PolicyRuleError::ZeroLimit(name));
            }
        }
        if let (Some(container), Some(namespace)) = (limits.per_container, limits.per_namespace)
            && container > namespace
        {
            return Err(PolicyRuleError::ContainerOverNamespace {
                container,
                namespace,
            });
        }
        let pressure = self.pressure;
        if pressure.full_avg10_percent > pressure.some_avg10_percent {
            return Err(PolicyRuleError::FullOverSome {
                full: pressure.full_avg10_percent,
                some: pressure.some_avg10_percent,
            });
        }
        let (start, stop) = (
            self.homecoming.start_room_percent,
            self.homecoming.stop_room_percent,
        );
        if stop >= start {
            return Err(PolicyRuleError::StopNotBelowStart { stop, start });
        }
        Ok(())
    }
}

// Strings, numbers, times and JSON: equal to themselves.
impl Eq for RemoteMemoryPolicy {}

impl RemoteMemoryPolicy {
    /// Kind, as `kind` has it.
    pub const KIND: &'static str = "RemoteMemoryPolicy";

    /// Namespace and name.
    ///
    /// # Errors
    /// [`ObjectNameError`] if it has no name, or one that no policy can have.
    pub fn key(&self) -> Result<ObjectKey, ObjectNameError> {
        ObjectKey::of(&self.metadata)
    }

    /// What of the policy is wanted and kept: its name, labels, annotations and spec. What a
    /// server adds changes without the policy being another one.
    #[must_use]
    pub fn wanted(&self) -> Self {
        Self {
            metadata: ObjectMeta {
                name: self.metadata.name.clone(),
                namespace: self.metadata.namespace.clone(),
                labels: self.metadata.labels.clone(),
                annotations: self.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: self.spec.clone(),
            status: None,
        }
    }

    /// Checks the rules that concern several fields.
    ///
    /// # Errors
    /// The first [`PolicyRuleError`] that applies.
    pub fn check(&self) -> Result<(), PolicyRuleError> {
        self.spec.check()
    }

    /// What the policy asks for and does not happen yet, one sentence each.
    #[must_use]
    pub fn without_effect(&self) -> Vec<&'static str> {
        let spec = &self.spec;
        let told = [
            (
                spec.limits.per_container.is_some(),
                "limits.perContainer is stored but not enforced yet",
            ),
            (
                spec.limits.per_namespace.is_some(),
                "limits.perNamespace is stored but not enforced yet",
            ),
            (
                !spec.pod_selector.match_labels.is_empty(),
                "podSelector says which containers are watched, not yet which may swap: every \
                 process of the node may",
            ),
        ];
        let said = told.into_iter().filter(|(is_said, _)| *is_said);
        said.map(|(_, sentence)| sentence).collect()
    }

    /// Whether the policy asks for anything to be done: neither paused nor a dry run.
    #[must_use]
    pub const fn in_force(&self) -> bool {
        !self.spec.paused && !self.spec.dry_run
    }
}
