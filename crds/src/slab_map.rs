//! `SlabMap`: which slots on which donors hold the replica sets of one swap device.
//!
//! The spec is the controller's durable record, and the controller alone writes it. What changes
//! each second (which slab a set holds, how hot it is) is not here: `get slabs` shows it, and
//! nothing keeps it.

use dynamicswap_types::{
    Bytes, Durability, Generation, IncarnationId, Integrity, NodeName, SetId, SlabSize, SlotIndex,
    SwapDeviceId,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::schema;

/// The assignment of one life of a swap device. Written by the controller alone: the chart's admission
/// policy refuses an edit by hand, because the next leader would take it for the truth.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "dynamicswap.io",
    version = "v1alpha1",
    kind = "SlabMap",
    plural = "slabmaps",
    category = "dynamicswap",
    status = "SlabMapStatus",
    derive = "PartialEq",
    cel,
    doc = "SlabMap says which slots on which donors hold the replica sets of one swap device. It \
           is the controller's record: read it, do not edit it. 'dynamicswap get slabs' shows \
           what each set holds now.",
    selectable = ".spec.node",
    selectable = ".spec.deviceId",
    selectable = ".spec.gone",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".spec.node",
        description = "The borrower"
    ),
    printcolumn(
        name = "Device",
        type_ = "string",
        json_path = ".spec.deviceId",
        description = "The life of the swap device"
    ),
    printcolumn(
        name = "Gone",
        type_ = "boolean",
        json_path = ".spec.gone",
        description = "The borrower has another device now"
    ),
    printcolumn(
        name = "Copies",
        type_ = "integer",
        json_path = ".spec.durability.copies",
        description = "Copies that the class in force asks for",
        priority = 1
    ),
    printcolumn(
        name = "Spill",
        type_ = "string",
        json_path = ".spec.durability.spill",
        description = "The disk's part in the class in force",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new("self.node == oldSelf.node")
        .message("a map stays with its node: leave node as it is, and the controller makes \
                  another SlabMap for another device")
        .field_path(".node"),
    validation = Rule::new("self.deviceId == oldSelf.deviceId")
        .message("a map stays with its device: leave deviceId as it is, and the controller makes \
                  another SlabMap for another device")
        .field_path(".deviceId"),
    validation = Rule::new(
        "self.sizeBytes == oldSelf.sizeBytes && self.slabBytes == oldSelf.slabBytes")
        .message("a device never changes its size or its slabs' size: leave sizeBytes and \
                  slabBytes as they are"),
    validation = Rule::new("!oldSelf.gone || self.gone")
        .message("a device that is gone does not come back: leave gone: true")
        .field_path(".gone"),
    validation = Rule::new(
        "self.slabBytes in [1048576, 2097152, 4194304, 8388608, 16777216, 33554432, 67108864, \
         134217728, 268435456, 536870912, 1073741824]")
        .message("slabBytes is no slab size: write a power of two from 1048576 (1Mi) to \
                  1073741824 (1Gi)")
        .field_path(".slabBytes")
)]
pub struct SlabMapSpec {
    /// The borrower's node.
    #[schemars(schema_with = "schema::name")]
    pub node: NodeName,
    /// The life of the swap device, 32 hexadecimal digits. Never changes.
    #[schemars(schema_with = "schema::id")]
    pub device_id: SwapDeviceId,
    /// Size of the device in bytes.
    #[serde(serialize_with = "plain_bytes")]
    #[schemars(schema_with = "schema::number")]
    pub size_bytes: Bytes,
    /// Size of its slabs in bytes: a power of two, 1 MiB to 1 GiB.
    #[serde(serialize_with = "plain_slab")]
    #[schemars(schema_with = "schema::number")]
    pub slab_bytes: SlabSize,
    /// What protects the device's pages: full, tag64 or none; absent while its daemon has not said
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::integrity")]
    pub integrity: Option<Integrity>,
    /// The class that the borrower's document asks for; absent until a policy exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::durability")]
    pub durability: Option<Durability>,
    /// Most sets that wait in reserve for a slab.
    #[schemars(schema_with = "schema::small_count")]
    pub reserve_sets_max: u32,
    /// The borrower has another device now: what is on record here is taken back.
    pub gone: bool,
    /// Every replica set on record.
    #[schemars(schema_with = "schema::sets")]
    pub sets: Vec<SlabSet>,
}

fn plain_bytes<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.get())
}

fn plain_slab<S: Serializer>(slab: &SlabSize, serializer: S) -> Result<S::Ok, S::Error> {
    plain_bytes(&slab.bytes(), serializer)
}

/// A replica set: the slots that together hold every copy of one slab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlabSet {
    /// Its id. Never used again once the set is gone.
    #[schemars(schema_with = "schema::number")]
    pub id: SetId,
    /// Composing: its donors are granting their slots. Offered: the borrower may use it. Closing:
    /// it is being taken back.
    #[schemars(schema_with = "schema::stage")]
    pub stage: SlabSetStage,
    /// Its slots, one on a donor at the most.
    #[schemars(schema_with = "schema::seats")]
    pub seats: Vec<SlabSeat>,
}

/// Where a set is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlabSetStage {
    /// Its donors are granting their slots.
    Composing,
    /// The borrower may use it.
    Offered,
    /// It is being taken back.
    Closing,
}

/// One slot of a set. What a phase knows besides its word lies beside it.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.phase == 'Regranting' ? has(self.previous) : !has(self.previous)")
        .message("previous is the donor's life before: write it with phase Regranting, and with \
                  no other"),
    validation = Rule::new("!has(self.replaces) || self.phase == 'Granting'")
        .message("replaces belongs to phase Granting: leave it out"),
    validation = Rule::new(
        "!has(self.since) || self.phase == 'Leaving' || self.phase == 'Freeing'")
        .message("since belongs to the phases Leaving and Freeing: leave it out")
)]
pub struct SlabSeat {
    /// The donor.
    #[schemars(schema_with = "schema::name")]
    pub node: NodeName,
    /// The slot there.
    #[schemars(schema_with = "schema::count")]
    pub slot: SlotIndex,
    /// The life of the donor's memory in which the slot is granted.
    #[schemars(schema_with = "schema::id")]
    pub incarnation: IncarnationId,
    /// The donor wants the slot back: the seat leaves once another copy is whole in its stead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// The donor is fuller than others: the seat leaves once another copy, on an emptier one, is whole
    /// in its stead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebalanced: bool,
    /// Granting: asked of the donor. Serving: in use. Regranting: asked for anew in the donor's
    /// new memory. Leaving: no longer the borrower's, still the donor's. Freeing: in neither
    /// document any more.
    #[schemars(schema_with = "schema::phase")]
    pub phase: SlabSeatPhase,
    /// With Granting: the donor whose seat leaves when this one serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::name")]
    pub replaces: Option<NodeName>,
    /// With Regranting: the life of the donor's memory that the borrower still names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::id")]
    pub previous: Option<IncarnationId>,
    /// With Leaving or Freeing: generation of the first document without the seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub since: Option<Generation>,
}

/// Where a seat is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlabSeatPhase {
    /// Asked of the donor.
    Granting,
    /// In use.
    Serving,
    /// Asked for anew in the donor's new memory.
    Regranting,
    /// No longer the borrower's, still the donor's.
    Leaving,
    /// In neither document any more.
    Freeing,
}

/// The assignment in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = schema::without_defaults)]
pub struct SlabMapStatus {
    /// Generation of the object that the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replica sets on record.
    #[schemars(schema_with = "schema::count")]
    pub sets: u32,
    /// Sets that hold a slab.
    #[schemars(schema_with = "schema::count")]
    pub bound: u32,
    /// Ready: no set is being composed, moved or taken back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
