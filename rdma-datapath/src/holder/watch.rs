//! The holder's loop: signals, the end of processes, the heartbeat, and what follows from them.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use dynamicswap_engine::tables::{AttachState, EngineState};
use dynamicswap_types::{Bytes, MonotonicTime};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;

use super::attachment::{Attachment, Job};
use super::helper::Outcome;
use super::options::Options;
use super::pinned::PinnedProgram;
use super::process::Process;
use super::resources::Resources;
use super::supervisor::{Step, Supervisor};
use super::takeover;
use crate::daemon::clock::monotonic_now;
use crate::daemon::options::{BadInput, EXIT_BAD_INPUT};
use crate::daemon::signals::Signals;
use crate::device::swap_area;
use crate::device::swap_users::{is_anyone_out, kept_ready};
use crate::front_end::choice::FrontEndKind;
use crate::swapd::memory::SwapdMemory;
use crate::swapd::{EXIT_FENCED, EXIT_GONE};

/// The heartbeat is looked at this often at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The kernel's list of swap areas is looked at this often.
const SWAPS_INTERVAL: Duration = Duration::from_secs(1);
/// Helpers of a holder that died are awaited this long.
const HELPER_TIME_MAX: Duration = Duration::from_secs(10);
/// A killed engine is awaited this long at the end.
const END_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests that an engine works on get this long before it is replaced as planned.
const QUIESCE_TIME_MAX: Duration = Duration::from_secs(1);
/// Engines that may end before the first one serves.
const START_TRIES_MAX: usize = 5;
/// Tries to detach a device whose connection is gone.
const GONE_TRIES_MAX: u32 = 3;

/// A device that the next holder can take over, and that has pages, is not touched for this long after
/// the wish to stop. kubelet kills a pod that is deleted by force 2 s after it has asked, and a swapoff
/// that was begun by then would have left containers at their limits with nowhere to swap to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why the holder ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// Somebody asked for it.
    Asked,
    /// The first engine refused to start.
    BadInput,
    /// The connection is gone: nothing can be served any more.
    Gone(&'static str),
}

/// The watch over one device.
#[derive(Debug)]
pub struct Watch {
    // Before the resources, which an engine keeps busy.
    engine: Option<Process>,
    helper: Option<Process>,
    options: Options,
    program: PathBuf,
    pinned: PinnedProgram,
    signals: Signals,
    supervisor: Supervisor,
    attachment: Attachment,
    stop: Option<Stop>,
    /// When a stop that somebody asked for begins to detach.
    detach_at: MonotonicTime,
    gone_tries: u32,
    swaps_at: MonotonicTime,
    resources: Resources,
}

impl Watch {
    /// Finds the engine's program.
    ///
    /// # Errors
    /// [`BadInput`] if there is none.
    pub fn new(
        options: &Options,
        resources: Resources,
        signals: Signals,
        engine: Option<Process>,
    ) -> anyhow::Result<Self> {
        let program = match &options.engine {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("find this program's own path")?
                .with_file_name("dynamicswap-swapd-engine"),
        };
        let pinned = PinnedProgram::new(&program).map_err(|error| {
            BadInput::new(format!(
                "the engine's program {} cannot be read ({error}): install it, or name it with --engine",
                program.display()
            ))
        })?;
        let now = monotonic_now();
        let mut supervisor = Supervisor::new(options.limits(), now);
        let (state, number) = match (&engine, resources.front.ublk()) {
            (_, Some(number)) => takeover::ublk_state(number)?,
            (Some(_), None) => settled_device(&resources, &signals)?,
            (None, None) => (AttachState::Detached, None),
        };
        if engine.is_some() {
            supervisor.started(now);
        }
        Ok(Self {
            engine,
            helper: None,
            options: options.clone(),
            program,
            pinned,
            signals,
            supervisor,
            attachment: Attachment::new(state, number),
            stop: None,
            detach_at: now,
            gone_tries: 0,
            swaps_at: now,
            resources,
        })
    }

    /// Holds the device until told to stop and detached.
    ///
    /// # Errors
    /// What ended it otherwise; everything that can be undone is undone.
    pub fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.look_at_heartbeat();
            self.look_at_swaps();
            self.drive_device();
            if self.is_finished() {
                break;
            }
            self.wait()?;
            self.take_signals()?;
            self.reap_helper()?;
            self.reap_engine()?;
        }
        self.end_engine();
        match self.stop {
            Some(Stop::BadInput) => {
                Err(BadInput::new("no engine could be started: see the messages above").into())
            }
            Some(Stop::Gone(why)) => anyhow::bail!("{why}"),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> &SwapdMemory {
        &self.resources.memory
    }

    fn wait(&self) -> anyhow::Result<()> {
        let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let processes = self.engine.iter().chain(&self.helper);
        watched.extend(processes.map(|process| PollFd::new(process, PollFlags::IN)));
        let timeout = Timespec::try_from(LOOK_INTERVAL).context("a time")?;
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context("wait for events"),
        }
    }

    fn take_signals(&mut self) -> anyhow::Result<()> {
        while let Some(signal) = self.signals.take().context("read signals")? {
            if signal == Signal::HUP {
                self.replace_engine();
                continue;
            }
            // Who asks twice does not want to wait.
            self.detach_at = monotonic_now();
            if self.stop.is_none() {
                tracing::info!("asked to stop: the device is detached first");
                self.stop = Some(Stop::Asked);
                self.memory().set_stopping();
                if self.kind() == FrontEndKind::Ublk {
                    self.detach_at = self.detach_at.after(STOP_PATIENCE);
                }
            }
            self.attachment.hurry();
        }
        Ok(())
    }

    /// A planned change of engines, as after an upgrade of its program: the kernel lets the present
    /// one finish where it can, and hands what is left to the next one in any case.
    fn replace_engine(&mut self) {
        if self.stop.is_some() || self.engine.is_none() {
            return;
        }
        tracing::info!("asked to replace the engine");
        match self.resources.front.quiesce(QUIESCE_TIME_MAX) {
            Ok(true) => tracing::info!("the device is quiesced for the change"),
            Ok(false) => {}
            Err(error) => tracing::warn!("{error}: the engine is replaced all the same"),
        }
        if let Some(engine) = &self.engine {
            engine.kill();
        }
    }

    fn look_at_heartbeat(&mut self) {
        if matches!(self.stop, Some(Stop::Gone(_) | Stop::BadInput)) {
            return;
        }
        let beats = self.memory().header().heartbeat.load(Ordering::Acquire);
        match self.supervisor.look(monotonic_now(), beats) {
            None => {}
            Some(Step::Start) => self.start_engine(),
            Some(Step::Kill(silent)) => {
                tracing::warn!("the engine's heartbeat stood still for {silent:?}: it is replaced");
                if let Some(engine) = &self.engine {
                    engine.kill();
                }
            }
            Some(Step::Abort(unserved)) => self.abort(unserved),
        }
    }

    fn abort(&mut self, unserved: Duration) {
        tracing::error!("no engine has served the device for {unserved:?}: it is aborted");
        self.close_connection(
            "the device was aborted because no engine served it; its pages are lost",
        );
    }

    /// Ends every request with an error: nothing can serve them any more.
    fn close_connection(&mut self, why: &'static str) {
        self.stop = Some(Stop::Gone(why));
        self.attachment.hurry();
        let is_idle = self.attachment.state().0 == AttachState::Attached;
        if self.kind() == FrontEndKind::Ublk && is_idle {
            // A ublk device that is stopped cannot be turned off as swap any more: the detach helper
            // does both, in the right order.
            return;
        }
        if let Err(error) = self.resources.front.abort() {
            tracing::error!("{error}");
        }
    }

    fn kind(&self) -> FrontEndKind {
        self.resources.choice.kind
    }

    /// Whether any engine has begun to serve.
    fn has_served(&self) -> bool {
        self.memory().serving_since() != 0
    }

    fn start_engine(&mut self) {
        if self.pinned.is_replaced(&self.program)
            && let Ok(pinned) = PinnedProgram::new(&self.program)
        {
            self.pinned = pinned;
        }
        self.prepare_front();
        let starting = EngineState::Starting as u32;
        let header = self.memory().header();
        header.engine_state.store(starting, Ordering::Release);
        let mut command = self.engine_command();
        let started = Process::start(&mut command, &self.resources.descriptors.all());
        let now = monotonic_now();
        self.supervisor.started(now);
        match started {
            Ok(engine) => {
                let header = self.memory().header();
                header.engine_pid.store(engine.pid(), Ordering::Release);
                header.engine_starts.fetch_add(1, Ordering::AcqRel);
                self.engine = Some(engine);
            }
            Err(error) => {
                tracing::error!("cannot start {}: {error}", self.program.display());
                self.supervisor.exited(now);
                if self.memory().header().engine_starts.load(Ordering::Acquire) == 0 {
                    self.stop = Some(Stop::BadInput);
                }
            }
        }
    }

    /// A ublk device whose engine died before it was started takes no other one and is made anew.
    fn prepare_front(&mut self) {
        if self.memory().header().engine_starts.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Err(error) = self.resources.front.prepare() {
            tracing::error!("{error}");
        }
        self.resources.note_front();
    }

    fn engine_command(&self) -> Command {
        use clap::ValueEnum;
        let descriptors = &self.resources.descriptors;
        let mut command = Command::new(&self.program);
        command
            .arg("--node")
            .arg(self.options.node.as_str())
            .arg("--state-dir")
            .arg(&self.resources.paths().state);
        let numbers = [
            ("--fuse-fd", descriptors.fuse.as_ref()),
            ("--memory-fd", Some(&descriptors.memory)),
            ("--control-fd", Some(&descriptors.control)),
            ("--lock-fd", Some(&descriptors.lock)),
            ("--spill-fd", descriptors.spill.as_ref()),
        ];
        for (name, descriptor) in numbers {
            if let Some(descriptor) = descriptor {
                command.arg(name).arg(descriptor.as_raw_fd().to_string());
            }
        }
        if let Some(number) = self.resources.front.ublk() {
            command.arg("--ublk").arg(number.to_string());
        }
        command
            .arg("--front-end-reason")
            .arg(&self.resources.choice.reason);
        if let Some(backend) = self.options.backend.to_possible_value() {
            command.arg("--backend").arg(backend.get_name());
        }
        command
            .arg("--spin-us")
            .arg(self.options.spin_us.to_string())
            .stdin(Stdio::null());
        command
    }

    fn reap_engine(&mut self) -> anyhow::Result<()> {
        let Some(mut engine) = self.engine.take_if(|engine| has_ended(engine)) else {
            return Ok(());
        };
        let ending = engine.ending().context("await the engine")?;
        let now = monotonic_now();
        self.supervisor.exited(now);
        match ending.code.and_then(|code| u8::try_from(code).ok()) {
            Some(EXIT_GONE) if self.resources.front.outlives_engine() => {
                tracing::info!("the engine (process {}) gave the device back", engine.pid());
            }
            Some(EXIT_GONE) if self.stop.is_none() => {
                tracing::error!("the kernel closed the device's connection");
                let why = "the device's connection was closed from outside; its pages are lost";
                self.stop = Some(Stop::Gone(why));
            }
            Some(EXIT_FENCED) => {
                let why = "a newer engine of this device exists, so this one was stopped for good";
                self.close_connection(why);
            }
            Some(EXIT_BAD_INPUT) if !self.has_served() => self.stop = Some(Stop::BadInput),
            _ => {
                tracing::warn!("the engine (process {}) {ending}", engine.pid());
                if !self.has_served() && self.supervisor.failures() >= START_TRIES_MAX {
                    self.stop = Some(Stop::BadInput);
                }
            }
        }
        Ok(())
    }

    fn drive_device(&mut self) {
        // Once attached, only a document takes that back.
        let wanted = match self.attachment.state().0 {
            AttachState::Detached => self.memory().attach_wanted(),
            AttachState::Attached if !self.memory().attach_desired() => self.holds_pages(),
            _ => self.memory().attach_desired(),
        };
        let now = monotonic_now();
        let wanted = wanted && (self.stop.is_none() || self.is_patient(now));
        if let Some(job) = self.attachment.next_job(now, wanted) {
            self.start_helper(job);
        }
        let (state, number) = self.attachment.state();
        if self.memory().device() != (state, number) {
            self.memory().set_device(state, number);
        }
    }

    /// Whether a stop still waits for the kill that may follow it.
    fn is_patient(&self, now: MonotonicTime) -> bool {
        let is_attached = self.attachment.state().0 == AttachState::Attached;
        let is_asked = self.stop == Some(Stop::Asked);
        is_attached && is_asked && now < self.detach_at && self.holds_pages()
    }

    /// Whether the kernel has pages on the device. Taking it away would charge them to containers
    /// that may be at their limit, and the kernel would kill those: a policy that is gone is no
    /// reason for that, so the device stays until its pages have come home. A stop does not ask.
    fn holds_pages(&self) -> bool {
        let number = self.attachment.state().1;
        // What cannot be known counts as pages: staying attached harms nobody.
        number.is_some_and(|number| {
            let used = swap_area::used(&self.kind().path(number));
            !used.is_ok_and(|used| {
                let used = used.unwrap_or_default();
                used == Bytes::ZERO || used <= kept_ready() && !is_anyone_out()
            })
        })
    }

    fn start_helper(&mut self, job: Job) {
        let started = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            self.helper_arguments(&mut command, job);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            Process::start(&mut command, &[])
        });
        match started {
            Ok(helper) => self.helper = Some(helper),
            Err(error) => {
                self.helper_failed(&format!("a helper process cannot be started: {error}"))
            }
        }
    }

    fn helper_arguments(&self, command: &mut Command, job: Job) {
        let kind = self.kind();
        match job {
            Job::Detach if kind == FrontEndKind::Ublk && self.is_gone() => {
                let state = &self.resources.paths().state;
                command.arg("abort").arg("--state-dir").arg(state);
                return;
            }
            Job::Detach => {
                let number = self.attachment.state().1.unwrap_or_default();
                command.args(["detach", "--device"]).arg(kind.path(number));
            }
            Job::Attach => {
                let id = self
                    .memory()
                    .identity()
                    .map(|identity| identity.device_id.to_string());
                command.args(["attach", "--size", &self.options.size.to_string()]);
                command.args(["--id", &id.unwrap_or_default()]);
                if let Some(priority) = self.options.priority {
                    command.args(["--priority", &priority.get().to_string()]);
                }
            }
        }
        match (self.resources.front.ublk(), job) {
            (Some(number), Job::Attach) => command.arg("--device").arg(kind.path(number)),
            (Some(_), Job::Detach) => command,
            (None, _) => command
                .arg("--backing")
                .arg(self.resources.paths().backing()),
        };
    }

    fn is_gone(&self) -> bool {
        matches!(self.stop, Some(Stop::Gone(_)))
    }

    fn reap_helper(&mut self) -> anyhow::Result<()> {
        let Some(mut helper) = self.helper.take_if(|helper| has_ended(helper)) else {
            return Ok(());
        };
        let ending = helper.ending().context("await a helper")?;
        match Outcome::from_output(&helper.output()) {
            Some(Outcome::Attached(path)) => {
                tracing::info!("attached as {}", path.display());
                self.attachment.succeeded(self.kind().number(&path));
                self.clear_failure();
            }
            Some(Outcome::Detached) => {
                tracing::info!("detached");
                self.attachment.succeeded(None);
                self.clear_failure();
            }
            Some(Outcome::Failed(sentence)) => self.helper_failed(&sentence),
            None => self.helper_failed(&format!("the helper process {ending} without a result")),
        }
        Ok(())
    }

    fn helper_failed(&mut self, sentence: &str) {
        if self.is_gone() {
            self.gone_tries += 1;
        }
        tracing::warn!("{sentence}");
        self.memory().set_failure(sentence);
        self.attachment.failed(monotonic_now());
    }

    fn clear_failure(&self) {
        if !self.memory().failure().is_empty() {
            self.memory().set_failure("");
        }
    }

    /// Notices a swapoff by somebody else.
    fn look_at_swaps(&mut self) {
        let now = monotonic_now();
        let (AttachState::Attached, Some(number)) = self.attachment.state() else {
            return;
        };
        if now.since(self.swaps_at) < SWAPS_INTERVAL {
            return;
        }
        self.swaps_at = now;
        let device = self.kind().path(number);
        if let Ok(false) = swap_area::is_on(&device) {
            tracing::warn!("somebody turned swap on {} off", device.display());
            self.attachment.lost();
        }
    }

    fn is_finished(&self) -> bool {
        let Some(stop) = &self.stop else {
            return false;
        };
        let given_up =
            matches!(stop, Stop::Gone(_)) && self.gone_tries >= GONE_TRIES_MAX && !self.is_swap();
        let detached = self.attachment.state().0 == AttachState::Detached;
        self.helper.is_none() && (detached || given_up)
    }

    /// Whether the device is still in use as swap: then it is not left to itself, served or not.
    fn is_swap(&self) -> bool {
        let number = self.attachment.state().1;
        number.is_some_and(|number| {
            let device = self.kind().path(number);
            swap_area::is_on(&device).unwrap_or(true)
        })
    }

    /// Nothing needs the engine any more.
    fn end_engine(&mut self) {
        let Some(mut engine) = self.engine.take() else {
            return;
        };
        engine.kill();
        let mut ended = [PollFd::new(&engine, PollFlags::IN)];
        let timeout = Timespec::try_from(END_TIME_MAX).ok();
        if !matches!(poll(&mut ended, timeout.as_ref()), Ok(1)) {
            tracing::error!("the engine (process {}) does not end", engine.pid());
        } else if let Err(error) = engine.ending() {
            tracing::warn!("the engine cannot be awaited: {error}");
        }
    }
}

/// What the block device is doing, after the helpers of a dead holder have ended.
fn settled_device(
    resources: &Resources,
    signals: &Signals,
) -> anyhow::Result<(AttachState, Option<u32>)> {
    let backing = resources.paths().backing();
    let deadline = monotonic_now().after(HELPER_TIME_MAX);
    loop {
        let state = takeover::device_state(&backing)?;
        if let Some(state) = state {
            return Ok(state);
        }
        if monotonic_now() > deadline {
            tracing::warn!(
                "a helper of the holder before does not end: the device counts as detached"
            );
            return Ok((AttachState::Detached, None));
        }
        let mut pause = [PollFd::new(signals, PollFlags::IN)];
        let timeout = Timespec::try_from(LOOK_INTERVAL).context("a time")?;
        // A signal ends the pause early, and is taken later.
        let _ = poll(&mut pause, Some(&timeout));
    }
}

/// Whether the process has ended, without waiting.
fn has_ended(process: &Process) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut watched, Some(&now)), Ok(1))
}
