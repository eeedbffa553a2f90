//! Containers of a local cluster: one JSON file each, with the cgroups to look at.
//!
//! Owns the descriptors' form and what is refused of them. Opens no kernel file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use dynamicswap_policy::{Barred, ContainerName};
use serde::Deserialize;

use crate::limits::{CONTAINERS_MAX, DESCRIPTOR_BYTES_MAX};

/// A container's descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels, by which policies select it.
    pub labels: BTreeMap<String, String>,
    /// Cgroup with its memory figures.
    pub memory_cgroup: PathBuf,
    /// Cgroup with its PSI.
    pub unified_cgroup: PathBuf,
    /// Why it is never let out, if so; no descriptor says it.
    #[serde(skip)]
    pub barred: Option<Barred>,
}

impl Container {
    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> ContainerName {
        ContainerName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What a source of containers has.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The containers, by name.
    pub containers: BTreeMap<ContainerName, Container>,
    /// What is left out and why, a sentence each.
    pub warnings: Vec<String>,
}

/// Reads every descriptor of a directory. A container's memory cgroup must lie below
/// `memory_root`.
#[must_use]
pub fn discover(directory: &Path, memory_root: &Path) -> Discovery {
    let mut discovery = Discovery::default();
    let mut files = match descriptors(directory) {
        Ok(files) => files,
        Err(error) => {
            let warning = format!(
                "cannot list --containers-dir {}: {error}",
                directory.display()
            );
            discovery.warnings.push(warning);
            return discovery;
        }
    };
    files.sort();
    for path in files {
        if discovery.containers.len() == CONTAINERS_MAX {
            let warning = format!(
                "{} has over {CONTAINERS_MAX} descriptors: those from {} on are not watched",
                directory.display(),
                path.display()
            );
            discovery.warnings.push(warning);
            break;
        }
        match read(&path, memory_root) {
            Ok(Some(container)) => {
                discovery.containers.insert(container.key(), container);
            }
            Ok(None) => {}
            Err(why) => {
                let warning = format!("descriptor {} is left out: {why}", path.display());
                discovery.warnings.push(warning);
            }
        }
    }
    discovery
}

fn descriptors(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let is_json = |path: &PathBuf| path.extension() == Some(OsStr::new("json"));
    paths
        .filter(|path| path.as_ref().map_or(true, is_json))
        .collect()
}

/// A descriptor; nothing if it went away meanwhile.
fn read(path: &Path, memory_root: &Path) -> Result<Option<Container>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        let limit = DESCRIPTOR_BYTES_MAX + 1;
        file.take(limit).read_to_end(&mut bytes)
    });
    match read {
        Ok(length) if length as u64 > DESCRIPTOR_BYTES_MAX => {
            return Err(format!("it is over {DESCRIPTOR_BYTES_MAX} bytes long"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let container: Container =
        serde_json::from_slice(&bytes).map_err(|error| format!("it is no descriptor: {error}"))?;
    for cgroup in [&container.memory_cgroup, &container.unified_cgroup] {
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !cgroup.is_absolute() || !cgroup.components().all(plain) {
            return Err(format!("{} is no absolute path", cgroup.display()));
        }
    }
    if !container.memory_cgroup.starts_with(memory_root) {
        return Err(format!(
            "its memory cgroup {} is not below {}, where this host has them",
            container.memory_cgroup.display(),
            memory_root.display()
        ));
    }
    Ok(Some(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/sys/fs/cgroup/memory";

    fn descriptor(memory_cgroup: &str) -> String {
        format!(
            r#"{{"namespace":"default","name":"web","labels":{{"app":"web"}},"memory_cgroup":"{memory_cgroup}","unified_cgroup":"/sys/fs/cgroup/unified/web"}}"#
        )
    }

    fn discover_one(content: &str) -> Discovery {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("web.json"), content).expect("written");
        fs::write(directory.path().join("web.json.new"), "{").expect("written");
        discover(directory.path(), Path::new(ROOT))
    }

    #[test]
    fn descriptor_is_a_container() {
        let found = discover_one(&descriptor("/sys/fs/cgroup/memory/web"));
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
        let (key, container) = found.containers.first_key_value().expect("one");
        assert_eq!(key.to_string(), "default/web");
        assert_eq!(container.labels["app"], "web");
    }

    #[test]
    fn wrong_descriptor_is_left_out_with_a_sentence() {
        for (content, cause) in [
            ("{", "no descriptor"),
            (r#"{"namespace":"default"}"#, "no descriptor"),
            (&descriptor("/etc"), "not below"),
            (&descriptor("web"), "no absolute path"),
            (
                &descriptor("/sys/fs/cgroup/memory/../web"),
                "no absolute path",
            ),
            (&" ".repeat(70_000), "bytes long"),
        ] {
            let found = discover_one(content);
            assert!(found.containers.is_empty());
            assert_eq!(found.warnings.len(), 1);
            assert!(found.warnings[0].contains(cause), "{:?}", found.warnings);
            assert!(found.warnings[0].contains("web.json"));
        }
    }

    #[test]
    fn directory_that_went_away_is_a_warning() {
        let found = discover(Path::new("/nonexistent"), Path::new(ROOT));
        assert!(found.warnings[0].contains("--containers-dir /nonexistent"));
    }
}
