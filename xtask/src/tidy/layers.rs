//! Rules on who depends on whom, checked on cargo's own metadata.
//!
//! Pure crates depend on an allow-list only; shells never on one another; the data-plane daemons
//! never on the control plane's libraries.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use super::Finding;
use crate::exec;

/// A pure crate.
#[derive(Debug, Clone, Copy)]
pub struct Pure {
    /// Its folder.
    pub folder: &'static str,
    /// Its package.
    pub package: &'static str,
    /// What it may depend on.
    pub allowed: &'static [&'static str],
}

/// The pure crates: no clock, no I/O, no async, no random source, no hash order.
pub const PURE: [Pure; 4] = [
    Pure {
        folder: "types",
        package: "dynamicswap-types",
        allowed: &["serde", "thiserror"],
    },
    Pure {
        folder: "rdma-datapath/engine",
        package: "dynamicswap-engine",
        allowed: &[
            "dynamicswap-types",
            "aws-lc-rs",
            "crc-fast",
            "thiserror",
            "zerocopy",
        ],
    },
    Pure {
        folder: "controller/planner",
        package: "dynamicswap-planner",
        allowed: &["dynamicswap-types", "serde", "thiserror"],
    },
    Pure {
        folder: "node-agent/policy",
        package: "dynamicswap-policy",
        allowed: &["dynamicswap-types", "serde", "thiserror"],
    },
];

/// Shells: each owns processes, none may use another.
const SHELLS: [&str; 4] = [
    "dynamicswap-controller",
    "dynamicswap-agent",
    "dynamicswap-datapath",
    "dynamicswap-cli",
];

/// The data-plane daemons' package and what must not be linked into it.
const DATA_PLANE: &str = "dynamicswap-datapath";
const DATA_PLANE_FORBIDDEN: [&str; 6] = [
    "tokio",
    "tonic",
    "hyper",
    "kube",
    "k8s-openapi",
    "async-std",
];

/// Every finding on dependencies.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("'cargo metadata' failed")?;
    let edges = edges(&metadata, root);
    let mut findings = pure_crates(&edges);
    findings.extend(shells(&edges));
    findings.extend(linked(&tree_of(root, DATA_PLANE)?));
    Ok(findings)
}

/// A normal or build dependency of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    manifest: String,
}

fn edges(metadata: &Metadata, root: &Path) -> Vec<Edge> {
    let product = |package: &Package| {
        let manifest = package
            .manifest_path
            .strip_prefix(root)
            .unwrap_or(&package.manifest_path);
        let kinds = package
            .dependencies
            .iter()
            .filter(|it| it.kind != DependencyKind::Development);
        let from = package.name.to_string();
        kinds
            .map(|it| Edge {
                from: from.clone(),
                to: it.name.clone(),
                manifest: manifest.to_string(),
            })
            .collect::<Vec<_>>()
    };
    metadata.packages.iter().flat_map(product).collect()
}

fn pure_crates(edges: &[Edge]) -> Vec<Finding> {
    let is_bad = |edge: &&Edge| {
        let pure = PURE.iter().find(|pure| pure.package == edge.from);
        pure.is_some_and(|pure| !pure.allowed.contains(&edge.to.as_str()))
    };
    let finding = |edge: &Edge| {
        let what = format!("the pure crate {} depends on {}", edge.from, edge.to);
        let remedy = "take what it gives as an argument, or extend the allow-list in xtask/src/tidy/layers.rs with a reason";
        Finding::new(&edge.manifest, 1, what, remedy)
    };
    edges.iter().filter(is_bad).map(finding).collect()
}

fn shells(edges: &[Edge]) -> Vec<Finding> {
    let is_shell = |name: &str| SHELLS.contains(&name);
    let bad = edges
        .iter()
        .filter(|edge| is_shell(&edge.from) && is_shell(&edge.to));
    let finding = |edge: &Edge| {
        let what = format!("the shell {} depends on the shell {}", edge.from, edge.to);
        Finding::new(
            &edge.manifest,
            1,
            what,
            "meet in proto, crds, types or the wire format",
        )
    };
    bad.map(finding).collect()
}

/// Names of the packages that are linked into `package`, with its own features only.
fn tree_of(root: &Path, package: &str) -> Result<Vec<String>> {
    let mut command = exec::cargo(root);
    command.args([
        "tree",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    command.args(["--format", "{p}"]);
    let output = command
        .output()
        .context("'cargo tree' could not be started")?;
    if !output.status.success() {
        bail!(
            "'cargo tree' failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    Ok(text.lines().map(name).collect())
}

fn linked(packages: &[String]) -> Vec<Finding> {
    let bad = DATA_PLANE_FORBIDDEN
        .iter()
        .filter(|name| packages.iter().any(|it| it == *name));
    let finding = |name: &&str| {
        let what = format!("{DATA_PLANE} links {name}, directly or not");
        let remedy = "'cargo tree --invert' shows by which way; the data plane uses plain threads and prost frames";
        Finding::new("rdma-datapath/Cargo.toml", 1, what, remedy)
    };
    bad.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Edge {
        Edge {
            from: from.to_owned(),
            to: to.to_owned(),
            manifest: "a/Cargo.toml".to_owned(),
        }
    }

    #[test]
    fn pure_crate_with_another_dependency_is_found() {
        let edges = [
            edge("dynamicswap-types", "serde"),
            edge("dynamicswap-types", "tokio"),
        ];
        let findings = pure_crates(&edges);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("tokio"));
    }

    #[test]
    fn shell_on_shell_is_found() {
        let edges = [
            edge("dynamicswap-cli", "dynamicswap-controller"),
            edge("dynamicswap-cli", "dynamicswap-proto"),
        ];
        assert_eq!(shells(&edges).len(), 1);
    }

    #[test]
    fn runtime_in_the_data_plane_is_found() {
        assert_eq!(linked(&["rustix".to_owned(), "tokio".to_owned()]).len(), 1);
        assert!(linked(&["rustix".to_owned()]).is_empty());
    }
}
