//! The agent's one task: owns the kept document, the session, the daemons, the pressure and who
//! may swap, waits for what happens next and acts on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamicswap_policy::{Device, SwapLimit, Trigger};
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::{DesiredDocument, Hello, NodeReport};
use dynamicswap_proto::daemon::v1::report;
use dynamicswap_types::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::allowance::Allowance;
use crate::attachment::{Gate, System, is_system};
use crate::cgroup::{Layout, SwapLimits};
use crate::config::Config;
use crate::courier::{Courier, Role};
use crate::credentials::Wallet;
use crate::document::KeptDocument;
use crate::guards::{Guarded, Guards};
use crate::journal::{Action, Journal};
use crate::kubernetes::{Cluster, PodSource};
use crate::lending::{DonorFigures, Lending};
use crate::limits::{COUNTS_REFRESH, REPORT_SPACING, TICK, WARNINGS_MAX};
use crate::metrics::Snapshot;
use crate::metrics::serve::Scrape;
use crate::node;
use crate::originals::{Originals, OriginalsError};
use crate::pressure::{ContainerSource, Origin, PressureMonitor};
use crate::repaging::{Ended, Pageable, Repaging, decided, settings};
use crate::session::{Session, SessionEvent};
use crate::watches::{Subject, WatchEvent};

/// Times of looks at pressure: by the timer, and as soon as a trigger fires, but never two within
/// [`REPORT_SPACING`].
#[derive(Debug)]
struct Looks {
    every: Duration,
    last: Instant,
    timer_at: Instant,
    fired: BTreeMap<Subject, Trigger>,
}

impl Looks {
    fn due_at(&self) -> Instant {
        if self.fired.is_empty() {
            return self.timer_at;
        }
        self.timer_at.min(self.last + REPORT_SPACING)
    }
}

/// The agent; see the module.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    kept: KeptDocument,
    session: Session,
    controller_away: bool,
    swapd: Option<Courier>,
    memory_server: Option<Courier>,
    pressure: PressureMonitor,
    originals: Originals,
    /// Where swap is limited, if this host can and the agent decides who may swap.
    swap_limits: Option<SwapLimits>,
    allowance: Allowance,
    guards: Guards,
    /// What leaves ahead of the need and comes home, on a borrower whose containers are known.
    repaging: Option<Repaging>,
    /// What the node lends, on a donor.
    lending: Option<Lending>,
    gate: Gate,
    looks: Looks,
    journal: Journal,
    tick_at: Instant,
    refreshed: Instant,
    report_due: bool,
    reported: Instant,
    /// Who wants metrics, if they are served.
    scrapes: Option<mpsc::Receiver<Scrape>>,
}

/// What has happened.
enum Happened {
    Session(SessionEvent),
    Daemon,
    Trigger(WatchEvent),
    Repaged(Ended),
    LookDue,
    CountsDue,
    Tick,
    Scrape(Scrape),
}

impl Agent {
    /// Starts to follow the daemons and to watch pressure; on a Kubernetes node with what
    /// `cluster` tells.
    #[must_use]
    pub fn new(
        config: Config,
        kept: KeptDocument,
        originals: Originals,
        cluster: Option<&Cluster>,
    ) -> Self {
        let now = Instant::now();
        let follow = |role, socket: &Option<_>| {
            let socket = socket.clone();
            socket.map(|socket| Courier::start(role, socket))
        };
        let source = source(&config, cluster);
        let layout = source.as_ref().map(|source| source.layout.clone());
        let lending = config.memory_server.clone();
        let mut pressure = PressureMonitor::new(source, config.look_every);
        pressure.set_policies(&kept.current().policies_json);
        let swap_limits = cluster.and(swap_limits(&config));
        if let Some(cgroups) = &swap_limits {
            // Those that the agent before this one has set are no limits either.
            pressure.set_guards(own_guards(&originals, cgroups));
        }
        Self {
            session: session(&config),
            controller_away: false,
            swapd: follow(Role::SwapDevice, &config.swapd),
            memory_server: follow(Role::MemoryServer, &config.memory_server),
            pressure,
            originals,
            swap_limits,
            allowance: Allowance::default(),
            guards: Guards::default(),
            repaging: layout.filter(|_| config.swapd.is_some()).map(Repaging::new),
            lending: lending.map(|socket| Lending::new(socket, config.lend_max)),
            gate: gate(&config, cluster),
            looks: Looks {
                every: config.look_every,
                last: now,
                timer_at: now,
                fired: BTreeMap::new(),
            },
            journal: Journal::default(),
            tick_at: now + TICK,
            refreshed: now,
            report_due: true,
            reported: now,
            scrapes: None,
            config,
            kept,
        }
    }

    /// Answers those who want metrics, from now on.
    pub fn answer(&mut self, scrapes: mpsc::Receiver<Scrape>) {
        self.scrapes = Some(scrapes);
    }

    /// Runs for ever. While the controller is away, the node goes on by the kept document.
    pub async fn run(&mut self) {
        loop {
            let may_attach = self.gate.holds().is_empty();
            for courier in self.swapd.iter_mut().chain(&mut self.memory_server) {
                courier.offer(self.kept.current(), may_attach);
            }
            match self.next().await {
                Happened::Session(event) => self.on_session(event),
                Happened::Daemon => self.report_due = true,
                Happened::Trigger(WatchEvent::Fired(subject, trigger)) => {
                    self.looks.fired.insert(subject, trigger);
                }
                Happened::Trigger(WatchEvent::Gone(subject)) => {
                    self.looks.fired.remove(&subject);
                }
                Happened::Repaged(ended) => {
                    if let Some(repaging) = &mut self.repaging {
                        repaging.note(ended);
                    }
                }
                Happened::LookDue => self.look(),
                Happened::CountsDue => {
                    self.refreshed = Instant::now();
                    self.pressure.refresh_counts();
                }
                // One that has not waited for it is gone.
                Happened::Scrape(scrape) => drop(scrape.send(self.snapshot())),
                // What is offered to the daemons is looked at anew; reports keep a time of their own.
                Happened::Tick => self.tick_at = Instant::now() + TICK,
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let send_at = if self.report_due {
            self.reported + REPORT_SPACING
        } else {
            self.reported + TICK
        };
        let look_at = self.looks.due_at();
        let counts_due = self.pressure.has_endangered();
        tokio::select! {
            event = self.session.next(send_at) => Happened::Session(event),
            () = news_of(&mut self.swapd) => Happened::Daemon,
            () = news_of(&mut self.memory_server) => Happened::Daemon,
            event = self.pressure.next() => Happened::Trigger(event),
            ended = end_of_work(&mut self.repaging) => Happened::Repaged(ended),
            () = sleep_until(look_at) => Happened::LookDue,
            () = sleep_until(self.refreshed + COUNTS_REFRESH), if counts_due => Happened::CountsDue,
            scrape = next_scrape(&mut self.scrapes) => Happened::Scrape(scrape),
            () = sleep_until(self.tick_at) => Happened::Tick,
        }
    }

    fn on_session(&mut self, event: SessionEvent) {
        let controller = &self.config.controller_name;
        match event {
            SessionEvent::PauseOver => {
                let hello = self.hello();
                self.session.connect(hello);
            }
            SessionEvent::Opened => {
                info!("session with {controller}");
                self.controller_away = false;
                self.report_due = true;
            }
            SessionEvent::Document(document) => self.take(*document),
            SessionEvent::MaySend => {
                self.reported = Instant::now();
                self.report_due = false;
                let report = self.report();
                self.session.send(report);
            }
            // One line for each time that it goes away, not one for each attempt.
            SessionEvent::Lost(error) if !self.controller_away => {
                warn!("no session with {controller}, going on without: {error:#}");
                self.controller_away = true;
            }
            SessionEvent::Lost(_) => {}
            SessionEvent::Renewed => info!("opening a session with the new certificate"),
        }
    }

    fn take(&mut self, document: DesiredDocument) {
        let generation = document.generation;
        match self.kept.take(document) {
            Ok(true) => {
                info!(generation, "document taken");
                let policies = &self.kept.current().policies_json;
                self.pressure.set_policies(policies);
                // A verdict of long ago must not open the way for a device that is new.
                self.keep_system_off();
                // New thresholds judge at once.
                self.looks.timer_at = self.looks.last + REPORT_SPACING;
                self.report_due = true;
            }
            Ok(false) => {}
            Err(error) => {
                warn!("{error}");
                self.report_due = true;
            }
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.looks.last = now;
        let fired = std::mem::take(&mut self.looks.fired);
        let is_timer = now >= self.looks.timer_at;
        let device = self.device();
        if is_timer {
            self.looks.timer_at = now + self.looks.every;
            self.pressure.look_at_all(&fired);
            self.keep_system_off();
            self.allow(device);
            self.lend();
        } else {
            self.pressure.look_at_fired(&fired);
        }
        let containers = self.pressure.pageables();
        if let Some(containers) = containers.as_ref().filter(|_| is_timer) {
            self.keep_guards(containers, device);
        }
        // Also when a trigger fired: what is to leave ahead of a limit cannot wait for the timer.
        self.repage(containers, device);
        self.report_due = true;
    }

    /// Sends pages ahead and brings pages home, as policies say.
    fn repage(&mut self, containers: Option<Vec<Pageable>>, device: Device) {
        let report = self.swapd.as_ref().and_then(Courier::report);
        let report = match &report {
            Some(report::Kind::SwapDevice(report)) => Some(report),
            _ => None,
        };
        if let (Some(repaging), Some(mut containers)) = (&mut self.repaging, containers) {
            for container in &mut containers {
                container.swap_limit = self.allowance.limit(&container.name);
            }
            let node = self.pressure.node_figures();
            repaging.look(&node, &containers, (device, report), &mut self.journal);
        }
    }

    /// Decides what the node lends.
    fn lend(&mut self) {
        let report = self.memory_server.as_ref().and_then(Courier::report);
        let (Some(lending), Some(report::Kind::MemoryServer(server))) = (&mut self.lending, report)
        else {
            return;
        };
        let node = self.pressure.node_figures();
        if node.total == Bytes::ZERO {
            // It could not be read yet.
            return;
        }
        let figures = DonorFigures {
            now: node.now,
            unix_ms: node.unix_ms,
            memory: self.pressure.node_memory(),
            pressure: node.pressure,
        };
        if let Some(explained) = lending.look(&figures, &server) {
            let decided = decided(Action::Lend, None, explained);
            self.journal.note(node.unix_ms, decided);
        }
    }

    /// Has each container's limit be what policies say.
    fn allow(&mut self, device: Device) {
        if let (Some(cgroups), Some(swappers)) = (&self.swap_limits, self.pressure.swappers()) {
            self.allowance
                .settle(swappers, cgroups, &mut self.originals, device);
        }
    }

    /// Has each container that may swap wait before its limit, as policies say. A guard stays as it is
    /// while nobody knows whether the device is attached: that is when it is needed.
    fn keep_guards(&mut self, containers: &[Pageable], device: Device) {
        let Some(cgroups) = self
            .swap_limits
            .as_ref()
            .filter(|_| device != Device::Unknown)
        else {
            return;
        };
        // With its namespace's share used up, a container may swap nothing more for a while: that comes and
        // goes, and its guard does not.
        let has_guard = |container: &Pageable| {
            let cgroup = cgroups.relative(&container.cgroup);
            cgroup.is_some_and(|cgroup| self.originals.guard_of(&cgroup).is_some())
        };
        let may_swap = |container: &Pageable| {
            let limit = self.allowance.limit(&container.name);
            device == Device::Open
                && (limit.is_some_and(|limit| limit != SwapLimit::NONE) || has_guard(container))
        };
        let guarded = containers.iter().map(|container| Guarded {
            wanted: container
                .wishes
                .as_ref()
                .filter(|_| may_swap(container))
                .and_then(|wishes| settings::guard(wishes, &container.name)),
            name: &container.name,
            cgroup: &container.cgroup,
            used: container.used,
            whole_look: container.whole_look,
        });
        let guarded: Vec<_> = guarded.collect();
        if self.guards.settle(&guarded, cgroups, &mut self.originals) {
            self.pressure
                .set_guards(own_guards(&self.originals, cgroups));
        }
    }

    fn keep_system_off(&mut self) {
        if self.wants_device() || self.is_attached() == Some(true) {
            self.gate.keep_system_off(&mut self.originals);
        }
    }

    /// Whether the document wants this node's device attached.
    fn wants_device(&self) -> bool {
        let part = self.kept.current().swap_device.as_ref();
        self.swapd.is_some() && part.is_some_and(|part| part.attached)
    }

    /// Whether it is attached; none if its daemon does not say, or says no while the kernel still swaps to a
    /// device that may be it: a daemon that has just begun, or is about to end, speaks of itself.
    fn is_attached(&self) -> Option<bool> {
        match self.swapd.as_ref().map(Courier::report) {
            None => Some(false),
            Some(Some(report::Kind::SwapDevice(device))) if device.attached => Some(true),
            Some(Some(report::Kind::SwapDevice(_))) => {
                let kernel_swaps = node::swap_device_that_may_be_ours().is_some();
                (!kernel_swaps).then_some(false)
            }
            Some(_) => None,
        }
    }

    /// Whether containers may be let out: to a device that is attached and shall stay so, and to no
    /// other swap that the node may have.
    fn device(&self) -> Device {
        if !self.wants_device() {
            return Device::Closed;
        }
        match self.is_attached() {
            Some(true) => Device::Open,
            Some(false) => Device::Closed,
            None => Device::Unknown,
        }
    }

    /// Puts back what was changed, if that is wanted or the node no longer borrows. The system's own
    /// cgroups stay as they are unless it is certain that the device is not attached.
    ///
    /// # Errors
    /// The first limit that could not be put back.
    pub fn stop(&mut self, borrows_no_more: bool) -> Result<(), OriginalsError> {
        let is_wanted = borrows_no_more || self.config.restore_on_stop;
        let Some(cgroups) = swap_limits(&self.config).filter(|_| is_wanted) else {
            return Ok(());
        };
        // swapd's pod may have ended first, and then the kernel alone knows.
        let kernel_swaps = node::swap_device_that_may_be_ours().is_some();
        let is_detached = self.is_attached() != Some(true) && !kernel_swaps;
        let which = |cgroup: &Path| is_detached || !is_system(cgroup);
        let restored = self.originals.restore(&cgroups, which)?;
        info!("limits put back: {restored}");
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            report: self.report(),
            has_session: self.session.is_open(),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            node: self.config.node.to_string(),
            failure_domain: self.config.failure_domain.to_string(),
            zone: self
                .config
                .zone
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: SESSION_PROTOCOL,
            borrower: self.swapd.is_some(),
            donor: self.memory_server.is_some(),
            generation: self.kept.current().generation,
        }
    }

    fn report(&self) -> NodeReport {
        let couriers = || self.swapd.iter().chain(&self.memory_server);
        let mut message = NodeReport {
            generation: self.kept.current().generation,
            node_pressure: Some(self.pressure.node_report()),
            containers: self.pressure.container_reports(),
            refusals: couriers().filter_map(Courier::refusal).cloned().collect(),
            agent_rss_bytes: node::own_resident_bytes(),
            lendable_bytes: self
                .lending
                .as_ref()
                .and_then(Lending::offer)
                .map(Bytes::get),
            lend_reason: self
                .lending
                .as_ref()
                .map(Lending::reason)
                .unwrap_or_default(),
            decisions: self.journal.decisions(),
            events: self.journal.events(),
            warnings: self.pressure.warnings(),
            ..NodeReport::default()
        };
        self.allowance.annotate(&mut message.containers);
        if let Some(repaging) = &self.repaging {
            repaging.annotate(&mut message.containers);
            (message.breaker_open, message.breaker_reason) = repaging.breaker();
            message.warnings.extend(repaging.warning());
        }
        message.warnings.extend(self.kept.warning());
        if self.wants_device() {
            if self.is_attached() != Some(true) {
                message.device_holds = self.gate.holds();
                message.warnings.extend(message.device_holds.clone());
            }
            message.warnings.extend(self.gate.caution());
        }
        let problems = self.allowance.warnings().iter();
        let problems = problems.chain(self.guards.warnings());
        message
            .warnings
            .extend(problems.take(WARNINGS_MAX).cloned());
        for courier in couriers() {
            match courier.report() {
                Some(report::Kind::SwapDevice(device)) => message.swap_device = Some(device),
                Some(report::Kind::MemoryServer(server)) => message.memory_server = Some(server),
                None => {}
            }
        }
        let error_of = |courier: &Option<Courier>| courier.as_ref().map(Courier::error);
        message.swap_device_error = error_of(&self.swapd).unwrap_or_default();
        message.memory_server_error = error_of(&self.memory_server).unwrap_or_default();
        message
    }
}

/// Who wants metrics next; waits for ever where they are not served.
async fn next_scrape(scrapes: &mut Option<mpsc::Receiver<Scrape>>) -> Scrape {
    let next = match scrapes {
        Some(scrapes) => scrapes.recv().await,
        None => None,
    };
    match next {
        Some(scrape) => scrape,
        None => std::future::pending().await,
    }
}

fn session(config: &Config) -> Session {
    let wallet = Wallet::new(config.credentials.clone(), config.node.clone());
    Session::new(config.controller.clone(), wallet)
}

fn swap_limits(config: &Config) -> Option<SwapLimits> {
    config.layout.as_ref().and_then(Layout::swap_limits)
}

fn source(config: &Config, cluster: Option<&Cluster>) -> Option<ContainerSource> {
    let origin = match (cluster, &config.containers_dir) {
        (Some(cluster), _) => Origin::Pods(PodSource::new(cluster.pods.clone())),
        (None, Some(directory)) => Origin::Directory(directory.clone()),
        (None, None) => return None,
    };
    let layout = config.layout.clone()?;
    Some(ContainerSource { origin, layout })
}

fn gate(config: &Config, cluster: Option<&Cluster>) -> Gate {
    let system = match (config.keep_system_off, swap_limits(config)) {
        (false, _) => System::NotKept,
        (true, Some(cgroups)) => System::Kept(cgroups),
        (true, None) => System::CannotBe,
    };
    let kubelet = cluster.map(|cluster| cluster.kubelet.clone());
    let kubernetes = config.kubernetes.as_ref();
    let allow_unknown = kubernetes.is_some_and(|it| it.allow_unknown_kubelet);
    Gate::new(system, kubelet, allow_unknown)
}

/// Each `memory.high` that is an agent's, by its cgroup's place.
fn own_guards(originals: &Originals, cgroups: &SwapLimits) -> BTreeMap<PathBuf, Bytes> {
    let guards = originals.guards().iter();
    let guards = guards.map(|(cgroup, guard)| (cgroups.absolute(cgroup), *guard));
    guards.collect()
}

async fn end_of_work(repaging: &mut Option<Repaging>) -> Ended {
    match repaging {
        Some(repaging) => repaging.next().await,
        None => std::future::pending().await,
    }
}

async fn news_of(courier: &mut Option<Courier>) {
    match courier {
        Some(courier) => courier.next().await,
        None => std::future::pending().await,
    }
}
