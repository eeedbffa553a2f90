//! The pressure of the node and its containers: looks, judges, keeps triggers armed.
//!
//! Owns the watches and what is known of each container. A fired trigger refreshes the container
//! that it guards; the timer refreshes all of them, and finds those that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use dynamicswap_policy::{
    Assessor, ContainerName, Grain, Level, Memory, Observation, Selection, Sight, Thresholds,
    Trigger, Verdict,
};
use dynamicswap_proto::control::v1::{ContainerReport, NodePressure};
use dynamicswap_types::{Bytes, MonotonicTime};
use tracing::{info, warn};

use crate::allowance::Swapper;
use crate::cgroup::{
    CgroupError, KeptFiles, Layout, host_reclaims_by_counts, is_endangered, probe_triggers,
    read_pressure, refresh,
};
use crate::containers::{self, Container};
use crate::kubernetes::PodSource;
use crate::limits::WARNINGS_MAX;
use crate::node::{NodeMemory, PRESSURE_FILE};
use crate::policies::Policies;
use crate::repaging::settings::Wishes;
use crate::repaging::{NodeFigures, Pageable};
use crate::report::{self, sentence};
use crate::watches::{Subject, WatchEvent, Watches};

mod quiet;

use quiet::WholeLook;

/// Who knows the containers.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A directory with their descriptors.
    Directory(PathBuf),
    /// This node's pods.
    Pods(PodSource),
}

/// Where containers are found.
#[derive(Debug, Clone)]
pub struct ContainerSource {
    /// Who knows them.
    pub origin: Origin,
    /// Where the host keeps their figures.
    pub layout: Layout,
}

/// A container, and what its policy says.
#[derive(Debug)]
struct Known {
    container: Container,
    policy: Option<String>,
    /// All that select it, the one that decides about its swap first.
    selected_by: Vec<String>,
    /// What the policies say about its swap, and what the one that decides says of re-paging.
    selection: Selection,
    wishes: Option<Wishes>,
    /// Why its pressure is not known, or not guarded.
    problem: Option<String>,
}

/// Watches pressure; see the module.
#[derive(Debug)]
pub struct PressureMonitor {
    source: Option<ContainerSource>,
    grain: Option<Grain>,
    /// Whether stale counts mislead this kernel's reclaim.
    reclaims_by_counts: bool,
    /// What the host does not permit; does not change.
    obstacles: Vec<String>,
    started: Instant,
    policies: Policies,
    known: BTreeMap<ContainerName, Known>,
    /// Whether `known` is all there is, and not the nothing of somebody who knows nothing yet.
    containers_known: bool,
    thresholds: BTreeMap<ContainerName, Thresholds>,
    /// Each `memory.high` that is the agent's own.
    guards: BTreeMap<PathBuf, Bytes>,
    node_memory: NodeMemory,
    node_problem: Option<String>,
    observation: Observation,
    whole_looks: BTreeMap<ContainerName, WholeLook>,
    files: KeptFiles,
    assessor: Assessor,
    watches: Watches,
    left_out: Vec<String>,
    told: BTreeSet<String>,
}

impl PressureMonitor {
    /// Finds out what the host permits. `look_every` is for the sentence that says what covers
    /// for missing triggers.
    #[must_use]
    pub fn new(source: Option<ContainerSource>, look_every: Duration) -> Self {
        let (grain, mut obstacles) = grain_of_host(look_every);
        if let Some(source) = &source {
            info!("cgroups: {}", source.layout);
            let pressure = source.layout.pressure_file(Path::new("/"));
            obstacles.extend(pressure.err().map(|error| error.to_string()));
        }
        let nothing = Sight {
            at: MonotonicTime::ZERO,
            pressure: None,
            memory: Memory::default(),
            fired: None,
        };
        Self {
            source,
            grain,
            reclaims_by_counts: host_reclaims_by_counts(),
            obstacles,
            started: Instant::now(),
            policies: Policies::default(),
            known: BTreeMap::new(),
            containers_known: false,
            thresholds: BTreeMap::new(),
            guards: BTreeMap::new(),
            node_memory: NodeMemory::default(),
            node_problem: None,
            observation: Observation {
                node: nothing,
                containers: BTreeMap::new(),
            },
            whole_looks: BTreeMap::new(),
            files: KeptFiles::default(),
            assessor: Assessor::default(),
            watches: Watches::default(),
            left_out: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Takes the policies of a document; they judge from the next look on.
    pub fn set_policies(&mut self, documents: &[String]) {
        self.policies = Policies::of(documents);
    }

    /// Takes each `memory.high` that is the agent's own and no limit, by the container's cgroup.
    pub fn set_guards(&mut self, guards: BTreeMap<PathBuf, Bytes>) {
        self.guards = guards;
    }

    /// The next event of a trigger. Cancelling loses nothing.
    pub async fn next(&mut self) -> WatchEvent {
        self.watches.next().await
    }

    /// Looks at everything, and finds containers that came or went.
    pub fn look_at_all(&mut self, fired: &BTreeMap<Subject, Trigger>) {
        self.discover();
        self.see_node(fired.get(&Subject::Node).copied());
        let names: Vec<ContainerName> = self.known.keys().cloned().collect();
        for name in names {
            let subject = Subject::Container(name.clone());
            self.see_container(&name, fired.get(&subject).copied());
        }
        self.files.close_unread();
        self.judge();
    }

    /// Looks at what the fired triggers guard, and at nothing else.
    pub fn look_at_fired(&mut self, fired: &BTreeMap<Subject, Trigger>) {
        for (subject, trigger) in fired {
            match subject {
                Subject::Node => self.see_node(Some(*trigger)),
                Subject::Container(name) => self.see_container(name, Some(*trigger)),
            }
        }
        self.judge();
    }

    fn discover(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        let root = source.layout.memory_root();
        let found = match &mut source.origin {
            Origin::Directory(directory) => Some(containers::discover(directory, root)),
            Origin::Pods(pods) => pods.discover(root),
        };
        self.containers_known = found.is_some();
        let found = found.unwrap_or_default();
        self.left_out = found.warnings;
        self.thresholds.clear();
        let known = |(name, container): (ContainerName, Container)| {
            let selected = self.policies.select(&container);
            let policy = selected.map(|(key, thresholds)| {
                self.thresholds.insert(name.clone(), thresholds);
                key.to_string()
            });
            let selection = self.policies.selection(&container);
            let known = Known {
                wishes: self.policies.wishes(&selection),
                selection,
                selected_by: self.policies.selected_by(&container),
                container,
                policy,
                problem: None,
            };
            (name, known)
        };
        self.known = found.containers.into_iter().map(known).collect();
        let kept = &self.known;
        self.observation
            .containers
            .retain(|name, _| kept.contains_key(name));
        self.whole_looks.retain(|name, _| kept.contains_key(name));
        self.watches.retain(|name| kept.contains_key(name));
    }

    fn now(&self) -> MonotonicTime {
        MonotonicTime::ZERO.after(self.started.elapsed())
    }

    fn see_node(&mut self, fired: Option<Trigger>) {
        let pressure = read_pressure(Path::new(PRESSURE_FILE), &mut self.files);
        self.node_problem = pressure.as_ref().err().map(CgroupError::to_string);
        if let Some(memory) = NodeMemory::read() {
            self.node_memory = memory;
        }
        self.observation.node = Sight {
            at: self.now(),
            pressure: pressure.ok(),
            memory: self.node_memory.into(),
            fired,
        };
    }

    fn see_container(&mut self, name: &ContainerName, fired: Option<Trigger>) {
        let now = self.now();
        let (Some(source), Some(known)) = (&self.source, self.known.get_mut(name)) else {
            return;
        };
        known.problem = None;
        let pressure = source
            .layout
            .pressure_file(&known.container.unified_cgroup)
            .and_then(|file| read_pressure(&file, &mut self.files));
        let stalled = pressure.as_ref().ok().map(|it| it.some.total);
        let cgroup = &known.container.memory_cgroup;
        let before = self.whole_looks.get(name).filter(|_| fired.is_none());
        let carried = before.and_then(|before| {
            let used = source.layout.used(cgroup, &mut self.files).ok()?;
            before.carried(now, used, stalled)
        });
        let guard = self.guards.get(cgroup).copied();
        let read = carried.map_or_else(|| source.layout.memory(cgroup, guard), Ok);
        let memory = match read {
            Ok(memory) => memory,
            // Its descriptor will go, too.
            Err(error) if error.is_gone() => return self.forget(name),
            Err(error) => {
                known.problem = Some(sentence(&error));
                Memory::default()
            }
        };
        if let Err(error) = &pressure {
            known.problem = Some(sentence(error));
        }
        if carried.is_none() {
            let look = WholeLook {
                at: now,
                memory,
                stalled,
            };
            self.whole_looks.insert(name.clone(), look);
        }
        let sight = Sight {
            at: now,
            pressure: pressure.ok(),
            memory,
            fired,
        };
        self.observation.containers.insert(name.clone(), sight);
    }

    /// Takes a container whose cgroup is gone out of everything.
    fn forget(&mut self, name: &ContainerName) {
        self.known.remove(name);
        self.observation.containers.remove(name);
        self.whole_looks.remove(name);
        self.watches.remove(&Subject::Container(name.clone()));
    }

    fn judge(&mut self) {
        self.assessor.assess(&self.observation, &self.thresholds);
        // What has been judged is no news at the next look.
        self.observation.node.fired = None;
        for sight in self.observation.containers.values_mut() {
            sight.fired = None;
        }
        self.arm();
        self.tell();
    }

    /// Arms for each subject the trigger that tells first when it gets worse.
    fn arm(&mut self) {
        let Some(grain) = self.grain else { return };
        let node_level = self.assessor.node().map(|verdict| verdict.level);
        let node_file = Path::new(PRESSURE_FILE);
        let wanted = guard_for(node_level, &Thresholds::default(), grain);
        if let Err(error) = guard(&mut self.watches, &Subject::Node, node_file, wanted) {
            self.node_problem = Some(sentence(&error));
        }
        let Some(source) = &self.source else { return };
        for (name, known) in &mut self.known {
            let Ok(file) = source.layout.pressure_file(&known.container.unified_cgroup) else {
                continue;
            };
            let level = self.assessor.container(name).map(|verdict| verdict.level);
            let thresholds = self.thresholds.get(name).copied().unwrap_or_default();
            let wanted = guard_for(level, &thresholds, grain);
            let subject = Subject::Container(name.clone());
            match guard(&mut self.watches, &subject, &file, wanted) {
                Err(error) if !error.is_gone() => {
                    let why = format!("the timer alone watches {name}: {}", sentence(&error));
                    known.problem = Some(why);
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Logs each warning once, when it comes up.
    fn tell(&mut self) {
        let warnings: BTreeSet<String> = self.warnings().into_iter().collect();
        for warning in warnings.difference(&self.told) {
            warn!("{warning}");
        }
        self.told = warnings;
    }

    /// What the host does not permit and what is left out, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let problems = self
            .known
            .values()
            .filter_map(|known| known.problem.as_ref());
        let all = self
            .obstacles
            .iter()
            .chain(&self.policies.warnings)
            .chain(&self.left_out)
            .chain(problems);
        let mut warnings: Vec<String> = Vec::new();
        for warning in all {
            if warnings.len() == WARNINGS_MAX {
                break;
            }
            // What concerns the host is the same sentence for each of its containers.
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
        warnings
    }

    /// The node, as the controller takes it.
    #[must_use]
    pub fn node_report(&self) -> NodePressure {
        let verdict = self.assessor.node();
        let judged = report::judged(verdict, self.node_problem.as_deref());
        report::node(&self.observation.node, &self.node_memory, judged)
    }

    /// The containers with what the policies say about their swap; none if they are not known yet.
    #[must_use]
    pub fn swappers(&self) -> Option<Vec<Swapper>> {
        let of = |(name, known): (&ContainerName, &Known)| {
            let sight = self.observation.containers.get(name)?;
            Some(Swapper {
                name: name.clone(),
                cgroup: known.container.memory_cgroup.clone(),
                selection: known.selection.clone(),
                swapped: sight.memory.swapped,
            })
        };
        let all = || self.known.iter().filter_map(of).collect();
        self.containers_known.then(all)
    }

    /// The containers as re-paging takes them; none if they are not known yet.
    #[must_use]
    pub fn pageables(&self) -> Option<Vec<Pageable>> {
        let of = |(name, known): (&ContainerName, &Known)| {
            let sight = self.observation.containers.get(name)?;
            let verdict = self.assessor.container(name);
            Some(Pageable {
                name: name.clone(),
                cgroup: known.container.memory_cgroup.clone(),
                wishes: known.wishes,
                used: sight.memory.used,
                limit: sight.memory.limit,
                swapped: sight.memory.swapped,
                pressure: sight.pressure,
                level: verdict.map_or(Level::Calm, |verdict| verdict.level),
                calm_for: verdict.and_then(|verdict| self.calm_for(&verdict)),
                whole_look: self.whole_looks.get(name)?.at,
                swap_limit: None,
            })
        };
        let all = || self.known.iter().filter_map(of).collect();
        self.containers_known.then(all)
    }

    /// The node as re-paging takes it.
    #[must_use]
    pub fn node_figures(&self) -> NodeFigures {
        let verdict = self.assessor.node();
        NodeFigures {
            now: self.now(),
            unix_ms: unix_ms(),
            pressure: self.observation.node.pressure,
            calm_for: verdict.and_then(|verdict| self.calm_for(&verdict)),
            available: self.node_memory.available,
            total: self.node_memory.total,
        }
    }

    /// Memory of the node at the last look.
    #[must_use]
    pub const fn node_memory(&self) -> NodeMemory {
        self.node_memory
    }

    fn calm_for(&self, verdict: &Verdict) -> Option<Duration> {
        let is_calm = verdict.level == Level::Calm;
        is_calm.then(|| self.now().since(verdict.since))
    }

    /// Cgroups whose counts must be kept fresh, or the kernel may kill what is in them.
    fn endangered(&self) -> impl Iterator<Item = &Path> {
        let sights = self.observation.containers.iter();
        let endangered = sights.filter(|(_, sight)| is_endangered(&sight.memory));
        endangered
            .filter(|_| self.reclaims_by_counts)
            .filter_map(|(name, _)| Some(self.known.get(name)?.container.memory_cgroup.as_path()))
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_endangered(&self) -> bool {
        self.endangered().next().is_some()
    }

    /// Has the kernel refresh their counts.
    pub fn refresh_counts(&self) {
        for cgroup in self.endangered() {
            // What is wrong with a cgroup is told by the next look at it.
            let _told_later = refresh(cgroup);
        }
    }

    /// The containers, as the controller takes them.
    #[must_use]
    pub fn container_reports(&self) -> Vec<ContainerReport> {
        let sights = &self.observation.containers;
        let of = |(name, sight): (&ContainerName, &Sight)| {
            let known = self.known.get(name)?;
            let verdict = self.assessor.container(name);
            let judged = report::judged(verdict, known.problem.as_deref());
            let policy = known.policy.clone().unwrap_or_default();
            Some(ContainerReport {
                selected_by: known.selected_by.clone(),
                ..report::container(name, sight, judged, policy)
            })
        };
        sights.iter().filter_map(of).collect()
    }
}

/// Milliseconds since 1970, for people.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// What triggers this host permits, and what to say if that is not all.
fn grain_of_host(look_every: Duration) -> (Option<Grain>, Vec<String>) {
    let timer = look_every.as_secs_f64();
    match probe_triggers(Path::new(PRESSURE_FILE)) {
        Ok(Grain::Fine) => (Some(Grain::Fine), Vec::new()),
        Ok(Grain::Coarse) => {
            let warning = format!(
                "pressure triggers need 2 s or more to fire, because this process lacks \
                 CAP_SYS_RESOURCE: the timer, every {timer} s, may notice first; give the agent \
                 that capability"
            );
            (Some(Grain::Coarse), vec![warning])
        }
        Err(error) => {
            let warning = format!(
                "no pressure triggers, the timer alone looks, every {timer} s: {}",
                sentence(&error)
            );
            (None, vec![warning])
        }
    }
}

/// The trigger for a subject on `level`; none where its pressure is not known.
fn guard_for(level: Option<Level>, thresholds: &Thresholds, grain: Grain) -> Option<Trigger> {
    Trigger::next_above(level?, thresholds, grain)
}

fn guard(
    watches: &mut Watches,
    subject: &Subject,
    file: &Path,
    wanted: Option<Trigger>,
) -> Result<(), CgroupError> {
    match wanted {
        Some(trigger) => watches.set(subject, file, trigger),
        None => {
            watches.remove(subject);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
