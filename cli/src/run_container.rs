//! `run`: a command as a container of the local cluster, which policies can select.
//!
//! Owns the container's descriptor file beside its cgroups: the borrower's agent reads it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use dynamicswap_types::Bytes;
use dynamicswap_workload::container::{self, Container, ContainerError, Layout};
use serde::{Deserialize, Serialize};

use crate::args::RunArgs;
use crate::cluster::host;
use crate::cluster::paths::ClusterPaths;
use crate::cluster::record::{ClusterRecord, write_whole};
use crate::failure::Refusal;
use crate::refuse_unless;

/// What the agent is told of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels, by which policies select it.
    pub labels: BTreeMap<String, String>,
    /// Its directory in the hierarchy of the memory controller.
    pub memory_cgroup: PathBuf,
    /// Its directory in the unified hierarchy: the same on pure cgroup v2.
    pub unified_cgroup: PathBuf,
}

/// A container of a local cluster: cgroups and descriptor, removed together.
#[derive(Debug)]
pub struct LocalContainer {
    /// The cgroups.
    pub container: Container,
    descriptor: PathBuf,
}

impl LocalContainer {
    /// Makes the cgroups, then tells the agent.
    ///
    /// # Errors
    /// If the cgroups cannot be made or the descriptor not written.
    pub fn create(
        paths: &ClusterPaths,
        name: &str,
        labels: impl IntoIterator<Item = (String, String)>,
        limit: Bytes,
    ) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        refuse_unless!(
            !name.is_empty() && name.bytes().all(plain),
            "'{name}' is no container name: give one by --container, of lower-case letters, digits \
             and '-'"
        );
        let descriptor = paths.containers().join(format!("{name}.json"));
        refuse_unless!(
            !descriptor.exists(),
            "a container '{name}' runs already: choose another --container"
        );
        let layout = Layout::probe()?;
        let container = Container::create(&layout, &paths.container_cgroup(name), limit);
        let container = container.map_err(|error| match error {
            ContainerError::LimitTooSmall(_) | ContainerError::Name(_) => {
                Refusal::error(error.to_string())
            }
            other => other.into(),
        })?;
        let content = Descriptor {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            labels: labels.into_iter().collect(),
            memory_cgroup: container.memory_cgroup().to_owned(),
            unified_cgroup: container.unified_cgroup().to_owned(),
        };
        let local = Self {
            container,
            descriptor,
        };
        write_whole(&local.descriptor, &serde_json::to_vec_pretty(&content)?)?;
        Ok(local)
    }
}

impl Drop for LocalContainer {
    fn drop(&mut self) {
        // Gone with the whole cluster's directory is gone, too.
        let _gone = fs::remove_file(&self.descriptor);
    }
}

/// Runs the command and returns its exit code.
///
/// # Errors
/// A refusal if the cluster is not up or the container cannot be made.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    host::check_root()?;
    let record = ClusterRecord::load(&args.target.name)?;
    let paths = ClusterPaths::new(&record.name);
    let (program, arguments) = args.command.split_first().context("no command is given")?;
    let own_name = Path::new(program)
        .file_name()
        .and_then(|name| name.to_str());
    let name = args.container.as_deref().or(own_name).unwrap_or("run");
    let local = LocalContainer::create(&paths, name, args.labels.clone(), args.memory)?;
    let mut command = Command::new(program);
    command.args(arguments);
    local.container.enter(&mut command)?;
    let started = command.spawn();
    let mut child =
        started.map_err(|error| Refusal::error(format!("cannot start {program}: {error}")))?;
    let status = child.wait().context("the command cannot be waited for")?;
    Ok(ExitCode::from(container::exit_code(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_has_the_pinned_form() {
        let text = r#"{"namespace":"default","name":"verify","labels":{"app":"verify"},"memory_cgroup":"/sys/fs/cgroup/memory/dynamicswap-local/verify","unified_cgroup":"/sys/fs/cgroup/unified/dynamicswap-local/verify"}"#;
        let descriptor: Descriptor = serde_json::from_str(text).expect("valid");
        assert_eq!(serde_json::to_string(&descriptor).expect("plain"), text);
    }
}
