//! Carries out guards: a `memory.high` below the hard limit of a container that may swap, where its
//! tasks wait while the device is slow.
//!
//! Owns when each was last looked at. A guard is on disk before it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dynamicswap_policy::{AheadSettings, ContainerName, GuardDeed, GuardSight, guard};
use dynamicswap_types::{Bytes, MonotonicTime};
use tracing::info;

use crate::cgroup::{CgroupError, SwapLimits};
use crate::originals::Originals;
use crate::report::sentence;

/// A container that may get one.
#[derive(Debug, Clone)]
pub struct Guarded<'a> {
    /// Namespace and name.
    pub name: &'a ContainerName,
    /// Its cgroup.
    pub cgroup: &'a Path,
    /// The room that its policy keeps; none if it shall have no guard.
    pub wanted: Option<AheadSettings>,
    /// In RAM.
    pub used: Bytes,
    /// When its figures were last read: a limit that changes is seen then.
    pub whole_look: MonotonicTime,
}

/// The guards; see the module.
#[derive(Debug, Default)]
pub struct Guards {
    looked: BTreeMap<ContainerName, (MonotonicTime, bool)>,
    problems: Vec<String>,
}

/// What is to be written.
struct Order {
    name: ContainerName,
    cgroup: PathBuf,
    target: Option<Bytes>,
}

impl Guards {
    /// Rules on these containers, and carries it out; gives whether the notes may have changed. All new
    /// guards are noted in one step before any is set, and forgotten in one step after all were lifted.
    pub fn settle(
        &mut self,
        containers: &[Guarded<'_>],
        cgroups: &SwapLimits,
        originals: &mut Originals,
    ) -> bool {
        self.problems.clear();
        let names: BTreeSet<&ContainerName> = containers.iter().map(|it| it.name).collect();
        self.looked.retain(|name, _| names.contains(name));
        let mut orders = Vec::new();
        for it in containers {
            let look = (it.whole_look, it.wanted.is_some());
            if self.looked.get(it.name) == Some(&look) {
                continue;
            }
            self.looked.insert(it.name.clone(), look);
            if let Err(error) = rule(it, cgroups, originals, &mut orders) {
                self.problem(it.name, &sentence(&error));
            }
        }
        let mut is_changed = !orders.is_empty();
        let set = orders.iter().filter(|order| order.target.is_some());
        let set: Vec<_> = set.map(|it| (it.cgroup.clone(), it.target)).collect();
        if let Err(error) = originals.note_guards(set) {
            let why = format!("{:#}", anyhow::Error::from(error));
            orders.retain(|order| order.target.is_none());
            self.problems.push(format!("no more guards are set: {why}"));
        }
        let mut over: Vec<PathBuf> = Vec::new();
        for order in orders {
            match cgroups.set_high(&order.cgroup, order.target) {
                Ok(()) => over.extend(done(order)),
                Err(error) if error.is_gone() => {}
                Err(error) => self.problem(&order.name, &sentence(&error)),
            }
        }
        let at_hand: BTreeSet<&Path> = containers.iter().map(|it| it.cgroup).collect();
        let is_gone =
            |it: &&PathBuf| !at_hand.contains(&*cgroups.absolute(it)) && !cgroups.exists(it);
        let gone = originals.guards().keys().filter(is_gone);
        over.extend(gone.cloned());
        is_changed |= !over.is_empty();
        if let Err(error) = originals.note_guards(over.into_iter().map(|cgroup| (cgroup, None))) {
            let why = format!("{:#}", anyhow::Error::from(error));
            self.problems.push(why);
        }
        is_changed
    }

    fn problem(&mut self, name: &ContainerName, why: &str) {
        // What failed is tried at the next look.
        self.looked.remove(name);
        self.problems
            .push(format!("memory.high of {name} is not kept: {why}"));
    }

    /// What could not be read or written, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.problems
    }
}

/// Adds what is to be written for one container, if anything is.
fn rule(
    it: &Guarded<'_>,
    cgroups: &SwapLimits,
    originals: &Originals,
    orders: &mut Vec<Order>,
) -> Result<(), CgroupError> {
    let Some(cgroup) = cgroups.relative(it.cgroup) else {
        return Ok(());
    };
    let [high, max] = match cgroups.held_at(&cgroup) {
        Ok(held) => held,
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) => return Err(error),
    };
    let own = originals.guard_of(&cgroup);
    let sight = GuardSight {
        high,
        max,
        own,
        used: it.used,
    };
    let target = match guard(&sight, it.wanted.as_ref()) {
        GuardDeed::Leave => return Ok(()),
        GuardDeed::Set(target) => Some(target),
        GuardDeed::Lift => None,
    };
    if own.is_some() && high == own && target.is_some() {
        // The note changes before the limit does: what stands must be nobody's in between, or it
        // would be taken for somebody else's after a crash.
        cgroups.set_high(&cgroup, None)?;
    }
    orders.push(Order {
        name: it.name.clone(),
        cgroup,
        target,
    });
    Ok(())
}

/// Tells of an order that was carried out; the cgroup, if it has no guard any more.
fn done(order: Order) -> Option<PathBuf> {
    let name = order.name;
    if let Some(target) = order.target {
        info!("{name}: tasks wait from {target} on (memory.high)");
        return None;
    }
    info!("{name}: memory.high is max again, as it was");
    Some(order.cgroup)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cgroup::Layout;
    use crate::cgroup::fixture::{Files, Host};

    /// A container with a hard limit of 1,000 MiB, and an agent's notes.
    struct Bench {
        host: Host,
        name: ContainerName,
        cgroup: PathBuf,
        cgroups: SwapLimits,
        state: tempfile::TempDir,
        originals: Originals,
        guards: Guards,
    }

    impl Bench {
        fn new() -> Self {
            let host = Host::unified();
            let files = Files {
                max: Some(Bytes::from_mib(1_000)),
                ..Files::default()
            };
            let (cgroup, _) = host.container("web", files);
            let cgroups = Layout::probe(host.root()).expect("one").swap_limits();
            let state = tempfile::tempdir().expect("a directory");
            Self {
                name: ContainerName {
                    namespace: "default".to_owned(),
                    name: "web".to_owned(),
                },
                cgroup,
                cgroups: cgroups.expect("cgroup v2"),
                originals: Originals::load(state.path()).expect("empty"),
                guards: Guards::default(),
                state,
                host,
            }
        }

        /// The agent after this one.
        fn restart(&mut self) {
            self.originals = Originals::load(self.state.path()).expect("kept");
            self.guards = Guards::default();
        }

        fn settle(&mut self, second: u64, wanted: bool) -> bool {
            let web = Guarded {
                name: &self.name,
                cgroup: &self.cgroup,
                wanted: wanted.then(AheadSettings::default),
                used: Bytes::from_mib(4),
                whole_look: MonotonicTime::ZERO.after(Duration::from_secs(second)),
            };
            self.guards
                .settle(&[web], &self.cgroups, &mut self.originals)
        }

        fn high(&self) -> String {
            self.host.read("web/memory.high")
        }

        fn noted(&self) -> Option<Bytes> {
            self.originals.guard_of(Path::new("web"))
        }
    }

    #[test]
    fn guard_is_set_put_back_and_lifted_and_outlives_the_agent() {
        let mut bench = Bench::new();
        let set = (975_u64 << 20).to_string();
        assert!(bench.settle(1, true), "the notes have changed");
        assert_eq!(
            (bench.high(), bench.guards.warnings().len()),
            (set.clone(), 0)
        );
        // A runtime has put it back; the next look at all figures sees it.
        bench.host.write("web/memory.high", "max\n");
        assert!(!bench.settle(1, true), "nothing was looked at");
        assert_eq!(bench.high(), "max");
        bench.settle(2, true);
        assert_eq!(bench.high(), set);
        assert_eq!(bench.noted(), Some(Bytes::from_mib(975)));
        // The next agent knows it as its own.
        bench.restart();
        bench.settle(3, false);
        assert_eq!(bench.high(), "max");
        assert!(bench.originals.is_empty());
    }

    #[test]
    fn guard_of_a_container_that_has_ended_is_forgotten() {
        let mut bench = Bench::new();
        bench.settle(1, true);
        assert!(!bench.originals.is_empty());
        std::fs::remove_dir_all(&bench.cgroup).expect("was there");
        let none = bench
            .guards
            .settle(&[], &bench.cgroups, &mut bench.originals);
        assert!(none && bench.originals.is_empty());
    }
}
