//! A judge that stands in for the API server: strict about fields, types and bounds by the
//! schema of a definition, then by its rules in CEL. Knows the keywords that the definitions use,
//! and fails on any other.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dynamicswap_crds::{Kind, crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::Validator;
use serde_json::{Map, Value, json};

/// Made once: it takes longer than a judgement.
static SCHEMAS: LazyLock<BTreeMap<Kind, Value>> = LazyLock::new(|| {
    let schema = |(kind, definition): (Kind, CustomResourceDefinition)| {
        let version = definition.spec.versions.first().expect("a version");
        let schema = version.schema.as_ref().expect("a schema");
        let schema = serde_json::to_value(&schema.open_api_v3_schema).expect("JSON");
        (kind, schema)
    };
    crds().into_iter().map(schema).collect()
});

/// The schema of a kind.
pub fn schema(kind: Kind) -> &'static Value {
    &SCHEMAS[&kind]
}

/// What an API server would say of an object that is made, or changed from `old`.
pub fn judge(kind: Kind, object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema(kind);
    let mut said = Vec::new();
    let mut judged = object.clone();
    let judged_map = judged.as_object_mut().expect("an object");
    // The server checks these itself, by rules of its own.
    for field in ["apiVersion", "kind", "metadata"] {
        judged_map.remove(field);
    }
    walk(schema, &mut judged, "", &mut said);
    // As the server does: with a value of another type or a missing one, no rule is looked at.
    if said
        .iter()
        .any(|sentence| !sentence.contains("should match"))
    {
        return said;
    }
    let mut whole = object.clone();
    drop_nulls(&mut whole);
    if let Err(errors) = Validator::new().validate(schema, &whole, old) {
        said.extend(errors.into_vec().into_iter().map(|error| error.to_string()));
    }
    said
}

/// A null is left out before anything else, for no field may be null.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

const KNOWN: [&str; 21] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

fn walk(schema: &Value, value: &mut Value, path: &str, said: &mut Vec<String>) {
    let schema = schema.as_object().expect("a schema");
    for keyword in schema.keys() {
        assert!(
            KNOWN.contains(&&**keyword),
            "{path}: this judge knows no {keyword}"
        );
    }
    if let Some(sentence) = type_error(schema, value) {
        said.push(format!("{path}: {sentence}"));
        return;
    }
    match value {
        Value::Object(map) => walk_object(schema, map, path, said),
        Value::Array(items) => walk_items(schema, items, path, said),
        other => {
            said.extend(bound_error(schema, other).map(|sentence| format!("{path}: {sentence}")))
        }
    }
}

fn type_error(schema: &Map<String, Value>, value: &Value) -> Option<String> {
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        let fits = value.is_i64() || value.is_u64() || value.is_string();
        return (!fits).then(|| format!("must be of type integer or string: {value}"));
    }
    let wanted = schema["type"].as_str().expect("a type");
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("this judge knows no type {other}"),
    };
    (!fits).then(|| format!("must be of type {wanted}: {value}"))
}

fn walk_object(
    schema: &Map<String, Value>,
    map: &mut Map<String, Value>,
    path: &str,
    said: &mut Vec<String>,
) {
    map.retain(|_, value| !value.is_null());
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            said.push(format!("{path}.{name}: Required value"));
        }
    }
    let additional = schema.get("additionalProperties");
    let keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    for (name, value) in map {
        let path = format!("{path}.{name}");
        match schema.get("properties").and_then(|known| known.get(name)) {
            Some(known) => walk(known, value, &path, said),
            None => match additional {
                Some(any) => walk(any, value, &path, said),
                None if keeps_unknown => {}
                None => said.push(format!("{path}: unknown field")),
            },
        }
    }
}

fn walk_items(
    schema: &Map<String, Value>,
    items: &mut [Value],
    path: &str,
    said: &mut Vec<String>,
) {
    let most = schema.get("maxItems").and_then(Value::as_u64);
    if most.is_some_and(|most| items.len() as u64 > most) {
        said.push(format!("{path}: must have at most {most:?} items"));
    }
    let keys = schema.get("x-kubernetes-list-map-keys");
    if let Some(key) = keys.and_then(|keys| keys[0].as_str()) {
        let mut seen = std::collections::BTreeSet::new();
        for item in items.iter() {
            if !seen.insert(item[key].to_string()) {
                said.push(format!("{path}: Duplicate value: {key} {}", item[key]));
            }
        }
    }
    for (index, item) in items.iter_mut().enumerate() {
        walk(&schema["items"], item, &format!("{path}[{index}]"), said);
    }
}

fn bound_error(schema: &Map<String, Value>, value: &Value) -> Option<String> {
    let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    if let Some(number) = value.as_f64() {
        if bound("minimum").is_some_and(|least| number < least) {
            return Some(format!(
                "{value}: should be greater than or equal to {:?}",
                bound("minimum")
            ));
        }
        if bound("maximum").is_some_and(|most| number > most) {
            return Some(format!(
                "{value}: should be less than or equal to {:?}",
                bound("maximum")
            ));
        }
    }
    let text = value.as_str()?;
    let length = text.chars().count();
    if bound("maxLength").is_some_and(|most| length as f64 > most) {
        return Some(format!(
            "may not be more than {:?} bytes",
            bound("maxLength")
        ));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        return Some(format!(
            "Unsupported value: {value}: supported values: {words:?}"
        ));
    }
    let pattern = schema.get("pattern").and_then(Value::as_str)?;
    let rule = format!("self.matches('{pattern}')");
    let rule = json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]});
    let is_match = Validator::new().validate(&rule, value, None).is_ok();
    (!is_match).then(|| format!("{value}: should match '{pattern}'"))
}
