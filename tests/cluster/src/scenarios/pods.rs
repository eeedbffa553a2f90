//! Pods of the scenarios: a workload that checks every word of twice its memory.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::Client;

/// The image of the workload, which is in every node's store.
pub const WORKLOAD_IMAGE: &str = "localhost/dynamicswap-workload:0.1.0";

/// A workload in a pod.
#[derive(Debug)]
pub struct Pod {
    name: &'static str,
    seconds: u32,
    write_percent: u8,
}

impl Pod {
    /// One that works for so long once it has filled its memory.
    pub const fn new(name: &'static str, seconds: u32) -> Self {
        Self {
            name,
            seconds,
            write_percent: 30,
        }
    }

    /// One that writes its memory once, and reads it from then on.
    #[must_use]
    pub const fn reading(self) -> Self {
        Self {
            write_percent: 0,
            ..self
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What is applied.
    pub fn manifest(&self) -> Result<String> {
        let seconds = self.seconds.to_string();
        let write_percent = self.write_percent.to_string();
        let arguments = [
            "verify",
            "--size",
            "64Mi",
            "--threads",
            "1",
            "--seconds",
            &seconds,
            "--write-percent",
            &write_percent,
            "--progress-ms",
            "2000",
        ];
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": {"app": "verify"}},
            "spec": {
                "restartPolicy": "Never",
                "nodeSelector": {"dynamicswap.io/borrower": "true"},
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "verify",
                    "image": WORKLOAD_IMAGE,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "resources": {
                        "limits": {"memory": "32Mi"},
                        "requests": {"memory": "32Mi", "cpu": "100m"},
                    },
                }],
            },
        });
        serde_json::to_string(&manifest).context("a manifest is plain values")
    }

    fn phase(&self, client: &Client) -> Result<String> {
        client.kubectl(&[
            "get",
            "pod",
            self.name,
            "--output",
            "jsonpath={.status.phase}",
        ])
    }

    /// Accesses so far, by its last line; none before the first.
    pub fn accesses(&self, client: &Client) -> Result<u64> {
        let said = self.last_words(client)?;
        Ok(said["ops_total"].as_u64().unwrap_or(0))
    }

    /// Whether it has all of its memory.
    pub fn is_full(&self, client: &Client) -> Result<bool> {
        let said = self.last_words(client)?;
        Ok(said["phase"] == "churn" || said["phase"] == "check")
    }

    /// Its last line, which is JSON while all goes well.
    fn last_words(&self, client: &Client) -> Result<Value> {
        Ok(serde_json::from_str(&self.last_line(client)?)?)
    }

    fn last_line(&self, client: &Client) -> Result<String> {
        client.kubectl(&["logs", self.name, "--tail", "1"])
    }

    /// Fails if it has died.
    pub fn check_alive(&self, client: &Client) -> Result<()> {
        if self.phase(client)? == "Failed" {
            bail!(
                "{} has died; it said last: {}",
                self.name,
                self.last_line(client)?
            );
        }
        Ok(())
    }

    /// The last words of one that has ended; none while it runs. They are its own: a busy kubelet tells
    /// of the end minutes later.
    pub fn end(&self, client: &Client) -> Result<Option<Value>> {
        let last = self.last_line(client)?;
        let said: Option<Value> = serde_json::from_str(&last).ok();
        if let Some(end) = said.filter(|said| said["kind"] == "end") {
            return Ok(Some(end));
        }
        let ended = matches!(self.phase(client)?.as_str(), "Succeeded" | "Failed");
        // It was killed in the middle of its work.
        Ok(ended.then(|| json!({"died_with": last})))
    }
}

/// Whether a pod, as kubectl gives it, is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let is_ready = conditions.any(|it| it["type"] == "Ready" && it["status"] == "True");
    is_ready && pod["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_is_ready_by_its_condition_and_not_while_it_is_deleted() {
        let condition = |status: &str| json!({"type": "Ready", "status": status});
        let ready = json!({"status": {"conditions": [condition("True")]}});
        assert!(is_ready(&ready));
        assert!(!is_ready(
            &json!({"status": {"conditions": [condition("False")]}})
        ));
        let mut going = ready;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_ready(&going));
    }
}
