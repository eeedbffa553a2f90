//! cluster.json: what a local cluster is made of, for the commands that come after `up`.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use dynamicswap_types::{Bytes, SlabSize};
use serde::{Deserialize, Serialize};

use super::paths::{ClusterName, ClusterPaths};
use crate::failure::Refusal;
use crate::process::ProcessRecord;

/// The borrower's node name.
pub const BORROWER: &str = "borrower";

/// Sizes of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Number of donors.
    pub donors: u32,
    /// What each donor lends.
    pub donor_capacity: Bytes,
    /// Size of the swap device.
    pub device_size: Bytes,
    /// Size of a slab.
    pub slab: SlabSize,
}

impl Shape {
    /// Names of the donors' nodes.
    #[must_use]
    pub fn donor_names(&self) -> Vec<String> {
        (1..=self.donors).map(|n| format!("donor-{n}")).collect()
    }

    /// Names of all nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        let mut names = self.donor_names();
        names.push(BORROWER.to_owned());
        names
    }
}

/// A local cluster, as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name.
    pub name: ClusterName,
    /// The controller's address, `http://127.0.0.1:PORT`.
    pub controller: String,
    /// Its sizes.
    pub shape: Shape,
    /// Its processes, in the order of their start.
    pub processes: Vec<ProcessRecord>,
}

impl ClusterRecord {
    /// Reads the record of a cluster that is up.
    ///
    /// # Errors
    /// A refusal if there is no such cluster.
    pub fn load(name: &ClusterName) -> Result<Self> {
        let paths = ClusterPaths::new(name);
        Self::read(&paths.record())?.ok_or_else(|| {
            Refusal::error(format!(
                "no local cluster '{name}' is up: start it with 'dynamicswap up{}'",
                name_option(name)
            ))
        })
    }

    /// Reads a record, if there is one.
    ///
    /// # Errors
    /// If the file holds something else.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is no record of a cluster", path.display()))
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn save(&self, paths: &ClusterPaths) -> Result<()> {
        write_whole(&paths.record(), &serde_json::to_vec_pretty(self)?)
    }

    /// The process with a name.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<&ProcessRecord> {
        self.processes.iter().find(|process| process.name == name)
    }
}

/// Writes a file under another name and renames it, so that no reader sees half of it.
///
/// # Errors
/// If the directory cannot be written to.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// ` --name NAME`, unless it is the default.
#[must_use]
pub fn name_option(name: &ClusterName) -> String {
    if name.to_string() == "local" {
        String::new()
    } else {
        format!(" --name {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let name: ClusterName = "t".parse().expect("a name");
        let paths = ClusterPaths::below(dir.path(), &name);
        fs::create_dir(paths.root()).expect("made");
        let record = ClusterRecord {
            name,
            controller: "http://127.0.0.1:7".to_owned(),
            shape: Shape {
                donors: 2,
                donor_capacity: Bytes::from_mib(64),
                device_size: Bytes::from_mib(128),
                slab: SlabSize::DEFAULT,
            },
            processes: Vec::new(),
        };
        assert_eq!(ClusterRecord::read(&paths.record()).expect("none"), None);
        record.save(&paths).expect("saved");
        let read = ClusterRecord::read(&paths.record()).expect("read");
        assert_eq!(read, Some(record.clone()));
        assert_eq!(
            record.shape.node_names(),
            ["donor-1", "donor-2", "borrower"]
        );
    }
}
