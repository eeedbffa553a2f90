//! Scenarios of the data path: pages on donors, and what pages go through when one of its parts ends.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node_shell::NodeShell;
use super::pods::Pod;
use super::stage::{BOOT_TIME_MAX, Deletion, NODE_TIME_MAX, POLICY, Stage};
use crate::power;

/// The donor that a scenario drains.
const DRAINED: &str = "node-3";
/// The node that loses its power.
const POWERED_OFF: &str = "node-3";
/// So many accesses show that pages come from the other copies: half of the pages swap.
const ACCESSES_MIN: u64 = 2_000;

pub(super) fn pages_are_remote(stage: &mut Stage<'_>) -> Result<()> {
    let begun = Instant::now();
    let pod = Pod::new("verify", 60);
    stage.storm(&pod)?;
    stage.note("pages_remote_after_s", begun.elapsed().as_secs());
    for device in stage.objects("swapdevices")? {
        let status = &device["status"];
        ensure!(status["attached"] == true, "{status}");
        stage.note("front_end", status["frontEnd"].clone());
    }
    let servers = stage.objects("memoryservers")?;
    let donors = servers.iter().filter(|server| lends(server)).count();
    stage.note("donors_that_lend", donors);
    ensure!(donors >= 2, "{donors} donors lend");
    stage.ends_well(&pod)
}

fn lends(server: &Value) -> bool {
    server["status"]["lent"]
        .as_str()
        .is_some_and(|lent| lent != "0")
}

pub(super) fn plugin_tests(stage: &mut Stage<'_>) -> Result<()> {
    let test = ["test", "--memory", "64Mi", "--timeout", "15m"];
    let said = stage.plugin(&test)?;
    stage.note("test_says", said.trim());
    stage.wait_for("the end of its pod", NODE_TIME_MAX, || {
        Ok(stage.objects("pods")?.is_empty().then_some(()))
    })
}

pub(super) fn donor_pod_killed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("donor-killed", 90);
    stage.storm(&pod)?;
    stage.replace("memory-server", "node-2", Deletion::Forced)?;
    stage.ends_well(&pod)
}

pub(super) fn swapd_pod_killed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = Pod::new("swapd-killed", 120);
    stage.storm(&pod)?;
    for _ in 0..2 {
        stage.replace("swapd", "node-1", Deletion::Forced)?;
        pod.check_alive(stage.client)?;
    }
    stage.ends_well(&pod)
}

pub(super) fn engine_killed(stage: &mut Stage<'_>) -> Result<()> {
    let shell = NodeShell::start(stage, "node-1")?;
    let pod = Pod::new("engine-killed", 60);
    stage.storm(&pod)?;
    // A pattern that does not match the shell that looks for it.
    let engine = "pgrep -f '[d]ynamicswap-swapd-engine'";
    let before = shell.run(stage, engine)?;
    shell.run(stage, &format!("kill -9 $({engine})"))?;
    let begun = Instant::now();
    let next = stage.wait_for("the next engine", NODE_TIME_MAX, || {
        let now = shell.run(stage, engine)?;
        Ok((!now.is_empty() && now != before).then_some(now))
    })?;
    stage.note("next_engine_s", begun.elapsed().as_secs());
    stage.note("next_engine", next);
    pod.check_alive(stage.client)?;
    shell.end(stage)?;
    stage.ends_well(&pod)
}

pub(super) fn donor_drained(stage: &mut Stage<'_>) -> Result<()> {
    // Two donors have room for each other's copies where the class asks for one.
    stage.change_policy(POLICY, &json!({"durability": {"copies": 1}}))?;
    let pod = Pod::new("donor-drained", 120);
    stage.storm(&pod)?;
    let slabs = "slabs on the donor that will be drained";
    stage.wait_for(slabs, NODE_TIME_MAX, || {
        Ok(lends(&the_drained(stage)?).then_some(()))
    })?;
    let begun = Instant::now();
    // It ends once nothing lies there any more; the object says so a moment later.
    let time = format!("{}s", NODE_TIME_MAX.as_secs());
    let said = stage.plugin(&["drain", "server", DRAINED, "--timeout", &time])?;
    stage.note("drain_says", said.trim());
    stage.note("drained_after_s", begun.elapsed().as_secs());
    stage.wait_for("the drained donor's object", NODE_TIME_MAX, || {
        Ok((!lends(&the_drained(stage)?)).then_some(()))
    })?;
    pod.check_alive(stage.client)?;
    stage.ends_well(&pod)?;
    stage.plugin(&["uncordon", "server", DRAINED])?;
    stage.change_policy(POLICY, &json!({"durability": {"copies": 2}}))?;
    stage.wait_for("a donor that is open again", NODE_TIME_MAX, || {
        let server = the_drained(stage)?;
        Ok((server["spec"]["drain"].is_null() && server["spec"]["cordoned"] != true).then_some(()))
    })
}

/// Two donors hold each page, so without one of them no page can go out that has two copies to get.
/// So this load reads only, and the power goes once all of its pages have gone out.
pub(super) fn donor_powered_off(stage: &mut Stage<'_>) -> Result<()> {
    let shell = NodeShell::start(stage, "node-1")?;
    let pod = Pod::new("donor-off", 300).reading();
    stage.storm(&pod)?;
    let mut before = u64::MAX;
    stage.wait_for("the end of its writes", NODE_TIME_MAX, || {
        let out = shell.run(stage, "awk '/^pswpout/{print $2}' /proc/vmstat")?;
        let out: u64 = out.trim().parse()?;
        let settled = out == std::mem::replace(&mut before, out);
        Ok(settled.then_some(()))
    })?;
    let off = power::off(stage.paths, POWERED_OFF)?;
    let begun = Instant::now();
    let accesses = pod.accesses(stage.client)?;
    stage.wait_for("accesses without the donor", NODE_TIME_MAX, || {
        pod.check_alive(stage.client)?;
        let more = pod.accesses(stage.client)?.saturating_sub(accesses);
        Ok((more >= ACCESSES_MIN).then_some(()))
    })?;
    stage.note("accesses_without_donor_after_s", begun.elapsed().as_secs());
    power::on(stage.paths, off)?;
    stage.whole(BOOT_TIME_MAX)?;
    stage.note("whole_again_after_s", begun.elapsed().as_secs());
    shell.end(stage)?;
    stage.ends_well(&pod)
}

/// The object of the donor that is drained.
fn the_drained(stage: &Stage<'_>) -> Result<Value> {
    let servers = stage.objects("memoryservers")?.into_iter();
    let mut drained = servers.filter(|server| server["metadata"]["name"] == DRAINED);
    drained.next().context("the donor has no object")
}
