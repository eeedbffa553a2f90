//! One seed's world: everything there is, virtual time, and the order of things.
//!
//! Owns the loop. `shell.rs` carries out what the engine wants, `happen.rs` lets troubles happen,
//! `oracle.rs` looks at every copy at once and judges.

mod happen;
mod oracle;
mod shell;

use std::time::Duration;

use dynamicswap_datapath::transport::fault::{Faults, SeededRandom};
use dynamicswap_datapath::transport::loopback::LoopbackNetwork;
use dynamicswap_engine::document::Document;
use dynamicswap_engine::reserve::ApplyError;
use dynamicswap_engine::slots::GrantDocument;
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Generation, Integrity, MonotonicTime, NameError, ServerIndex, SwapDeviceId,
};

use crate::coverage::Coverage;
use crate::disk::Disk;
use crate::donors::Donor;
use crate::kernel::Kernel;
use crate::mutation::Mutation;
use crate::plane::{DeviceReport, Heard, Plane, Reports};
use crate::process::{Network, Process};
use crate::scenario::{Planning, Scenario};
use crate::story::{Story, Verdict, Violation};
use crate::trouble::Weather;

pub use oracle::Damage;

/// Time between two rounds of the controller.
const PLANE_PERIOD: Duration = Duration::from_millis(20);
/// Time that everything has to heal in after the last trouble.
const HEAL: Duration = Duration::from_secs(12);
/// Steps after which a seed counts as running in circles.
const STEPS_MAX: u64 = 400_000;

/// A document on its way.
#[derive(Debug)]
enum Mail {
    Device(Document),
    Server(usize, GrantDocument),
}

/// A dead process whose bytes are still on their way.
struct Ghost {
    transport: Network,
    /// When what the network has held back goes on.
    thaw: Option<MonotonicTime>,
    until: MonotonicTime,
}

/// Everything there is.
pub struct World<'m> {
    scenario: Scenario,
    mutation: Option<Mutation>,
    now: MonotonicTime,
    random: SeededRandom,
    /// What happened.
    pub story: Story,
    /// What was seen.
    pub coverage: Coverage,
    device: SwapDeviceId,
    tables: &'m OwnedTables,
    geometry: Geometry,
    network: LoopbackNetwork,
    donors: Vec<Donor>,
    faults: Vec<(Faults, MonotonicTime)>,
    process: Option<Process<'m>>,
    restart_at: Option<MonotonicTime>,
    /// Since when no engine runs: none was started yet, or it hangs or is dead.
    away_since: Option<MonotonicTime>,
    ghosts: Vec<Ghost>,
    epoch: u64,
    starts: u16,
    /// The memory file's buffer pool while no engine runs.
    pool: Vec<u8>,
    disk: Disk,
    kernel: Kernel,
    next_request: MonotonicTime,
    plane: Plane,
    plane_next: MonotonicTime,
    plane_away: MonotonicTime,
    heard: Reports,
    mail: Vec<(MonotonicTime, Mail)>,
    kept: Option<Document>,
    /// The one that was in force when that was kept.
    in_force: Option<Document>,
    /// When the agent next hands over what was refused.
    next_try: MonotonicTime,
    wanted: Option<Document>,
    weather: Weather,
    damage: Damage,
    calm: bool,
}

/// Sizes of a scenario's tables.
#[must_use]
pub fn geometry(scenario: &Scenario) -> Geometry {
    Geometry {
        device_pages: scenario.device_pages(),
        slab_pages: scenario.slab_pages,
        slabs: scenario.slabs,
        sets: scenario.slabs + 24,
        pool_pages: 0,
        integrity: Integrity::Full,
    }
}

/// The device of a seed.
#[must_use]
pub fn device_of(scenario: &Scenario) -> SwapDeviceId {
    SwapDeviceId::from_bytes(u128::from(scenario.seed | 1 << 63).to_le_bytes())
}

impl<'m> World<'m> {
    /// The world of a scenario at its first moment.
    ///
    /// # Errors
    /// If a name is not one.
    pub fn new(
        scenario: Scenario,
        tables: &'m OwnedTables,
        told: bool,
        mutation: Option<Mutation>,
    ) -> Result<Self, NameError> {
        let mut random = SeededRandom::new(scenario.seed ^ 0x0dd5);
        let network = LoopbackNetwork::default();
        let numbers = 0..scenario.servers;
        let donors: Vec<Donor> = numbers
            .map(|number| Donor::new(number, &scenario, &network))
            .collect();
        let domains: Vec<u16> = donors.iter().map(|donor| donor.domain).collect();
        let device = device_of(&scenario);
        let early = mutation == Some(Mutation::EarlyDrop);
        Ok(Self {
            mutation,
            now: MonotonicTime::from_nanos(1),
            story: Story::new(told),
            coverage: Coverage::default(),
            device,
            tables,
            geometry: geometry(&scenario),
            network,
            faults: vec![(Faults::default(), MonotonicTime::ZERO); donors.len()],
            donors,
            process: None,
            restart_at: Some(MonotonicTime::from_nanos(1)),
            away_since: None,
            ghosts: Vec::new(),
            epoch: 0,
            starts: 0,
            pool: Vec::new(),
            disk: Disk::default(),
            kernel: Kernel::new(&scenario, &mut random),
            next_request: MonotonicTime::ZERO.after(Duration::from_millis(60)),
            plane: Plane::new(&scenario, device, &domains, early)?,
            plane_next: MonotonicTime::ZERO,
            plane_away: MonotonicTime::ZERO,
            heard: Reports::default(),
            mail: Vec::new(),
            kept: None,
            in_force: None,
            next_try: MonotonicTime::ZERO,
            wanted: None,
            weather: Weather::new(&scenario),
            damage: Damage::default(),
            calm: false,
            random,
            scenario,
        })
    }

    /// Lets the whole seed happen.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run(&mut self) -> Verdict {
        let scenario = format!("{:?}", self.scenario);
        self.story.tell(self.now, || scenario);
        let end = MonotonicTime::ZERO.after(self.scenario.run);
        let mut steps = 0;
        while self.now < end {
            self.step(end)?;
            steps += 1;
            self.check_steps(steps)?;
        }
        self.calm_down();
        let end = self.now.after(HEAL);
        while !self.ailment().is_empty() {
            if self.now >= end {
                return Err(self.broken("everything heals once trouble is over", self.ailment()));
            }
            self.step(end)?;
            steps += 1;
            self.check_steps(steps)?;
        }
        self.coverage.saw("healed");
        self.judge_live_copies()?;
        self.read_everything(&mut steps)?;
        self.count_transport();
        Ok(())
    }

    fn check_steps(&self, steps: u64) -> Verdict {
        if steps > STEPS_MAX {
            let detail = format!("{steps} steps and no end");
            return Err(self.broken("every step leads somewhere", detail));
        }
        Ok(())
    }

    fn broken(&self, rule: &'static str, detail: String) -> Violation {
        Violation {
            rule,
            detail,
            at: self.now,
        }
    }

    /// Goes on to the next moment at which anything happens, and lets it happen.
    fn step(&mut self, end: MonotonicTime) -> Verdict {
        let next = self.next_time().unwrap_or(end).min(end);
        self.now = next.max(self.now.after(Duration::from_nanos(1)));
        self.donors_return();
        if !self.calm {
            self.troubles()?;
        }
        self.control()?;
        self.deliver_mail()?;
        self.restart_engine()?;
        if !self.calm {
            self.new_requests()?;
        }
        self.poll_ghosts();
        self.serve()?;
        self.check_patience()
    }

    fn next_time(&self) -> Option<MonotonicTime> {
        let process = self.process.as_ref().filter(|process| !process.hung);
        let engine = process.and_then(|process| process.engine.next_deadline());
        let disk = process.and_then(|_| self.disk.next_time());
        let weather = self
            .weather
            .next_time(&self.scenario)
            .filter(|_| !self.calm);
        let request = (!self.calm).then_some(self.next_request);
        let donors = self.donors.iter().filter_map(|donor| donor.back_at);
        let ways = self
            .faults
            .iter()
            .filter(|(faults, _)| *faults != Faults::default());
        let mail = self.mail.iter().map(|(due, _)| *due);
        [
            engine,
            self.next_transport_time(),
            disk,
            weather,
            request,
            self.restart_at,
            Some(self.plane_next),
        ]
        .into_iter()
        .flatten()
        .chain(donors)
        .chain(ways.map(|(_, until)| *until))
        .chain(mail)
        .min()
    }

    /// At the end, every page is read and judged.
    fn read_everything(&mut self, steps: &mut u64) -> Verdict {
        for page in 0..self.geometry.device_pages {
            if self.kernel.register(page).acked == 0 {
                continue;
            }
            self.request(Kernel::reading(page))?;
            // Repairs of a wrong copy use the buffer longer than the answer takes.
            while !self.kernel.sent.is_empty() {
                self.step(self.now.after(Duration::from_secs(1)))?;
                *steps += 1;
                self.check_steps(*steps)?;
            }
        }
        Ok(())
    }

    /// What the agents say now.
    fn listen(&self) -> Reports {
        let process = self.process.as_ref().filter(|process| !process.hung);
        let device = process.map(|process| {
            let numbers = 0..u16::try_from(self.donors.len()).unwrap_or_default();
            let server = |number| process.engine.server(ServerIndex::new(number));
            let links = numbers.map(|number| {
                let named = server(number).filter(|server| server.incarnation.is_some());
                named.map(|server| (server.link, server.since))
            });
            DeviceReport {
                generation: self.generation_said(process),
                sets: process.engine.sets().collect(),
                links: links.collect(),
            }
        });
        let heard = |donor: &Donor| {
            if donor.agent_away > self.now {
                Heard::Nothing
            } else if donor.is_running() {
                Heard::Server(donor.report())
            } else {
                Heard::ServerSilent
            }
        };
        let servers = self.donors.iter().map(heard);
        Reports {
            device,
            servers: servers.collect(),
        }
    }

    fn generation_said(&self, process: &Process<'_>) -> Generation {
        match self.mutation {
            Some(Mutation::EarlyReport) => process.engine.generation(),
            _ => process.engine.settled_generation(),
        }
    }

    /// A round of the controller, on what it has heard a moment ago.
    fn control(&mut self) -> Verdict {
        if self.plane_next > self.now {
            return Ok(());
        }
        self.plane_next = self.now.after(PLANE_PERIOD);
        if self.plane_away > self.now {
            return Ok(());
        }
        let now_said = self.listen();
        let heard = std::mem::replace(&mut self.heard, now_said);
        let (documents, deeds) = self
            .plane
            .round(&heard, self.now)
            .map_err(|detail| self.broken("every plan is sound", detail))?;
        for (what, detail) in deeds {
            self.coverage.saw(what);
            if !detail.is_empty() {
                self.story
                    .tell(self.now, || format!("controller: {what}: {detail}"));
            }
        }
        for (number, document) in documents.servers {
            self.send(Mail::Server(number, document));
        }
        if let Some(document) = documents.device {
            self.send(Mail::Device(document));
        }
        Ok(())
    }

    fn send(&mut self, mail: Mail) {
        let delay = Duration::from_micros(500 + self.random.below(20_000));
        self.mail.push((self.now.after(delay), mail));
    }

    /// Agents hand over documents; older ones than they have are refused.
    fn deliver_mail(&mut self) -> Verdict {
        let now = self.now;
        let away = |donors: &[Donor], mail: &Mail| match mail {
            Mail::Server(number, _) => donors[*number].agent_away > now,
            Mail::Device(_) => false,
        };
        while let Some(place) = self
            .mail
            .iter()
            .position(|(due, mail)| *due <= now && !away(&self.donors, mail))
        {
            match self.mail.remove(place).1 {
                Mail::Server(number, document) => self.deliver_to_server(number, document)?,
                Mail::Device(document) => {
                    let newest = self
                        .wanted
                        .as_ref()
                        .map_or(Generation::ZERO, |it| it.generation);
                    if document.generation > newest {
                        self.wanted = Some(document);
                    }
                    self.apply_wanted()?;
                }
            }
        }
        if self.next_try <= now {
            self.next_try = now.after(PLANE_PERIOD);
            self.apply_wanted()?;
        }
        // What an absent agent could not deliver waits for its return.
        for (due, mail) in &mut self.mail {
            if *due <= now && away(&self.donors, mail) {
                *due = now.after(PLANE_PERIOD);
            }
        }
        Ok(())
    }

    fn deliver_to_server(&mut self, number: usize, document: GrantDocument) -> Verdict {
        let donor = &self.donors[number];
        let newest = donor.wanted.as_ref().map(|it| it.generation);
        if newest.is_some_and(|newest| newest >= document.generation) {
            return Ok(());
        }
        self.judge_taking_back(number, &document)?;
        let donor = &mut self.donors[number];
        donor.wanted = Some(document);
        let taken_back = donor.apply();
        if taken_back > 0 {
            self.coverage.saw("slot taken back");
            self.story.tell(self.now, || {
                format!("donor {number} took {taken_back} slots back")
            });
        }
        Ok(())
    }

    fn apply_wanted(&mut self) -> Verdict {
        let newest = self.wanted.as_ref().map(|wanted| wanted.generation);
        let process = self.process.as_ref().filter(|process| !process.hung);
        if process.is_none_or(|process| newest <= Some(process.engine.generation())) {
            return Ok(());
        }
        // swapd keeps a document before it puts it in force: see `control.rs` there.
        if self.in_force != self.kept {
            self.in_force.clone_from(&self.kept);
        }
        self.kept.clone_from(&self.wanted);
        let armed = process.is_some_and(|process| process.effects_left.is_some());
        if armed && self.random.below(4) == 0 {
            self.coverage.saw("trouble: engine killed over a document");
            self.bury();
            return Ok(());
        }
        self.note_damage();
        let before = self.pages_with_copies();
        let (Some(process), Some(wanted)) = (&mut self.process, &self.wanted) else {
            return Ok(());
        };
        match process.engine.apply(wanted, &mut process.pool, self.now) {
            Ok(()) => {
                self.story
                    .tell(self.now, || format!("document taken: {wanted:?}"));
                self.judge_document(&before)?;
                self.pump()
            }
            Err(ApplyError::LastWhole(set)) => {
                // A copy has missed a write since the plane heard of it. The agent tries again.
                self.coverage.saw("document refused: a last whole copy");
                self.story.tell(self.now, || {
                    format!("document refused: set {set} has one whole copy")
                });
                self.kept.clone_from(&self.in_force);
                if self.scenario.planning == Planning::AnyStep {
                    // That plane names no copy again that it has let go of: the failure that made
                    // the document wrong shows for as long as it is refused.
                    self.damage.control_is_away(self.now);
                }
                Ok(())
            }
            Err(error) => {
                let detail = format!("generation {}: {error}", wanted.generation);
                Err(self.broken("a legal document is taken", detail))
            }
        }
    }
}
