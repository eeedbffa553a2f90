//! Every rule of every kind, broken once: what the API server says then. And what the definitions
//! owe to a person who reads them with `kubectl explain`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod support;

use std::collections::BTreeSet;

use dynamicswap_crds::{
    Kind, MemoryServer, SlabMap, SlabMapSpec, SlabSeat, SlabSeatPhase, SlabSet, SlabSetStage,
    SwapDevice, crd_file, crds,
};
use dynamicswap_types::{
    Bytes, Copies, Durability, IncarnationId, Integrity, SetId, SlabSize, SlotIndex, Spill,
    SwapDeviceId,
};
use serde_json::{Value, json};

const DEVICE: &str = "00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100";

fn policy(spec: &Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

fn device(name: &str, node: &str, id: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"node": node, "deviceId": id}})
}

fn seat(node: &str, more: &Value) -> Value {
    let mut seat = json!({"node": node, "slot": 3, "incarnation": OTHER, "phase": "Serving"});
    let (seat_map, more) = (seat.as_object_mut(), more.as_object().expect("fields"));
    seat_map.expect("fields").extend(more.clone());
    seat
}

fn map(more: &Value) -> Value {
    let mut spec = json!({
        "node": "b1", "deviceId": DEVICE, "sizeBytes": 1_u64 << 36, "slabBytes": 1 << 26,
        "durability": {"copies": 2, "spill": "None"}, "reserveSetsMax": 8, "gone": false,
        "sets": [{"id": 7, "stage": "Offered", "seats": [seat("d1", &json!({}))]}],
    });
    let (spec_map, more) = (spec.as_object_mut(), more.as_object().expect("fields"));
    spec_map.expect("fields").extend(more.clone());
    json!({"metadata": {"name": "b1-00112233"}, "spec": spec})
}

fn map_of(one: &Value) -> Value {
    map(&json!({"sets": [{"id": 7, "stage": "Offered", "seats": [one]}]}))
}

/// An object, what it was before (or that it is new), and what is said of it.
type Case = (Kind, Value, Option<Value>, &'static str);

fn cases_of_policies() -> Vec<Case> {
    let cases = [
        (
            json!({"limits": {"perContainer": "1.5Gi"}}),
            "such as 512Mi",
        ),
        (
            json!({"limits": {"perContainer": 0}}),
            "a limit of 0 is none",
        ),
        (
            json!({"limits": {"perNamespace": "2048Ti"}}),
            "write at most 1024Ti",
        ),
        (
            json!({"limits": {"perContainer": 2, "perNamespace": 1}}),
            "raise perNamespace",
        ),
        (
            json!({"pressure": {"someAvg10Percent": "10%"}}),
            "not a percentage",
        ),
        (
            json!({"pressure": {"fullAvg10Percent": 50}}),
            "never above some pressure",
        ),
        (json!({"pressure": {"calmAfter": "soon"}}), "such as 10s"),
        (json!({"stall": {"writeHold": "10ms"}}), "write 100ms to 1m"),
        (json!({"stall": {"readStall": "2h"}}), "write 1s to 1h"),
        (
            json!({"rebuild": {"bandwidthMax": "4Ki"}}),
            "write 1Mi to 100Gi",
        ),
        (
            json!({"return": {"startRoomPercent": 10}}),
            "write less than startRoomPercent has",
        ),
    ];
    let cases = cases.map(|(spec, said)| (Kind::RemoteMemoryPolicy, policy(&spec), None, said));
    let mut cases = cases.to_vec();
    let mut dotted = policy(&json!({}));
    dotted["metadata"]["name"] = json!("a.b");
    cases.push((Kind::RemoteMemoryPolicy, dotted, None, "has a dot"));
    cases
}

fn cases_of_devices() -> Vec<Case> {
    let was = || Some(device("b1", "b1", DEVICE));
    let server = json!({"metadata": {"name": "d1"}, "spec": {"drain": {"within": "10"}}});
    vec![
        (Kind::MemoryServer, server, None, "such as 10s"),
        (
            Kind::SwapDevice,
            device("b1", "b2", DEVICE),
            None,
            "named after its node",
        ),
        (
            Kind::SwapDevice,
            device("b1", "b2", DEVICE),
            was(),
            "stays with its node",
        ),
        (
            Kind::SwapDevice,
            device("b1", "b1", OTHER),
            was(),
            "never changes: delete",
        ),
        (
            Kind::SwapDevice,
            device("b1", "b1", "abc"),
            None,
            "should match",
        ),
    ]
}

fn cases_of_maps() -> Vec<Case> {
    let was = || Some(map(&json!({})));
    let gone = || Some(map(&json!({"gone": true})));
    let edits = [
        (json!({"node": "b2"}), was(), "stays with its node"),
        (json!({"deviceId": OTHER}), was(), "stays with its device"),
        (json!({"sizeBytes": 1}), was(), "never changes its size"),
        (
            json!({"slabBytes": 1 << 20}),
            was(),
            "never changes its size",
        ),
        (json!({"gone": false}), gone(), "does not come back"),
        (json!({"slabBytes": 3 << 20}), None, "power of two"),
        (json!({"sets": "none"}), None, "of type array"),
        (
            json!({"sets": [{"id": 7, "stage": "Open", "seats": []}]}),
            None,
            "Composing",
        ),
        (json!({"reserveSetsMax": -1}), None, "greater than or equal"),
    ];
    let edits = edits.map(|(edit, old, said)| (Kind::SlabMap, map(&edit), old, said));
    let seats = [
        (
            json!({"phase": "Regranting"}),
            "write it with phase Regranting",
        ),
        (json!({"previous": DEVICE}), "and with no other"),
        (
            json!({"replaces": "d2"}),
            "replaces belongs to phase Granting",
        ),
        (json!({"since": 4}), "since belongs to the phases"),
        (json!({"phase": "Gone"}), "Granting"),
        (json!({"slot": -1}), "greater than or equal"),
        (json!({"node": "D1"}), "should match"),
    ];
    let seats = seats.map(|(more, said)| {
        let object = map_of(&seat("d1", &more));
        (Kind::SlabMap, object, None, said)
    });
    let twice = [seat("d1", &json!({})), seat("d1", &json!({"slot": 9}))];
    let twice = map(&json!({"sets": [{"id": 7, "stage": "Offered", "seats": twice}]}));
    let mut cases: Vec<Case> = edits.into_iter().chain(seats).collect();
    cases.push((Kind::SlabMap, twice, None, "Duplicate value: node"));
    cases
}

fn cases() -> Vec<Case> {
    let mut cases = cases_of_policies();
    cases.extend(cases_of_devices());
    cases.extend(cases_of_maps());
    cases
}

/// The messages of all rules in a schema.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            let rules = map.get("x-kubernetes-validations");
            for rule in rules.and_then(Value::as_array).into_iter().flatten() {
                let message = rule["message"].as_str().expect("a message");
                found.insert(message.to_owned());
            }
            map.values().for_each(|value| messages(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| messages(value, found)),
        _ => {}
    }
}

#[test]
fn broken_rule_says_what_to_write_instead() {
    for (kind, object, old, expected) in cases() {
        let said = support::judge(kind, &object, old.as_ref());
        let found = said.iter().any(|sentence| sentence.contains(expected));
        assert!(found, "{kind:?} {object}: {said:?}");
    }
}

#[test]
fn every_rule_is_broken_by_some_case() {
    for kind in Kind::ALL {
        let mut rules = BTreeSet::new();
        messages(support::schema(kind), &mut rules);
        let of_kind = cases().into_iter().filter(|(of, ..)| *of == kind);
        let said: Vec<String> = of_kind
            .flat_map(|(_, object, old, _)| support::judge(kind, &object, old.as_ref()))
            .collect();
        for rule in rules {
            let broken = said.iter().any(|sentence| sentence.contains(&rule));
            assert!(broken, "{kind:?}: no case breaks the rule '{rule}'");
        }
    }
}

#[test]
fn sound_objects_break_no_rule() {
    let map_before = map(&json!({"sets": []}));
    let seats = [
        seat("d1", &json!({"phase": "Regranting", "previous": DEVICE})),
        seat(
            "d2",
            &json!({"phase": "Granting", "replaces": "d3", "revoked": true}),
        ),
        seat("d3", &json!({"phase": "Leaving", "since": 4})),
        seat("d4", &json!({"phase": "Freeing"})),
    ];
    let moved = map(&json!({
        "gone": true, "durability": null, "reserveSetsMax": 0,
        "sets": [{"id": 8, "stage": "Composing", "seats": seats}],
    }));
    let drained = json!({"metadata": {"name": "ip-10.eu"}, "spec": {"cordoned": true,
        "drain": {"within": "2m"}}, "status": {"conditions": []}});
    for (kind, object, old) in [
        (Kind::SlabMap, map(&json!({})), None),
        (Kind::SlabMap, moved, Some(map_before)),
        (
            Kind::SwapDevice,
            device("b1", "b1", DEVICE),
            Some(device("b1", "b1", DEVICE)),
        ),
        (Kind::MemoryServer, drained, None),
        (
            Kind::MemoryServer,
            json!({"metadata": {"name": "d1"}, "spec": {}}),
            None,
        ),
    ] {
        let said = support::judge(kind, &object, old.as_ref());
        assert_eq!(said, Vec::<String>::new(), "{object}");
    }
}

#[test]
fn types_judge_themselves_without_a_cluster() {
    let spec = |id: u8| dynamicswap_crds::SwapDeviceSpec {
        node: "b1".parse().expect("a name"),
        device_id: SwapDeviceId::from_bytes([id; 16]),
    };
    let one = SwapDevice::new("b1", spec(1));
    assert!(one.validate_cel().is_ok());
    let other = SwapDevice::new("b1", spec(2));
    let refusal = other.validate_cel_update(&one).expect_err("another life");
    assert!(refusal.to_string().contains("never changes"), "{refusal}");
    let server = MemoryServer::new("d1", dynamicswap_crds::MemoryServerSpec::default());
    assert!(server.validate_cel().is_ok());
}

/// A record of sets with two seats each, which `make` makes.
fn large_map(sets: u64, make: fn(u64) -> SlabSeat) -> SlabMap {
    let set = |id: u64| SlabSet {
        id: SetId::new(1_000_000_000 + id),
        stage: SlabSetStage::Composing,
        seats: vec![make(100), make(200)],
    };
    let spec = SlabMapSpec {
        node: "ip-10-120-1-1.eu-central-1.compute.internal"
            .parse()
            .expect("a name"),
        device_id: SwapDeviceId::from_bytes([0xEF; 16]),
        size_bytes: Bytes::from_mib(64 << 10),
        slab_bytes: SlabSize::DEFAULT,
        integrity: Some(Integrity::Tag64),
        durability: Some(Durability {
            copies: Copies::TWO,
            spill: Spill::Async,
        }),
        reserve_sets_max: 64,
        gone: false,
        sets: (0..sets).map(set).collect(),
    };
    SlabMap::new("map", spec)
}

/// A seat in use, with a name as clouds give them.
fn serving(node: u64) -> SlabSeat {
    SlabSeat {
        node: format!("ip-10-120-{node}-200.eu-central-1.compute.internal")
            .parse()
            .expect("a name"),
        slot: SlotIndex::new(262_143),
        incarnation: IncarnationId::from_bytes([0xAB; 16]),
        phase: SlabSeatPhase::Serving,
        revoked: false,
        rebalanced: false,
        replaces: None,
        previous: None,
        since: None,
    }
}

/// A seat with all said that may be.
fn wordy(node: u64) -> SlabSeat {
    SlabSeat {
        phase: SlabSeatPhase::Regranting,
        revoked: true,
        rebalanced: false,
        previous: Some(IncarnationId::from_bytes([0xCD; 16])),
        ..serving(node)
    }
}

fn json_bytes(map: &SlabMap) -> usize {
    serde_json::to_string(map).expect("JSON").len()
}

#[test]
fn record_of_64_gib_stays_below_one_mib() {
    let map = large_map(1_024, wordy);
    let size = json_bytes(&map);
    assert!(size < 1 << 20, "{size} bytes");
    let of_sets = |make| json_bytes(&large_map(1_024, make)) - json_bytes(&large_map(0, make));
    assert_eq!(of_sets(wordy) / 1_024, 455, "bytes of a set with all said");
    assert_eq!(of_sets(serving) / 1_024, 327, "bytes of a set in use");
    let back: SlabMap = serde_json::from_value(json!(map)).expect("same");
    assert_eq!(back, map);
    let plain = json!(map);
    assert_eq!(plain["spec"]["sizeBytes"], json!(1_u64 << 36));
    assert_eq!(plain["spec"]["slabBytes"], json!(1_u64 << 26));
}

#[test]
fn most_sets_that_a_map_may_hold_fit_in_one_request() {
    let sets = &support::schema(Kind::SlabMap)["properties"]["spec"]["properties"]["sets"];
    let most = sets["maxItems"].as_u64().expect("a bound");
    let size = json_bytes(&large_map(most, serving));
    assert!(size < 3 << 19, "{size} bytes are too many for etcd");
}

#[test]
fn every_field_is_described() {
    fn check(schema: &Value, path: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let path = format!("{path}.{name}");
            let text = property.get("description").and_then(Value::as_str);
            let is_root = path == ".spec" || path == ".status";
            let text = text.unwrap_or_else(|| panic!("{path} is not described"));
            assert!(text.ends_with('.') || is_root, "{path}: {text}");
            check(property, &path);
            check(&property["items"], &path);
        }
    }
    for kind in Kind::ALL {
        check(support::schema(kind), "");
    }
}

#[test]
fn files_are_what_the_types_say() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for folder in ["crds/yaml", "charts/dynamicswap/files/crds"] {
        let entries = std::fs::read_dir(format!("{root}/{folder}")).expect("a folder");
        assert_eq!(entries.count(), Kind::ALL.len(), "files in {folder}");
        for (kind, definition) in crds() {
            let (name, content) = crd_file(kind, &definition).expect("YAML");
            let path = format!("{root}/{folder}/{name}");
            let found = std::fs::read_to_string(&path).expect("a file");
            assert!(found == content, "{path} is stale: run 'cargo xtask crd'");
        }
    }
}

#[test]
fn kinds_are_named_as_people_mean_them() {
    for (kind, definition) in crds() {
        let names = &definition.spec.names;
        assert_eq!(definition.spec.group, dynamicswap_crds::GROUP);
        assert_eq!(names.kind, kind.name());
        assert_eq!(names.plural, kind.plural());
        assert_eq!(names.categories, Some(vec!["dynamicswap".to_owned()]));
        let words = names.short_names.iter().flatten().chain(&names.singular);
        for word in words {
            assert_eq!(Kind::from_word(word), Ok(kind));
        }
        let version = &definition.spec.versions[0];
        assert!(
            version
                .subresources
                .as_ref()
                .is_some_and(|it| it.status.is_some())
        );
        let columns = version.additional_printer_columns.iter().flatten();
        assert_eq!(columns.last().expect("columns").name, "Age");
    }
}

#[test]
fn example_of_each_kind_is_sound() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut kinds = BTreeSet::new();
    for entry in std::fs::read_dir(root).expect("examples") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        for object in objects {
            let kind = Kind::from_word(object["kind"].as_str().expect("a kind")).expect("ours");
            assert_eq!(object["apiVersion"], dynamicswap_crds::API_VERSION);
            let said = support::judge(kind, &object, None);
            assert_eq!(said, Vec::<String>::new(), "{path:?}");
            kinds.insert(kind);
        }
    }
    assert_eq!(kinds.len(), Kind::ALL.len());
}
