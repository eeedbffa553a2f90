//! The second half of the story: the load drops, pages come home before anybody asks for them, and a
//! donor takes its memory back.
//!
//! Owns what is measured of it. The same drop is played twice: once with nothing but the kernel's
//! demand faults, once with pages that come home meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dynamicswap_crds::RemoteMemoryPolicy;
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_types::Bytes;

use super::story::{Demo, PASS_LIMIT, STEP_LIMIT};
use super::verdict::MEMORY_SERVER;
use crate::client::Client;
use crate::cluster::paths::Programs;
use crate::cluster::up;
use crate::report::analysis::{back_to, speed_at_end};
use crate::report::{Circle, Mark};
use crate::ui::{Ui, human_bytes, human_us};

/// How long the load runs once its pages are home: long enough to know its speed in memory.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Longest time that it gets to fetch its pages by itself.
const DEMAND_LIMIT: Duration = Duration::from_secs(60);
/// Time at rest where nothing comes home.
const REST: Duration = Duration::from_secs(1);
/// Share of the memory that may stay out when pages have come home: what a fork still shares, or
/// what was never asked for, in one part of this many.
const LEFT_OUT: u64 = 32;
/// The same of the device: the kernel hands back whole clusters of 2 MiB, so a few pages keep many.
const PLACES_LEFT: u64 = 8;

impl Demo {
    /// Plays the second half, unless the policies let nothing come home.
    pub(super) fn full_circle(&mut self, policy: &str, ui: &mut Ui) -> Result<()> {
        let policies = dynamicswap_crds::parse_policies(policy)?;
        let returns =
            |policy: &RemoteMemoryPolicy| policy.in_force() && policy.spec.homecoming.enabled;
        if !policies.iter().any(returns) {
            return Ok(());
        }
        let (after_return, full) = self.drop_and_return(ui)?;
        let returned = self.returned();
        self.squeeze(ui)?;
        self.apply_text(&without_return(policies)?)?;
        let by_demand = self.drop_and_fault(full, ui)?;
        self.apply_text(policy)?;
        let given_back = self.take_memory_back(ui)?;
        self.circle = Some(Circle {
            pages_returned: returned / 4096,
            back_by_demand_ms: by_demand,
            back_after_return_ms: after_return,
            donor_bytes_given_back: given_back,
        });
        Ok(())
    }

    fn apply_text(&self, yaml: &str) -> Result<()> {
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        Client::new(&cluster.record.controller)?.apply(yaml.to_owned())?;
        Ok(())
    }

    /// Bytes that came home so far, as the agent counts them.
    fn returned(&self) -> u64 {
        let seen = self.recorder.seen();
        seen.summary.containers.iter().map(|it| it.returned).sum()
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        let local = self.container.as_ref().context("there is no container")?;
        Ok(local.container.set_limit(Bytes::new(bytes))?)
    }

    fn rest(&mut self, ui: &mut Ui) -> Result<()> {
        self.tell("rest")?;
        self.recorder.phase("rest");
        let room = self.memory.get().saturating_mul(2);
        self.limit(room)?;
        let told = format!(
            "the load rests, its limit is raised to {}",
            human_bytes(room)
        );
        self.recorder.event("LoadDropped", &told, Mark::Step);
        ui.done("load drops", &told);
        Ok(())
    }

    /// The load goes on; gives when.
    fn go_on(&mut self) -> Result<u64> {
        let from = self
            .recorder
            .event("LoadBack", "the load is back", Mark::Step);
        self.recorder.phase("load");
        self.tell("resume")?;
        Ok(from)
    }

    fn tell_back(&self, took: Option<u64>, how: &str, ui: &mut Ui) {
        let time = took.map_or("a longer time".to_owned(), |ms| human_us(ms * 1_000));
        let told = format!("at 90 % of its speed in memory after {time}, {how}");
        self.recorder.event("FullSpeed", &told, Mark::Mended);
        ui.done("load is back", &told);
    }

    /// Half of the memory again, so that pages leave once more.
    fn squeeze(&mut self, ui: &mut Ui) -> Result<()> {
        self.limit(self.memory.get() / 2)?;
        let quarter = self.memory.get() / 4;
        self.wait(ui, "pages to leave again", PASS_LIMIT, |seen| {
            (seen.summary.used() >= quarter).then_some(())
        })?;
        self.calm("load, at half of its memory again", ui)
    }

    /// The load rests until its pages are home, and goes on. Gives the time until it was at 90 % of its
    /// speed in memory, and that speed.
    fn drop_and_return(&mut self, ui: &mut Ui) -> Result<(Option<u64>, f64)> {
        self.rest(ui)?;
        let began = Instant::now();
        let (most, places) = (
            self.memory.get() / LEFT_OUT,
            self.memory.get() / PLACES_LEFT,
        );
        self.wait(ui, "pages to come home by themselves", STEP_LIMIT, |seen| {
            let swapped: u64 = seen.summary.containers.iter().map(|it| it.swap).sum();
            (swapped <= most && seen.summary.used() <= places).then_some(())
        })?;
        let told = format!(
            "{:.1} s later all pages are home, and nobody has asked for one",
            began.elapsed().as_secs_f64()
        );
        self.recorder.event("PagesHome", &told, Mark::Mended);
        ui.done("pages come home", &told);
        let from = self.go_on()?;
        let until = Instant::now() + AFTERWARDS;
        self.wait(ui, "the load to be back", STEP_LIMIT, |_| {
            (Instant::now() >= until).then_some(())
        })?;
        let (took, full) = {
            let seen = self.recorder.seen();
            let samples = &seen.series.workload;
            let full = speed_at_end(samples);
            (back_to(full, samples, from), full)
        };
        self.tell_back(took, "its pages were home before it asked", ui);
        Ok((took, full))
    }

    /// The same rest, but nothing comes home meanwhile.
    fn drop_and_fault(&mut self, full: f64, ui: &mut Ui) -> Result<Option<u64>> {
        self.rest(ui)?;
        let until = Instant::now() + REST;
        self.wait(ui, "the load to rest", STEP_LIMIT, |_| {
            (Instant::now() >= until).then_some(())
        })?;
        let from = self.go_on()?;
        let until = Instant::now() + DEMAND_LIMIT;
        let took = self.wait(ui, "the load to fetch its pages", STEP_LIMIT, |seen| {
            let took = back_to(full, &seen.series.workload, from);
            (took.is_some() || Instant::now() >= until).then_some(took)
        })?;
        self.tell_back(took, "by demand faults alone", ui);
        Ok(took)
    }

    /// Starts the memory server that was killed again, so that there is somewhere to move to.
    fn donor_is_back(&mut self, ui: &mut Ui) -> Result<()> {
        let killed = self.kills.iter().find(|kill| kill.what == MEMORY_SERVER);
        let Some(node) = killed.map(|kill| kill.node.clone()) else {
            return Ok(());
        };
        let programs = Programs::find()?;
        let cluster = self.cluster.as_mut().context("there is no cluster")?;
        let shape = &cluster.record.shape;
        let mut command = up::memory_server_command(&programs, &cluster.paths, &node, shape)?;
        let pid = cluster.spawn(&format!("{node}/memory-server again"), &mut command)?;
        self.wait(
            ui,
            "the killed memory server to lend again",
            STEP_LIMIT,
            |seen| {
                let donor = seen
                    .summary
                    .donors
                    .iter()
                    .find(|donor| donor.node == node)?;
                (i32::try_from(donor.pid) == Ok(pid) && donor.memory > 0).then_some(())
            },
        )?;
        let told = format!("the memory server of {node} is back and lends again");
        self.recorder.event("DonorBack", &told, Mark::Mended);
        ui.done("donor is back", &told);
        Ok(())
    }

    /// Empties the donor that has lent most, and waits until its host has the memory.
    fn take_memory_back(&mut self, ui: &mut Ui) -> Result<u64> {
        self.donor_is_back(ui)?;
        let (node, before) = {
            let seen = self.recorder.seen();
            let most = seen.summary.donors.iter().max_by_key(|donor| donor.held);
            let most = most.context("no donor is known")?;
            (most.node.clone(), most.memory)
        };
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        let mut client = Client::new(&cluster.record.controller)?;
        client.admit(AdmitRequest {
            node: node.clone(),
            admission: Admission::Draining.into(),
            within_ms: 60_000,
        })?;
        let began = Instant::now();
        let what = format!("{node} to have its memory back");
        let after = self.wait(ui, &what, STEP_LIMIT, |seen| {
            let donor = seen
                .summary
                .donors
                .iter()
                .find(|donor| donor.node == node)?;
            (donor.lent == 0 && donor.memory <= before / LEFT_OUT).then_some(donor.memory)
        })?;
        let given_back = before.saturating_sub(after);
        let told = format!(
            "{node} has {} of its memory back after {:.1} s",
            human_bytes(given_back),
            began.elapsed().as_secs_f64()
        );
        self.recorder.event("DonorRelieved", &told, Mark::Mended);
        ui.done("donor", &told);
        Ok(given_back)
    }
}

/// The same policies, but nothing comes home.
fn without_return(policies: Vec<RemoteMemoryPolicy>) -> Result<String> {
    let mut documents = Vec::new();
    for mut policy in policies {
        policy.spec.homecoming.enabled = false;
        documents.push(serde_json::to_string(&policy)?);
    }
    Ok(documents.join("\n---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_without_return_are_the_same_but_for_that() {
        let text = "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
                    metadata: {name: a}\nspec: {durability: {copies: 1}}\n";
        let policies = dynamicswap_crds::parse_policies(text).expect("valid");
        let without = without_return(policies.clone()).expect("plain");
        let mut parsed = dynamicswap_crds::parse_policies(&without).expect("valid");
        assert!(!parsed[0].spec.homecoming.enabled);
        parsed[0].spec.homecoming.enabled = true;
        assert_eq!(parsed, policies);
    }
}
