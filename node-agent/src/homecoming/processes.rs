//! A container's processes and where their private memory is, from /proc and its cgroup.

use std::fs;
use std::io;
use std::path::Path;

use dynamicswap_types::PAGE_SIZE;
use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, Process};
use rustix::process::Pid;

use super::foreign::{Foreign, FrameFlags};
use super::pages::{Away, Run};
use crate::limits::{CGROUP_DEPTH_MAX, HOMECOMING_PAGES_MAX};

/// The processes in a cgroup and below it.
///
/// # Errors
/// The kernel's; the cgroup is gone, say.
pub fn of_cgroup(cgroup: &Path) -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    collect(cgroup, CGROUP_DEPTH_MAX, &mut pids)?;
    pids.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
    pids.dedup();
    Ok(pids)
}

fn collect(cgroup: &Path, depth: usize, pids: &mut Vec<Pid>) -> io::Result<()> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    // 0 is a process that this one's namespace does not show.
    let found = text.lines().filter_map(|line| line.parse().ok());
    pids.extend(found.filter_map(Pid::from_raw));
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that is removed meanwhile has no processes.
            let _gone = collect(&entry.path(), depth - 1, pids);
        }
    }
    Ok(())
}

/// The pages of `foreign` that are in RAM and still have a place in swap, in its private memory that it
/// may write.
///
/// # Errors
/// The kernel's.
pub fn with_place(foreign: &Foreign, flags: &FrameFlags) -> io::Result<Vec<Run>> {
    let mut found = Vec::new();
    for map in private_maps(foreign)? {
        if map.writable {
            foreign.with_place(map.run, flags, &mut found)?;
        }
    }
    Ok(found)
}

/// A stretch of private memory.
struct PrivateMap {
    run: Run,
    writable: bool,
}

fn private_maps(foreign: &Foreign) -> io::Result<Vec<PrivateMap>> {
    let pid = foreign.pid().as_raw_nonzero().get();
    let maps = Process::new(pid).and_then(|process| process.maps());
    let maps = maps.map_err(|error| match error {
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    })?;
    let private = maps.into_iter().filter(|map| {
        let is_of_kernel = matches!(
            map.pathname,
            MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall
        );
        !is_of_kernel && map.perms.contains(MMPermissions::PRIVATE)
    });
    let stretch = private.map(|map| {
        let (start, end) = map.address;
        PrivateMap {
            run: Run {
                start,
                pages: end.saturating_sub(start) / PAGE_SIZE.get(),
            },
            writable: map.perms.contains(MMPermissions::WRITE),
        }
    });
    Ok(stretch.collect())
}

/// Appends what `foreign` has swapped out of its private memory, as process number `index`.
///
/// Shared memory is left out: its pages have no entry in a process that has not touched them since.
///
/// # Errors
/// The kernel's.
pub fn swapped_of(foreign: &mut Foreign, index: usize, away: &mut Vec<Away>) -> io::Result<()> {
    let mut found = Vec::new();
    for map in private_maps(foreign)? {
        found.clear();
        let most = HOMECOMING_PAGES_MAX.saturating_sub(away.len());
        foreign.swapped(map.run, most, &mut found)?;
        away.extend(found.iter().map(|page| Away {
            process: index,
            page: *page,
            writable: map.writable,
        }));
    }
    Ok(())
}
