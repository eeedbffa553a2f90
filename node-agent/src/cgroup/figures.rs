//! Memory figures of a container, on v2 and on v1.

use std::path::{Path, PathBuf};

use dynamicswap_policy::Memory;
use dynamicswap_types::Bytes;

use super::{CgroupError, KeptFiles, Layout, beginning, read_text};

impl Layout {
    /// Memory of the container whose directory in the memory hierarchy is `cgroup`. A `memory.high` that
    /// is `guard` is the agent's own, and no limit.
    ///
    /// # Errors
    /// [`CgroupError`] if a file that this layout has cannot be read.
    pub fn memory(&self, cgroup: &Path, guard: Option<Bytes>) -> Result<Memory, CgroupError> {
        match self {
            Self::Unified { .. } => unified(cgroup, guard),
            Self::Hybrid { .. } | Self::MemoryOnly { .. } => legacy(cgroup),
        }
    }

    /// What of it is in RAM: the one figure that is worth a read at every look.
    ///
    /// # Errors
    /// See [`Layout::memory`].
    pub fn used(&self, cgroup: &Path, files: &mut KeptFiles) -> Result<Bytes, CgroupError> {
        let name = match self {
            Self::Unified { .. } => UNIFIED_USED,
            Self::Hybrid { .. } | Self::MemoryOnly { .. } => LEGACY_USED,
        };
        read_again(cgroup, name, files)?.into_bytes()
    }
}

/// Where the kernel begins to hold a cgroup down, and where it kills.
pub(super) const HIGH: &str = "memory.high";
pub(super) const MAX: &str = "memory.max";
const UNIFIED_USED: &str = "memory.current";
const LEGACY_USED: &str = "memory.usage_in_bytes";

/// The limit is the lower of memory.high and memory.max: the kernel holds a container down from
/// there on.
fn unified(cgroup: &Path, guard: Option<Bytes>) -> Result<Memory, CgroupError> {
    let high = limit(cgroup, HIGH)?.filter(|high| Some(*high) != guard);
    let limits = [high, limit(cgroup, MAX)?];
    Ok(Memory {
        used: bytes(cgroup, UNIFIED_USED)?,
        limit: limits.into_iter().flatten().min(),
        // The file is missing on a kernel that does no swap accounting.
        swapped: optional(bytes(cgroup, "memory.swap.current"))?.unwrap_or_default(),
    })
}

/// v1 counts memory, and memory with swap; it writes no limit as the largest number of whole
/// pages.
fn legacy(cgroup: &Path) -> Result<Memory, CgroupError> {
    const NO_LIMIT: Bytes = Bytes::new(1 << 62);
    let used = bytes(cgroup, LEGACY_USED)?;
    let limit = bytes(cgroup, "memory.limit_in_bytes")?;
    // The file is missing on a kernel that does no swap accounting.
    let both = optional(bytes(cgroup, "memory.memsw.usage_in_bytes"))?;
    Ok(Memory {
        used,
        limit: (limit < NO_LIMIT).then_some(limit),
        swapped: both.unwrap_or(used).saturating_sub(used),
    })
}

/// What stands in a file with one figure.
pub(super) enum Figure {
    Bytes(Bytes),
    /// The file says `max`.
    Max(PathBuf),
}

impl Figure {
    /// The number, of a file that must have one.
    fn into_bytes(self) -> Result<Bytes, CgroupError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Max(path) => Err(CgroupError::Content {
                path,
                found: "max".to_owned(),
                wanted: "a number of bytes",
            }),
        }
    }
}

pub(super) fn read(cgroup: &Path, name: &str) -> Result<Figure, CgroupError> {
    let path = cgroup.join(name);
    let text = read_text(&path)?;
    figure(path, &text)
}

/// The same, for who reads it at every look.
pub(super) fn read_again(
    cgroup: &Path,
    name: &str,
    files: &mut KeptFiles,
) -> Result<Figure, CgroupError> {
    let path = cgroup.join(name);
    let text = files.read_text(&path)?;
    figure(path, &text)
}

/// The figure that a file's text is.
fn figure(path: PathBuf, text: &str) -> Result<Figure, CgroupError> {
    match text.trim() {
        "max" => Ok(Figure::Max(path)),
        number => number
            .parse()
            .map(|number| Figure::Bytes(Bytes::new(number)))
            .map_err(|_| CgroupError::Content {
                path,
                found: beginning(text),
                wanted: "a number of bytes",
            }),
    }
}

/// A limit of a cgroup; none where the file says that there is none.
pub(super) fn limit(cgroup: &Path, name: &str) -> Result<Option<Bytes>, CgroupError> {
    Ok(match read(cgroup, name)? {
        Figure::Bytes(bytes) => Some(bytes),
        Figure::Max(_) => None,
    })
}

fn bytes(cgroup: &Path, name: &str) -> Result<Bytes, CgroupError> {
    read(cgroup, name)?.into_bytes()
}

/// None if the file does not exist.
fn optional(figure: Result<Bytes, CgroupError>) -> Result<Option<Bytes>, CgroupError> {
    match figure {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Files, Host};
    use super::*;

    fn mib(mib: u32) -> Bytes {
        Bytes::from_mib(mib)
    }

    fn memory(host: &Host, name: &str) -> Result<Memory, CgroupError> {
        let layout = Layout::probe(host.root()).expect("a layout");
        let cgroup = layout.memory_root().join(name);
        layout.memory(&cgroup, None)
    }

    #[test]
    fn unified_limit_is_the_lower_of_high_and_max() {
        let host = Host::unified();
        host.container("web", Files::default());
        let expected = Memory {
            used: mib(64),
            limit: None,
            swapped: Bytes::ZERO,
        };
        assert_eq!(memory(&host, "web").ok(), Some(expected));
        let files = Files {
            swapped: mib(10),
            high: Some(mib(100)),
            max: Some(mib(125)),
            ..Files::default()
        };
        host.container("web", files);
        let expected = Memory {
            used: mib(64),
            limit: Some(mib(100)),
            swapped: mib(10),
        };
        assert_eq!(memory(&host, "web").ok(), Some(expected));
        let layout = Layout::probe(host.root()).expect("a layout");
        let guarded = layout.memory(&host.root().join("web"), Some(mib(100)));
        assert_eq!(guarded.expect("read").limit, Some(mib(125)));
    }

    #[test]
    fn v1_counts_swap_as_what_is_above_memory_and_no_limit_as_none() {
        let host = Host::hybrid();
        let files = Files {
            swapped: mib(30),
            max: Some(mib(64)),
            ..Files::default()
        };
        host.container("web", files);
        let expected = Memory {
            used: mib(64),
            limit: Some(mib(64)),
            swapped: mib(30),
        };
        assert_eq!(memory(&host, "web").ok(), Some(expected));
        host.container("web", Files::default());
        assert_eq!(memory(&host, "web").expect("read").limit, None);
    }

    #[test]
    fn kernel_without_swap_accounting_has_no_swap() {
        for (host, file) in [
            (Host::unified(), "web/memory.swap.current"),
            (Host::hybrid(), "memory/web/memory.memsw.usage_in_bytes"),
        ] {
            host.container("web", Files::default());
            std::fs::remove_file(host.root().join(file)).expect("was there");
            let memory = memory(&host, "web").expect("read");
            assert_eq!((memory.used, memory.swapped), (mib(64), Bytes::ZERO));
        }
    }

    #[test]
    fn removed_cgroup_is_gone_and_a_strange_file_is_named() {
        let host = Host::unified();
        assert!(memory(&host, "web").expect_err("not there").is_gone());
        host.container("web", Files::default());
        std::fs::write(host.root().join("web/memory.current"), "many\n").expect("written");
        let error = memory(&host, "web").expect_err("strange");
        assert!(!error.is_gone());
        assert!(
            error.to_string().contains("memory.current holds 'many'"),
            "{error}"
        );
    }
}
