//! Rules on manifests: members take versions, lints and package facts from the workspace, and
//! nothing is declared that nobody uses.

use super::Finding;
use super::source::{TextFile, Tree};

/// What each member inherits.
const INHERITED: [&str; 6] = [
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "license.workspace = true",
    "publish.workspace = true",
    "[lints]",
];

/// Dependencies whose name does not stand in the sources, with the reason.
const USED_BY_OTHERS: [(&str, &str); 2] = [
    ("prost", "named by generated code"),
    ("tonic-prost", "named by generated code"),
];

/// One declared dependency.
struct Dependency<'a> {
    name: &'a str,
    line: usize,
    inherited: bool,
}

/// Every finding on manifests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let members = tree
        .texts
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"));
    let mut findings: Vec<Finding> = members
        .clone()
        .flat_map(|file| member(tree, file))
        .collect();
    let used: Vec<&str> = members
        .flat_map(|file| dependencies(&file.text))
        .map(|it| it.name)
        .collect();
    if let Some(root) = tree.text("Cargo.toml") {
        let shared = section_entries(&root.text, |section| section == "workspace.dependencies");
        let stale =
            shared.filter(|(name, _, value)| !used.contains(name) && !value.contains("path ="));
        findings.extend(stale.map(|(name, line, _)| {
            let what = format!("no member uses the shared dependency '{name}'");
            Finding::new(&root.path, line, what, "delete it")
        }));
    }
    findings
}

fn member(tree: &Tree, file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for line in INHERITED.iter().filter(|line| !file.text.contains(*line)) {
        let what = format!("'{line}' is missing");
        findings.push(Finding::new(
            &file.path,
            1,
            what,
            "inherit it from the workspace",
        ));
    }
    for dependency in dependencies(&file.text) {
        let Dependency {
            name,
            line,
            inherited,
        } = dependency;
        if !inherited {
            let what = format!("'{name}' has a version or path of its own");
            let remedy = "declare it in [workspace.dependencies] and write 'workspace = true'";
            findings.push(Finding::new(&file.path, line, what, remedy));
        }
        if !is_named(tree, file, name) {
            let what = format!("'{name}' is not used by this crate");
            findings.push(Finding::new(&file.path, line, what, "delete it"));
        }
    }
    findings
}

/// Whether the crate's sources name the dependency.
fn is_named(tree: &Tree, manifest: &TextFile, name: &str) -> bool {
    if USED_BY_OTHERS.iter().any(|(other, _)| *other == name) {
        return true;
    }
    let folder = manifest
        .path
        .strip_suffix("/Cargo.toml")
        .unwrap_or_default();
    let ident = name.replace('-', "_");
    let own = tree
        .rust
        .iter()
        .filter(|file| file.path == format!("{folder}/build.rs") || file.crate_folder() == folder);
    own.into_iter()
        .any(|file| file.tokens.iter().any(|token| token.text == ident))
}

fn dependencies(text: &str) -> impl Iterator<Item = Dependency<'_>> {
    let entries = section_entries(text, |section| section.ends_with("dependencies"));
    entries.map(|(name, line, rest)| Dependency {
        name: name.strip_suffix(".workspace").unwrap_or(name),
        line,
        inherited: name.ends_with(".workspace") || rest.contains("workspace = true"),
    })
}

/// Key, line and value of each entry in the sections that `wanted` names.
fn section_entries(
    text: &str,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&str, usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if let Some(section) = line
            .trim()
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inside = wanted(section);
            return None;
        }
        let is_entry = inside && line.starts_with(|c: char| c.is_ascii_alphanumeric());
        let (key, value) = line.split_once('=').filter(|_| is_entry)?;
        Some((key.trim(), index + 1, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    fn tree(manifest: &str, source: &str) -> Tree {
        let text = |path: &str, text: &str| TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        Tree {
            rust: vec![sample("a/src/lib.rs", source)],
            texts: vec![
                text(
                    "Cargo.toml",
                    "[workspace.dependencies]\nserde = \"1\"\nold = \"2\"\n",
                ),
                text("a/Cargo.toml", manifest),
            ],
        }
    }

    fn whats(tree: &Tree) -> Vec<String> {
        check(tree)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn own_versions_and_unused_dependencies_are_found() {
        let package = INHERITED.join("\n");
        let manifest = format!("{package}\n[dependencies]\nserde = \"1\"\nold.workspace = true\n");
        let found = whats(&tree(&manifest, "use serde::Serialize;\n"));
        assert_eq!(
            found,
            [
                "'serde' has a version or path of its own",
                "'old' is not used by this crate"
            ]
        );
    }

    #[test]
    fn shared_dependency_that_nobody_uses_is_found() {
        let manifest = format!(
            "{}\n[dependencies]\nserde.workspace = true\n",
            INHERITED.join("\n")
        );
        let found = whats(&tree(&manifest, "use serde::Serialize;\n"));
        assert_eq!(found, ["no member uses the shared dependency 'old'"]);
    }

    #[test]
    fn member_that_does_not_inherit_is_found() {
        let found = whats(&tree("[package]\nname = \"a\"\n", ""));
        assert!(found.contains(&"'edition.workspace = true' is missing".to_owned()));
    }
}
