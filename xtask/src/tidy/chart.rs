//! Rules on the Helm chart that need no helm: its version is the workspace's, its schema is closed,
//! values and schema name the same things, and its definitions are the generated ones.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Finding;
use crate::chart::{CHART, list};

/// Definitions as they are generated from the types.
const GENERATED: &str = "crds/yaml";
/// The definition of an object that Kubernetes checks itself; it alone is open.
const OPEN: &str = "kubernetes";
/// What a parent chart may set and the chart does not read.
const UNREAD: &str = "global";

/// Every finding on the chart.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let chart = yaml(root, "Chart.yaml")?;
    let manifest =
        std::fs::read_to_string(root.join("Cargo.toml")).context("reading Cargo.toml")?;
    let mut findings = versions(&chart, workspace_version(&manifest).unwrap_or_default());
    let schema = read(root, "values.schema.json")?;
    match serde_json::from_str::<Value>(&schema) {
        Err(error) => findings.push(Finding::new(
            &format!("{CHART}/values.schema.json"),
            error.line(),
            format!("no JSON: {error}"),
            "helm would refuse every value",
        )),
        Ok(schema) => {
            findings.extend(open_objects(&schema));
            findings.extend(names(&yaml(root, "values.yaml")?, &schema));
        }
    }
    findings.extend(definitions(root)?);
    Ok(findings)
}

fn read(root: &Path, file: &str) -> Result<String> {
    let path = root.join(CHART).join(file);
    std::fs::read_to_string(&path).with_context(|| format!("{} could not be read", path.display()))
}

fn yaml(root: &Path, file: &str) -> Result<Value> {
    serde_saphyr::from_str(&read(root, file)?).with_context(|| format!("{CHART}/{file} is no YAML"))
}

/// The version in `[workspace.package]`.
fn workspace_version(manifest: &str) -> Option<&str> {
    let (_, section) = manifest.split_once("[workspace.package]")?;
    let line = section
        .lines()
        .find_map(|line| line.strip_prefix("version = \""))?;
    line.strip_suffix('"')
}

fn versions(chart: &Value, version: &str) -> Vec<Finding> {
    let differs = |key: &&&str| chart[**key].as_str() != Some(version);
    let finding = |key: &str| {
        let what = format!(
            "{key} is {}, the workspace's version is {version}",
            chart[key]
        );
        Finding::new(
            &format!("{CHART}/Chart.yaml"),
            1,
            what,
            "write the workspace's version",
        )
    };
    let keys = ["version", "appVersion"];
    keys.iter()
        .filter(differs)
        .map(|key| finding(key))
        .collect()
}

/// Object schemas that would let a misspelt value through.
fn open_objects(schema: &Value) -> Vec<Finding> {
    let mut open = Vec::new();
    visit(schema, "", &mut |place, schema| {
        let is_object = schema["type"] == "object";
        let is_closed = match &schema["additionalProperties"] {
            Value::Bool(allowed) => !allowed,
            others => others.is_object(),
        };
        if is_object && !is_closed && place != format!("/definitions/{OPEN}") {
            open.push(place.to_owned());
        }
    });
    let finding = |place: String| {
        let what = format!("'{place}' lets any name through");
        let remedy = "write \"additionalProperties\": false";
        Finding::new(&format!("{CHART}/values.schema.json"), 1, what, remedy)
    };
    open.into_iter().map(finding).collect()
}

fn visit(value: &Value, place: &str, see: &mut impl FnMut(&str, &Value)) {
    if let Value::Object(members) = value {
        see(place, value);
        for (name, member) in members {
            visit(member, &format!("{place}/{name}"), see);
        }
    }
}

/// Values that the schema does not know, and those of the schema that nobody gives a default.
fn names(values: &Value, schema: &Value) -> Vec<Finding> {
    let mut given = BTreeSet::new();
    let mut known = BTreeSet::new();
    collect(values, schema, "", &mut given, &mut known);
    known.remove(&format!("/{UNREAD}"));
    let missing = |path: &String, file: &str, remedy| {
        let what = format!("'{path}' is missing");
        Finding::new(&format!("{CHART}/{file}"), 1, what, remedy)
    };
    let unknown = given
        .difference(&known)
        .map(|path| missing(path, "values.schema.json", "say what the value may be"));
    let silent = known
        .difference(&given)
        .map(|path| missing(path, "values.yaml", "give its default, with a comment"));
    unknown.chain(silent).collect()
}

/// Paths of the values, and of the properties of the objects among them.
fn collect(
    values: &Value,
    schema: &Value,
    place: &str,
    given: &mut BTreeSet<String>,
    known: &mut BTreeSet<String>,
) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    known.extend(properties.keys().map(|name| format!("{place}/{name}")));
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = format!("{place}/{name}");
        if let Some(schema) = properties.get(name) {
            collect(value, schema, &path, given, known);
        }
        given.insert(path);
    }
}

/// The chart's copy of the generated definitions, file by file.
fn definitions(root: &Path) -> Result<Vec<Finding>> {
    let generated = root.join(GENERATED);
    if !generated.is_dir() {
        return Ok(Vec::new());
    }
    let copy = root.join(CHART).join("files/crds");
    let mut names = list(&generated)?;
    if copy.is_dir() {
        names.extend(list(&copy)?);
    }
    names.retain(|name| name.ends_with(".yaml"));
    names.sort();
    names.dedup();
    let text = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let differs = |name: &&String| text(&generated, name) != text(&copy, name);
    let finding = |name: &String| {
        let what = format!("it is not what {GENERATED}/{name} is");
        let path = format!("{CHART}/files/crds/{name}");
        Finding::new(&path, 1, what, "generate the definitions anew, both copies")
    };
    Ok(names.iter().filter(differs).map(finding).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whats(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn version_that_lags_behind_is_found() {
        let manifest = "[workspace]\nx = 1\n[workspace.package]\nversion = \"0.2.0\"\n";
        let version = workspace_version(manifest).expect("there");
        let chart = json!({"version": "0.1.0", "appVersion": "0.2.0"});
        let found = whats(versions(&chart, version));
        assert_eq!(
            found,
            ["version is \"0.1.0\", the workspace's version is 0.2.0"]
        );
    }

    #[test]
    fn open_object_is_found_at_any_depth() {
        let closed = json!({"type": "object", "additionalProperties": false});
        let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let schema = json!({
            "type": "object", "additionalProperties": false,
            "properties": {"a": closed, "b": {"type": "object"}, "c": strings},
            "definitions": {"kubernetes": {"type": "object"}, "d": {"type": "object"}},
        });
        assert_eq!(
            whats(open_objects(&schema)),
            [
                "'/definitions/d' lets any name through",
                "'/properties/b' lets any name through",
            ]
        );
    }

    #[test]
    fn values_and_schema_name_the_same_things() {
        let inner = json!({"properties": {"x": {}, "y": {}}});
        let schema = json!({"properties": {"a": inner, "global": {}}});
        let values = json!({"a": {"x": 1, "z": 2}});
        let found = whats(names(&values, &schema));
        assert_eq!(found, ["'/a/z' is missing", "'/a/y' is missing"]);
    }

    #[test]
    fn copies_of_definitions_that_differ_or_lack_are_found() {
        let root = std::env::temp_dir().join(format!("dynamicswap-chart-{}", std::process::id()));
        let copy = root.join(CHART).join("files/crds");
        let generated = root.join(GENERATED);
        assert!(definitions(&root).expect("none yet").is_empty());
        for (folder, files) in [
            (
                &generated,
                [("a.yaml", "1"), ("b.yaml", "1"), ("c.yaml", "1")],
            ),
            (&copy, [("a.yaml", "1"), ("b.yaml", "2"), ("d.yaml", "1")]),
        ] {
            std::fs::create_dir_all(folder).expect("a folder");
            for (name, text) in files {
                std::fs::write(folder.join(name), text).expect("a file");
            }
        }
        let found: Vec<String> = definitions(&root)
            .expect("both are there")
            .into_iter()
            .map(|finding| finding.path)
            .collect();
        std::fs::remove_dir_all(&root).expect("removed");
        let expected = ["b", "c", "d"].map(|name| format!("{CHART}/files/crds/{name}.yaml"));
        assert_eq!(found, expected);
    }
}
