//! Dynamic re-paging in a policy: when pages leave ahead of the need, and when they come home.
//!
//! Owns two sections of the policy, their defaults and their rules. What the agent makes of them is
//! in docs/pressure.md.

use dynamicswap_types::Bytes;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::PolicyDuration;
use crate::percent::Percent;
use crate::policy::bandwidth;
use crate::schema;

/// When pages leave before the kernel must send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OffloadSpec {
    /// Whether the coldest pages are sent away little by little while nobody suffers. True if not
    /// said.
    #[serde(default = "yes")]
    pub proactive: bool,
    /// The pressure (some) up to which they are: the nearer it comes, the less is sent. "0.01" to 1,
    /// what is beyond counts as the nearer of them; "0.1" if not said.
    #[serde(default = "target_default")]
    #[schemars(schema_with = "schema::percent")]
    pub target_some_percent: Percent,
    /// Share of a container's hard limit that is kept free for what it asks for at once, so that it
    /// is not killed while remote memory is free; 0 for none. 1 to 25, what is beyond counts as the
    /// nearer of them; 5 if not said.
    #[serde(default = "headroom_default")]
    #[schemars(schema_with = "schema::percent")]
    pub limit_headroom_percent: Percent,
    /// Whether a container with a hard limit and no `memory.high` of its own gets one in the middle of
    /// that room: what grows faster than pages leave waits there, where it would be killed at the
    /// limit. True if not said.
    #[serde(default = "yes")]
    pub guard_limit: bool,
    /// Share of the selected containers for which pages are sent ahead, always the same ones: a way to
    /// try it. 100 if not said.
    #[serde(default = "all")]
    #[schemars(schema_with = "schema::percent")]
    pub canary_percent: Percent,
    /// The pressure (full, over 10 s) at which the node stops to send any page ahead, until it is calm
    /// again. From 10, less counts as that; 30 if not said.
    #[serde(default = "break_default")]
    #[schemars(schema_with = "schema::percent")]
    pub break_full_percent: Percent,
}

impl Default for OffloadSpec {
    fn default() -> Self {
        Self {
            proactive: yes(),
            target_some_percent: target_default(),
            limit_headroom_percent: headroom_default(),
            guard_limit: yes(),
            canary_percent: all(),
            break_full_percent: break_default(),
        }
    }
}

/// When pages come home before anybody asks for them.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!string(self.startRoomPercent).matches('^[0-9]+([.][0-9]+)?$') \
         || !string(self.stopRoomPercent).matches('^[0-9]+([.][0-9]+)?$') \
         || double(string(self.stopRoomPercent)) < double(string(self.startRoomPercent))")
        .message("return.stopRoomPercent is not below return.startRoomPercent: what comes home would \
                  be sent away again, so write less than startRoomPercent has")
        .field_path(".stopRoomPercent")
)]
pub struct ReturnSpec {
    /// Whether pages come home at all. True if not said.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// They begin to once this share of the node's memory, and of the container's limit, is free. 20
    /// if not said.
    #[serde(default = "start_default")]
    #[schemars(schema_with = "schema::percent")]
    pub start_room_percent: Percent,
    /// They stop once less than this share of either is. 10 if not said.
    #[serde(default = "stop_default")]
    #[schemars(schema_with = "schema::percent")]
    pub stop_room_percent: Percent,
    /// They begin to after this time without pressure. 10s if not said.
    #[serde(default = "quiet_default")]
    #[schemars(schema_with = "schema::any_duration")]
    pub quiet_for: PolicyDuration,
    /// Bytes a second that come home to one node at most. 1Mi to 100Gi, more than 4Gi counts as that;
    /// 256Mi if not said.
    #[serde(default = "bandwidth_default", deserialize_with = "bandwidth")]
    #[schemars(schema_with = "schema::bandwidth")]
    pub bandwidth_max: Bytes,
    /// After one return has ended, none begins for this time. 30s to 1h, what is beyond counts as the
    /// nearer of them; 120s if not said.
    #[serde(default = "rest_default")]
    #[schemars(schema_with = "schema::any_duration")]
    pub rest_for: PolicyDuration,
}

impl Default for ReturnSpec {
    fn default() -> Self {
        Self {
            enabled: yes(),
            start_room_percent: start_default(),
            stop_room_percent: stop_default(),
            quiet_for: quiet_default(),
            bandwidth_max: bandwidth_default(),
            rest_for: rest_default(),
        }
    }
}

const fn yes() -> bool {
    true
}
const fn all() -> Percent {
    Percent::MAX
}
const fn target_default() -> Percent {
    Percent::from_hundredths(10)
}
const fn headroom_default() -> Percent {
    Percent::from_whole(5)
}
const fn break_default() -> Percent {
    Percent::from_whole(30)
}
const fn start_default() -> Percent {
    Percent::from_whole(20)
}
const fn stop_default() -> Percent {
    Percent::from_whole(10)
}
const fn quiet_default() -> PolicyDuration {
    PolicyDuration::from_secs(10)
}
const fn rest_default() -> PolicyDuration {
    PolicyDuration::from_secs(120)
}
const fn bandwidth_default() -> Bytes {
    Bytes::from_mib(256)
}
