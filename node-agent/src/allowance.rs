//! Carries out who may swap: reads each container's `memory.swap.max`, has the law rule, writes
//! what it says, and sees to it again at every look, because runtimes overwrite it.
//!
//! Owns the last rulings. An original is on disk before a limit is first changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dynamicswap_policy::{Claim, ContainerName, Deed, Device, Ruling, Selection, SwapLimit, allow};
use dynamicswap_proto::control::v1::ContainerReport;
use dynamicswap_types::Bytes;
use tracing::{debug, info};

use crate::cgroup::{CgroupError, KeptFiles, SwapLimits};
use crate::originals::Originals;
use crate::report::sentence;

/// A container that may or may not swap.
#[derive(Debug, Clone)]
pub struct Swapper {
    /// Namespace and name.
    pub name: ContainerName,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// What the policies say.
    pub selection: Selection,
    /// What it has swapped out.
    pub swapped: Bytes,
}

/// The limits in force; see the module.
#[derive(Debug, Default)]
pub struct Allowance {
    rulings: BTreeMap<ContainerName, Ruling>,
    problems: Vec<String>,
    files: KeptFiles,
}

impl Allowance {
    /// Rules on all containers of the node, and carries it out.
    pub fn settle(
        &mut self,
        swappers: Vec<Swapper>,
        cgroups: &SwapLimits,
        originals: &mut Originals,
        device: Device,
    ) {
        self.problems.clear();
        let (mut claims, mut paths) = (BTreeMap::new(), BTreeMap::new());
        for swapper in swappers {
            let Some(cgroup) = cgroups.relative(&swapper.cgroup) else {
                continue;
            };
            match cgroups.get_again(&cgroup, &mut self.files) {
                Ok(limit) => {
                    let claim = Claim {
                        selection: swapper.selection,
                        limit,
                        swapped: swapper.swapped,
                        original: originals.of(&cgroup),
                    };
                    claims.insert(swapper.name.clone(), claim);
                    paths.insert(swapper.name, cgroup);
                }
                // It has ended, or the kernel does no swap accounting.
                Err(error) if error.is_gone() && !cgroups.exists(&cgroup) => {}
                Err(error) => self.problem(&swapper.name, &error),
            }
        }
        self.files.close_unread();
        self.rulings = allow(&claims, device);
        self.carry_out(&claims, &paths, cgroups, originals);
    }

    fn carry_out(
        &mut self,
        claims: &BTreeMap<ContainerName, Claim>,
        paths: &BTreeMap<ContainerName, PathBuf>,
        cgroups: &SwapLimits,
        originals: &mut Originals,
    ) {
        let first = |(name, ruling): (&ContainerName, &Ruling)| {
            let claim = claims.get(name)?;
            let is_first = matches!(ruling.deed, Deed::Set(_)) && claim.original.is_none();
            is_first.then_some((paths.get(name)?.clone(), claim.limit))
        };
        let firsts: Vec<_> = self.rulings.iter().filter_map(first).collect();
        if let Err(error) = originals.note(firsts) {
            let why = format!("{:#}", anyhow::Error::from(error));
            self.problems
                .push(format!("no more containers may swap: {why}"));
        }
        let mut restored = BTreeSet::new();
        let mut problems = Vec::new();
        for (name, ruling) in &mut self.rulings {
            let (Some(cgroup), Some(claim)) = (paths.get(name), claims.get(name)) else {
                continue;
            };
            let limit = match ruling.deed {
                Deed::Leave => continue,
                // Without a note of what it was, nothing is changed.
                Deed::Set(_) if originals.of(cgroup).is_none() => {
                    ruling.limit = claim.limit;
                    continue;
                }
                Deed::Set(limit) | Deed::Restore(limit) => limit,
            };
            if limit != claim.limit
                && let Err(error) = cgroups.set(cgroup, limit)
            {
                ruling.limit = claim.limit;
                if !error.is_gone() {
                    problems.push((name.clone(), error));
                }
                continue;
            }
            let before = claim.limit;
            if matches!(ruling.deed, Deed::Restore(_)) {
                restored.insert(cgroup.clone());
                info!("{name}: {before} -> {limit} as it was, {}", ruling.reason);
            } else if claim.original.is_none() {
                info!("{name}: {before} -> {limit}, {}", ruling.reason);
            } else {
                debug!("{name}: {before} -> {limit}, {}", ruling.reason);
            }
        }
        for (name, error) in problems {
            self.problem(&name, &error);
        }
        let seen: BTreeSet<&Path> = paths.values().map(PathBuf::as_path).collect();
        let stays = |cgroup: &Path| {
            !restored.contains(cgroup) && (seen.contains(cgroup) || cgroups.exists(cgroup))
        };
        if let Err(error) = originals.retain(stays) {
            let why = format!("{:#}", anyhow::Error::from(error));
            self.problems.push(why);
        }
    }

    fn problem(&mut self, name: &ContainerName, error: &CgroupError) {
        let why = sentence(error);
        self.problems
            .push(format!("the swap limit of {name} is not known: {why}"));
    }

    /// A container's limit as the last look left it; none if it could not be read.
    #[must_use]
    pub fn limit(&self, container: &ContainerName) -> Option<SwapLimit> {
        self.rulings.get(container).map(|ruling| ruling.limit)
    }

    /// Adds limits and reasons to the reports of containers.
    pub fn annotate(&self, reports: &mut [ContainerReport]) {
        for report in reports {
            let name = ContainerName {
                namespace: report.namespace.clone(),
                name: report.name.clone(),
            };
            if let Some(ruling) = self.rulings.get(&name) {
                report.swap_limit_bytes = ruling.limit.bytes().map(Bytes::get);
                report.swap_reason = ruling.reason.to_string();
            }
        }
    }

    /// What could not be read or written, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.problems
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dynamicswap_policy::{Allotment, Barred};

    use super::*;
    use crate::cgroup::Layout;
    use crate::cgroup::fixture::{Files, Host};

    struct Bench {
        host: Host,
        cgroups: SwapLimits,
        state: tempfile::TempDir,
        originals: Originals,
        allowance: Allowance,
    }

    impl Bench {
        fn new() -> Self {
            let host = Host::unified();
            let layout = Layout::probe(host.root()).expect("a layout");
            let state = tempfile::tempdir().expect("a directory");
            Self {
                cgroups: layout.swap_limits().expect("cgroup v2"),
                originals: Originals::load(state.path()).expect("empty"),
                host,
                state,
                allowance: Allowance::default(),
            }
        }

        fn settle(&mut self, selection: &Selection, device: Device) {
            let swapper = Swapper {
                name: web(),
                cgroup: self.host.root().join("web"),
                selection: selection.clone(),
                swapped: Bytes::ZERO,
            };
            let (cgroups, originals) = (&self.cgroups, &mut self.originals);
            self.allowance
                .settle(vec![swapper], cgroups, originals, device);
        }

        fn limit(&self) -> String {
            self.host.read("web/memory.swap.max")
        }

        fn report(&self) -> ContainerReport {
            let mut reports = [ContainerReport {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                ..ContainerReport::default()
            }];
            self.allowance.annotate(&mut reports);
            let [report] = reports;
            report
        }
    }

    fn web() -> ContainerName {
        ContainerName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        }
    }

    fn allowed() -> Selection {
        Selection::Allowed(Allotment {
            policy: "default/p".to_owned(),
            per_container: Some(Bytes::from_mib(64)),
            per_namespace: None,
        })
    }

    #[test]
    fn limit_is_raised_re_asserted_and_given_back() {
        let mut bench = Bench::new();
        bench.host.container("web", Files::default());
        bench.settle(&allowed(), Device::Open);
        assert_eq!(bench.limit(), "67108864");
        assert_eq!(bench.report().swap_limit_bytes, Some(64 << 20));
        assert_eq!(
            bench.report().swap_reason,
            "default/p allots each container 64Mi"
        );
        // An in-place resize puts it back to 0.
        bench.host.write("web/memory.swap.max", "0\n");
        bench.settle(&allowed(), Device::Open);
        assert_eq!(bench.limit(), "67108864");
        bench.settle(&Selection::Barred(Barred::OptedOut), Device::Open);
        assert_eq!(bench.limit(), "0");
        assert_eq!(bench.originals.of(Path::new("web")), None);
        assert!(bench.allowance.warnings().is_empty());
    }

    #[test]
    fn restarted_agent_gives_back_what_the_last_one_changed() {
        let mut bench = Bench::new();
        let files = Files {
            swap_max: "4096",
            ..Files::default()
        };
        bench.host.container("web", files);
        bench.settle(&allowed(), Device::Open);
        bench.originals = Originals::load(bench.state.path()).expect("kept");
        bench.settle(&allowed(), Device::Closed);
        assert_eq!(bench.limit(), "4096");
    }

    #[test]
    fn nothing_is_changed_that_could_not_be_noted() {
        let mut bench = Bench::new();
        bench.host.container("web", Files::default());
        fs::remove_dir_all(bench.state.path()).expect("was there");
        bench.settle(&allowed(), Device::Open);
        assert_eq!(bench.limit(), "0");
        assert_eq!(bench.report().swap_limit_bytes, Some(0));
        let warnings = bench.allowance.warnings();
        assert!(
            warnings[0].contains("no more containers may swap"),
            "{warnings:?}"
        );
    }

    #[test]
    fn container_that_ended_is_forgotten_without_a_word() {
        let mut bench = Bench::new();
        bench.host.container("web", Files::default());
        bench.settle(&allowed(), Device::Open);
        fs::remove_dir_all(bench.host.root().join("web")).expect("was there");
        bench.settle(&allowed(), Device::Open);
        assert!(bench.allowance.warnings().is_empty());
        assert_eq!(bench.originals.of(Path::new("web")), None);
        assert_eq!(bench.report().swap_reason, "");
    }

    #[test]
    fn limit_that_cannot_be_read_is_a_warning_that_names_the_container() {
        let mut bench = Bench::new();
        bench.host.container("web", Files::default());
        bench.host.write("web/memory.swap.max", "many\n");
        bench.settle(&allowed(), Device::Open);
        let warnings = bench.allowance.warnings();
        assert!(warnings[0].contains("default/web"), "{warnings:?}");
    }
}
