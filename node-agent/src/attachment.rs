//! Whether the node's swap device may be attached: only once nothing that a restart of its
//! daemons depends on can be swapped to it, and the kubelet starts again while swap is on.
//!
//! Owns the limits of the system's own cgroups. A device that is attached already stays so.

use std::path::{Path, PathBuf};

use dynamicswap_policy::SwapLimit;
use tokio::sync::watch;

use crate::cgroup::SwapLimits;
use crate::kubernetes::Kubelet;
use crate::originals::Originals;
use crate::report::sentence;

/// What the system's own processes run in; some hosts have kubelet and runtime in a slice of their
/// own. If they were swapped to the device and its daemon died, nobody could start it again.
const SYSTEM: [&str; 4] = ["system.slice", "user.slice", "init.scope", "runtime.slice"];

/// Whether a cgroup is one of the system's own.
#[must_use]
pub fn is_system(cgroup: &Path) -> bool {
    SYSTEM.iter().any(|system| cgroup == Path::new(system))
}

/// Why the system's cgroups must be kept off, and where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// Nobody wants it.
    NotKept,
    /// They are kept off.
    Kept(SwapLimits),
    /// They should be, and this host cannot.
    CannotBe,
}

/// What stands before the attachment.
#[derive(Debug)]
pub struct Gate {
    system: System,
    kubelet: Option<watch::Receiver<Kubelet>>,
    allow_unknown_kubelet: bool,
    /// Why the system's cgroups are not kept off; none once they are.
    exposed: Option<String>,
}

impl Gate {
    /// A gate that asks for what it is given; without anything, it is open.
    #[must_use]
    pub fn new(
        system: System,
        kubelet: Option<watch::Receiver<Kubelet>>,
        allow_unknown_kubelet: bool,
    ) -> Self {
        let exposed = match system {
            System::NotKept => None,
            System::Kept(_) => Some("it was not tried yet".to_owned()),
            System::CannotBe => Some("that takes cgroup v2".to_owned()),
        };
        Self {
            system,
            kubelet,
            allow_unknown_kubelet,
            exposed,
        }
    }

    /// Keeps the system's cgroups off the device, again if somebody has changed that. To be
    /// called before a device may be attached, and now and then afterwards.
    pub fn keep_system_off(&mut self, originals: &mut Originals) {
        if let System::Kept(cgroups) = &self.system {
            self.exposed = keep_off(cgroups, originals).err();
        }
    }

    /// Why the device must not be attached, a sentence each; nothing if it may.
    #[must_use]
    pub fn holds(&self) -> Vec<String> {
        let exposed = self.exposed.as_ref().map(|why| {
            format!(
                "the swap device is not attached, because the system's own processes could be \
                 swapped to it: memory.swap.max of {} cannot be kept at 0: {why}",
                SYSTEM.join(", ")
            )
        });
        let kubelet = self.kubelet.as_ref();
        let kubelet = kubelet.and_then(|known| known.borrow().hold(self.allow_unknown_kubelet));
        exposed.into_iter().chain(kubelet).collect()
    }

    /// What the user should know of the node although it holds nothing back.
    #[must_use]
    pub fn caution(&self) -> Option<String> {
        let kubelet = self.kubelet.as_ref()?;
        kubelet.borrow().caution()
    }
}

fn keep_off(cgroups: &SwapLimits, originals: &mut Originals) -> Result<(), String> {
    let mut open = Vec::new();
    for system in SYSTEM.map(PathBuf::from) {
        // A host has some of them only.
        if !cgroups.exists(&system) {
            continue;
        }
        let limit = cgroups.get(&system).map_err(|error| sentence(&error))?;
        if limit != SwapLimit::NONE {
            open.push((system, limit));
        }
    }
    let noted = originals.note(open.iter().cloned());
    noted.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    for (system, _) in open {
        let set = cgroups.set(&system, SwapLimit::NONE);
        let now = set.and_then(|()| cgroups.get(&system));
        match now.map_err(|error| sentence(&error))? {
            SwapLimit::NONE => {}
            other => return Err(format!("{} stays at {other}", system.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Layout;
    use crate::cgroup::fixture::{Files, Host};

    fn bench() -> (Host, SwapLimits, tempfile::TempDir, Originals) {
        let host = Host::unified();
        let files = Files {
            swap_max: "max",
            ..Files::default()
        };
        for system in ["system.slice", "init.scope"] {
            host.container(system, files);
        }
        let layout = Layout::probe(host.root()).expect("a layout");
        let state = tempfile::tempdir().expect("a directory");
        let originals = Originals::load(state.path()).expect("empty");
        (host, layout.swap_limits().expect("v2"), state, originals)
    }

    #[test]
    fn system_is_kept_off_before_the_gate_opens_and_gets_its_limits_back() {
        let (host, cgroups, _state, mut originals) = bench();
        let mut gate = Gate::new(System::Kept(cgroups.clone()), None, false);
        assert_eq!(gate.holds().len(), 1, "not before it is done");
        gate.keep_system_off(&mut originals);
        assert!(gate.holds().is_empty());
        for system in ["system.slice", "init.scope"] {
            assert_eq!(host.read(&format!("{system}/memory.swap.max")), "0");
        }
        assert!(!host.root().join("user.slice").exists());
        host.write("system.slice/memory.swap.max", "max\n");
        gate.keep_system_off(&mut originals);
        assert_eq!(host.read("system.slice/memory.swap.max"), "0");
        assert_eq!(originals.restore(&cgroups, |_| true).expect("all"), 2);
        assert_eq!(host.read("init.scope/memory.swap.max"), "max");
    }

    #[test]
    fn system_that_cannot_be_kept_off_holds_the_device_back() {
        let (host, cgroups, _state, mut originals) = bench();
        std::fs::remove_file(host.root().join("system.slice/memory.swap.max")).expect("there");
        let mut gate = Gate::new(System::Kept(cgroups), None, false);
        gate.keep_system_off(&mut originals);
        let holds = gate.holds();
        assert!(
            holds[0].contains("system.slice/memory.swap.max"),
            "{holds:?}"
        );
        let gate = Gate::new(System::CannotBe, None, false);
        assert!(gate.holds()[0].contains("cgroup v2"));
    }

    #[test]
    fn kubelet_is_asked_as_well() {
        let (sender, kubelet) = watch::channel(Kubelet::not_asked());
        let strict = Gate::new(System::NotKept, Some(kubelet.clone()), false);
        assert_eq!(strict.holds().len(), 1);
        assert!(
            Gate::new(System::NotKept, Some(kubelet), true)
                .holds()
                .is_empty()
        );
        sender.send_replace(Kubelet::Tolerant { gives_swap: true });
        assert!(strict.holds().is_empty());
        assert!(
            strict
                .caution()
                .is_some_and(|it| it.contains("LimitedSwap"))
        );
        assert!(Gate::new(System::NotKept, None, false).holds().is_empty());
    }
}
