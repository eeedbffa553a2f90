//! Carries out guards: a `memory.high` below the hard limit of a container that may swap, where its
//! tasks wait while the device is slow.
//!
//! Owns when each was last looked at. A guard is on disk before it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dynamicswap_policy::{AheadSettings, ContainerName, GuardDeed, GuardSight, guard};
use dynamicswap_types::{Bytes, MonotonicTime};
use tracing::info;

use crate::cgroup::{CgroupError, SwapLimits};
use crate::originals::Originals;
use crate::report::sentence;

/// A container that may get one.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Namespace and name.
    pub name: ContainerName,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The room that its policy keeps; none if it shall have no guard.
    pub wanted: Option<AheadSettings>,
    /// When its figures were last read: a limit that changes is seen then.
    pub whole_look: MonotonicTime,
}

/// The guards; see the module.
#[derive(Debug, Default)]
pub struct Guards {
    looked: BTreeMap<ContainerName, (MonotonicTime, bool)>,
    problems: Vec<String>,
}

impl Guards {
    /// Rules on these containers, and carries it out.
    pub fn settle(
        &mut self,
        guarded: Vec<Guarded>,
        cgroups: &SwapLimits,
        originals: &mut Originals,
    ) {
        self.problems.clear();
        let names: BTreeSet<ContainerName> = guarded.iter().map(|it| it.name.clone()).collect();
        self.looked.retain(|name, _| names.contains(name));
        for it in guarded {
            let look = (it.whole_look, it.wanted.is_some());
            if self.looked.insert(it.name.clone(), look) == Some(look) {
                continue;
            }
            let Some(cgroup) = cgroups.relative(&it.cgroup) else {
                continue;
            };
            if let Err(why) = settle_one(&it, &cgroup, cgroups, originals) {
                // What failed is tried at the next look.
                self.looked.remove(&it.name);
                self.problems
                    .push(format!("memory.high of {} is not kept: {why}", it.name));
            }
        }
        let gone = |cgroup: &PathBuf| !cgroups.exists(cgroup);
        let guards = originals.guards().keys().filter(|it| gone(it));
        let gone: Vec<_> = guards.map(|cgroup| (cgroup.clone(), None)).collect();
        if let Err(error) = originals.note_guards(gone) {
            self.problems
                .push(format!("{:#}", anyhow::Error::from(error)));
        }
    }

    /// What could not be read or written, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.problems
    }
}

fn settle_one(
    it: &Guarded,
    cgroup: &std::path::Path,
    cgroups: &SwapLimits,
    originals: &mut Originals,
) -> Result<(), String> {
    let failed = |error: CgroupError| match error.is_gone() {
        true => Ok(()),
        false => Err(sentence(&error)),
    };
    let [high, max] = match cgroups.held_at(cgroup) {
        Ok(held) => held,
        Err(error) => return failed(error),
    };
    let own = originals.guard_of(cgroup);
    let target: Option<Bytes> = match guard(&GuardSight { high, max, own }, it.wanted.as_ref()) {
        GuardDeed::Leave => return Ok(()),
        GuardDeed::Set(target) => Some(target),
        GuardDeed::Lift => None,
    };
    let mut note = |guard| {
        let noted = originals.note_guards([(cgroup.to_owned(), guard)]);
        noted.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    };
    if target.is_some() {
        note(target)?;
    }
    if let Err(error) = cgroups.set_high(cgroup, target) {
        return failed(error);
    }
    match target {
        Some(target) => info!("{}: tasks wait from {target} on (memory.high)", it.name),
        None => {
            note(None)?;
            info!("{}: memory.high is max again, as it was", it.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cgroup::Layout;
    use crate::cgroup::fixture::{Files, Host};

    fn guarded(host: &Host, second: u64, wanted: bool) -> Guarded {
        Guarded {
            name: ContainerName {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
            },
            cgroup: host.root().join("web"),
            wanted: wanted.then(AheadSettings::default),
            whole_look: MonotonicTime::ZERO.after(Duration::from_secs(second)),
        }
    }

    #[test]
    fn guard_is_set_put_back_and_lifted_and_outlives_the_agent() {
        let host = Host::unified();
        let files = Files {
            max: Some(Bytes::from_mib(1_000)),
            ..Files::default()
        };
        host.container("web", files);
        let cgroups = Layout::probe(host.root()).expect("one").swap_limits();
        let cgroups = cgroups.expect("cgroup v2");
        let state = tempfile::tempdir().expect("a directory");
        let mut originals = Originals::load(state.path()).expect("empty");
        let mut guards = Guards::default();
        let high = || host.read("web/memory.high");
        let set = (975_u64 << 20).to_string();
        guards.settle(vec![guarded(&host, 1, true)], &cgroups, &mut originals);
        assert_eq!((high(), guards.warnings().len()), (set.clone(), 0));
        // A runtime has put it back; the next look at all figures sees it.
        host.write("web/memory.high", "max\n");
        guards.settle(vec![guarded(&host, 1, true)], &cgroups, &mut originals);
        assert_eq!(high(), "max");
        guards.settle(vec![guarded(&host, 2, true)], &cgroups, &mut originals);
        assert_eq!(high(), set);
        // The next agent knows it as its own.
        let mut originals = Originals::load(state.path()).expect("kept");
        let mut guards = Guards::default();
        guards.settle(vec![guarded(&host, 3, false)], &cgroups, &mut originals);
        assert_eq!(high(), "max");
        assert!(originals.is_empty());
    }

    #[test]
    fn guard_of_a_container_that_has_ended_is_forgotten() {
        let host = Host::unified();
        let files = Files {
            max: Some(Bytes::from_mib(64)),
            ..Files::default()
        };
        host.container("web", files);
        let cgroups = Layout::probe(host.root()).expect("one").swap_limits();
        let cgroups = cgroups.expect("cgroup v2");
        let state = tempfile::tempdir().expect("a directory");
        let mut originals = Originals::load(state.path()).expect("empty");
        let mut guards = Guards::default();
        guards.settle(vec![guarded(&host, 1, true)], &cgroups, &mut originals);
        assert!(!originals.is_empty());
        std::fs::remove_dir_all(host.root().join("web")).expect("was there");
        guards.settle(Vec::new(), &cgroups, &mut originals);
        assert!(originals.is_empty());
    }
}
