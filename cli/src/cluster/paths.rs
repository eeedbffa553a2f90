//! Names and places of a local cluster: its directory, its cgroups, its programs.
//!
//! Owns the layout below /run/dynamicswap and /var/lib/dynamicswap. Touches nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::failure::Refusal;

/// Where all local clusters live.
const RUN_ROOT: &str = "/run/dynamicswap";
/// Where their spill files live: /run is memory, and a spill file belongs on a disk.
const DISK_ROOT: &str = "/var/lib/dynamicswap";

/// Name of a local cluster: part of directory and cgroup names, so kept short and plain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        if fits && !text.starts_with('-') && !text.ends_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "'{text}' is no cluster name: use 1 to 32 lower-case letters, digits and '-' \
                 between them"
            ))
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl TryFrom<String> for ClusterName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Directories and files of one local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPaths {
    root: PathBuf,
    spill: PathBuf,
    cgroup: String,
}

impl ClusterPaths {
    /// The places of the cluster `name`.
    #[must_use]
    pub fn new(name: &ClusterName) -> Self {
        Self {
            spill: Path::new(DISK_ROOT).join(&name.0),
            ..Self::below(Path::new(RUN_ROOT), name)
        }
    }

    /// The places of the cluster `name` below another directory (tests).
    #[must_use]
    pub fn below(run_root: &Path, name: &ClusterName) -> Self {
        Self {
            root: run_root.join(&name.0),
            // No cluster has such a name.
            spill: run_root.join(".spill").join(&name.0),
            cgroup: format!("dynamicswap-{name}"),
        }
    }

    /// Everything but the spill file is below it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the spill file, on a disk.
    #[must_use]
    pub fn spill(&self) -> &Path {
        &self.spill
    }

    /// What the cluster is made of.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// A directory of a node's process, such as `nodes/donor-1/agent`.
    #[must_use]
    pub fn node(&self, node: &str, process: &str) -> PathBuf {
        self.root.join("nodes").join(node).join(process)
    }

    /// The control socket of a node's daemon.
    #[must_use]
    pub fn socket(&self, node: &str, process: &str) -> PathBuf {
        self.node(node, process).join("control.sock")
    }

    /// The controller's directory.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }

    /// The log of a process, named as in its record.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs()
            .join(format!("{}.log", process.replace('/', "-")))
    }

    /// All logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Descriptors of the containers, one JSON file each.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Name of a container's cgroup, below the roots.
    #[must_use]
    pub fn container_cgroup(&self, container: &str) -> String {
        format!("{}/{container}", self.cgroup)
    }

    /// Name of the cgroup above all containers.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }
}

/// Name of the local cluster that a file belongs to, if it belongs to one.
#[must_use]
pub fn cluster_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix(RUN_ROOT).ok()?;
    let name = below.components().next()?.as_os_str().to_str()?;
    Some(name.to_owned())
}

/// The programs of DynamicSwap, which are installed side by side.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

/// Every program that a local cluster starts.
const ALL: [&str; 6] = [
    "dynamicswap-controller",
    "dynamicswap-agent",
    "dynamicswap-swapd",
    "dynamicswap-swapd-engine",
    "dynamicswap-memory-server",
    "dynamicswap-workload",
];

impl Programs {
    /// Those beside the running one.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program lies")?;
        let directory = own.parent().unwrap_or(Path::new("/")).to_owned();
        Self::in_directory(directory)
    }

    /// Those in `directory`.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn in_directory(directory: PathBuf) -> Result<Self> {
        let missing: Vec<&str> = ALL
            .into_iter()
            .filter(|name| !directory.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Self { directory });
        }
        Err(Refusal::error(format!(
            "{} not found beside this program in {}: build the whole workspace (cargo build \
             --release) or install all programs into one directory",
            missing.join(", "),
            directory.display()
        )))
    }

    /// Those in `directory`, there or not (tests).
    #[cfg(test)]
    pub(crate) fn beside(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The path of a program, named without the `dynamicswap-` that all share.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("dynamicswap-{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "-a", "a-", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        assert!("demo-7".parse::<ClusterName>().is_ok());
    }

    #[test]
    fn sockets_fit_into_an_address_even_with_the_longest_name() {
        let name: ClusterName = "x".repeat(32).parse().expect("a name");
        let socket = ClusterPaths::new(&name).socket("donor-16", "memory-server");
        assert!(socket.as_os_str().len() < 108, "{}", socket.display());
    }

    #[test]
    fn file_tells_its_cluster() {
        let file = Path::new("/run/dynamicswap/a/nodes/borrower/swapd/device/swap");
        assert_eq!(cluster_of(file).as_deref(), Some("a"));
        assert_eq!(cluster_of(Path::new("/run/dynamicswap")), None);
        assert_eq!(cluster_of(Path::new("/srv/a")), None);
    }

    #[test]
    fn spill_file_lies_outside_of_run() {
        let paths = ClusterPaths::new(&"a".parse().expect("a name"));
        assert_eq!(paths.spill(), Path::new("/var/lib/dynamicswap/a"));
        assert!(!paths.spill().starts_with(paths.root()));
    }

    #[test]
    fn missing_programs_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(ALL[0]), "").expect("written");
        let error = Programs::in_directory(dir.path().to_owned()).expect_err("five missing");
        let text = error.to_string();
        assert!(text.starts_with("dynamicswap-agent, "), "{text}");
        assert!(!text.contains(ALL[0]), "{text}");
    }
}
