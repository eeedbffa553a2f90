//! How the ledger lies in Kubernetes: which object holds which part of it, and back.
//!
//! One `ConfigMap` for what belongs to no node, one for each node, one `SlabMap` for each life of
//! a swap device. Pure: an object is its JSON.

use dynamicswap_crds::{API_VERSION, Kind, SlabMapSpec};
use dynamicswap_planner::{DeviceRecord, Ledger};
use dynamicswap_types::{NodeName, SetId, SwapDeviceId, Term};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::slab_map;
use crate::kubernetes::FIELD_MANAGER;
use crate::store::record::NodeEntry;
use crate::store::{Change, StoreError};

/// Label of the objects that are records, with [`RECORD_NODE`] or [`RECORD_STATE`].
pub const RECORD_LABEL: &str = "dynamicswap.io/record";
const RECORD_NODE: &str = "node";
const RECORD_STATE: &str = "state";
/// Name of the object for what belongs to no node.
pub const STATE_NAME: &str = "dynamicswap-state";
/// Names of nodes' objects begin so.
const NODE_PREFIX: &str = "dynamicswap-node-";
/// Annotation with the term of the leader that wrote the object last.
const TERM: &str = "dynamicswap.io/term";
/// Most letters of a node's name in the name of a `SlabMap`, which has 253 in all.
const NODE_LETTERS_MAX: usize = 200;

/// Where a part of the ledger lies. The order is the order of writing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// What belongs to no node.
    State,
    /// A device and its sets.
    Device(SwapDeviceId),
    /// A node.
    Node(NodeName),
}

impl Place {
    /// The place that a change concerns; none for one that is kept elsewhere.
    pub fn of(change: &Change, before: &Ledger) -> Option<Self> {
        match change {
            Change::Term(_) | Change::NextSet(_) => Some(Self::State),
            Change::Node(node, _) => Some(Self::Node(node.clone())),
            Change::Device(device, _) => Some(Self::Device(*device)),
            Change::Set(_, Some(record)) => Some(Self::Device(record.device)),
            Change::Set(set, None) => {
                let record = before.sets.get(set)?;
                Some(Self::Device(record.device))
            }
            Change::Policy(..) => None,
        }
    }
}

/// Name of a device's object: its node, and enough of its id to tell its lives apart.
fn slab_map_name(device: SwapDeviceId, node: &NodeName) -> String {
    let letters: String = node.as_str().chars().take(NODE_LETTERS_MAX).collect();
    let id: String = device.to_string().chars().take(8).collect();
    format!("{letters}-{id}")
}

/// The object that shall lie at `place`, without its resource version; none if there shall be
/// none.
pub fn render(
    ledger: &Ledger,
    place: &Place,
    term: Term,
    namespace: &str,
) -> Result<Option<Value>, serde_json::Error> {
    match place {
        Place::State => {
            let data = json!({"nextSet": ledger.next_set.get().to_string()});
            Ok(Some(config_map(
                STATE_NAME,
                namespace,
                RECORD_STATE,
                term,
                &data,
            )))
        }
        Place::Node(node) => {
            let Some(record) = ledger.nodes.get(node) else {
                return Ok(None);
            };
            let record = serde_json::to_string(&NodeEntry::from(record.clone()))?;
            let name = format!("{NODE_PREFIX}{node}");
            let data = json!({"node": node, "record": record});
            Ok(Some(config_map(&name, namespace, RECORD_NODE, term, &data)))
        }
        Place::Device(device) => {
            let Some(record) = ledger.devices.get(device) else {
                return Ok(None);
            };
            slab_map(ledger, *device, record, term).map(Some)
        }
    }
}

fn config_map(name: &str, namespace: &str, record: &str, term: Term, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {RECORD_LABEL: record},
            "annotations": {TERM: term.to_string()},
        },
        "data": data,
    })
}

fn slab_map(
    ledger: &Ledger,
    device: SwapDeviceId,
    record: &DeviceRecord,
    term: Term,
) -> Result<Value, serde_json::Error> {
    let spec = slab_map::spec_of(ledger, device, record);
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": Kind::SlabMap.name(),
        "metadata": {
            "name": slab_map_name(device, &record.node),
            "annotations": {TERM: term.to_string()},
        },
        "spec": serde_json::to_value(spec)?,
    }))
}

/// The term of the leader that wrote an object last; zero if none says so.
pub fn term_of(object: &Value) -> Term {
    let written = object["metadata"]["annotations"][TERM].as_str();
    Term::new(written.and_then(|term| term.parse().ok()).unwrap_or(0))
}

/// Whether a controller has ever written an object. One that a user made, from an example for instance, is
/// no record; one that a user edited still is.
pub fn is_record(object: &Value) -> bool {
    let managers = object["metadata"]["managedFields"].as_array();
    let is_ours = |entry: &Value| entry["manager"] == FIELD_MANAGER;
    term_of(object) > Term::ZERO || managers.is_some_and(|all| all.iter().any(is_ours))
}

/// Takes a record's `ConfigMap` into the ledger; its place, if it is one of ours.
pub fn absorb_config_map(ledger: &mut Ledger, object: &Value) -> Result<Option<Place>, StoreError> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    let corrupt = |reason: String| StoreError::Corrupt {
        entry: format!("ConfigMap {name}"),
        reason,
    };
    let data = &object["data"];
    let text = |key: &str| {
        let text = data[key].as_str();
        text.ok_or_else(|| corrupt(format!("it has no {key}")))
    };
    match object["metadata"]["labels"][RECORD_LABEL].as_str() {
        Some(RECORD_STATE) => {
            let next = text("nextSet")?.parse();
            let next = next.map_err(|_| corrupt("nextSet is no number".to_owned()))?;
            ledger.next_set = SetId::new(next);
            Ok(Some(Place::State))
        }
        Some(RECORD_NODE) => {
            let node: NodeName = text("node")?
                .parse()
                .map_err(|error| corrupt(format!("its node is no name: {error}")))?;
            let entry: NodeEntry = serde_json::from_str(text("record")?)
                .map_err(|error| corrupt(error.to_string()))?;
            ledger.nodes.insert(node.clone(), entry.into());
            Ok(Some(Place::Node(node)))
        }
        _ => Ok(None),
    }
}

/// Takes a `SlabMap` into the ledger; its place.
pub fn absorb_slab_map(ledger: &mut Ledger, object: &Value) -> Result<Place, StoreError> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    let corrupt = |reason: String| StoreError::Corrupt {
        entry: format!("SlabMap {name}"),
        reason,
    };
    let record = SlabMapSpec::deserialize(&object["spec"]);
    let record = record.map_err(|error| corrupt(error.to_string()))?;
    slab_map::absorb(record, ledger)
        .map(Place::Device)
        .map_err(corrupt)
}

/// Applies changes, as [`super::super::changes_between`] finds them.
pub fn apply(ledger: &mut Ledger, changes: &[Change]) {
    for change in changes {
        match change.clone() {
            Change::Term(_) | Change::Policy(..) => {}
            Change::NextSet(next) => ledger.next_set = next,
            Change::Node(node, Some(record)) => {
                ledger.nodes.insert(node, record);
            }
            Change::Node(node, None) => {
                ledger.nodes.remove(&node);
            }
            Change::Device(device, Some(record)) => {
                ledger.devices.insert(device, record);
            }
            Change::Device(device, None) => {
                ledger.devices.remove(&device);
            }
            Change::Set(set, Some(record)) => {
                ledger.sets.insert(set, record);
            }
            Change::Set(set, None) => {
                ledger.sets.remove(&set);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamicswap_planner::{
        Mark, NodeRecord, Published, PublishedPart, Seat, SeatPhase, ServerFacts, SetRecord,
        SetStage,
    };
    use dynamicswap_types::{
        Bytes, Copies, Durability, Generation, IncarnationId, Integrity, SlabSize, SlotIndex, Spill,
    };

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn incarnation(number: u8) -> IncarnationId {
        format!("{number:032x}").parse().expect("an id")
    }

    fn seat(donor: &str, slot: u32, phase: SeatPhase) -> Seat {
        Seat {
            node: node(donor),
            slot: SlotIndex::new(slot),
            incarnation: incarnation(1),
            phase,
            mark: (slot == 3).then_some(Mark::Revoked),
        }
    }

    fn device_record() -> DeviceRecord {
        DeviceRecord {
            node: node("worker-1.example"),
            size: Bytes::from_mib(1024),
            slab: SlabSize::DEFAULT,
            integrity: Some(Integrity::Full),
            class: Some(Durability {
                copies: Copies::TWO,
                spill: Spill::Async,
            }),
            reserve_sets_max: 8,
            gone: false,
        }
    }

    /// A ledger with a seat in every phase.
    fn ledger() -> Ledger {
        let mut ledger = Ledger {
            next_set: SetId::new(42),
            ..Ledger::default()
        };
        let device: SwapDeviceId = format!("{:032x}", 7).parse().expect("an id");
        let record = NodeRecord {
            domain: "rack-1".parse().expect("a domain"),
            zone: "zone-1".parse().ok(),
            borrower: true,
            donor: true,
            cordoned: true,
            drain: Some(Duration::from_secs(600)),
            foreign: false,
            server: Some(ServerFacts {
                incarnation: incarnation(1),
                slot_size: Bytes::from_mib(64),
                slots_total: 16,
                tcp_address: "10.0.0.1:7710".to_owned(),
                rdma_address: String::new(),
            }),
            published: Published {
                generation: Generation::new(9),
                policies: PublishedPart {
                    generation: Generation::new(8),
                    digest: u64::MAX,
                },
                ..Published::default()
            },
        };
        ledger.nodes.insert(node("worker-1.example"), record);
        ledger.devices.insert(device, device_record());
        let since = Some(Generation::new(5));
        let phases = [
            SeatPhase::Granting {
                replaces: Some(node("b")),
            },
            SeatPhase::Serving,
            SeatPhase::Regranting {
                previous: incarnation(2),
            },
            SeatPhase::Leaving { since },
            SeatPhase::Freeing { since: None },
        ];
        for (set, stage) in [
            (1, SetStage::Composing),
            (2, SetStage::Offered),
            (3, SetStage::Closing),
        ] {
            let seats = (0..).zip(phases.clone());
            let seats = seats.map(|(slot, phase)| seat(&format!("d{slot}"), slot, phase));
            let record = SetRecord {
                device,
                stage,
                seats: seats.collect(),
            };
            ledger.sets.insert(SetId::new(set), record.into());
        }
        ledger
    }

    fn places(ledger: &Ledger) -> Vec<Place> {
        let devices = ledger.devices.keys().copied().map(Place::Device);
        let nodes = ledger.nodes.keys().cloned().map(Place::Node);
        [Place::State]
            .into_iter()
            .chain(devices)
            .chain(nodes)
            .collect()
    }

    #[test]
    fn ledger_comes_back_from_its_objects() {
        let ledger = ledger();
        let mut read = Ledger::default();
        for place in places(&ledger) {
            let object = render(&ledger, &place, Term::new(3), "here");
            let object = object.expect("has a JSON form").expect("is there");
            assert_eq!(term_of(&object), Term::new(3));
            let found = match place {
                Place::Device(_) => Some(absorb_slab_map(&mut read, &object).expect("sound")),
                Place::State | Place::Node(_) => {
                    absorb_config_map(&mut read, &object).expect("sound")
                }
            };
            assert_eq!(found, Some(place));
        }
        assert_eq!(read, ledger);
    }

    #[test]
    fn object_of_a_user_is_no_record_and_an_edited_record_is() {
        let ledger = ledger();
        let device = ledger.devices.keys().next().expect("one");
        let object = render(&ledger, &Place::Device(*device), Term::new(3), "here");
        let mut object = object.expect("has a JSON form").expect("is there");
        assert!(is_record(&object));
        object["metadata"]["annotations"] = json!({});
        assert!(!is_record(&object));
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl-client-side-apply"}]);
        assert!(!is_record(&object));
        object["metadata"]["managedFields"] =
            json!([{"manager": "kubectl"}, {"manager": FIELD_MANAGER}]);
        assert!(is_record(&object));
    }

    #[test]
    fn what_is_gone_has_no_object() {
        let ledger = ledger();
        let gone = Place::Node(node("gone"));
        let object = render(&ledger, &gone, Term::ZERO, "here").expect("has a JSON form");
        assert_eq!(object, None);
    }

    #[test]
    fn record_that_was_edited_by_hand_is_refused_with_its_name() {
        let ledger = ledger();
        let device = *ledger.devices.keys().next().expect("one");
        let object = render(&ledger, &Place::Device(device), Term::ZERO, "here");
        let object = object.expect("has a JSON form").expect("is there");
        let edits: [fn(&mut Value); 3] = [
            |object| object["spec"]["slabBytes"] = json!(5),
            |object| object["spec"]["sets"][1]["seats"][2]["previous"] = Value::Null,
            |object| object["spec"]["sets"][1]["id"] = json!(1),
        ];
        for edit in edits {
            let mut edited = object.clone();
            edit(&mut edited);
            let error = absorb_slab_map(&mut Ledger::default(), &edited).expect_err("refused");
            assert!(
                error.to_string().contains("SlabMap worker-1.example-0000"),
                "{error}"
            );
        }
    }

    #[test]
    fn map_of_a_large_device_stays_below_a_mebibyte() {
        let mut ledger = ledger();
        let set = ledger.sets.get(&SetId::new(2)).expect("on record").clone();
        for id in 0..1024 {
            let mut set = (*set).clone();
            set.seats.truncate(2);
            ledger.sets.insert(SetId::new(id), set.into());
        }
        let device = *ledger.devices.keys().next().expect("one");
        let object = render(&ledger, &Place::Device(device), Term::ZERO, "here");
        let size = object
            .expect("has a JSON form")
            .expect("is there")
            .to_string()
            .len();
        assert!(size < 1 << 20, "{size} bytes");
    }
}
