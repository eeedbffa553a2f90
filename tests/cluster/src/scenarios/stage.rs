//! What scenarios are played with: figures, looks at the cluster, a storm of pages, and what is done
//! to parts of the product.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_cli::interrupt::Interrupt;
use serde_json::{Value, json};

use super::pods::{Pod, is_ready};
use crate::client::{Client, printed};
use crate::install::{NAMESPACE, RELEASE, apply_policy, source};
use crate::record::Paths;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Something that a busy node does.
pub const NODE_TIME_MAX: Duration = Duration::from_secs(420);
/// A node boots within it and starts its parts, beside others that work.
pub const BOOT_TIME_MAX: Duration = Duration::from_secs(900);
/// A workload's longest time.
const WORK_TIME_MAX: Duration = Duration::from_secs(900);
/// Bytes in the device that count as use.
const USED_MIN: u64 = 16 << 20;
/// The policy that `up --install` applies.
pub const POLICY: &str = "verify";

/// How a pod is deleted.
#[derive(Debug, Clone, Copy)]
pub enum Deletion {
    /// As an upgrade does: it is asked to end.
    Graceful,
    /// As a node does that has lost it: kill -9.
    Forced,
}

/// What is played with.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The way to the cluster.
    pub client: &'a Client,
    /// Where the cluster is on this machine.
    pub paths: &'a Paths,
    /// Whether the user wants no more of it.
    pub interrupt: &'a Interrupt,
    /// What was measured.
    pub figures: BTreeMap<String, Value>,
}

impl Stage<'_> {
    /// Keeps a figure, and shows it.
    pub fn note(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("    {name}: {value}");
        self.figures.insert(name.to_owned(), value);
    }

    /// Looks until there is something to see.
    pub fn wait_for<T>(
        &self,
        what: &str,
        time: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            // On a busy machine a look may fail; the next one may not.
            let seen = look();
            if let Ok(Some(seen)) = seen {
                return Ok(seen);
            }
            if begun.elapsed() > time {
                let why = seen
                    .err()
                    .map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("waited {time:?} for {what}{why}");
            }
            self.interrupt.wait(LOOK_EVERY)?;
        }
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn objects(&self, kind: &str) -> Result<Vec<Value>> {
        self.list(&[kind])
    }

    fn list(&self, which: &[&str]) -> Result<Vec<Value>> {
        let get = [&["get"], which, &["--output", "json"]].concat();
        let said = self.client.kubectl(&get)?;
        let list: Value = serde_json::from_str(&said).context("kubectl's answer is no JSON")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Starts a pod, and waits until it has pages in its node's device, which nobody else has by then,
    /// and grows no more: against a hard limit, and with a device that nobody serves, one that grows
    /// has nowhere to go (docs/operations.md).
    pub fn storm(&self, pod: &Pod) -> Result<()> {
        self.wait_for("an empty device", NODE_TIME_MAX, || {
            Ok((self.used()? < USED_MIN / 2).then_some(()))
        })?;
        self.client.apply(&pod.manifest()?)?;
        self.wait_for("pages in the device", NODE_TIME_MAX, || {
            pod.check_alive(self.client)?;
            let is_ready = self.used()? >= USED_MIN && pod.is_full(self.client)?;
            Ok(is_ready.then_some(()))
        })
    }

    /// Bytes in the fullest device.
    fn used(&self) -> Result<u64> {
        let devices = self.objects("swapdevices")?;
        Ok(devices.iter().map(used).max().unwrap_or(0))
    }

    /// Removes what a scenario that failed has left, so that the next one does not fail of it.
    ///
    /// # Errors
    /// With what is still there.
    pub fn clear(&self) -> Result<()> {
        let force = ["--all", "--force", "--grace-period=0"];
        let delete = [&["delete", "pods"], &force[..]].concat();
        self.client.kubectl(&delete)?;
        for server in self.objects("memoryservers")? {
            if let Some(name) = server["metadata"]["name"].as_str() {
                self.plugin(&["uncordon", "server", name])?;
            }
        }
        let delete = ["delete", "remotememorypolicies", "--all"];
        self.client.kubectl(&delete)?;
        apply_policy(self.client)?;
        self.whole(NODE_TIME_MAX)
    }

    /// Waits until a pod has ended well, every word right; then removes it.
    pub fn ends_well(&mut self, pod: &Pod) -> Result<()> {
        let end = self.wait_for("the pod's end", WORK_TIME_MAX, || pod.end(self.client))?;
        self.note("workload", end.clone());
        ensure!(end["wrong_pages"] == 0, "pages were wrong: {end}");
        ensure!(end["swap_ins"].as_u64() > Some(0), "it did not swap: {end}");
        let delete = ["delete", "pod", pod.name(), "--wait=false"];
        self.client.kubectl(&delete)?;
        Ok(())
    }

    /// Deletes a part's pod on a node, and waits until the next one is ready.
    pub fn replace(&mut self, component: &str, node: &str, way: Deletion) -> Result<()> {
        let selector = format!("app.kubernetes.io/component={component}");
        let field = format!("spec.nodeName={node}");
        let which = [
            "pods",
            "--namespace",
            NAMESPACE,
            "--selector",
            &selector,
            "--field-selector",
            &field,
        ];
        let how: &[&str] = match way {
            Deletion::Graceful => &["--wait=false"],
            Deletion::Forced => &["--force", "--grace-period=0"],
        };
        let before = self.list(&which)?;
        let begun = Instant::now();
        let delete = [&["delete"], &which[..], how].concat();
        self.client.kubectl(&delete)?;
        self.wait_for("the next pod", NODE_TIME_MAX, || {
            let is_next = |pod: &Value| {
                let mut known = before.iter();
                is_ready(pod) && known.all(|it| it["metadata"]["uid"] != pod["metadata"]["uid"])
            };
            Ok(self.list(&which)?.iter().any(is_next).then_some(()))
        })?;
        let name = format!("next_{component}_on_{node}_ready_s");
        self.note(&name, begun.elapsed().as_secs());
        Ok(())
    }

    /// Changes a value of the chart, as an upgrade does.
    pub fn upgrade(&self, value: &str) -> Result<()> {
        let chart = source("charts/dynamicswap");
        let upgrade = [
            "upgrade",
            RELEASE,
            &chart,
            "--namespace",
            NAMESPACE,
            "--reuse-values",
            "--set",
            value,
        ];
        printed("helm", &upgrade, self.client.helm(&upgrade)?).map(drop)
    }

    /// Asks kubectl's plugin for something.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn plugin(&self, arguments: &[&str]) -> Result<String> {
        let own = std::env::current_exe().context("where this program is")?;
        // Its name is what makes it the plugin.
        let name = own.with_file_name("kubectl-dynamicswap");
        if !name.exists() {
            symlink("dynamicswap", &name).context("cannot make kubectl-dynamicswap")?;
        }
        let output = self.client.command(&name).args(arguments).output();
        let output = output.context("cannot start the plugin")?;
        printed("kubectl dynamicswap", arguments, output)
    }

    /// Waits until no donor, device or copy is missing.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn whole(&self, time: Duration) -> Result<()> {
        let time = format!("{}s", time.as_secs());
        let wait = ["status", "--wait", "--timeout", &time];
        self.plugin(&wait).map(drop)
    }

    /// Changes a policy's `spec`.
    pub fn change_policy(&self, name: &str, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let which = ["patch", "remotememorypolicies", name];
        let how = ["--type", "merge", "--patch", &patch];
        self.client.kubectl(&[&which[..], &how[..]].concat())?;
        Ok(())
    }
}

fn used(device: &Value) -> u64 {
    let text = device["status"]["bytesUsed"].as_str().unwrap_or_default();
    text.parse::<dynamicswap_types::Bytes>()
        .map_or(0, dynamicswap_types::Bytes::get)
}
