//! The last scenario: the product goes away.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::stage::{NODE_TIME_MAX, Stage};
use crate::client::Client;
use crate::install::{NAMESPACE, RELEASE};

pub(super) fn uninstall(stage: &mut Stage<'_>) -> Result<()> {
    let (succeeded, said) = helm_uninstall(stage.client)?;
    ensure!(
        !succeeded,
        "helm uninstall was not refused while a policy is in force: {said}"
    );
    stage.note("refused", said.trim());
    let log = [
        "logs",
        "--namespace",
        NAMESPACE,
        "job/dynamicswap-uninstall",
    ];
    let log = stage.client.kubectl(&log)?;
    ensure!(log.contains("in force"), "the job says: {log}");
    stage.note("job_says", log.trim());
    let parts = stage
        .client
        .kubectl(&["get", "pods", "--namespace", NAMESPACE])?;
    ensure!(
        parts.contains("dynamicswap-swapd"),
        "it was removed all the same: {parts}"
    );
    let kind = "remotememorypolicies";
    stage
        .client
        .kubectl(&["delete", kind, "--all", "--all-namespaces"])?;
    let begun = Instant::now();
    let (succeeded, said) = helm_uninstall(stage.client)?;
    ensure!(succeeded, "helm uninstall: {said}");
    stage.wait_for("the pods' end", NODE_TIME_MAX, || {
        let pods = ["get", "pods", "--namespace", NAMESPACE, "--output", "name"];
        let pods = stage.client.kubectl(&pods)?;
        let ours = pods
            .lines()
            .filter(|name| !name.contains("dynamicswap-uninstall"));
        Ok((ours.count() == 0).then_some(()))
    })?;
    stage.note("removed_after_s", begun.elapsed().as_secs());
    Ok(())
}

fn helm_uninstall(client: &Client) -> Result<(bool, String)> {
    let output = client.helm(&[
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--timeout",
        "10m",
    ])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}
