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
use crate::client::Client;
use crate::report::analysis::back_to_full;
use crate::report::{Circle, Mark};
use crate::ui::{Ui, human_bytes, human_us};

/// How long the load runs after each rest: long enough that the last pages are touched.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Time at rest where nothing comes home.
const REST: Duration = Duration::from_secs(1);
/// Share of the memory that may stay out when pages have come home: what a fork still shares, or
/// what was never asked for, in one part of this many.
const LEFT_OUT: u64 = 32;

impl Demo {
    /// Plays the second half, unless the policies let nothing come home.
    pub(super) fn full_circle(&mut self, policy: &str, ui: &mut Ui) -> Result<()> {
        let policies = dynamicswap_crds::parse_policies(policy)?;
        let returns =
            |policy: &&RemoteMemoryPolicy| policy.in_force() && policy.spec.homecoming.enabled;
        if policies.iter().all(|policy| !returns(&policy)) {
            return Ok(());
        }
        self.apply_text(&without_return(policies)?)?;
        let by_demand = self.drop_and_rise("by demand faults alone", ui)?;
        self.squeeze(ui)?;
        self.apply_text(policy)?;
        let returned_before = self.returned();
        let after_return = self.drop_and_return(ui)?;
        let returned = self.returned().saturating_sub(returned_before);
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

    /// The load rests, gets room, and goes on; gives the time until it is at 90 % of what it does in
    /// memory.
    fn drop_and_rise(&mut self, how: &str, ui: &mut Ui) -> Result<Option<u64>> {
        self.rest(ui)?;
        let until = Instant::now() + REST;
        self.wait(ui, "the load to rest", STEP_LIMIT, |_| {
            (Instant::now() >= until).then_some(())
        })?;
        self.go_on(how, ui)
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

    fn go_on(&mut self, how: &str, ui: &mut Ui) -> Result<Option<u64>> {
        let from = self
            .recorder
            .event("LoadBack", "the load is back", Mark::Step);
        self.recorder.phase("load");
        self.tell("resume")?;
        let until = Instant::now() + AFTERWARDS;
        self.wait(ui, "the load to be back", STEP_LIMIT, |_| {
            (Instant::now() >= until).then_some(())
        })?;
        let took = {
            let seen = self.recorder.seen();
            back_to_full(&seen.series.workload, from)
        };
        let time = took.map_or("not within it".to_owned(), |ms| human_us(ms * 1_000));
        let told = format!("at 90 % of its speed in memory after {time}, {how}");
        self.recorder.event("FullSpeed", &told, Mark::Mended);
        ui.done("load is back", &told);
        Ok(took)
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

    fn drop_and_return(&mut self, ui: &mut Ui) -> Result<Option<u64>> {
        self.rest(ui)?;
        let began = Instant::now();
        let most = self.memory.get() / LEFT_OUT;
        self.wait(ui, "pages to come home by themselves", STEP_LIMIT, |seen| {
            (seen.summary.used() <= most).then_some(())
        })?;
        let told = format!(
            "{:.1} s later all pages are home, and nobody has asked for one",
            began.elapsed().as_secs_f64()
        );
        self.recorder.event("PagesHome", &told, Mark::Mended);
        ui.done("pages come home", &told);
        self.go_on("its pages were home before it asked", ui)
    }

    /// Empties the donor that has lent most, and waits until its host has the memory.
    fn take_memory_back(&mut self, ui: &mut Ui) -> Result<u64> {
        let (node, before) = {
            let seen = self.recorder.seen();
            let alive = seen.summary.donors.iter().filter(|donor| donor.pid > 0);
            let most = alive.max_by_key(|donor| donor.memory);
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
