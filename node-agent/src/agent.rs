//! The agent's one task: owns the kept document, the session, the daemons and the pressure, waits
//! for what happens next and acts on it.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_policy::Trigger;
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::{DesiredDocument, Hello, NodeReport};
use dynamicswap_proto::daemon::v1::report;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::config::Config;
use crate::courier::{Courier, Role};
use crate::document::KeptDocument;
use crate::limits::{REPORT_SPACING, TICK};
use crate::node;
use crate::pressure::PressureMonitor;
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
    looks: Looks,
    tick_at: Instant,
    report_due: bool,
    reported: Instant,
}

/// What has happened.
enum Happened {
    Session(SessionEvent),
    Daemon,
    Trigger(WatchEvent),
    LookDue,
    Tick,
}

impl Agent {
    /// Starts to follow the daemons and to watch pressure.
    #[must_use]
    pub fn new(config: Config, kept: KeptDocument) -> Self {
        let now = Instant::now();
        let follow = |role, socket: &Option<_>| {
            let socket = socket.clone();
            socket.map(|socket| Courier::start(role, socket))
        };
        let mut pressure = PressureMonitor::new(config.containers.clone(), config.look_every);
        pressure.set_policies(&kept.current().policies_json);
        Self {
            session: Session::new(config.controller.clone()),
            controller_away: false,
            swapd: follow(Role::SwapDevice, &config.swapd),
            memory_server: follow(Role::MemoryServer, &config.memory_server),
            pressure,
            looks: Looks {
                every: config.look_every,
                last: now,
                timer_at: now,
                fired: BTreeMap::new(),
            },
            tick_at: now + TICK,
            report_due: true,
            reported: now,
            config,
            kept,
        }
    }

    /// Runs for ever. While the controller is away, the node goes on by the kept document.
    pub async fn run(mut self) {
        loop {
            for courier in self.swapd.iter_mut().chain(&mut self.memory_server) {
                courier.offer(self.kept.current());
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
                Happened::LookDue => self.look(),
                Happened::Tick => {
                    self.tick_at = Instant::now() + TICK;
                    self.report_due = true;
                }
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
        tokio::select! {
            event = self.session.next(send_at) => Happened::Session(event),
            () = news_of(&mut self.swapd) => Happened::Daemon,
            () = news_of(&mut self.memory_server) => Happened::Daemon,
            event = self.pressure.next() => Happened::Trigger(event),
            () = sleep_until(look_at) => Happened::LookDue,
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
        }
    }

    fn take(&mut self, document: DesiredDocument) {
        let generation = document.generation;
        match self.kept.take(document) {
            Ok(true) => {
                info!(generation, "document taken");
                let policies = &self.kept.current().policies_json;
                self.pressure.set_policies(policies);
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
        if now >= self.looks.timer_at {
            self.looks.timer_at = now + self.looks.every;
            self.pressure.look_at_all(&fired);
        } else {
            self.pressure.look_at_fired(&fired);
        }
        self.report_due = true;
    }

    fn hello(&self) -> Hello {
        Hello {
            node: self.config.node.to_string(),
            failure_domain: self.config.failure_domain.to_string(),
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
            lendable_bytes: self.config.lend_max.map(|lend| lend.get()),
            warnings: self.pressure.warnings(),
            ..NodeReport::default()
        };
        message.warnings.extend(self.kept.warning());
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

async fn news_of(courier: &mut Option<Courier>) {
    match courier {
        Some(courier) => courier.next().await,
        None => std::future::pending().await,
    }
}
