//! Dynamic re-paging: what leaves a container ahead of the need, and what comes home.
//!
//! Owns the laws' memory, the containers' histories and the work under way. The laws decide; this
//! reads their figures, carries out what they say, and keeps their reasons for `explain`.

pub mod history;
mod observe;
pub mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dynamicswap_policy::{
    AheadSettings, Breaker, ContainerName, Device, Explain, Explanation, Level, Mode, Offload,
    OffloadDeed, OffloadReason, OffloadSight, Passage, Pressure, ReturnDeed, ReturnLaw,
    ReturnReason, ReturnRuling, StopCause, SwapLimit, ask, in_canary, offload,
};
use dynamicswap_proto::common::v1::SwapDeviceReport;
use dynamicswap_proto::control::v1::ContainerReport;
use dynamicswap_types::{Bytes, MonotonicTime};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::cgroup::{CgroupError, Layout, Promised, reclaim};
use crate::homecoming::{Homecoming, Order, Outcome};
use crate::journal::{Action, Decided, Journal};
use crate::report::sentence;
use history::{History, Reading};
use observe::{DeviceFigures, DeviceWatch};
use settings::Wishes;

/// A container that policies say something about.
#[derive(Debug, Clone)]
pub struct Pageable {
    /// Its name.
    pub name: ContainerName,
    /// Its cgroup in the memory hierarchy.
    pub cgroup: PathBuf,
    /// What the one that decides says of re-paging; none if none does.
    pub wishes: Option<Wishes>,
    /// In RAM.
    pub used: Bytes,
    /// Where the kernel holds it down.
    pub limit: Option<Bytes>,
    /// Swapped out.
    pub swapped: Bytes,
    /// Its pressure.
    pub pressure: Option<Pressure>,
    /// Its level, and for how long it has been Calm.
    pub level: Level,
    /// See `level`; none if it is not Calm, or not known.
    pub calm_for: Option<Duration>,
    /// When all of this was last read, and not what it uses alone.
    pub whole_look: MonotonicTime,
    /// How much of it may be out, as the agent has just ruled; none where it does not rule.
    pub swap_limit: Option<SwapLimit>,
}

/// The node at one look.
#[derive(Debug, Clone, Copy)]
pub struct NodeFigures {
    /// When, on the clock of the looks.
    pub now: MonotonicTime,
    /// When, for people.
    pub unix_ms: u64,
    /// Its pressure.
    pub pressure: Option<Pressure>,
    /// For how long its level has been Calm.
    pub calm_for: Option<Duration>,
    /// What could be had without swapping.
    pub available: Bytes,
    /// All RAM.
    pub total: Bytes,
}

/// A container as this module knows it.
#[derive(Debug)]
struct Track {
    history: History,
    /// The look that the last reading came with.
    whole_look: MonotonicTime,
    promised: Promised,
    /// How much of it may be out; none if the host does not say.
    swap_limit: Option<SwapLimit>,
    offloaded: Bytes,
    returned: Bytes,
    offload: Option<Explanation>,
    homecoming: Option<Explanation>,
    /// Whether the last decision of each kind did something.
    acted: (bool, bool),
}

/// A reclaim that has ended.
type Reclaimed = (ContainerName, Bytes, Result<(), CgroupError>);

/// Re-paging; see the module.
#[derive(Debug)]
pub struct Repaging {
    layout: Layout,
    law: ReturnLaw,
    breaker: Breaker,
    watch: DeviceWatch,
    tracks: BTreeMap<ContainerName, Track>,
    homecoming: Option<Homecoming>,
    reclaims: JoinSet<Reclaimed>,
    reclaiming: BTreeMap<ContainerName, Bytes>,
    problem: Option<String>,
}

impl Repaging {
    /// Starts with nothing known.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let homecoming = Homecoming::start();
        let problem = homecoming
            .as_ref()
            .err()
            .map(|error| format!("no page comes home before it is asked for: {error:#}"));
        Self {
            layout,
            law: ReturnLaw::default(),
            breaker: Breaker::new(MonotonicTime::ZERO),
            watch: DeviceWatch::default(),
            tracks: BTreeMap::new(),
            homecoming: homecoming.ok(),
            reclaims: JoinSet::new(),
            reclaiming: BTreeMap::new(),
            problem,
        }
    }

    /// Waits for the end of some work. Cancelling loses nothing.
    pub async fn next(&mut self) -> Ended {
        let outcome = async {
            match &mut self.homecoming {
                Some(homecoming) => homecoming.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = outcome => Ended::Homecoming(outcome),
            Some(reclaimed) = self.reclaims.join_next() => Ended::Reclaim(reclaimed.ok()),
        }
    }

    /// Takes note of it.
    pub fn note(&mut self, ended: Ended) {
        match ended {
            Ended::Homecoming(outcome) => self.came_home(&outcome),
            Ended::Reclaim(Some((name, bytes, result))) => {
                self.reclaiming.remove(&name);
                match result {
                    Ok(()) => {
                        if let Some(track) = self.tracks.get_mut(&name) {
                            track.offloaded = track.offloaded.saturating_add(bytes);
                        }
                    }
                    Err(error) if error.is_gone() => {}
                    Err(error) => self.trouble(format!(
                        "nothing is sent ahead of {name}: {}",
                        sentence(&error)
                    )),
                }
            }
            // The task was lost: which one it was is not known, so all may be asked again.
            Ended::Reclaim(None) => self.reclaiming.clear(),
        }
    }

    fn came_home(&mut self, outcome: &Outcome) {
        let name = &outcome.container;
        if let Some(track) = self.tracks.get_mut(name) {
            track.returned = track.returned.saturating_add(outcome.brought);
        }
        debug!(
            "{name}: {} of {} came home, places of {} more are free",
            outcome.brought, outcome.found, outcome.freed
        );
        if let Some(error) = &outcome.error {
            self.trouble(format!("{name}: {error}"));
        }
    }

    fn trouble(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            warn!("{problem}");
        }
        self.problem = Some(problem);
    }

    /// One look: reads, decides and begins what is to be done.
    pub fn look(
        &mut self,
        node: &NodeFigures,
        containers: &[Pageable],
        (device, report): (Device, Option<&SwapDeviceReport>),
        journal: &mut Journal,
    ) {
        let figures = self.watch.see(node.now, report);
        self.read(node.now, containers);
        let decisions = [
            self.judge_breaker(node, containers, &figures),
            self.bring_home(node, containers, &figures),
            self.send_ahead(node, containers, (device, &figures)),
        ];
        for decided in decisions.into_iter().flatten() {
            journal.note(node.unix_ms, decided);
        }
    }

    /// Takes the readings of containers that policies say something about; forgets the others.
    fn read(&mut self, now: MonotonicTime, containers: &[Pageable]) {
        let mut before = std::mem::take(&mut self.tracks);
        for container in containers {
            let Some(wishes) = &container.wishes else {
                continue;
            };
            let before = before.remove(&container.name);
            let stands = |track: &Track| {
                track.whole_look == container.whole_look && !track.history.is_asked()
            };
            let track = match before {
                Some(mut track) if stands(&track) => {
                    let stalled = observe::stalled(container.pressure);
                    track.history.carry(now, container.used, stalled);
                    track
                }
                before => match self.seen(before, now, container, wishes) {
                    Some(track) => track,
                    None => continue,
                },
            };
            self.tracks.insert(container.name.clone(), track);
        }
    }

    /// Reads all that it needs of a container; nothing if that is gone.
    fn seen(
        &self,
        before: Option<Track>,
        now: MonotonicTime,
        container: &Pageable,
        wishes: &Wishes,
    ) -> Option<Track> {
        let stat = self.layout.stat(&container.cgroup).ok()?;
        let whole_look = container.whole_look;
        let swapped = match &before {
            // Pages have left since.
            Some(track) if track.whole_look == whole_look => {
                self.layout.memory(&container.cgroup, None).ok()?.swapped
            }
            _ => container.swapped,
        };
        let reading = Reading {
            at: now,
            stat,
            used: container.used,
            swapped,
            stalled: observe::stalled(container.pressure),
        };
        let promised = self.layout.promised(&container.cgroup);
        let swap_limit = container
            .swap_limit
            .or_else(|| self.layout.swap_limit(&container.cgroup));
        if let Some(mut track) = before {
            track.history.see(reading);
            return Some(Track {
                whole_look,
                promised,
                swap_limit,
                ..track
            });
        }
        let probes = self.layout.can_reclaim() && wishes.offload.proactive;
        Some(Track {
            history: History::new(reading, probes),
            whole_look,
            promised,
            swap_limit,
            offloaded: Bytes::ZERO,
            returned: Bytes::ZERO,
            offload: None,
            homecoming: None,
            acted: (false, false),
        })
    }

    fn judge_breaker(
        &mut self,
        node: &NodeFigures,
        containers: &[Pageable],
        device: &DeviceFigures,
    ) -> Vec<Decided> {
        let specs = containers.iter().filter_map(|it| it.wishes.as_ref());
        let settings = settings::breaker(specs.map(|wishes| &wishes.offload));
        let sight = observe::breaker_sight(node, device);
        if !self.breaker.look(node.now, &sight, &settings) {
            return Vec::new();
        }
        let explained = self.breaker.explain();
        info!("breaker: {explained}");
        vec![decided(Action::Break, None, explained)]
    }

    fn bring_home(
        &mut self,
        node: &NodeFigures,
        containers: &[Pageable],
        device: &DeviceFigures,
    ) -> Vec<Decided> {
        let wishes = containers.iter().filter_map(|it| it.wishes.as_ref());
        let enabled = wishes.filter(|wishes| wishes.homecoming.enabled && !wishes.dry_run);
        let settings = settings::homecoming(enabled);
        let sights = containers.iter().filter_map(|container| {
            let track = self.tracks.get(&container.name)?;
            let sight = observe::return_sight(container, &track.history)?;
            Some((container.name.clone(), sight))
        });
        let sights = sights.collect();
        let node_sight = self.watch.return_node(node);
        let rulings = self.law.step(node.now, &node_sight, &sights, &settings);
        if let Some(homecoming) = &self.homecoming {
            let of_it =
                |(name, _): &&(ContainerName, ReturnRuling)| Some(name) == homecoming.under_way();
            let ruling = rulings.iter().find(of_it);
            if ruling.is_some_and(|(_, ruling)| ends(&ruling.reason)) {
                homecoming.stop();
            }
        }
        let figures = (device, settings.bytes_per_s, node.now);
        let rulings = rulings.into_iter();
        rulings
            .filter_map(|ruling| self.follow(ruling, containers, figures))
            .collect()
    }

    /// Carries out one ruling of the law of return; gives its words if it does, or no longer does,
    /// anything.
    fn follow(
        &mut self,
        (name, ruling): (ContainerName, ReturnRuling),
        containers: &[Pageable],
        (device, bandwidth, now): (&DeviceFigures, Bytes, MonotonicTime),
    ) -> Option<Decided> {
        let track = self.tracks.get_mut(&name)?;
        let explained = ruling.explain();
        let brings = matches!(ruling.deed, ReturnDeed::Bring(_));
        let acted = std::mem::replace(&mut track.acted.1, brings);
        let is_news = brings || acted;
        track.homecoming = Some(explained.clone());
        let container = containers.iter().find(|it| it.name == name);
        if let (ReturnDeed::Bring(bytes), Some(homecoming), Some(container)) =
            (ruling.deed, &mut self.homecoming, container)
        {
            match homecoming.under_way() {
                None => homecoming.begin(Order {
                    container: name.clone(),
                    cgroup: container.cgroup.clone(),
                    bytes,
                    bandwidth,
                    slab_pages: device.slab_pages,
                }),
                Some(other) if *other != name => self.law.waited(&name, now),
                Some(_) => {}
            }
        }
        is_news.then(|| decided(Action::Return, Some(name), explained))
    }

    fn send_ahead(
        &mut self,
        node: &NodeFigures,
        containers: &[Pageable],
        (device, figures): (Device, &DeviceFigures),
    ) -> Vec<Decided> {
        let mut decisions = Vec::new();
        if !self.layout.can_reclaim() {
            return decisions;
        }
        let sights = self.offload_sights(containers);
        let asked = asked_by_node(node, containers, &sights);
        let backend = observe::backend(device, self.breaker.passage(), figures);
        for container in containers {
            let Some(wishes) = &container.wishes else {
                continue;
            };
            let track = self.tracks.get_mut(&container.name);
            let (Some(track), Some(sight)) = (track, sights.get(&container.name)) else {
                continue;
            };
            let settings = settings::offload(&wishes.offload);
            let percent = settings::canary_percent(&wishes.offload);
            let decision = if in_canary(&container.name, percent) {
                let mut sight = *sight;
                sight.asked = asked.get(&container.name).copied().unwrap_or_default();
                sight.returning = self.law.is_returning(&container.name);
                sight.since_return = self.law.since_return(&container.name, node.now);
                if !settings::stays_ahead(&wishes.offload) {
                    sight.limit = None;
                }
                let mode = if wishes.dry_run {
                    Mode::DryRun
                } else {
                    Mode::Active
                };
                Some(offload(&sight, &backend, mode, &settings))
            } else {
                None
            };
            let explained = observe::explain_offload(decision.as_ref(), wishes);
            if decision.is_some_and(|it| it.is_look()) {
                track.history.looked();
            }
            let acts = decision.is_some_and(|it| it.deed.bytes() > Bytes::ZERO);
            if acts || track.acted.0 {
                let told = decided(
                    Action::Offload,
                    Some(container.name.clone()),
                    explained.clone(),
                );
                decisions.push(told);
            }
            track.acted.0 = acts;
            track.offload = Some(explained);
            if let Some(decision) = decision {
                self.ask_kernel(container, &decision);
            }
        }
        decisions
    }

    /// What the law of offload sees of each container, but for what others ask of it.
    fn offload_sights(&self, containers: &[Pageable]) -> BTreeMap<ContainerName, OffloadSight> {
        let sights = containers.iter().filter_map(|container| {
            let track = self.tracks.get(&container.name)?;
            let swap_limit = container.swap_limit.or(track.swap_limit);
            let bounds = (track.promised, swap_limit);
            let sight = observe::offload_sight(container, bounds, &track.history);
            Some((container.name.clone(), sight))
        });
        sights.collect()
    }

    fn ask_kernel(&mut self, container: &Pageable, decision: &Offload) {
        let OffloadDeed::Reclaim(bytes) = decision.deed else {
            return;
        };
        if self.reclaiming.contains_key(&container.name) {
            return;
        }
        let Some(track) = self.tracks.get_mut(&container.name) else {
            return;
        };
        track
            .history
            .asked(bytes, matches!(decision.reason, OffloadReason::Probe(_)));
        self.reclaiming.insert(container.name.clone(), bytes);
        let (name, cgroup) = (container.name.clone(), container.cgroup.clone());
        self.reclaims.spawn_blocking(move || {
            let result = reclaim(&cgroup, bytes);
            (name, bytes, result)
        });
    }

    /// Whether the breaker lets nothing through, and why it is as it is.
    #[must_use]
    pub fn breaker(&self) -> (bool, String) {
        let is_open = self.breaker.passage() == Passage::Blocked;
        (is_open, self.breaker.explain().to_string())
    }

    /// What stands in the way of it, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Adds amounts and reasons to the reports of containers.
    pub fn annotate(&self, reports: &mut [ContainerReport]) {
        for report in reports {
            let name = ContainerName {
                namespace: report.namespace.clone(),
                name: report.name.clone(),
            };
            let Some(track) = self.tracks.get(&name) else {
                continue;
            };
            let told = |explained: &Option<Explanation>| {
                explained
                    .as_ref()
                    .map(Explanation::to_string)
                    .unwrap_or_default()
            };
            report.offloaded_bytes = track.offloaded.get();
            report.offload_reason = told(&track.offload);
            report.returned_bytes = track.returned.get();
            report.return_reason = told(&track.homecoming);
        }
    }
}

/// What the node, if it is short, asks of each container.
fn asked_by_node(
    node: &NodeFigures,
    containers: &[Pageable],
    sights: &BTreeMap<ContainerName, OffloadSight>,
) -> BTreeMap<ContainerName, Bytes> {
    let spare = containers.iter().filter_map(|container| {
        let wishes = container.wishes.as_ref().filter(|wishes| !wishes.dry_run)?;
        let sight = sights.get(&container.name)?;
        let floor = sight.min.max(sight.low);
        let spare = sight.anon.min(sight.swap_room);
        let spare = spare.min(sight.current.saturating_sub(floor));
        settings::stays_ahead(&wishes.offload).then_some((container.name.clone(), spare))
    });
    let ahead = AheadSettings::default();
    ask(node.available, node.total, &spare.collect(), &ahead)
}

/// Whether a reason ends what is under way. That all are home does not: their places in swap are still
/// being freed.
const fn ends(reason: &ReturnReason) -> bool {
    !matches!(
        reason,
        ReturnReason::Brings { .. }
            | ReturnReason::Waits { .. }
            | ReturnReason::Stopped(StopCause::Home)
            | ReturnReason::Cooling { .. }
            | ReturnReason::StaysOut { .. }
    )
}

/// Work that has ended.
#[derive(Debug)]
pub enum Ended {
    /// Pages came home.
    Homecoming(Outcome),
    /// The kernel was asked to take some; none if the task was lost.
    Reclaim(Option<Reclaimed>),
}

/// A law's words as the journal takes them.
#[must_use]
pub fn decided(
    action: Action,
    container: Option<ContainerName>,
    explained: Explanation,
) -> Decided {
    Decided {
        action,
        container,
        rule: explained.rule,
        decision: explained.decided,
        reason: format!("{} ({})", explained.figures, explained.rule),
        remedy: explained.change,
    }
}
