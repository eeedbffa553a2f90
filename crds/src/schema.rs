//! Schemas of the group's fields, as the API server is to check them.
//!
//! The vocabulary's newtypes know nothing of schemas, so their fields name a function of this
//! file. A rule's message says what to write instead. The strict parser judges the same documents
//! the same way; tests/judges.rs holds the two together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Most replica sets that one `SlabMap` holds: 64 GiB in slabs of 64 MiB four times over. With two
/// seats in use each and long names of nodes they stay below what etcd takes in one request,
/// 1.5 MiB.
pub const SETS_MAX: u32 = 4_096;
/// Most seats of a set: three copies, their replacements, and those that still leave.
pub const SEATS_MAX: u32 = 16;

/// A whole number of bytes: digits and a suffix. 16 digits hold every bound, and with the largest
/// suffix they overflow no evaluator's integers.
const QUANTITY: &str = "string(self).matches('^0*[0-9]{1,16}([KMGT]i|[kMGT])?$')";
const QUANTITY_MESSAGE: &str = "this is not a quantity of bytes: write a whole number with Ki, \
    Mi, Gi, Ti, k, M, G, T or nothing behind it, such as 512Mi";

/// A whole number with a unit, with as many digits as 49 days may have.
const DURATION: &str = "self.matches('^0*([0-9]{1,10}ms|[0-9]{1,7}s|[0-9]{1,5}m|[0-9]{1,4}h)$')";
/// The longest text that is read as a duration. It bounds the cost of the rules.
const DURATION_LENGTH_MAX: u32 = 24;

fn rule(rule: impl Into<String>, message: impl Into<String>) -> Value {
    json!({"rule": rule.into(), "message": message.into()})
}

/// Holds where the field is no quantity at all, because another rule says so already.
fn if_quantity(comparison: &str) -> String {
    let this = "quantity(string(self))";
    format!(
        "!isQuantity(string(self)) || {}",
        comparison.replace("$", this)
    )
}

/// A number or a text. Never null: a null is left out by the server, and the parser knows none.
fn int_or_string(rules: &[Value]) -> Schema {
    if rules.is_empty() {
        return json_schema!({"x-kubernetes-int-or-string": true, "nullable": false});
    }
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "nullable": false,
        "x-kubernetes-validations": rules,
    })
}

/// A quantity of bytes that the controller writes.
pub fn bytes(_: &mut SchemaGenerator) -> Schema {
    int_or_string(&[])
}

/// An upper bound that a user writes: more than nothing, at most 1024Ti.
pub fn limit(_: &mut SchemaGenerator) -> Schema {
    int_or_string(&[
        rule(QUANTITY, QUANTITY_MESSAGE),
        rule(
            if_quantity("$.compareTo(quantity('0')) != 0"),
            "a limit of 0 is none: leave it out for no limit, or write paused: true",
        ),
        rule(
            if_quantity("$.compareTo(quantity('1024Ti')) <= 0"),
            "no limit is that high: write at most 1024Ti, or leave it out for no limit",
        ),
    ])
}

/// Bytes a second that copies may move.
pub fn bandwidth(_: &mut SchemaGenerator) -> Schema {
    let bounds = "($.compareTo(quantity('1Mi')) >= 0 && $.compareTo(quantity('100Gi')) <= 0)";
    int_or_string(&[
        rule(QUANTITY, QUANTITY_MESSAGE),
        rule(
            if_quantity(bounds),
            "bandwidthMax is out of range: write 1Mi to 100Gi (bytes a second)",
        ),
    ])
}

/// A percentage with at most two decimals.
pub fn percent(_: &mut SchemaGenerator) -> Schema {
    int_or_string(&[rule(
        "string(self).matches('^0*([0-9]{1,2}([.][0-9]{1,2})?|100([.]00?)?)$')",
        "this is not a percentage: write 0 to 100, as a whole number such as 10 or quoted with at \
         most two decimals such as \"0.5\"",
    )])
}

fn duration(bounds: &str, message: &str) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": DURATION_LENGTH_MAX,
        "x-kubernetes-validations": [rule(format!("{DURATION} && {bounds}"), message)],
    })
}

/// Any duration.
pub fn any_duration(_: &mut SchemaGenerator) -> Schema {
    duration(
        "duration(self) <= duration('4294967295ms')",
        "this is not a duration: write a whole number with ms, s, m or h behind it, such as 10s, \
         at most 1193h",
    )
}

/// The bounds of a write hold.
pub fn write_hold(_: &mut SchemaGenerator) -> Schema {
    duration(
        "duration(self) >= duration('100ms') && duration(self) <= duration('1m')",
        "writeHold is no duration or out of range: write 100ms to 1m, such as 2s",
    )
}

/// The bounds of a read stall.
pub fn read_stall(_: &mut SchemaGenerator) -> Schema {
    duration(
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
        "readStall is no duration or out of range: write 1s to 1h, such as 30s",
    )
}

/// Copies of a page.
pub fn copies(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 3})
}

fn words(words: &[&str]) -> Schema {
    json_schema!({"type": "string", "enum": words})
}

/// What the disk does.
pub fn spill(_: &mut SchemaGenerator) -> Schema {
    words(&["None", "Async", "Only"])
}

/// What protects pages.
pub fn integrity(_: &mut SchemaGenerator) -> Schema {
    words(&["full", "tag64", "none"])
}

/// A durability class.
pub fn durability(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["copies", "spill"],
        "properties": {
            "copies": {
                "description": "Remote copies; not looked at where spill is Only.",
                "type": "integer", "format": "int32", "minimum": 1, "maximum": 3,
            },
            "spill": {
                "description": "The disk's part: None, Async or Only.",
                "type": "string", "enum": ["None", "Async", "Only"],
            },
        },
    })
}

/// Where a set is in its life.
pub fn stage(_: &mut SchemaGenerator) -> Schema {
    words(&["Composing", "Offered", "Closing"])
}

/// Where a seat is in its life.
pub fn phase(_: &mut SchemaGenerator) -> Schema {
    words(&["Granting", "Serving", "Regranting", "Leaving", "Freeing"])
}

/// A random id, as it prints.
pub fn id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[0-9a-fA-F]{32}$", "maxLength": 32})
}

/// A node's name, or a failure domain's.
pub fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "maxLength": 253,
    })
}

/// A number from 0 that fits in 32 bits.
pub fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX})
}

/// A number from 0 that fits in 31 bits, as Kubernetes' own counts do.
pub fn small_count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0})
}

/// A counter, an id or a size in plain digits.
pub fn number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

/// Conditions, one of each type, so that several writers can own one each.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": generator.subschema_for::<Condition>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The sets of a map. Atomic: the server would note the writer of each field of each set
/// otherwise, which takes more bytes than the sets do.
pub fn sets(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": SETS_MAX,
        "items": generator.subschema_for::<crate::slab_map::SlabSet>(),
        "x-kubernetes-list-type": "atomic",
    })
}

/// The seats of a set, one on a node.
pub fn seats(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": SEATS_MAX,
        "items": generator.subschema_for::<crate::slab_map::SlabSeat>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["node"],
    })
}

/// Takes the defaults out of a status: what nobody has observed is absent there, not 0.
pub fn without_defaults(schema: &mut Schema) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|map| map.values_mut()) {
        if let Some(property) = property.as_object_mut() {
            property.remove("default");
        }
    }
}
