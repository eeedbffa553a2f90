//! A shell on a node, for what Kubernetes has no word for: a privileged pod that runs the node's own
//! programs, in the node's namespaces.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::pods::{WORKLOAD_IMAGE, is_ready};
use super::stage::{NODE_TIME_MAX, Stage};

/// The node's loader and libraries, as the pod sees them: its own image has none.
const LOADER: [&str; 3] = [
    "/host/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "--library-path",
    "/host/usr/lib/x86_64-linux-gnu",
];
/// Into the namespaces of the node's first process.
const ENTER: [&str; 8] = [
    "/host/usr/bin/nsenter",
    "--target",
    "1",
    "--mount",
    "--uts",
    "--ipc",
    "--net",
    "--",
];

/// A pod to run commands of a node in.
#[derive(Debug)]
pub struct NodeShell {
    pod: String,
}

impl NodeShell {
    /// Starts one, and waits until it runs.
    ///
    /// # Errors
    /// If it does not run in time.
    pub fn start(stage: &Stage<'_>, node: &str) -> Result<Self> {
        let pod = format!("shell-{node}");
        let sleep = [&LOADER[..], &["/host/usr/bin/sleep", "infinity"]].concat();
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod},
            "spec": {
                "nodeName": node,
                "hostPID": true,
                "hostNetwork": true,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "shell",
                    "image": WORKLOAD_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": sleep,
                    "securityContext": {"privileged": true, "runAsUser": 0},
                    "volumeMounts": [{"name": "host", "mountPath": "/host"}],
                }],
                "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
            },
        });
        stage.client.apply(&manifest.to_string())?;
        stage.wait_for("the node's shell", NODE_TIME_MAX, || {
            let get = ["get", "pod", &pod, "--output", "json"];
            let said = serde_json::from_str(&stage.client.kubectl(&get)?)?;
            Ok(is_ready(&said).then_some(()))
        })?;
        Ok(Self { pod })
    }

    /// Runs a script of bash on the node; gives what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, stage: &Stage<'_>, script: &str) -> Result<String> {
        let exec = ["exec", &self.pod, "--"];
        let bash = ["/bin/bash", "-c", script];
        let command = [&exec[..], &LOADER, &ENTER, &bash].concat();
        let said = stage.client.kubectl(&command);
        said.with_context(|| format!("on the node of {}", self.pod))
    }

    /// Starts a script of bash as a unit of the node's systemd, which outlives this pod's own ways in.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn detached(&self, stage: &Stage<'_>, unit: &str, script: &str) -> Result<()> {
        let file = format!("/run/{unit}.sh");
        let write = format!("cat > {file} <<'END'\n{script}\nEND\n");
        let start = format!("systemd-run --quiet --collect --unit={unit} /bin/bash {file}");
        self.run(stage, &(write + &start))?;
        Ok(())
    }

    /// Removes the pod.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn end(self, stage: &Stage<'_>) -> Result<()> {
        let delete = ["delete", "pod", &self.pod, "--force", "--grace-period=0"];
        stage.client.kubectl(&delete)?;
        Ok(())
    }
}
