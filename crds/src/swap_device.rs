//! `SwapDevice`: a borrower's device.

use dynamicswap_types::{
    Bytes, Durability, Epoch, Integrity, NodeName, PageCount, SlabSize, SwapDeviceId,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Which device it is. All else is reported by its node, or follows from the policies.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "dynamicswap.io",
    version = "v1alpha1",
    kind = "SwapDevice",
    plural = "swapdevices",
    shortname = "swd",
    category = "dynamicswap",
    status = "SwapDeviceStatus",
    derive = "PartialEq",
    cel,
    doc = "SwapDevice is the device to which one node swaps into the memory of others, named \
           after the node. The controller makes it; there is nothing to write in it: what a \
           device shall be, RemoteMemoryPolicies say.",
    selectable = ".spec.node",
    selectable = ".status.attached",
    selectable = ".status.frontEnd",
    validation = Rule::new("self.metadata.name == self.spec.node")
        .message("a SwapDevice is named after its node: write the same in metadata.name and \
                  spec.node"),
    printcolumn(name = "Ready", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Ready\")].status",
                description = "Its agent has a session and its daemon answers"),
    printcolumn(name = "Attached", type_ = "boolean", json_path = ".status.attached",
                description = "The node swaps to it now"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size",
                description = "What fits in it"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.bytesUsed",
                description = "Content that is out there"),
    printcolumn(name = "Degraded", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Degraded\")].status",
                description = "Pages have fewer copies than the class asks for"),
    printcolumn(name = "Front-End", type_ = "string", json_path = ".status.frontEnd",
                description = "How the device is made"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.durability.copies",
                description = "Copies that the class in force asks for", priority = 1),
    printcolumn(name = "Spill", type_ = "string", json_path = ".status.durability.spill",
                description = "The disk's part in the class in force", priority = 1),
    printcolumn(name = "Integrity", type_ = "string", json_path = ".status.integrity",
                description = "What protects its pages outside the node", priority = 1),
    printcolumn(name = "Suitable", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Suitable\")].status",
                description = "It has what the policies in force ask for", priority = 1),
    printcolumn(name = "Device", type_ = "string", json_path = ".spec.deviceId",
                description = "The device's life", priority = 1),
    printcolumn(name = "Reason", type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Ready\")].message",
                description = "Why it is ready or not", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.node == oldSelf.node")
        .message("a SwapDevice stays with its node: leave node as it is")
        .field_path(".node"),
    validation = Rule::new("self.deviceId == oldSelf.deviceId")
        .message("deviceId names one life of a device and never changes: delete the SwapDevice, \
                  and the controller makes the one that is there now")
        .field_path(".deviceId")
)]
pub struct SwapDeviceSpec {
    /// The borrower's node.
    #[schemars(schema_with = "schema::name")]
    pub node: NodeName,
    /// The device's life, 32 hexadecimal digits. Never changes: a device whose content was lost
    /// is another one.
    #[schemars(schema_with = "schema::id")]
    pub device_id: SwapDeviceId,
}

/// What is known of a swap device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = schema::without_defaults)]
pub struct SwapDeviceStatus {
    /// Generation of the object that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The class in force; absent until a policy exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::durability")]
    pub durability: Option<Durability>,
    /// The node swaps to it now.
    pub attached: bool,
    /// What protects its pages outside the node: full, tag64 or none; absent if its daemon does not
    /// say. Never changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::integrity")]
    pub integrity: Option<Integrity>,
    /// How it is made: `ublk` or `fuse-loop`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub front_end: String,
    /// The writer's epoch: each engine that serves the device has a higher one.
    #[schemars(schema_with = "schema::number")]
    pub epoch: Epoch,
    /// What fits in it.
    #[schemars(schema_with = "schema::bytes")]
    pub size: Bytes,
    /// Size of its slabs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::bytes")]
    pub slab_size: Option<SlabSize>,
    /// Content that is out there.
    #[schemars(schema_with = "schema::bytes")]
    pub bytes_used: Bytes,
    /// Slabs with a replica set.
    #[schemars(schema_with = "schema::count")]
    pub slabs_bound: u32,
    /// Replica sets in reserve.
    #[schemars(schema_with = "schema::count")]
    pub sets_reserved: u32,
    /// Pages with fewer copies than the class asks for.
    #[schemars(schema_with = "schema::number")]
    pub pages_degraded: PageCount,
    /// Ready: its agent has a session and its daemon answers. Degraded: pages have fewer copies
    /// than the class asks for. Suitable: it has the integrity that the policies in force ask for;
    /// else it is not attached. `BreakerOpen`: its node sends nothing ahead, because swapping does
    /// more harm than good there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
