//! What a running cluster is made of, written down for the commands that come after `up`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use dynamicswap_cli::cluster::paths::ClusterName;
use dynamicswap_cli::cluster::record::write_whole;
use dynamicswap_cli::failure::Refusal;
use dynamicswap_cli::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Place};
use crate::namespace::Namespace;

/// Where the folders of all clusters are: on a disk, for etcd's log and the nodes' drives.
const ROOT: &str = "/var/lib/dynamicswap-cluster";

/// Names and places of one cluster.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Its name.
    pub name: ClusterName,
    /// Its network.
    pub namespace: Namespace,
    /// Its folder.
    pub folder: PathBuf,
}

impl Paths {
    /// Those of the cluster `name`, which may not exist.
    #[must_use]
    pub fn of(name: &ClusterName) -> Self {
        Self {
            name: name.clone(),
            namespace: Namespace::of(name),
            folder: Path::new(ROOT).join(name.to_string()),
        }
    }

    /// Whether anything of it is there.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.folder.exists() || self.namespace.exists()
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }

    /// ` --name NAME`, unless it is the default.
    #[must_use]
    pub fn option(&self) -> String {
        dynamicswap_cli::cluster::record::name_option(&self.name)
    }
}

/// A running cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The folder of its kubectl and helm.
    pub programs: PathBuf,
    /// Its processes, in the order of their start.
    pub processes: Vec<ProcessRecord>,
}

impl Record {
    /// The record of a cluster that is up.
    ///
    /// # Errors
    /// A refusal if there is none.
    pub fn load(paths: &Paths) -> Result<Self> {
        Self::read(paths)?.ok_or_else(|| {
            Refusal::error(format!(
                "no cluster '{}' is up: start it with 'cargo xtask cluster up{}'",
                paths.name,
                paths.option()
            ))
        })
    }

    /// The record, if there is one.
    ///
    /// # Errors
    /// If the file holds something else.
    pub fn read(paths: &Paths) -> Result<Option<Self>> {
        let path = paths.record();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is no record of a cluster", path.display()))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn save(&self, paths: &Paths) -> Result<()> {
        write_whole(&paths.record(), &serde_json::to_vec_pretty(self)?)
    }

    /// The way to the cluster.
    #[must_use]
    pub fn client(&self, paths: &Paths) -> Client {
        Client {
            place: Place::Namespace(paths.namespace.clone()),
            folder: paths.folder.clone(),
            programs: self.programs.clone(),
        }
    }
}
