//! What of a cluster is still on the machine: swaps, loop devices, mounts, cgroups, processes,
//! directories.
//!
//! Owns the search, which trusts no record: it looks at the kernel's own lists.

use std::fs;
use std::path::{Path, PathBuf};

use dynamicswap_workload::container::Layout;
use dynamicswap_workload::watchdog::{UblkRecord, is_swap, loop_devices_below, ublk_devices_below};

use super::paths::ClusterPaths;
use crate::process::ProcessRecord;

/// Everything that is left of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Loop and ublk devices in use as swap, by kernel name.
    pub swaps: Vec<String>,
    /// Loop devices whose backing file is the cluster's, by kernel name.
    pub loops: Vec<String>,
    /// ublk devices of the cluster's swapds.
    pub ublk: Vec<UblkRecord>,
    /// Mounts below the cluster's directory, innermost first.
    pub mounts: Vec<PathBuf>,
    /// Cgroups of its containers.
    pub cgroups: Vec<PathBuf>,
    /// Processes that name the cluster's directory on their command line.
    pub processes: Vec<ProcessRecord>,
    /// The cluster's directories: its own, and that of its spill file.
    pub directories: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks at the machine.
    #[must_use]
    pub fn find(paths: &ClusterPaths) -> Self {
        let loops = loop_devices_below(Path::new("/sys/block"), paths.root());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ublk = ublk_devices_below(paths.root());
        let devices = loops.iter().chain(ublk.iter().map(|ublk| &ublk.device));
        Self {
            swaps: devices.filter(|d| is_swap(d)).cloned().collect(),
            loops,
            ublk,
            mounts: mounts_below(&mountinfo, paths.root()),
            cgroups: cgroups_of(paths),
            processes: processes_of(paths.root()),
            directories: [paths.root(), paths.spill()]
                .into_iter()
                .filter(|directory| directory.exists())
                .map(Path::to_owned)
                .collect(),
        }
    }

    /// One line for each, for people and for report.json.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        list.extend(self.swaps.iter().map(|d| format!("swap /dev/{d}")));
        list.extend(self.loops.iter().map(|d| format!("loop device /dev/{d}")));
        let ublk = self.ublk.iter();
        list.extend(ublk.map(|ublk| format!("ublk device /dev/{}", ublk.device)));
        list.extend(self.mounts.iter().map(|m| format!("mount {}", m.display())));
        list.extend(
            self.cgroups
                .iter()
                .map(|c| format!("cgroup {}", c.display())),
        );
        let processes = self.processes.iter();
        list.extend(processes.map(|p| format!("process {} ({})", p.pid, p.name)));
        list.extend(
            self.directories
                .iter()
                .map(|d| format!("directory {}", d.display())),
        );
        list
    }
}

/// Mount points at or below a directory, from the text of mountinfo; later mounts first.
fn mounts_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    let mut mounts: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(point)
        .filter(|point| point.starts_with(root))
        .collect();
    mounts.reverse();
    mounts
}

fn cgroups_of(paths: &ClusterPaths) -> Vec<PathBuf> {
    let Ok(layout) = Layout::probe() else {
        return Vec::new();
    };
    let mut cgroups = vec![
        layout.memory_root.join(paths.cgroup()),
        layout.unified_root.join(paths.cgroup()),
    ];
    cgroups.dedup();
    cgroups.retain(|cgroup| cgroup.exists());
    cgroups
}

/// Programs of DynamicSwap that have the cluster's directory among their arguments: the engine
/// and the attach helper, too, which no record knows.
fn processes_of(root: &Path) -> Vec<ProcessRecord> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let name = program_of(&arguments, root)?;
            let record = ProcessRecord::of(&name, pid, Path::new("/dev/null")).ok()?;
            record.is_alive().then_some(record)
        })
        .collect()
}

/// The program's name, if it is one of DynamicSwap's and serves the cluster below `root`.
fn program_of(cmdline: &[u8], root: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(cmdline);
    let mut arguments = text.split('\0');
    let name = Path::new(arguments.next()?)
        .file_name()?
        .to_str()?
        .to_owned();
    let ours = name.starts_with("dynamicswap-");
    let below = |argument: &str| {
        let value = argument
            .split_once('=')
            .map_or(argument, |(_, value)| value);
        Path::new(value).starts_with(root)
    };
    (ours && arguments.any(below)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_listed_innermost_first_and_only_below() {
        let info = "30 1 0:41 / /run/dynamicswap/a rw - tmpfs none rw\n\
                    31 1 0:42 / /run/dynamicswap/ab rw - tmpfs none rw\n\
                    32 30 0:43 / /run/dynamicswap/a/m rw - tmpfs none rw\n";
        let mounts = mounts_below(info, Path::new("/run/dynamicswap/a"));
        let expected = ["/run/dynamicswap/a/m", "/run/dynamicswap/a"].map(PathBuf::from);
        assert_eq!(mounts, expected);
    }

    #[test]
    fn only_own_programs_with_the_directory_are_found() {
        let root = Path::new("/run/dynamicswap/a");
        let found = |cmdline: &str| program_of(cmdline.as_bytes(), root);
        let engine = "/x/dynamicswap-swapd-engine\0--state-dir\0/run/dynamicswap/a/n\0";
        assert_eq!(found(engine), Some("dynamicswap-swapd-engine".to_owned()));
        assert_eq!(
            found("dynamicswap-agent\0--state-dir=/run/dynamicswap/a\0").as_deref(),
            Some("dynamicswap-agent")
        );
        assert_eq!(found("vi\0/run/dynamicswap/a/log\0"), None);
        assert_eq!(
            found("dynamicswap-agent\0--state-dir\0/run/dynamicswap/ab\0"),
            None
        );
    }

    #[test]
    fn cluster_that_never_was_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "never-was".parse().expect("a name");
        let left = Leftovers::find(&ClusterPaths::below(dir.path(), &name));
        assert_eq!(left.list(), Vec::<String>::new());
    }
}
