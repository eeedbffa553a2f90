//! The story: what the demo does, in its order, and what it waits for.
//!
//! Owns every part of a running demo, so that whatever ends the story ends them all.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dynamicswap_types::Bytes;
use rustix::process::Signal;

use super::load::Load;
use super::recorder::{Recorder, Seen};
use super::sampler::Sampler;
use super::verdict::{ENGINE, MEMORY_SERVER, engines_lost, engines_lost_told};
use crate::args::{DemoArgs, Workload};
use crate::client::Client;
use crate::cluster::paths::Programs;
use crate::cluster::record::BORROWER;
use crate::cluster::up::{self, Cluster};
use crate::interrupt::Interrupt;
use crate::report::{Circle, Kill, Mark};
use crate::run_container::LocalContainer;
use crate::ui::{Ui, human_bytes, human_count, human_us};

/// Time between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Longest wait for any one step.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for a pass over everything, and for a swapoff.
pub(super) const PASS_LIMIT: Duration = Duration::from_secs(600);

/// A running demo.
#[derive(Debug)]
pub struct Demo {
    // Dropped in this order: the workload first, the cluster last.
    load: Option<Load>,
    sampler: Option<Sampler>,
    pub(super) container: Option<LocalContainer>,
    pub(super) cluster: Option<Cluster>,
    settings: up::Settings,
    workload: Workload,
    pub(super) memory: Bytes,
    calm: Duration,
    interrupt: Interrupt,
    /// What is seen.
    pub recorder: Arc<Recorder>,
    /// What was killed.
    pub kills: Vec<Kill>,
    /// What came of the second half.
    pub circle: Option<Circle>,
    /// Processes that ended and should not have.
    pub lost: Vec<String>,
    /// Processes that are meant to end.
    expected_dead: Vec<String>,
    /// What could not be removed.
    pub left_behind: Vec<String>,
}

impl Demo {
    /// Prepares a demo; nothing is started.
    #[must_use]
    pub fn new(args: &DemoArgs, settings: up::Settings, interrupt: Interrupt) -> Self {
        Self {
            load: None,
            sampler: None,
            container: None,
            cluster: None,
            recorder: Arc::new(Recorder::new(settings.shape.donor_names())),
            settings,
            workload: args.workload,
            memory: args.memory,
            calm: Duration::from_secs_f64(args.calm),
            interrupt,
            kills: Vec::new(),
            circle: None,
            lost: Vec::new(),
            expected_dead: Vec::new(),
            left_behind: Vec::new(),
        }
    }

    /// Whether there was ever a cluster.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.cluster.is_some()
    }

    /// Tells the story.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn play(&mut self, policy: &str, ui: &mut Ui) -> Result<()> {
        let programs = Programs::find()?;
        self.start_cluster(&programs, ui)?;
        self.apply(policy, ui)?;
        self.start_load(&programs, ui)?;
        self.calm("load, everything healthy", ui)?;
        self.kill_memory_server(ui)?;
        self.calm("load, on the donors that are left", ui)?;
        self.kill_engine(ui)?;
        self.calm("load, on the new engine", ui)?;
        self.full_circle(policy, ui)?;
        self.check_everything(ui)?;
        self.swap_off(ui)?;
        self.finish(ui)
    }

    fn start_cluster(&mut self, programs: &Programs, ui: &mut Ui) -> Result<()> {
        let mut cluster = Cluster::start(&self.settings, &self.interrupt, ui)?;
        let parent = Some(std::process::id());
        let mut watchdog = up::watchdog_command(programs, &cluster.paths, parent);
        cluster.spawn("watchdog", &mut watchdog)?;
        self.cluster = Some(cluster);
        ui.done("watchdog", "aborts the device if nobody serves it for 30 s");
        Ok(())
    }

    fn apply(&mut self, policy: &str, ui: &mut Ui) -> Result<()> {
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        let local = LocalContainer::create(
            &cluster.paths,
            self.workload.as_str(),
            [("app".to_owned(), "demo".to_owned())],
            Bytes::new(self.memory.get() / 2),
        )?;
        let pressure = local.container.unified_cgroup().to_owned();
        self.container = Some(local);
        let controller = cluster.record.controller.clone();
        let mut client = Client::new(&controller)?;
        for line in client.apply(policy.to_owned())? {
            ui.done("policy", &line);
        }
        self.sampler = Some(Sampler::start(
            &controller,
            pressure,
            Arc::clone(&self.recorder),
        )?);
        let path = self.wait(ui, "the swap device to be attached", STEP_LIMIT, |seen| {
            let device = seen.summary.devices.first()?;
            device.attached.then(|| (device.path.clone(), device.size))
        })?;
        let told = format!("{} of {} is in use as swap", path.0, human_bytes(path.1));
        self.recorder.event("Attached", &told, Mark::Step);
        ui.done("swap device", &told);
        Ok(())
    }

    fn start_load(&mut self, programs: &Programs, ui: &mut Ui) -> Result<()> {
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        let local = self.container.as_ref().context("there is no container")?;
        let places = (programs, &cluster.paths, &local.container);
        let recorder = Arc::clone(&self.recorder);
        self.load = Some(Load::start(self.workload, self.memory, places, recorder)?);
        let eighth = self.memory.get() / 8;
        self.wait(ui, "pages to go remote", STEP_LIMIT, |seen| {
            (seen.summary.used() >= eighth).then_some(())
        })?;
        ui.done("paging", "the first pages are on the donors");
        self.wait(ui, "the memory to be filled", PASS_LIMIT, |seen| {
            let load = seen.phases.iter().any(|phase| phase.name == "load");
            (load && seen.progress.swap_ins > 0).then_some(())
        })?;
        let held = self.held();
        self.recorder.event(
            "Filled",
            "everything is written once, the load begins",
            Mark::Step,
        );
        ui.done("filled", &held);
        Ok(())
    }

    /// Who holds how much, in words.
    fn held(&self) -> String {
        let seen = self.recorder.seen();
        let held = seen.summary.donors.iter();
        let held: Vec<String> = held
            .map(|donor| format!("{} {}", donor.node, human_bytes(donor.held)))
            .collect();
        format!(
            "{} are remote: {}",
            human_bytes(seen.summary.used()),
            held.join(", ")
        )
    }

    /// Lets the load run for a while.
    pub(super) fn calm(&mut self, what: &str, ui: &mut Ui) -> Result<()> {
        let until = Instant::now() + self.calm;
        self.wait(ui, what, self.calm + STEP_LIMIT, |_| {
            (Instant::now() >= until).then_some(())
        })?;
        let seen = self.recorder.seen();
        let progress = &seen.progress;
        let rate = human_count(whole(progress.ops_per_second));
        let told = format!(
            "{rate} accesses/s, swap-in p50 {} p99 {}",
            human_us(progress.p50_us),
            human_us(progress.p99_us)
        );
        drop(seen);
        ui.done("load", &told);
        Ok(())
    }

    fn kill_memory_server(&mut self, ui: &mut Ui) -> Result<()> {
        let (node, held) = {
            let seen = self.recorder.seen();
            let most = seen.summary.donors.iter().max_by_key(|donor| donor.held);
            let most = most.context("no donor is known")?;
            (most.node.clone(), most.held)
        };
        let name = format!("{node}/memory-server");
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        let process = cluster
            .record
            .process(&name)
            .context("no such process")?
            .clone();
        self.expected_dead.push(name);
        process.signal(Signal::KILL);
        let told = format!(
            "kill -9 of the memory server of {node}, which held {}",
            human_bytes(held)
        );
        let t_ms = self.recorder.event("ServerKilled", &told, Mark::Broken);
        ui.strike(
            "kill -9 memory server",
            &format!("{node}, which held {}", human_bytes(held)),
        );
        self.kills.push(Kill {
            t_ms,
            what: MEMORY_SERVER.to_owned(),
            node: node.clone(),
            pid: u32::try_from(process.pid).unwrap_or(0),
            bytes_held: held,
            ..Kill::default()
        });
        self.wait(ui, "the lost copies to be made again", STEP_LIMIT, |seen| {
            let dead = seen.summary.donors.iter().find(|donor| donor.node == node);
            let forgotten = dead.is_none_or(|donor| donor.sets == 0);
            let whole = seen
                .summary
                .devices
                .iter()
                .all(|device| device.sets_unwhole == 0);
            (forgotten && whole && seen.summary.degraded() == 0).then_some(())
        })?;
        let mended = self.recorder.event(
            "Rebuilt",
            "every lost copy is made again on another donor",
            Mark::Mended,
        );
        self.repaired(mended - t_ms);
        let took = human_us((mended - t_ms) * 1000);
        let held = self.held();
        ui.done(
            "rebuilt",
            &format!("every copy is whole again after {took}; {held}"),
        );
        Ok(())
    }

    fn kill_engine(&mut self, ui: &mut Ui) -> Result<()> {
        let (pid, starts) = {
            let seen = self.recorder.seen();
            let device = seen.summary.devices.first().context("no device is known")?;
            (device.engine_pid, device.engine_starts)
        };
        let process = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let process = process.context("the engine's process is not known")?;
        rustix::process::kill_process(process, Signal::KILL)
            .context("the engine is gone already")?;
        let told = format!("kill -9 of the swapd engine, process {pid}, under load");
        let t_ms = self.recorder.event("EngineKilled", &told, Mark::Broken);
        ui.strike(
            "kill -9 swapd engine",
            &format!("process {pid}, under load"),
        );
        self.kills.push(Kill {
            t_ms,
            what: ENGINE.to_owned(),
            node: BORROWER.to_owned(),
            pid,
            ..Kill::default()
        });
        let served = self.wait(ui, "a new engine to serve", STEP_LIMIT, |seen| {
            let swapped_in = |sample: &&crate::report::series::WorkloadSample| {
                // A sample covers the time before it: one that began after the kill counts.
                sample.t_ms > t_ms + 120 && sample.swap_ins > 0
            };
            seen.series
                .workload
                .iter()
                .find(swapped_in)
                .map(|sample| sample.t_ms)
        })?;
        self.recorder.event(
            "EngineBack",
            "a new engine process serves the device",
            Mark::Mended,
        );
        self.repaired(served - t_ms);
        let new = self.wait(ui, "the new engine to report", STEP_LIMIT, |seen| {
            let device = seen.summary.devices.first()?;
            (device.engine_starts > starts).then_some(device.engine_pid)
        })?;
        let took = human_us((served - t_ms) * 1000);
        ui.done(
            "engine back",
            &format!("process {new} serves, after at most {took}"),
        );
        Ok(())
    }

    fn repaired(&mut self, after_ms: u64) {
        if let Some(kill) = self.kills.last_mut() {
            kill.repaired_ms = Some(after_ms);
        }
    }

    fn check_everything(&mut self, ui: &mut Ui) -> Result<()> {
        self.tell("check")?;
        self.wait(
            ui,
            "every page to be checked through the device",
            PASS_LIMIT,
            |seen| (seen.passes > 0).then_some(()),
        )?;
        let told = {
            let seen = self.recorder.seen();
            format!(
                "every page read back: {} checks so far, {} wrong",
                human_count(seen.progress.pages_checked),
                seen.progress.wrong_pages
            )
        };
        self.recorder.event("Checked", &told, Mark::Step);
        ui.done("checked", &told);
        Ok(())
    }

    /// Gives the workload room, then swaps off through the product's own path.
    fn swap_off(&mut self, ui: &mut Ui) -> Result<()> {
        self.recorder
            .event("SwapOff", "swapoff: all pages come home", Mark::Step);
        self.recorder.phase("swapoff");
        let local = self.container.as_ref().context("there is no container")?;
        local
            .container
            .set_limit(Bytes::new(self.memory.get().saturating_mul(2)))?;
        let name = format!("{BORROWER}/swapd");
        let cluster = self.cluster.as_ref().context("there is no cluster")?;
        let holder = cluster
            .record
            .process(&name)
            .context("no such process")?
            .clone();
        self.expected_dead.push(name);
        holder.signal(Signal::TERM);
        let began = Instant::now();
        self.wait(ui, "all pages to come home", PASS_LIMIT, |_| {
            (!holder.is_alive()).then_some(())
        })?;
        let told = format!(
            "all pages are home after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        self.recorder.event("Home", &told, Mark::Step);
        ui.done("swapoff", &told);
        Ok(())
    }

    fn finish(&mut self, ui: &mut Ui) -> Result<()> {
        self.tell("finish")?;
        self.wait(ui, "the last check of every page", PASS_LIMIT, |seen| {
            seen.end.clone()
        })?;
        let mut load = self.load.take().context("there is no workload")?;
        let deadline = Instant::now() + STEP_LIMIT;
        let status = loop {
            if let Some(status) = load.ended() {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("the workload does not end after its last check");
            }
            self.interrupt.wait(LOOK_EVERY)?;
        };
        self.recorder.end_phases();
        let end = self.recorder.seen().end.clone().unwrap_or_default();
        let told = format!(
            "{} checks, {} wrong, {} pages in the last pass",
            human_count(end.pages_checked),
            human_count(end.wrong_pages),
            human_count(end.pages_final)
        );
        if end.wrong_pages > 0 {
            ui.bad("verified", &told);
            bail!(
                "{} pages are wrong (the workload ended with {status})",
                end.wrong_pages
            );
        }
        ui.done("verified", &told);
        Ok(())
    }

    pub(super) fn tell(&mut self, command: &str) -> Result<()> {
        let load = self.load.as_mut().context("there is no workload")?;
        load.tell(command)
    }

    /// Waits until `ready` has something; fails when a process is lost, a page is wrong, or the
    /// limit is over.
    pub(super) fn wait<T>(
        &mut self,
        ui: &mut Ui,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let (found, live) = {
                let seen = self.recorder.seen();
                (ready(&seen), live_line(what, &seen))
            };
            if let Some(found) = found {
                ui.clear_live();
                return Ok(found);
            }
            self.check_processes()?;
            if Instant::now() >= deadline {
                let plan = self.recorder.seen().summary.plan.join("; ");
                bail!(
                    "waited {} s for {what} in vain (plan: {plan})",
                    limit.as_secs()
                );
            }
            ui.live(&live);
            self.interrupt.wait(LOOK_EVERY)?;
        }
    }

    /// Fails if a process ended that should not have, or a page is wrong.
    fn check_processes(&mut self) -> Result<()> {
        if let Some(status) = self.load.as_mut().and_then(Load::ended)
            && self.recorder.seen().end.is_none()
        {
            self.lost.push(self.workload.as_str().to_owned());
            self.load = None;
            bail!(
                "the workload {} ended with {status}",
                self.workload.as_str()
            );
        }
        let cluster = self.cluster.as_mut().context("there is no cluster")?;
        for process in &mut cluster.processes {
            let expected = self.expected_dead.contains(&process.record.name);
            if let Some(status) = process.ended()
                && !expected
            {
                let name = process.record.name.clone();
                let words = process.record.last_log_lines().join("; ");
                self.lost.push(name.clone());
                self.expected_dead.push(name.clone());
                bail!("{name} ended with {status}: {words}");
            }
        }
        let seen = self.recorder.seen();
        let engines = engines_lost(seen.engine_starts, &self.kills);
        if engines > 0 {
            bail!("{}", engines_lost_told(engines));
        }
        match seen.wrong.first() {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(()),
        }
    }

    /// Ends everything and notes what is left; keeps the logs of a failure in `out`.
    pub fn clean_up(&mut self, ui: &mut Ui) {
        ui.clear_live();
        self.load = None;
        self.container = None;
        if let Some(cluster) = &mut self.cluster {
            self.left_behind = cluster.take_down(ui);
            if self.left_behind.is_empty() {
                ui.done("down", "nothing is left behind");
            }
            for left in &self.left_behind {
                ui.bad("left behind", left);
            }
        }
        self.sampler = None;
    }

    /// Copies the logs into `directory`.
    pub fn save_logs(&self, directory: &Path) {
        let Some(cluster) = &self.cluster else { return };
        let logs = std::fs::read_dir(cluster.paths.logs())
            .into_iter()
            .flatten()
            .flatten();
        let made = std::fs::create_dir_all(directory);
        for log in logs.filter(|_| made.is_ok()) {
            // A log that cannot be copied takes nothing from the verdict.
            let _copied = std::fs::copy(log.path(), directory.join(log.file_name()));
        }
    }
}

/// What a person sees while waiting.
fn live_line(what: &str, seen: &Seen) -> String {
    let progress = &seen.progress;
    let Some(phase) = progress.phase else {
        return format!("waiting for {what}");
    };
    format!(
        "{what} │ {} {}/s │ swap-in p50 {} p99 {} │ remote {} │ {} checks, {} wrong",
        phase.as_str(),
        human_count(whole(progress.ops_per_second)),
        human_us(progress.p50_us),
        human_us(progress.p99_us),
        human_bytes(seen.summary.used()),
        human_count(progress.pages_checked),
        progress.wrong_pages
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people, never negative"
)]
fn whole(rate: f64) -> u64 {
    rate.max(0.0) as u64
}
