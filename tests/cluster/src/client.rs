//! Commands to a cluster: from its network, with its kubeconfig, with its own kubectl.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

/// Where a cluster's network is.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// On this machine's loopback, at free ports: for a control plane alone.
    #[default]
    Host,
    /// In a namespace of its own, which exists: for a control plane with nodes.
    Namespace(Namespace),
}

impl Place {
    /// A command that runs `program` there.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Host => Command::new(program),
            Self::Namespace(namespace) => namespace.command(program),
        }
    }
}

/// A way to one cluster.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the cluster is.
    pub place: Place,
    /// The cluster's folder.
    pub folder: PathBuf,
    /// The folder of kubectl and helm.
    pub programs: PathBuf,
}

impl Client {
    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A command that runs `program` where it reaches the cluster: kubectl and helm are in its
    /// PATH, and KUBECONFIG is set.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path));
        let mut command = self.place.command(program);
        // The user's PATH had no colon within a folder's name, and neither has ours.
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command.env("KUBECONFIG", self.kubeconfig());
        // What kubectl remembers of an API server goes with it: the next one at this address is
        // another.
        command.env("KUBECACHEDIR", self.folder.join("cache"));
        command
    }

    /// Runs kubectl; gives what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_fed(arguments, "")
    }

    /// `kubectl apply` of objects, as YAML or JSON.
    ///
    /// # Errors
    /// If the API server refuses one, with what it said.
    pub fn apply(&self, objects: &str) -> Result<String> {
        self.kubectl_fed(&["apply", "-f", "-"], objects)
    }

    /// Runs kubectl with a standard input.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl_fed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command(self.program("kubectl"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that fails before it has read says why itself.
            let _written = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().context("cannot read kubectl")?;
        printed("kubectl", arguments, output)
    }

    /// Runs helm, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn helm(&self, arguments: &[&str]) -> Result<Output> {
        let mut helm = self.command("helm");
        let output = helm.args(arguments).stdin(Stdio::null()).output();
        output.context("cannot start helm")
    }

    /// One of the built programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A file of this cluster.
    #[must_use]
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }
}

/// What a program printed.
///
/// # Errors
/// If it failed, with what it said.
pub(crate) fn printed(program: &str, arguments: &[&str], output: Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "'{program} {}' ended with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program}'s answer is no text"))
}
