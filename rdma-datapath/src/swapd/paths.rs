//! Where everything of one swap device lies under the state directory.

use std::path::{Path, PathBuf};

use crate::front_end::fuse_loop::FILE_NAME;

/// Paths under the state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The state directory, without symbolic links.
    pub state: PathBuf,
}

impl Paths {
    /// Held by the holder alone.
    #[must_use]
    pub fn holder_lock(&self) -> PathBuf {
        self.state.join("holder.lock")
    }

    /// Held by the holder and its engines for as long as any of them lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("swapd.lock")
    }

    /// Where the one-file file system is mounted.
    #[must_use]
    pub fn mount(&self) -> PathBuf {
        self.state.join("device")
    }

    /// The file under the loop device.
    #[must_use]
    pub fn backing(&self) -> PathBuf {
        self.mount().join(FILE_NAME)
    }

    /// The memory file.
    #[must_use]
    pub fn memory_file(&self) -> PathBuf {
        self.state.join("memory/swapd")
    }

    /// The last document taken, for the next engine.
    #[must_use]
    pub fn document(&self) -> PathBuf {
        self.state.join("memory/document")
    }

    /// Page contents of the local backend.
    #[must_use]
    pub fn local_content(&self) -> PathBuf {
        self.state.join("memory/local")
    }
}

impl From<&Path> for Paths {
    fn from(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }
}
