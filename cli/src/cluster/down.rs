//! Taking a local cluster away: the product's own path first, then whatever is left.
//!
//! Owns the order: containers, then the swap device while its donors still serve it, then the
//! other processes, then what a crash may have left. A device that holds pages and cannot be
//! swapped off is kept and served, unless the caller gives the pages up. The machine is never left
//! with a swap device that nobody serves. What a crash left is removed by the system's tools, because the
//! calls for it are swapd's and one shell does not depend on another.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dynamicswap_workload::container::{Usage, remove_cgroup};
use dynamicswap_workload::watchdog::{abort_ublk, is_served};
use rustix::process::Signal;
use thiserror::Error;

use super::leftovers::Leftovers;
use super::paths::ClusterPaths;
use super::record::BORROWER;
use crate::process::ProcessRecord;
use crate::ui::{Ui, human_bytes};

/// Time that a tool gets which undoes something.
const TOOL_PATIENCE: Duration = Duration::from_secs(30);
/// Time that any other process gets after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of pages that do not come home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesAway {
    /// The device is kept for whoever owns them.
    Keep,
    /// They are given up, and their owners die.
    GiveUp,
}

/// How a cluster is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// What becomes of pages that do not come home.
    pub away: PagesAway,
    /// Longest time without progress that a swapoff gets: it reads every page back.
    pub patience: Duration,
}

impl Manner {
    /// For a cluster whose only pages are those of the caller's own workload.
    pub const OWN: Self = Self {
        away: PagesAway::GiveUp,
        patience: Duration::from_secs(30),
    };
}

/// A device that could not be swapped off, and serves on.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "/dev/{device} cannot be swapped off and serves on, because {} of pages would be lost and \
     their programs with them: end those programs, or free memory for the pages, and try again; \
     --force gives them up", human_bytes(*used)
)]
pub struct StillInUse {
    /// Its kernel name.
    pub device: String,
    /// Bytes in use.
    pub used: u64,
}

/// Takes down the cluster at `paths`, whose known processes are `processes`; returns what could
/// not be removed.
///
/// # Errors
/// [`StillInUse`]: only containers and the holder were ended then. Never with
/// [`PagesAway::GiveUp`].
pub fn take_down(
    paths: &ClusterPaths,
    processes: &[ProcessRecord],
    manner: Manner,
    ui: &mut Ui,
) -> Result<Leftovers, StillInUse> {
    remove_containers(paths);
    let holder = format!("{BORROWER}/swapd");
    let (holder, others): (Vec<_>, Vec<_>) = processes.iter().partition(|p| p.name == holder);
    for holder in holder {
        end_holder(holder, manner.patience, ui);
    }
    // A holder that died has swapped nothing off, and its engine serves on: the pages come home
    // while their donors are there.
    swap_off(paths, manner.patience, ui);
    if manner.away == PagesAway::Keep {
        refuse_in_use(paths)?;
    }
    end_all(&others, ui);
    remove_leftovers(paths);
    ui.clear_live();
    Ok(Leftovers::find(paths))
}

/// Refuses to go on while somebody serves a device that is still swap. One that nobody serves is
/// no use to anybody.
fn refuse_in_use(paths: &ClusterPaths) -> Result<(), StillInUse> {
    match Leftovers::find(paths).swaps.first() {
        Some(device) if is_served(paths.root()) => Err(StillInUse {
            device: device.clone(),
            used: swap_used(),
        }),
        _ => Ok(()),
    }
}

fn remove_containers(paths: &ClusterPaths) {
    for cgroup in Leftovers::find(paths).cgroups {
        if let Err(error) = remove_cgroup(&cgroup) {
            eprintln!("{error}");
        }
    }
}

/// SIGTERM makes the holder swap off, detach and unmount; it is left to it as long as the swap
/// in use shrinks.
fn end_holder(holder: &ProcessRecord, patience: Duration, ui: &mut Ui) {
    holder.signal(Signal::TERM);
    if !has_ended_after_swap_off(holder, patience, ui) {
        eprintln!("swapd does not end: its swap device is swapped off without it");
    }
}

fn swap_off(paths: &ClusterPaths, patience: Duration, ui: &mut Ui) {
    for device in Leftovers::find(paths).swaps {
        let device = format!("/dev/{device}");
        let Some((mut child, swapoff)) = start("swapoff", std::slice::from_ref(&device)) else {
            continue;
        };
        if has_ended_after_swap_off(&swapoff, patience, ui) {
            // Takes it off the kernel's table.
            let _status = child.wait();
        } else {
            eprintln!("swapoff {device} makes no progress");
            // It would go on for as long as the device is served.
            swapoff.signal(Signal::KILL);
        }
    }
}

/// Waits for a process that swaps off, for as long as the swap in use shrinks; false if it stands
/// still.
fn has_ended_after_swap_off(process: &ProcessRecord, patience: Duration, ui: &mut Ui) -> bool {
    let mut least = u64::MAX;
    let mut deadline = Instant::now() + patience;
    while !process.wait_end(Duration::from_millis(100)) {
        let used = swap_used();
        if used < least {
            least = used;
            deadline = Instant::now() + patience;
        }
        if Instant::now() >= deadline {
            return false;
        }
        ui.live(&format!("swapoff: {} to come home", human_bytes(used)));
    }
    true
}

/// Bytes in use on all swap devices together.
#[must_use]
pub fn swap_used() -> u64 {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let used = |line: &str| line.split_whitespace().nth(3)?.parse::<u64>().ok();
    swaps.lines().skip(1).filter_map(used).sum::<u64>() * 1024
}

fn end_all(processes: &[&ProcessRecord], ui: &mut Ui) {
    // Agents first: none shall report the end of its daemon as a failure.
    let (agents, daemons): (Vec<&ProcessRecord>, Vec<&ProcessRecord>) =
        processes.iter().partition(|p| p.name.ends_with("/agent"));
    for group in [agents, daemons] {
        ui.live("ending the processes");
        for process in &group {
            process.signal(Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        for process in &group {
            if !process.wait_end(deadline.saturating_duration_since(Instant::now())) {
                process.signal(Signal::KILL);
                // One that waits for a dead device stays; it is found and named at the end.
                let _ended = process.wait_end(PATIENCE);
            }
        }
    }
}

/// What a killed holder or engine left: processes, swap, loop devices, mounts, the directory.
fn remove_leftovers(paths: &ClusterPaths) {
    let left = Leftovers::find(paths);
    for process in &left.processes {
        process.signal(Signal::KILL);
    }
    for process in &left.processes {
        // One that waits for a dead device stays; it is found and named at the end.
        let _ended = process.wait_end(PATIENCE);
    }
    // A ublk device without an engine would keep everybody waiting, swapoff as well.
    for record in &left.ublk {
        if let Err(error) = abort_ublk(record) {
            eprintln!("/dev/{} cannot be removed: {error}", record.device);
        }
    }
    // With the engine dead the others answer with errors, so this cannot wait.
    for device in &Leftovers::find(paths).swaps {
        run("swapoff", &[format!("/dev/{device}")]);
    }
    for device in &left.loops {
        run("losetup", &["-d".to_owned(), format!("/dev/{device}")]);
    }
    for mount in &left.mounts {
        run("umount", &["-l".to_owned(), mount.display().to_string()]);
    }
    if Leftovers::find(paths).mounts.is_empty() {
        remove_directory(paths.root());
    }
    remove_directory(paths.spill());
}

fn remove_directory(root: &Path) {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("cannot remove {}: {error}", root.display());
        }
        _ => {}
    }
    // The directory above goes with the last cluster; with another one in it, it stays.
    let _others = root.parent().map(fs::remove_dir);
}

/// Runs a tool that undoes something, bounded in time; whether it worked is looked at later.
fn run(tool: &str, arguments: &[String]) {
    let Some((mut child, record)) = start(tool, arguments) else {
        return;
    };
    if record.wait_end(TOOL_PATIENCE) {
        // Takes it off the kernel's table.
        let _status = child.wait();
    } else {
        eprintln!("{tool} {} does not end", arguments.join(" "));
    }
}

/// Starts a tool with nothing to say.
fn start(tool: &str, arguments: &[String]) -> Option<(Child, ProcessRecord)> {
    let child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        eprintln!("cannot run {tool}");
        return None;
    };
    let pid = i32::try_from(child.id()).ok()?;
    let record = ProcessRecord::of(tool, pid, Path::new("/dev/null")).ok()?;
    Some((child, record))
}

/// Bytes of a container's memory that are swapped out.
#[must_use]
pub fn swapped(cgroup: &Path) -> u64 {
    Usage::read(cgroup).swap.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::spawn;

    #[test]
    fn processes_end_and_directory_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = format!("test-{}", std::process::id())
            .parse()
            .expect("a name");
        let paths = ClusterPaths::below(dir.path(), &name);
        fs::create_dir_all(paths.logs()).expect("made");
        let scripts = [
            (
                "borrower/swapd",
                "trap 'exit 0' TERM; while :; do sleep 0.1; done",
            ),
            ("donor-1/memory-server", "sleep 1000"),
            ("donor-1/agent", "sleep 1000"),
        ];
        let mut processes: Vec<_> = scripts
            .iter()
            .map(|(name, script)| {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                spawn(name, &mut command, &paths.log(name)).expect("started")
            })
            .collect();
        let records: Vec<_> = processes.iter().map(|p| p.record.clone()).collect();
        let left = take_down(&paths, &records, Manner::OWN, &mut Ui::new());
        let left = left.expect("no swap");
        assert_eq!(left, Leftovers::default());
        assert!(records.iter().all(|record| !record.is_alive()));
        for process in &mut processes {
            assert!(process.ended().is_some());
        }
        assert!(!paths.root().exists());
    }

    #[test]
    fn spill_directory_is_found_and_removed_without_the_cluster_s_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = ClusterPaths::below(dir.path(), &"spilt".parse().expect("a name"));
        fs::create_dir_all(paths.spill()).expect("made");
        fs::write(paths.spill().join("pages"), "").expect("written");
        let found = Leftovers::find(&paths);
        assert_eq!(found.directories, [paths.spill().to_owned()]);
        let left = take_down(&paths, &[], Manner::OWN, &mut Ui::new());
        assert_eq!(left, Ok(Leftovers::default()));
        assert!(!paths.spill().exists());
    }

    #[test]
    fn what_a_crash_left_is_removed_without_any_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = format!("crash-{}", std::process::id())
            .parse()
            .expect("a name");
        let paths = ClusterPaths::below(dir.path(), &name);
        fs::create_dir_all(paths.node("borrower", "swapd")).expect("made");
        // A shell under a program's name, with the cluster's directory as argument.
        let program = dir.path().join("dynamicswap-swapd-engine");
        std::os::unix::fs::symlink("/bin/sh", &program).expect("linked");
        let mut command = Command::new(&program);
        let state = paths.node("borrower", "swapd");
        command
            // It ends by itself, should this test be killed before it has ended it.
            .args(["-c", "sleep 30; true"])
            .arg(&state);
        let mut stray = spawn("stray", &mut command, &dir.path().join("log")).expect("started");
        // The shell's child has the same arguments until it has become sleep.
        let found = Leftovers::find(&paths).processes;
        assert!(found.iter().any(|found| found.pid == stray.record.pid));
        let left = take_down(&paths, &[], Manner::OWN, &mut Ui::new());
        assert_eq!(left, Ok(Leftovers::default()));
        assert!(stray.ended().is_some());
    }
}
