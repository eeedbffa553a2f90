//! `apply`, `delete` and `get`: objects of the dynamicswap.io group, as kubectl would treat them.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use dynamicswap_crds::{RemoteMemoryPolicy, Slab, SlabReplica};
use dynamicswap_proto::control::v1::{DeleteRequest, GetRequest};
use serde::Deserialize as _;
use serde_json::Value;

use crate::args::{ApplyArgs, DeleteArgs, GetArgs, Output};
use crate::client::Client;
use crate::failure::Refusal;
use crate::table;

/// Columns of each kind: a title, and where its value is: a place, or a condition's type.
const COLUMNS: [(&str, &[(&str, &str)]); 4] = [
    (
        "RemoteMemoryPolicy",
        &[
            ("COPIES", "/spec/durability/copies"),
            ("SPILL", "/spec/durability/spill"),
            ("LIMIT", "/spec/limits/perContainer"),
            ("CONTAINERS", "/status/containersMatched"),
            ("REMOTE", "/status/bytesRemote"),
            ("IN-FORCE", "InForce"),
            ("PAUSED", "/spec/paused"),
            ("DRY-RUN", "/spec/dryRun"),
        ],
    ),
    (
        "MemoryServer",
        &[
            ("CAPACITY", "/status/capacity"),
            ("LENT", "/status/lent"),
            ("DOMAIN", "/status/failureDomain"),
            ("CORDONED", "/spec/cordoned"),
            ("DRAINING", "Draining"),
            ("PRESSURED", "Pressured"),
        ],
    ),
    (
        "SwapDevice",
        &[
            ("SIZE", "/status/size"),
            ("USED", "/status/bytesUsed"),
            ("ATTACHED", "/status/attached"),
            ("DEGRADED", "Degraded"),
            ("FRONT-END", "/status/frontEnd"),
            ("INTEGRITY", "/status/integrity"),
        ],
    ),
    (
        "SlabMap",
        &[("SETS", "/status/sets"), ("BOUND", "/status/bound")],
    ),
];

/// Stores the objects of a file.
///
/// # Errors
/// A refusal if the file cannot be read or holds no valid object.
pub fn apply(args: &ApplyArgs, client: &mut Client) -> Result<()> {
    let yaml = read_objects(&args.filename)?;
    let warnings = warnings(&yaml);
    let from = || format!("{} is not applied", args.filename.display());
    for line in client.apply(yaml).with_context(from)? {
        println!("{line}");
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Takes policies away.
///
/// # Errors
/// A refusal if there is no such policy, or the kind is not the policies'.
pub fn delete(args: &DeleteArgs, client: &mut Client) -> Result<()> {
    let request = DeleteRequest {
        kind: args.kind.clone(),
        namespace: args.namespace.clone(),
        names: args.names.clone(),
    };
    for line in client.delete(request)? {
        println!("{line}");
    }
    Ok(())
}

/// What the objects ask for and does not happen yet, one line each. Objects that cannot be read
/// are the controller's to refuse.
fn warnings(yaml: &str) -> Vec<String> {
    let policies = dynamicswap_crds::parse_policies(yaml).unwrap_or_default();
    let of_policy = |policy: &RemoteMemoryPolicy| {
        let name = policy.metadata.name.clone().unwrap_or_default();
        let told = policy.without_effect();
        told.into_iter()
            .map(move |told| format!("remotememorypolicy/{name}: {told}"))
    };
    policies.iter().flat_map(of_policy).collect()
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// A refusal if it cannot be read or is empty.
pub fn read_objects(path: &Path) -> Result<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    match read {
        Ok(text) if !text.trim().is_empty() => Ok(text),
        Ok(_) => Err(Refusal::error(format!(
            "{} holds no object: write at least one RemoteMemoryPolicy into it",
            path.display()
        ))),
        Err(error) => Err(Refusal::error(format!(
            "cannot read {} ({error}): give a YAML file, or - for standard input",
            path.display()
        ))),
    }
}

/// Prints objects.
///
/// # Errors
/// A refusal if there is no such kind or object.
pub fn get(args: &GetArgs, client: &mut Client) -> Result<()> {
    let request = GetRequest {
        kind: args.kind.clone().unwrap_or_default(),
        namespace: args.namespace.clone(),
        name: args.object.clone().unwrap_or_default(),
    };
    let parse = |text: String| serde_json::from_str(&text);
    let objects: Vec<Value> = client
        .get(request)?
        .into_iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .context("the controller sent an object that is no JSON")?;
    if let (Some(object), true) = (&args.object, objects.is_empty()) {
        let kind = args.kind.as_deref().unwrap_or("object");
        return Err(Refusal::error(format!("there is no {kind} '{object}'")));
    }
    let slabs = args
        .kind
        .as_deref()
        .is_some_and(|kind| Slab::WORDS.contains(&kind.to_lowercase().as_str()));
    if slabs && args.output == Output::Table {
        print!("{}", slab_table(&objects)?);
        return Ok(());
    }
    print!("{}", render(&objects, args.output, args.object.is_some())?);
    Ok(())
}

/// Objects in the form that was asked for; `single` prints the one object without a list.
fn render(objects: &[Value], output: Output, single: bool) -> Result<String> {
    let whole = match objects {
        [object] if single => object.clone(),
        _ => serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    };
    match output {
        Output::Json => Ok(format!("{}\n", serde_json::to_string_pretty(&whole)?)),
        Output::Yaml => serde_saphyr::to_string(&whole).context("an object has no YAML form"),
        Output::Table if objects.is_empty() => Ok("No resources found.\n".to_owned()),
        Output::Table => Ok(tables(objects)),
    }
}

/// A line for each set that holds a slab, the hottest first.
fn slab_table(sets: &[Value]) -> Result<String> {
    let mut rows: Vec<(u64, [String; 5])> = Vec::new();
    for set in sets {
        let set = Slab::deserialize(set).context("the controller sent a slab of another form")?;
        let Some(slab) = set.slab else {
            continue;
        };
        let copy = |copy: &SlabReplica| format!("{} ({})", copy.node, copy.state);
        let copies: Vec<String> = set.replicas.iter().map(copy).collect();
        let heat = set.reads_per_second.saturating_add(set.writes_per_second);
        let cells = [
            set.node.to_string(),
            slab.to_string(),
            set.reads_per_second.to_string(),
            set.writes_per_second.to_string(),
            copies.join(", "),
        ];
        rows.push((heat, cells));
    }
    if rows.is_empty() {
        return Ok("No slab is bound.\n".to_owned());
    }
    rows.sort_by_key(|(heat, _)| std::cmp::Reverse(*heat));
    let mut table = table::plain();
    table.set_header(["DEVICE", "SLAB", "READS/S", "WRITES/S", "COPIES"]);
    for (_, cells) in rows {
        table.add_row(cells);
    }
    Ok(table::lines(&table))
}

/// A table for each kind.
fn tables(objects: &[Value]) -> String {
    let mut kinds: Vec<&str> = objects.iter().map(|object| text(object, "/kind")).collect();
    kinds.dedup();
    let tables: Vec<String> = kinds
        .iter()
        .map(|kind| table_of(kind, objects.iter().filter(|o| text(o, "/kind") == *kind)))
        .collect();
    tables.join("\n")
}

fn table_of<'a>(kind: &str, objects: impl Iterator<Item = &'a Value>) -> String {
    let known = COLUMNS.iter().find(|(name, _)| *name == kind);
    let columns = known.map_or(&[][..], |(_, columns)| columns);
    let mut table = table::plain();
    let titles = columns.iter().map(|(title, _)| *title);
    table.set_header(["KIND", "NAME", "READY"].into_iter().chain(titles));
    for object in objects {
        let values = columns.iter().map(|(_, place)| cell(object, place));
        let first = [
            kind.to_owned(),
            text(object, "/metadata/name").to_owned(),
            ready(object),
        ];
        table.add_row(first.into_iter().chain(values));
    }
    table::lines(&table)
}

fn text<'a>(object: &'a Value, place: &str) -> &'a str {
    object.pointer(place).and_then(Value::as_str).unwrap_or("")
}

fn cell(object: &Value, place: &str) -> String {
    if !place.starts_with('/') {
        let found = condition(object, place);
        return found.map_or("-", |found| text(found, "/status")).to_owned();
    }
    match object.pointer(place) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.len().to_string(),
        Some(other) => other.to_string(),
    }
}

/// The object's condition of this type.
fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|found| text(found, "/type") == name)
}

/// Whether the object is ready, with the reason if it is not; policies are neither.
fn ready(object: &Value) -> String {
    match condition(object, "Ready") {
        None => "-".to_owned(),
        Some(found) if text(found, "/status") == "True" => "True".to_owned(),
        Some(found) => format!("{} ({})", text(found, "/status"), text(found, "/message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition_of(name: &str, status: &str, message: &str) -> Value {
        json!({"type": name, "status": status, "reason": "Why", "message": message})
    }

    fn policy() -> Value {
        json!({
            "kind": "RemoteMemoryPolicy",
            "metadata": {"name": "demo"},
            "spec": {"durability": {"copies": 2, "spill": "None"}, "paused": false},
            "status": {"containersMatched": 3, "bytesRemote": "1Gi",
                       "conditions": [condition_of("InForce", "True", "")]}
        })
    }

    fn server(ready: &str, message: &str) -> Value {
        let conditions = [
            condition_of("Ready", ready, message),
            condition_of("Draining", "False", ""),
        ];
        json!({
            "kind": "MemoryServer",
            "metadata": {"name": "donor-1"},
            "spec": {"cordoned": true},
            "status": {"failureDomain": "rack-1", "capacity": "1Gi", "lent": "16Mi",
                       "conditions": conditions}
        })
    }

    #[test]
    fn table_has_the_kinds_columns_and_says_why_not_ready() {
        let rows = |objects: &[Value]| -> Vec<Vec<String>> {
            let text = tables(objects);
            let words = text.lines().map(str::split_whitespace);
            words
                .map(|line| line.map(str::to_owned).collect())
                .collect()
        };
        let policies = rows(&[policy()]);
        assert_eq!(
            policies[0][..5],
            ["KIND", "NAME", "READY", "COPIES", "SPILL"]
        );
        let row = [
            "RemoteMemoryPolicy",
            "demo",
            "-",
            "2",
            "None",
            "-",
            "3",
            "1Gi",
            "True",
            "false",
            "-",
        ];
        assert_eq!(policies[1], row);
        let servers = rows(&[server("True", ""), server("False", "no session")]);
        assert_eq!(
            servers[1][2..],
            ["True", "1Gi", "16Mi", "rack-1", "true", "False", "-"]
        );
        let row = ["False", "(no", "session)", "1Gi", "16Mi", "rack-1"];
        assert_eq!(servers[2][2..8], row);
    }

    #[test]
    fn slabs_have_a_line_each_and_the_hottest_is_first() {
        let set = |slab: Option<u64>, reads: u64| {
            let copies = json!([{"node": "d1", "slot": 3, "state": "Serving, Live"}]);
            json!({"node": "b1", "setId": 1, "slab": slab, "readsPerSecond": reads,
                   "writesPerSecond": 1, "replicas": copies})
        };
        let sets = [set(Some(4), 2), set(None, 99), set(Some(7), 50)];
        let table = slab_table(&sets).expect("slabs");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(
            lines[1].starts_with("b1") && lines[1].contains(" 7 "),
            "{table}"
        );
        assert!(lines[2].ends_with("d1 (Serving, Live)"), "{table}");
        let none = slab_table(&[]).expect("no slabs");
        assert_eq!(none, "No slab is bound.\n");
        assert!(slab_table(&[json!({"kind": "SlabMap"})]).is_err());
    }

    #[test]
    fn fields_without_effect_are_warned_of_with_the_policy_s_name() {
        let full = include_str!("../../crds/examples/full.yaml");
        let told = warnings(full);
        let line = "remotememorypolicy/web: limits.perContainer is stored but not enforced yet";
        assert!(told.contains(&line.to_owned()), "{told:?}");
        assert!(
            told.iter()
                .any(|line| line.contains("batch-trial: podSelector"))
        );
        assert_eq!(warnings("kind: nonsense"), Vec::<String>::new());
    }

    #[test]
    fn json_and_yaml_hold_the_object_itself() {
        let json = render(&[policy()], Output::Json, true).expect("json");
        assert_eq!(
            serde_json::from_str::<Value>(&json).expect("json"),
            policy()
        );
        let yaml = render(&[policy()], Output::Yaml, true).expect("yaml");
        assert_eq!(
            serde_saphyr::from_str::<Value>(&yaml).expect("yaml"),
            policy()
        );
        let list = render(&[policy(), policy()], Output::Json, false).expect("json");
        assert!(list.contains("\"List\""));
    }

    #[test]
    fn missing_or_empty_file_is_refused() {
        let missing = read_objects(Path::new("/nonexistent.yaml")).expect_err("missing");
        assert!(missing.downcast_ref::<Refusal>().is_some());
        let empty = read_objects(Path::new("/dev/null")).expect_err("empty");
        assert_eq!(
            empty.to_string(),
            "/dev/null holds no object: write at least one RemoteMemoryPolicy into it"
        );
    }
}
