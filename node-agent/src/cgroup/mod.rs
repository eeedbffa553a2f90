//! The kernel's cgroup and pressure files: the only module that opens them.
//!
//! Owns the layout, probed once with the root given, and what is read and written below it. A
//! typed fact decides which files there are; nothing is tried file by file.

mod figures;
mod kept;
mod list_counts;
mod psi;
mod stat;
mod swap_limit;

#[cfg(test)]
pub(crate) mod fixture;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::limits::{KERNEL_FILE_BYTES_MAX, KERNEL_FILE_BYTES_USUAL};

pub use kept::KeptFiles;
pub use list_counts::{host_reclaims_by_counts, is_endangered, refresh};
pub use psi::{Armed, Fired, probe_triggers, read_pressure};
pub use stat::{Promised, Stat, reclaim};
pub use swap_limit::SwapLimits;

/// Why a kernel file gives nothing.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// No memory controller below the root.
    #[error(
        "{} has no memory controller: mount cgroup2 there, or the v1 memory controller at its \
         directory 'memory', or name the right place with --cgroup-root",
        root.display()
    )]
    NoMemoryController {
        /// The root.
        root: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The deed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than the kernel documents.
    #[error("{} holds '{found}', which is not {wanted}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The host has no pressure figures for containers.
    #[error(
        "this host has no pressure figures for containers: boot it with cgroup v2, or mount \
         cgroup2 at {}",
        path.display()
    )]
    NoPressure {
        /// Where the unified hierarchy would be.
        path: PathBuf,
    },
}

impl CgroupError {
    /// Whether the cgroup is simply no longer there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        // Reading a file of a cgroup that was removed meanwhile gives ENODEV.
        let gone = |source: &io::Error| {
            source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
        };
        matches!(self, Self::Io { source, .. } if gone(source))
    }
}

/// Where a host keeps its memory figures and its pressure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// cgroup v2: all in one hierarchy.
    Unified {
        /// Its root.
        root: PathBuf,
    },
    /// Memory in the v1 hierarchy, pressure in an empty v2 hierarchy beside it.
    Hybrid {
        /// Root of the v1 memory controller.
        memory: PathBuf,
        /// Root of the unified hierarchy.
        unified: PathBuf,
    },
    /// Memory in the v1 hierarchy, and no pressure of containers.
    MemoryOnly {
        /// Root of the v1 memory controller.
        memory: PathBuf,
        /// Where the unified hierarchy is missing.
        unified: PathBuf,
    },
}

impl Layout {
    /// Looks at what is mounted at and below `root`, which is /sys/fs/cgroup on a host.
    ///
    /// # Errors
    /// [`CgroupError::NoMemoryController`].
    pub fn probe(root: &Path) -> Result<Self, CgroupError> {
        let controllers = read_text(&root.join("cgroup.controllers")).unwrap_or_default();
        if controllers.split_whitespace().any(|name| name == "memory") {
            let root = root.to_owned();
            return Ok(Self::Unified { root });
        }
        let (memory, unified) = (root.join("memory"), root.join("unified"));
        if !memory.join("memory.usage_in_bytes").exists() {
            let root = root.to_owned();
            return Err(CgroupError::NoMemoryController { root });
        }
        Ok(if unified.join("memory.pressure").exists() {
            Self::Hybrid { memory, unified }
        } else {
            Self::MemoryOnly { memory, unified }
        })
    }

    /// Root of the hierarchy with the memory figures.
    #[must_use]
    pub fn memory_root(&self) -> &Path {
        match self {
            Self::Unified { root } => root,
            Self::Hybrid { memory, .. } | Self::MemoryOnly { memory, .. } => memory,
        }
    }

    /// The pressure file of the container whose directory in the unified hierarchy is `cgroup`.
    ///
    /// # Errors
    /// [`CgroupError::NoPressure`] on a host without any.
    pub fn pressure_file(&self, cgroup: &Path) -> Result<PathBuf, CgroupError> {
        match self {
            Self::Unified { .. } | Self::Hybrid { .. } => Ok(cgroup.join("memory.pressure")),
            Self::MemoryOnly { unified, .. } => Err(CgroupError::NoPressure {
                path: unified.clone(),
            }),
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unified { root } => write!(f, "cgroup v2 at {}", root.display()),
            Self::Hybrid { memory, unified } => write!(
                f,
                "hybrid: memory at {}, pressure at {}",
                memory.display(),
                unified.display()
            ),
            Self::MemoryOnly { memory, .. } => {
                write!(f, "cgroup v1 at {}, without pressure", memory.display())
            }
        }
    }
}

/// A kernel file as text.
fn read_text(path: &Path) -> Result<String, CgroupError> {
    text_of(path, &open(path)?)
}

fn open(path: &Path) -> Result<File, CgroupError> {
    File::open(path).map_err(|source| CgroupError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })
}

/// The text of an open file, from its beginning.
///
/// One call reads it, as a rule: the kernel prints such a file as a whole, and one that leaves room in
/// the buffer has ended. A look at 200 containers reads hundreds of them.
fn text_of(path: &Path, file: &File) -> Result<String, CgroupError> {
    let failed = |source| CgroupError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = [0; KERNEL_FILE_BYTES_USUAL];
    let mut text = Vec::new();
    while text.len() < KERNEL_FILE_BYTES_MAX {
        let room = bytes.len().min(KERNEL_FILE_BYTES_MAX - text.len());
        let length = file
            .read_at(&mut bytes[..room], text.len() as u64)
            .map_err(&failed)?;
        text.extend_from_slice(&bytes[..length]);
        if length < room {
            break;
        }
    }
    String::from_utf8(text)
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// What a wrong file begins with, for a sentence.
fn beginning(text: &str) -> String {
    text.trim().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::fixture::Host;
    use super::*;

    #[test]
    fn long_file_is_read_to_its_end_and_no_further_than_its_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("memory.stat");
        let longest = KERNEL_FILE_BYTES_MAX;
        for length in [
            0,
            1,
            KERNEL_FILE_BYTES_USUAL,
            KERNEL_FILE_BYTES_USUAL + 1,
            longest,
        ] {
            std::fs::write(&path, "x".repeat(length)).expect("written");
            assert_eq!(read_text(&path).expect("read").len(), length);
        }
        std::fs::write(&path, "x".repeat(longest + 1)).expect("written");
        assert_eq!(read_text(&path).expect("read").len(), longest);
    }

    #[test]
    fn unified_layout_has_memory_among_its_controllers() {
        let host = Host::unified();
        let root = host.root().to_owned();
        assert_eq!(Layout::probe(&root).ok(), Some(Layout::Unified { root }));
    }

    #[test]
    fn hybrid_layout_has_pressure_beside_v1_memory() {
        let host = Host::hybrid();
        let layout = Layout::probe(host.root()).expect("a layout");
        let unified = host.root().join("unified");
        assert_eq!(layout.memory_root(), host.root().join("memory"));
        let file = layout.pressure_file(&unified.join("web")).expect("one");
        assert_eq!(file, unified.join("web/memory.pressure"));
    }

    #[test]
    fn v1_without_the_unified_hierarchy_has_no_pressure() {
        let host = Host::memory_only();
        let layout = Layout::probe(host.root()).expect("a layout");
        assert!(matches!(layout, Layout::MemoryOnly { .. }));
        let error = layout.pressure_file(Path::new("/web")).expect_err("none");
        assert!(error.to_string().contains("mount cgroup2 at"), "{error}");
    }

    #[test]
    fn root_without_a_memory_controller_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        for root in [directory.path(), Path::new("/nonexistent")] {
            let error = Layout::probe(root).expect_err("nothing there");
            assert!(error.to_string().contains("--cgroup-root"), "{error}");
        }
    }
}
