//! The engine's program, kept in memory: starting a new engine under pressure must not wait for
//! the disk.
//!
//! One of the few files with unsafe code: the mapping.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mm::{MapFlags, ProtFlags};

/// A program file, mapped and locked.
#[derive(Debug)]
pub struct PinnedProgram {
    /// Device, inode and time of change: another file is there after an upgrade.
    identity: (u64, u64, i64),
    base: *mut std::ffi::c_void,
    len: usize,
}

impl PinnedProgram {
    /// Maps the program; it is locked where the host permits it.
    ///
    /// # Errors
    /// The host's, such as that there is no such file.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let len = usize::try_from(meta.len()).unwrap_or_default();
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing, and the
        // mapped bytes are never looked at.
        let base = unsafe {
            let flags = MapFlags::SHARED;
            rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, flags, &file, 0)?
        };
        // SAFETY: base and len are those of the mapping just made.
        if let Err(errno) = unsafe { rustix::mm::mlock(base, len) } {
            tracing::debug!("{} cannot be locked in memory: {errno}", path.display());
        }
        Ok(Self {
            identity: (meta.dev(), meta.ino(), meta.ctime()),
            base,
            len,
        })
    }

    /// Whether the file at `path` is another one now.
    #[must_use]
    pub fn is_replaced(&self, path: &Path) -> bool {
        std::fs::metadata(path)
            .is_ok_and(|meta| (meta.dev(), meta.ino(), meta.ctime()) != self.identity)
    }
}

impl Drop for PinnedProgram {
    fn drop(&mut self) {
        // SAFETY: base and len are those of our own mapping, which nothing borrows.
        let unmapped = unsafe { rustix::mm::munmap(self.base, self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_program_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("program");
        std::fs::write(&path, b"one").expect("written");
        let pinned = PinnedProgram::new(&path).expect("mapped");
        assert!(!pinned.is_replaced(&path));
        std::fs::write(directory.path().join("new"), b"two").expect("written");
        std::fs::rename(directory.path().join("new"), &path).expect("replaced");
        assert!(pinned.is_replaced(&path));
    }
}
