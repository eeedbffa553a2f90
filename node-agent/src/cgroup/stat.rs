//! What the kernel counts of a container's memory, and asking it to take some of it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use dynamicswap_types::Bytes;
use rustix::io::Errno;

use super::figures::{Figure, read};
use super::{CgroupError, Layout, read_text};

/// Asks the kernel to reclaim from a cgroup; cgroup v2, Linux 5.19.
const RECLAIM_FILE: &str = "memory.reclaim";

/// Figures of memory.stat, of the cgroup and what is below it. What a layout does not count is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Anonymous memory in RAM.
    pub anon: Bytes,
    /// Page cache in RAM.
    pub file: Bytes,
    /// Of that, what has not been used of late.
    pub inactive_file: Bytes,
    /// Of the page cache, what the disk does not have yet.
    pub dirty: Bytes,
    /// Pages that reclaim has looked at, and taken, since the cgroup was made; none on v1.
    pub scanned: Option<u64>,
    /// See `scanned`.
    pub stolen: u64,
    /// Anonymous pages that came back soon after they went.
    pub refaulted: u64,
    /// Pages that were swapped in; where the kernel does not count them, major faults.
    pub swap_ins: u64,
}

impl Stat {
    /// Page cache that the kernel can drop without a write.
    #[must_use]
    pub const fn droppable(&self) -> Bytes {
        self.inactive_file.saturating_sub(self.dirty)
    }
}

/// Memory that the kernel keeps for a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promised {
    /// memory.min: whatever happens.
    pub min: Bytes,
    /// memory.low: as long as others have any to give.
    pub low: Bytes,
}

impl Layout {
    /// The counts of a cgroup in the memory hierarchy.
    ///
    /// # Errors
    /// [`CgroupError`] if it cannot be read.
    pub fn stat(&self, cgroup: &Path) -> Result<Stat, CgroupError> {
        let text = read_text(&cgroup.join("memory.stat"))?;
        Ok(match self {
            Self::Unified { .. } => unified(&text),
            Self::Hybrid { .. } | Self::MemoryOnly { .. } => legacy(&text),
        })
    }

    /// What is promised to the cgroup. Nothing on v1.
    #[must_use]
    pub fn promised(&self, cgroup: &Path) -> Promised {
        let figure = |name: &str| match (self, read(cgroup, name)) {
            (Self::Unified { .. }, Ok(Figure::Bytes(bytes))) => bytes,
            (Self::Unified { .. }, Ok(Figure::Max(_))) => Bytes::new(u64::MAX),
            _ => Bytes::ZERO,
        };
        Promised {
            min: figure("memory.min"),
            low: figure("memory.low"),
        }
    }

    /// Whether the kernel can be asked to reclaim from a cgroup.
    #[must_use]
    pub const fn can_reclaim(&self) -> bool {
        matches!(self, Self::Unified { .. })
    }
}

/// Asks the kernel to take `bytes` of a cgroup, and waits until it has, or has taken what it could.
///
/// # Errors
/// [`CgroupError`] if it cannot be asked.
pub fn reclaim(cgroup: &Path, bytes: Bytes) -> Result<(), CgroupError> {
    let path = cgroup.join(RECLAIM_FILE);
    let written = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(bytes.get().to_string().as_bytes()));
    match written {
        // Less than was asked for: that is what there was.
        Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => Ok(()),
        written => written.map_err(|source| CgroupError::Io {
            what: "write",
            path,
            source,
        }),
    }
}

/// A counter of a text with one on each line.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value?.trim().parse().ok()
}

fn unified(text: &str) -> Stat {
    let count = |name: &str| counter(text, name);
    let bytes = |name: &str| Bytes::new(count(name).unwrap_or(0));
    Stat {
        anon: bytes("anon"),
        file: bytes("file"),
        inactive_file: bytes("inactive_file"),
        dirty: bytes("file_dirty"),
        scanned: count("pgscan"),
        stolen: count("pgsteal").unwrap_or(0),
        refaulted: count("workingset_refault_anon").unwrap_or(0),
        swap_ins: count("pswpin").or_else(|| count("pgmajfault")).unwrap_or(0),
    }
}

/// v1 counts what is below under names of its own.
fn legacy(text: &str) -> Stat {
    let count = |name: &str| counter(text, name).unwrap_or(0);
    let bytes = |name: &str| Bytes::new(count(name));
    Stat {
        anon: bytes("total_rss"),
        file: bytes("total_cache"),
        inactive_file: bytes("total_inactive_file"),
        dirty: bytes("total_dirty"),
        swap_ins: count("total_pgmajfault"),
        ..Stat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_under_their_layout_s_names() {
        let text = "anon 8192\nfile 4096\ninactive_file 4096\nfile_dirty 0\npgscan 7\npgsteal 5\n\
                    workingset_refault_anon 2\npgmajfault 9\n";
        let stat = unified(text);
        assert_eq!(
            (stat.anon, stat.droppable()),
            (Bytes::new(8192), Bytes::new(4096))
        );
        assert_eq!((stat.scanned, stat.stolen, stat.refaulted), (Some(7), 5, 2));
        assert_eq!(stat.swap_ins, 9);
        assert_eq!(unified(&format!("{text}pswpin 3\n")).swap_ins, 3);
        let stat = legacy("rss 1\ntotal_rss 8192\ntotal_inactive_file 4096\ntotal_pgmajfault 4\n");
        assert_eq!(
            (stat.anon, stat.swap_ins, stat.scanned),
            (Bytes::new(8192), 4, None)
        );
    }

    #[test]
    fn cgroup_that_is_gone_is_an_error() {
        let error = reclaim(Path::new("/nonexistent"), Bytes::from_mib(1)).expect_err("gone");
        assert!(error.is_gone());
    }
}
