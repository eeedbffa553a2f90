//! `test`: a job on a borrower that fills twice the memory it may keep, and checks every page.
//!
//! Owns the job's life: made, followed and removed, whatever becomes of it. What is made and what its
//! words mean is decided by the pure parts beside this file.

pub mod args;
mod choose;
mod job;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dynamicswap_crds::{RemoteMemoryPolicy, SwapDevice};
use dynamicswap_proto::identity::CONTROLLER_NAME;
use dynamicswap_types::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Refusal;
use crate::interrupt::Interrupt;
use crate::kubectl::Place;
use crate::refuse_unless;
use crate::ui::{Ui, human_bytes};
use args::TestArgs;
use job::{Plan, PodState};
use verdict::Log;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// With less, the program itself is most of what it may keep.
const MEMORY_MIN: Bytes = Bytes::from_mib(64);
/// As in the demo.
const MEMORY_MAX: Bytes = Bytes::from_mib(64 << 10);

/// Runs the test.
///
/// # Errors
/// A refusal if nothing could swap there, with what to mend; if the job did not come to an end.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    refuse_unless!(
        (MEMORY_MIN..=MEMORY_MAX).contains(&args.memory),
        "--memory {} does not do: give {MEMORY_MIN} to {MEMORY_MAX}",
        args.memory
    );
    let system = args.place.place();
    let here = system.in_namespace(&args.namespace);
    let (plan, policy) = plan(args, &system, &here)?;
    let interrupt = Interrupt::listen()?;
    let mut ui = Ui::new();
    let job = Job::make(&here, &plan)?;
    let detail = format!(
        "{} on {}, by policy {}/{policy}: {} of memory at a limit of {}",
        job.name,
        plan.node,
        args.namespace,
        human_bytes(plan.memory.get()),
        human_bytes(plan.limit.get())
    );
    ui.done("job made", &detail);
    let followed = job.follow(args, &interrupt, &mut ui);
    ui.clear_live();
    let (log, state) = followed?;
    let latencies = log.latencies();
    if !latencies.is_empty() {
        ui.line(&format!("\n{}\n", latencies.trim_end()));
    }
    if let Some(failure) = log.failure(&state) {
        ui.bad("failed", &failure);
        return Ok(ExitCode::FAILURE);
    }
    ui.done("passed", &log.summary());
    Ok(ExitCode::SUCCESS)
}

/// What is made, and the policy by which it may swap.
fn plan(args: &TestArgs, system: &Place, here: &Place) -> Result<(Plan, String)> {
    let limit = Bytes::new(args.memory.get() / 2);
    let need = args.memory.saturating_sub(limit);
    let devices: Vec<SwapDevice> = list(here, "swapdevices.dynamicswap.io")?;
    let node = choose::borrower(&devices, args.node.as_deref(), need).map_err(Refusal::error)?;
    let policies: Vec<RemoteMemoryPolicy> = list(here, "remotememorypolicies.dynamicswap.io")?;
    let chosen = choose::labels(&policies, &args.labels, &args.namespace, need);
    let chosen = chosen.map_err(Refusal::error)?;
    let plan = Plan {
        node,
        node_is_named: args.node.is_some(),
        labels: chosen.labels,
        image: args.image.clone().unwrap_or_else(|| {
            // Whoever may not look there names an image, or has the usual one.
            let path = "--output=jsonpath={.spec.template.spec.containers[0].image}";
            let said = system.ask(&["get", "deployment", CONTROLLER_NAME, path]);
            choose::image(said.ok().as_deref())
        }),
        memory: args.memory,
        limit,
        churn_s: args.churn.as_duration().as_secs_f64(),
        timeout_s: args.timeout.as_millis().div_ceil(1_000),
    };
    Ok((plan, chosen.policy))
}

/// Objects of a kind, those that this program understands.
fn list<T: DeserializeOwned>(place: &Place, kind: &str) -> Result<Vec<T>> {
    let objects = items(&place.ask(&["get", kind, "--output=json"])?)?;
    let understood = objects.into_iter().map(serde_json::from_value);
    Ok(understood.filter_map(Result::ok).collect())
}

fn items(said: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(said).context("kubectl's answer is no JSON")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// A job that is there; it is removed with the value, and its pod with it.
struct Job<'a> {
    place: &'a Place,
    name: String,
}

impl<'a> Job<'a> {
    fn make(place: &'a Place, plan: &Plan) -> Result<Self> {
        let create = ["create", "--filename=-", "--output=name"];
        let said = place.feed(&create, &plan.manifest().to_string())?;
        let name = said
            .trim()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        Ok(Self { place, name })
    }

    /// Looks until the workload has said its last word, or has ended without one.
    fn follow(
        &self,
        args: &TestArgs,
        interrupt: &Interrupt,
        ui: &mut Ui,
    ) -> Result<(Log, PodState)> {
        let begun = Instant::now();
        loop {
            let look = self.look();
            // Ctrl-C ends kubectl as well: its failure is none then.
            interrupt.check()?;
            // One look may fail on a busy cluster; the next one may not.
            let now = match look {
                Ok(Seen::Ended(log, state)) => return Ok((log, state)),
                Ok(Seen::Stuck(why)) => return Err(Refusal::error(self.stuck(args, &why))),
                Ok(Seen::Working(now)) => now,
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() >= args.timeout.as_duration() {
                bail!(
                    "{} has not ended after {}: {now}; give more time with --timeout",
                    self.name,
                    args.timeout
                );
            }
            ui.live(&now);
            interrupt.wait(LOOK_EVERY)?;
        }
    }

    fn stuck(&self, args: &TestArgs, why: &str) -> String {
        format!(
            "the pod of {} in the namespace '{}' does not start: {why}; 'cargo xtask image' makes the \
             image, --image names another",
            self.name, args.namespace
        )
    }

    fn look(&self) -> Result<Seen> {
        let selector = format!("--selector=batch.kubernetes.io/job-name={}", self.name);
        let pods = self
            .place
            .ask(&["get", "pods", &selector, "--output=json"])?;
        let pods = items(&pods)?;
        let Some(pod) = pods.first() else {
            let name = &self.name;
            let sentence = format!("no pod yet; 'kubectl describe job {name}' says why");
            return Ok(Seen::Working(sentence));
        };
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match PodState::of(pod) {
            PodState::Waiting(why) => Ok(Seen::Working(format!("its pod waits: {why}"))),
            PodState::Stuck(why) => Ok(Seen::Stuck(why)),
            PodState::Running => {
                let last = self.place.ask(&["logs", pod_name, "--tail=1"])?;
                if Log::of(&last).is_complete() {
                    return self.end(pod_name, PodState::Running);
                }
                let now = verdict::progress(&last);
                Ok(Seen::Working(now.unwrap_or_else(|| "started".to_owned())))
            }
            // A pod that never ran has no log.
            state @ PodState::Ended { code: None, .. } => Ok(Seen::Ended(Log::default(), state)),
            state @ PodState::Ended { .. } => self.end(pod_name, state),
        }
    }

    fn end(&self, pod: &str, state: PodState) -> Result<Seen> {
        let log = self.place.ask(&["logs", pod])?;
        Ok(Seen::Ended(Log::of(&log), state))
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let delete = [
            "delete",
            "job",
            &self.name,
            "--ignore-not-found",
            "--wait=false",
        ];
        if let Err(error) = self.place.ask(&delete) {
            eprintln!(
                "dynamicswap: {} stays in the namespace '{}' for some minutes: {error:#}",
                self.name, self.place.namespace
            );
        }
    }
}

/// What a look has shown.
enum Seen {
    /// It goes on: how far it is.
    Working(String),
    /// It will not start by itself: why.
    Stuck(String),
    /// It is over.
    Ended(Log, PodState),
}
