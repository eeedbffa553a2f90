//! `RemoteMemoryPolicy`: which containers may use remote memory, how much, and how safely.
//!
//! The fields' own rules are checked while they are read, so that the answer has a line and a
//! column; what concerns two fields at once is in [`RemoteMemoryPolicy::check`].

use std::collections::BTreeMap;

use dynamicswap_types::{Bytes, Copies, Durability, Spill};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::duration::PolicyDuration;
use crate::meta::ObjectMeta;
use crate::percent::Percent;

/// A policy. Namespaced; its selector picks pods of its own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RemoteMemoryPolicy {
    /// `dynamicswap.io/v1alpha1`.
    pub api_version: String,
    /// `RemoteMemoryPolicy`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: RemoteMemoryPolicySpec,
}

/// What a policy wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RemoteMemoryPolicySpec {
    /// Which pods of the namespace; none said means all.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// How many copies, and the disk's part.
    #[serde(default)]
    pub durability: DurabilitySpec,
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
    /// Takes the policy out of force. If no other policy wants the device, it is detached once
    /// its pages have come home.
    #[serde(default)]
    pub paused: bool,
    /// Decide and report, but change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Pods by their labels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DurabilitySpec {
    /// Copies on distinct failure domains, 1 to 3; 2 if not said.
    #[serde(default = "copies_default", deserialize_with = "copies")]
    pub copies: Copies,
    /// `None`, `Async` or `Only`; `None` if not said.
    #[serde(default, deserialize_with = "spill")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsSpec {
    /// Of one container.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "quantity"
    )]
    pub per_container: Option<Bytes>,
    /// Of all selected containers of the namespace together.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "quantity"
    )]
    pub per_namespace: Option<Bytes>,
}

/// Thresholds on the kernel's pressure figures (PSI) of a container's memory.
///
/// The kernel's average over 10 s takes seconds to rise. So the same share of the last second or
/// two counts as well, whether the kernel's own trigger says so or the agent's timer finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PressureSpec {
    /// Pressured from this share of time in which some task waited for memory, over 10 s.
    #[serde(default = "some_default")]
    pub some_avg10_percent: Percent,
    /// Stalled from this share of time in which all tasks waited, over 10 s.
    #[serde(default = "full_default")]
    pub full_avg10_percent: Percent,
    /// Calm again after this time below half of both thresholds.
    #[serde(default = "calm_after_default")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StallSpec {
    /// A write without enough live copies waits this long for a repair, then fails early and
    /// the page stays in RAM. 100ms to 60s; 2s if not said.
    #[serde(default = "write_hold_default", deserialize_with = "write_hold")]
    pub write_hold: PolicyDuration,
    /// A read without a reachable copy waits this long before the page counts as lost, which
    /// kills its owner. 1s to 1h; 30s if not said.
    #[serde(default = "read_stall_default", deserialize_with = "read_stall")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RebuildSpec {
    /// Bytes a second that the copies of one swap device may move. 1Mi to 100Gi; 256Mi if not said,
    /// which leaves nine tenths of a 25 Gb/s link to pages that somebody waits for.
    #[serde(default = "bandwidth_default", deserialize_with = "bandwidth")]
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

/// Reads a quantity that may be a bare number, and keeps the reason when it is neither.
fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
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
    deserializer.deserialize_any(QuantityVisitor).map(Some)
}

/// Reads a bandwidth that must lie within its bounds.
fn bandwidth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let (low, high) = RebuildSpec::BANDWIDTH_BOUNDS;
    let bandwidth = quantity(deserializer)?.unwrap_or(Bytes::ZERO);
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
}

impl RemoteMemoryPolicy {
    /// Kind, as `kind` has it.
    pub const KIND: &'static str = "RemoteMemoryPolicy";

    /// Checks the rules that concern several fields.
    ///
    /// # Errors
    /// The first [`PolicyRuleError`] that applies.
    pub fn check(&self) -> Result<(), PolicyRuleError> {
        let limits = self.spec.limits;
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
        let pressure = self.spec.pressure;
        if pressure.full_avg10_percent > pressure.some_avg10_percent {
            return Err(PolicyRuleError::FullOverSome {
                full: pressure.full_avg10_percent,
                some: pressure.some_avg10_percent,
            });
        }
        Ok(())
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
