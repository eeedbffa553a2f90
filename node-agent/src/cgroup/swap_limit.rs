//! `memory.swap.max` of a cgroup, and `memory.high` beside it: read and written, on cgroup v2 only.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use dynamicswap_policy::SwapLimit;
use dynamicswap_types::Bytes;

use super::figures::{Figure, HIGH, MAX, limit, read, read_again};
use super::{CgroupError, KeptFiles, Layout};

const FILE: &str = "memory.swap.max";

impl Layout {
    /// The root of a hierarchy in which swap can be limited cgroup by cgroup: cgroup v2 has one.
    #[must_use]
    pub fn swap_limits(&self) -> Option<SwapLimits> {
        match self {
            Self::Unified { root } => Some(SwapLimits { root: root.clone() }),
            Self::Hybrid { .. } | Self::MemoryOnly { .. } => None,
        }
    }

    /// The limit of the cgroup with this directory; none if the host has none for it.
    #[must_use]
    pub fn swap_limit(&self, cgroup: &Path) -> Option<SwapLimit> {
        let limits = self.swap_limits()?;
        limits.get(&limits.relative(cgroup)?).ok()
    }
}

fn limit_of(figure: Figure) -> SwapLimit {
    match figure {
        Figure::Bytes(bytes) => SwapLimit::Bytes(bytes),
        Figure::Max(_) => SwapLimit::Max,
    }
}

/// The swap limits of a host with cgroup v2, and `memory.high` beside them. Cgroups are named by their
/// path below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapLimits {
    root: PathBuf,
}

impl SwapLimits {
    /// A cgroup's path below the root, as the other calls take it; none if it is elsewhere.
    #[must_use]
    pub fn relative(&self, cgroup: &Path) -> Option<PathBuf> {
        cgroup.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// Where a cgroup's files are.
    #[must_use]
    pub fn absolute(&self, cgroup: &Path) -> PathBuf {
        self.root.join(cgroup)
    }

    /// Whether the cgroup is there.
    #[must_use]
    pub fn exists(&self, cgroup: &Path) -> bool {
        self.root.join(cgroup).is_dir()
    }

    /// A cgroup's limit.
    ///
    /// # Errors
    /// [`CgroupError`] if it is gone, or its file holds something else.
    pub fn get(&self, cgroup: &Path) -> Result<SwapLimit, CgroupError> {
        read(&self.root.join(cgroup), FILE).map(limit_of)
    }

    /// The same, for who reads it at every look.
    ///
    /// # Errors
    /// See [`SwapLimits::get`].
    pub fn get_again(
        &self,
        cgroup: &Path,
        files: &mut KeptFiles,
    ) -> Result<SwapLimit, CgroupError> {
        read_again(&self.root.join(cgroup), FILE, files).map(limit_of)
    }

    /// Changes a cgroup's limit. The kernel takes pages neither out nor in for it.
    ///
    /// # Errors
    /// [`CgroupError`] if it is gone, or the kernel refuses.
    pub fn set(&self, cgroup: &Path, limit: SwapLimit) -> Result<(), CgroupError> {
        let text = match limit {
            SwapLimit::Bytes(bytes) => bytes.get().to_string(),
            SwapLimit::Max => "max".to_owned(),
        };
        self.write(cgroup, FILE, &text)
    }

    /// `memory.high` and `memory.max` of a cgroup; none where there is no limit.
    ///
    /// # Errors
    /// [`CgroupError`] if it is gone, or a file holds something else.
    pub fn held_at(&self, cgroup: &Path) -> Result<[Option<Bytes>; 2], CgroupError> {
        let cgroup = self.absolute(cgroup);
        Ok([limit(&cgroup, HIGH)?, limit(&cgroup, MAX)?])
    }

    /// Changes a cgroup's `memory.high`. The kernel may take pages of it at once.
    ///
    /// # Errors
    /// [`CgroupError`] if it is gone, or the kernel refuses.
    pub fn set_high(&self, cgroup: &Path, high: Option<Bytes>) -> Result<(), CgroupError> {
        let text = high.map_or_else(|| "max".to_owned(), |bytes| bytes.get().to_string());
        self.write(cgroup, HIGH, &text)
    }

    fn write(&self, cgroup: &Path, file: &str, text: &str) -> Result<(), CgroupError> {
        let path = self.root.join(cgroup).join(file);
        // Never made: a cgroup that is gone stays gone.
        let written = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| CgroupError::Io {
            what: "write",
            path,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use dynamicswap_types::Bytes;

    use super::super::fixture::{Files, Host};
    use super::*;

    #[test]
    fn limit_is_read_back_as_it_was_written() {
        let host = Host::unified();
        let (cgroup, _) = host.container("web", Files::default());
        let limits = Layout::probe(host.root()).expect("one").swap_limits();
        let limits = limits.expect("cgroup v2");
        let web = limits.relative(&cgroup).expect("below the root");
        assert_eq!(limits.get(&web).ok(), Some(SwapLimit::NONE));
        for limit in [SwapLimit::Bytes(Bytes::from_mib(64)), SwapLimit::Max] {
            limits.set(&web, limit).expect("written");
            assert_eq!(limits.get(&web).ok(), Some(limit));
        }
        let gone = limits.set(Path::new("gone"), SwapLimit::NONE);
        assert!(gone.expect_err("never made").is_gone());
        assert!(!limits.exists(Path::new("gone")));
    }

    #[test]
    fn only_cgroup_v2_has_limits() {
        for host in [Host::hybrid(), Host::memory_only()] {
            let layout = Layout::probe(host.root()).expect("a layout");
            assert_eq!(layout.swap_limits(), None);
        }
    }
}
