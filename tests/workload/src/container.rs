//! A container in the kernel's sense: a memory cgroup with a limit, and the cgroup whose PSI
//! tells how much it stalls. One directory on cgroup v2, two on the hybrid layout.
//!
//! Owns both directories from creation to removal. One of the crate's two files with unsafe
//! code: entering a cgroup between fork and exec.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::{Cgroup, MaxValue, hierarchies};
use dynamicswap_types::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use thiserror::Error;

/// Longest wait for killed processes to leave the cgroup.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Why a container cannot be made, entered or removed.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// No memory controller is mounted where this kernel has it by custom.
    #[error(
        "this host has no memory cgroup under /sys/fs/cgroup: mount cgroup2 there, or the v1 \
         memory controller at /sys/fs/cgroup/memory"
    )]
    NoMemoryController,
    /// A limit below what any process needs.
    #[error("a memory limit of {0} is too small for a process: give at least 4Mi")]
    LimitTooSmall(Bytes),
    /// A name that would leave the cgroup file system, or be hidden in it.
    #[error("'{0}' is no cgroup name: use letters, digits, '-', '_', '.', and '/' between them")]
    Name(String),
    /// The cgroup library refuses.
    #[error("cannot {what} the memory cgroup '{name}': {reason}")]
    Memory {
        /// "make" or "limit".
        what: &'static str,
        /// The cgroup.
        name: String,
        /// What the library says.
        reason: String,
    },
    /// A file or directory of the cgroup.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The deed.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Processes that do not die: they wait for a device, as a rule.
    #[error("processes {pids:?} are still in {} after a kill", path.display())]
    StillThere {
        /// Their ids.
        pids: Vec<i32>,
        /// The cgroup.
        path: PathBuf,
    },
}

/// Where this host keeps its memory cgroups and its PSI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Root of the hierarchy with the memory controller.
    pub memory_root: PathBuf,
    /// Root of the unified hierarchy: the same on pure cgroup v2.
    pub unified_root: PathBuf,
}

impl Layout {
    /// Looks at the host.
    ///
    /// # Errors
    /// [`ContainerError::NoMemoryController`].
    pub fn probe() -> Result<Self, ContainerError> {
        let root = Path::new("/sys/fs/cgroup");
        let has_memory = fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|name| name == "memory"));
        if has_memory {
            return Ok(Self {
                memory_root: root.to_owned(),
                unified_root: root.to_owned(),
            });
        }
        let memory_root = root.join("memory");
        if !memory_root.join("memory.limit_in_bytes").exists() {
            return Err(ContainerError::NoMemoryController);
        }
        Ok(Self {
            memory_root,
            unified_root: root.join("unified"),
        })
    }

    /// Whether the memory controller is cgroup v2's.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.memory_root == self.unified_root
    }
}

/// A memory cgroup and its PSI cgroup; both are removed, with the processes in them, on drop.
#[derive(Debug)]
pub struct Container {
    name: String,
    memory: PathBuf,
    unified: Option<PathBuf>,
    /// Directories above that this container made, innermost first.
    parents: Vec<PathBuf>,
    counts: Option<FreshCounts>,
    removed: bool,
}

impl Container {
    /// Makes the container `name` (a path below the roots, such as `dynamicswap-local/verify`)
    /// with a memory limit.
    ///
    /// # Errors
    /// [`ContainerError`]; nothing is left of a container that could not be made.
    pub fn create(layout: &Layout, name: &str, limit: Bytes) -> Result<Self, ContainerError> {
        if limit < Bytes::from_mib(4) {
            return Err(ContainerError::LimitTooSmall(limit));
        }
        let component = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !name.split('/').all(component) {
            return Err(ContainerError::Name(name.to_owned()));
        }
        let mut container = Self {
            name: name.to_owned(),
            memory: layout.memory_root.join(name),
            unified: None,
            parents: Vec::new(),
            counts: None,
            removed: false,
        };
        container.note_parents(&layout.memory_root);
        container.make_memory(limit)?;
        if !layout.is_unified() && layout.unified_root.join("cgroup.procs").exists() {
            container.note_parents(&layout.unified_root);
            let path = layout.unified_root.join(name);
            fs::create_dir_all(&path).map_err(|source| ContainerError::Io {
                what: "make",
                path: path.clone(),
                source,
            })?;
            container.unified = Some(path);
        }
        container.counts = Some(FreshCounts::of(container.memory.join("memory.stat")));
        Ok(container)
    }

    /// Notes which directories between `root` and the container do not exist yet.
    fn note_parents(&mut self, root: &Path) {
        let path = root.join(&self.name);
        let above = path.ancestors().skip(1).take_while(|above| *above != root);
        let missing = above.filter(|above| !above.exists()).map(Path::to_owned);
        self.parents.extend(missing);
    }

    fn make_memory(&self, limit: Bytes) -> Result<(), ContainerError> {
        let failed = |what| {
            move |error: cgroups_rs::fs::error::Error| ContainerError::Memory {
                what,
                name: self.name.clone(),
                reason: chain(&error),
            }
        };
        let hierarchy = hierarchies::auto();
        let unified = hierarchy.v2();
        let only_memory = Some(vec!["memory".to_owned()]);
        let cgroup = Cgroup::new_with_specified_controllers(hierarchy, &self.name, only_memory)
            .map_err(failed("make"))?;
        let controller: &MemController = cgroup
            .controller_of()
            .ok_or(ContainerError::NoMemoryController)?;
        let bytes = i64::try_from(limit.get()).unwrap_or(i64::MAX);
        if unified {
            // A hard limit with a slow swap device ends in an OOM kill where throttling would
            // have done: the hard one stands a quarter above the throttling one.
            let limits = SetMemory {
                high: Some(MaxValue::Value(bytes)),
                max: Some(MaxValue::Value(bytes.saturating_add(bytes / 4))),
                low: None,
                min: None,
            };
            controller.set_mem(limits).map_err(failed("limit"))
        } else {
            controller.set_limit(bytes).map_err(failed("limit"))
        }
    }

    /// Changes its memory limit.
    ///
    /// # Errors
    /// [`ContainerError::Io`] with what the kernel says.
    pub fn set_limit(&self, limit: Bytes) -> Result<(), ContainerError> {
        let write = |file: &str, bytes: u64| {
            let path = self.memory.join(file);
            let written = fs::write(&path, bytes.to_string());
            written.map_err(|source| ContainerError::Io {
                what: "write",
                path,
                source,
            })
        };
        if self.memory.join("memory.limit_in_bytes").exists() {
            return write("memory.limit_in_bytes", limit.get());
        }
        write("memory.max", limit.get().saturating_add(limit.get() / 4))?;
        write("memory.high", limit.get())
    }

    /// Its directory in the hierarchy of the memory controller.
    #[must_use]
    pub fn memory_cgroup(&self) -> &Path {
        &self.memory
    }

    /// Its directory in the unified hierarchy, where its PSI is.
    #[must_use]
    pub fn unified_cgroup(&self) -> &Path {
        self.unified.as_deref().unwrap_or(&self.memory)
    }

    /// Makes `command`'s child start inside.
    ///
    /// # Errors
    /// [`ContainerError::Io`] if the cgroup's process list cannot be opened.
    pub fn enter(&self, command: &mut Command) -> Result<(), ContainerError> {
        enter(command, [self.memory_cgroup(), self.unified_cgroup()])
    }

    /// Bytes that are charged to it now: memory, and swap beside it.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::read(&self.memory)
    }

    /// Kills what is inside and removes the directories.
    ///
    /// # Errors
    /// [`ContainerError`] naming what is left.
    pub fn remove(mut self) -> Result<(), ContainerError> {
        self.clean_up()
    }

    /// Has the kernel refresh its counts no more: for a container in which nothing swaps.
    pub fn keep_counts_no_more(&mut self) {
        self.counts = None;
    }

    /// Leaves the directories to whoever finds them by their names.
    pub fn leave(mut self) {
        self.removed = true;
    }

    fn clean_up(&mut self) -> Result<(), ContainerError> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        self.counts = None;
        let mut first_error = None;
        for path in [Some(&self.memory), self.unified.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Err(error) = remove_cgroup(path) {
                first_error.get_or_insert(error);
            }
        }
        for parent in &self.parents {
            // One that another container uses by now stays, and that is right.
            let _still_used = fs::remove_dir(parent);
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("the container {} is not fully removed: {error}", self.name);
        }
    }
}

/// Has the kernel refresh its counts of the container's lists, as the node agent does and for the
/// same reason (`node-agent/src/cgroup/list_counts.rs`): a kernel without the multi-generational
/// LRU may else kill what is inside, with any swap device. Tests kill agents.
#[derive(Debug)]
struct FreshCounts {
    _end: Sender<()>,
}

impl FreshCounts {
    const EVERY: Duration = Duration::from_millis(100);

    fn of(stat: PathBuf) -> Self {
        let (end, ended) = channel::<()>();
        std::thread::spawn(move || {
            while ended.recv_timeout(Self::EVERY) == Err(RecvTimeoutError::Timeout) {
                // Reading is all: what it says is for others.
                let _refreshed = fs::read(&stat);
            }
        });
        Self { _end: end }
    }
}

/// Bytes charged to a memory cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In RAM.
    pub memory: Bytes,
    /// Swapped out.
    pub swap: Bytes,
}

impl Usage {
    /// Reads it; what cannot be read is zero.
    #[must_use]
    pub fn read(cgroup: &Path) -> Self {
        let number = |file: &str| {
            let text = fs::read_to_string(cgroup.join(file)).ok()?;
            text.trim().parse().ok().map(Bytes::new)
        };
        if let Some(memory) = number("memory.current") {
            let swap = number("memory.swap.current").unwrap_or_default();
            return Self { memory, swap };
        }
        let memory = number("memory.usage_in_bytes").unwrap_or_default();
        let both = number("memory.memsw.usage_in_bytes").unwrap_or_default();
        Self {
            memory,
            swap: both.saturating_sub(memory),
        }
    }
}

/// Makes `command`'s child start inside the cgroups whose directories are given.
///
/// # Errors
/// [`ContainerError::Io`] if a process list cannot be opened for writing.
pub fn enter<'a>(
    command: &mut Command,
    cgroups: impl IntoIterator<Item = &'a Path>,
) -> Result<(), ContainerError> {
    let mut lists: Vec<File> = Vec::new();
    for cgroup in cgroups {
        let path = cgroup.join("cgroup.procs");
        let list = OpenOptions::new().write(true).open(&path);
        lists.push(list.map_err(|source| ContainerError::Io {
            what: "open",
            path,
            source,
        })?);
    }
    let enter_all = move || lists.iter().try_for_each(|mut list| list.write_all(b"0"));
    // SAFETY: between fork and exec the closure only writes two bytes to descriptors that were
    // opened before the fork: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter_all) };
    Ok(())
}

/// The exit code that a shell would show for a command: 128 and the signal's number for one that a
/// signal ended.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Kills the processes in a cgroup and those below, and removes the directories. One that does
/// not exist is fine.
///
/// # Errors
/// [`ContainerError`] naming what is left.
pub fn remove_cgroup(path: &Path) -> Result<(), ContainerError> {
    if !path.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    let deadline = Instant::now() + KILL_WAIT;
    loop {
        let pids = processes(path);
        for pid in &pids {
            // One that has ended meanwhile is what is wanted.
            let _gone = rustix::process::kill_process(*pid, Signal::KILL);
        }
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) if Instant::now() >= deadline => {
                let left: Vec<i32> = pids.iter().map(|pid| pid.as_raw_pid()).collect();
                return Err(if left.is_empty() {
                    ContainerError::Io {
                        what: "remove",
                        path: path.to_owned(),
                        source,
                    }
                } else {
                    ContainerError::StillThere {
                        pids: left,
                        path: path.to_owned(),
                    }
                });
            }
            Err(_busy) => wait_for_exit(&pids, Duration::from_millis(20)),
        }
    }
}

/// Waits until one of `pids` ends, at most `limit`.
fn wait_for_exit(pids: &[Pid], limit: Duration) {
    let open = |pid: &Pid| rustix::process::pidfd_open(*pid, rustix::process::PidfdFlags::empty());
    let watched: Vec<_> = pids.iter().filter_map(|pid| open(pid).ok()).collect();
    let mut polled: Vec<PollFd<'_>> = watched
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(limit).ok();
    // An interrupted wait is a short one; the caller looks again anyway.
    let _waited = poll(&mut polled, timeout.as_ref());
}

/// Processes directly in a cgroup.
#[must_use]
pub fn processes(cgroup: &Path) -> Vec<Pid> {
    let mut text = String::new();
    let read =
        File::open(cgroup.join("cgroup.procs")).and_then(|mut f| f.read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn layout_or_skip() -> Option<Layout> {
        let layout = Layout::probe().ok()?;
        let probe = layout
            .memory_root
            .join(format!("dynamicswap-probe-{}", std::process::id()));
        if fs::create_dir(&probe).is_err() {
            eprintln!("SKIPPED: no permission to make a memory cgroup");
            return None;
        }
        fs::remove_dir(&probe).expect("just made");
        Some(layout)
    }

    #[test]
    fn bad_names_and_limits_are_refused_before_anything_is_made() {
        let layout = Layout {
            memory_root: "/nonexistent".into(),
            unified_root: "/nonexistent".into(),
        };
        for name in ["", "..", "a/../b", "/a", "a b"] {
            let error = Container::create(&layout, name, Bytes::from_mib(64)).expect_err("bad");
            assert!(matches!(error, ContainerError::Name(_)), "{name}");
        }
        let error = Container::create(&layout, "a", Bytes::new(1)).expect_err("small");
        assert!(matches!(error, ContainerError::LimitTooSmall(_)));
    }

    #[test]
    fn signal_is_seen_in_the_exit_code() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(7)), 135);
    }

    #[test]
    fn child_runs_inside_and_removal_kills_it_and_leaves_nothing() {
        let Some(layout) = layout_or_skip() else {
            return;
        };
        let top = format!("dynamicswap-test-{}", std::process::id());
        let container =
            Container::create(&layout, &format!("{top}/inner"), Bytes::from_mib(64)).expect("made");
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        container.enter(&mut command).expect("entered");
        let mut child = command.spawn().expect("sleep is everywhere");
        let pid = Pid::from_child(&child);
        assert_eq!(processes(container.memory_cgroup()), [pid]);
        assert_eq!(processes(container.unified_cgroup()), [pid]);
        container.remove().expect("removed");
        assert!(!child.wait().expect("a child").success());
        for root in [&layout.memory_root, &layout.unified_root] {
            assert!(!root.join(&top).exists(), "{}", root.join(&top).display());
        }
    }
}
