//! Memory files: made, mapped, locked, and handed out as words and as bytes.
//!
//! One of the files with unsafe. A file is split once into a part that is only ever seen as
//! atomic words (tables, shared with other processes and threads) and a part that is only ever
//! seen as bytes (page contents, one owner), so that no byte is both.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_types::PAGE_SIZE;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat, ftruncate, open};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};
use thiserror::Error;

/// Why a memory file cannot be had.
#[derive(Debug, Error)]
pub enum MemoryFileError {
    /// The host refused a call.
    #[error("{action} memory file '{}': {errno}", path.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The host's answer.
        errno: Errno,
    },
    /// There is not enough memory.
    #[error("not enough memory for '{}' with {len} bytes: choose a smaller size", path.display())]
    NoMemory {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The length is no whole, positive number of pages.
    #[error(
        "memory file '{}' has {len} bytes, which is no whole number of pages: it was cut short and \
         what it held is lost; remove it, and a new one is made",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
}

/// A shared mapping; unmapped when its last user is gone.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that belongs to no thread; who may touch which part of it
// is settled by `MappedWords` (atomics only) and `MappedBytes` (one owner).
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` gives no access to its memory by itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn lock(&self) -> Result<(), Errno> {
        // SAFETY: base and len are those of our own, living mapping.
        unsafe { mlock(self.base.as_ptr().cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of our own mmap, and the last reference is going away,
        // so no part of it is borrowed.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// A memory file, mapped whole.
#[derive(Debug)]
pub struct MappedFile {
    file: OwnedFd,
    path: PathBuf,
    mapping: Arc<Mapping>,
}

impl MappedFile {
    /// Makes a file of zeros that did not exist, with all its memory taken from the host at once.
    /// On failure no file is left.
    ///
    /// # Errors
    /// See [`MemoryFileError`].
    pub fn create(path: &Path, len: usize) -> Result<Self, MemoryFileError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| host("create", path, errno))?;
        let made = allocate(&file, path, len).and_then(|()| Self::from_file(file, path));
        if made.is_err() {
            // The caller gets the first error; this one would hide it.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Opens a file that exists.
    ///
    /// # Errors
    /// See [`MemoryFileError`].
    pub fn open(path: &Path) -> Result<Self, MemoryFileError> {
        let file = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| host("open", path, errno))?;
        Self::from_file(file, path)
    }

    /// Maps a file that is open already, such as an inherited descriptor. `path` is for messages.
    ///
    /// # Errors
    /// See [`MemoryFileError`].
    pub fn from_file(file: OwnedFd, path: &Path) -> Result<Self, MemoryFileError> {
        let size = fstat(&file)
            .map_err(|errno| host("look at", path, errno))?
            .st_size;
        let len = usize::try_from(size).unwrap_or_default();
        if len == 0 || !len.is_multiple_of(PAGE_SIZE.as_usize()) {
            let path = path.to_owned();
            return Err(MemoryFileError::Length { path, len });
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let base = base.map_err(|errno| host("map", path, errno))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| host("map", path, Errno::NOMEM))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            mapping: Arc::new(Mapping { base, len }),
        })
    }

    /// Length in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.mapping.len
    }

    /// Locks every page in memory, and so makes all of them present.
    ///
    /// # Errors
    /// The host's.
    pub fn lock(&self) -> Result<(), MemoryFileError> {
        let locked = self.mapping.lock();
        locked.map_err(|errno| host("lock", &self.path, errno))
    }

    /// Looks at the first `words` words before the split, to decide how to split.
    ///
    /// # Errors
    /// `Length` if the file has not that many.
    pub fn with_words(
        &self,
        words: usize,
        look: impl FnOnce(&[AtomicU64]),
    ) -> Result<(), MemoryFileError> {
        if words.saturating_mul(size_of::<AtomicU64>()) > self.mapping.len {
            return Err(MemoryFileError::Length {
                path: self.path.clone(),
                len: self.mapping.len,
            });
        }
        let mapping = Arc::clone(&self.mapping);
        look(&MappedWords { mapping, words });
        Ok(())
    }

    /// Splits the mapping: `words_len` bytes, a whole number of pages, become words, the rest
    /// bytes.
    ///
    /// # Errors
    /// `Length` if `words_len` is no whole number of pages or over the file's length.
    pub fn split(
        self,
        words_len: usize,
    ) -> Result<(OwnedFd, MappedWords, MappedBytes), MemoryFileError> {
        let len = self.mapping.len;
        if words_len > len || !words_len.is_multiple_of(PAGE_SIZE.as_usize()) {
            return Err(MemoryFileError::Length {
                path: self.path,
                len: words_len,
            });
        }
        let words = MappedWords {
            mapping: Arc::clone(&self.mapping),
            words: words_len / size_of::<AtomicU64>(),
        };
        let bytes = MappedBytes {
            mapping: self.mapping,
            offset: words_len,
            len: len - words_len,
        };
        Ok((self.file, words, bytes))
    }
}

impl AsFd for MappedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn host(action: &'static str, path: &Path, errno: Errno) -> MemoryFileError {
    let path = path.to_owned();
    MemoryFileError::Host {
        action,
        path,
        errno,
    }
}

fn allocate(file: &OwnedFd, path: &Path, len: usize) -> Result<(), MemoryFileError> {
    let size = u64::try_from(len).unwrap_or(u64::MAX);
    ftruncate(file, size).map_err(|errno| host("size", path, errno))?;
    if len == 0 {
        return Ok(());
    }
    fallocate(file, FallocateFlags::empty(), 0, size).map_err(|errno| match errno {
        Errno::NOSPC | Errno::NOMEM => MemoryFileError::NoMemory {
            path: path.to_owned(),
            len,
        },
        other => host("allocate", path, other),
    })
}

/// The front part of a memory file, as words that any thread and process may read and write.
#[derive(Debug, Clone)]
pub struct MappedWords {
    mapping: Arc<Mapping>,
    words: usize,
}

impl Deref for MappedWords {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts at a page boundary, so words are aligned; `split` checked
        // that it is long enough; the mapping lives as long as `self`; and every access to this
        // part, in every process, is atomic.
        unsafe { std::slice::from_raw_parts(self.mapping.base.as_ptr().cast(), self.words) }
    }
}

/// The back part of a memory file: page contents, with one owner in each process. Processes that
/// map the same file agree among themselves which one touches it.
#[derive(Debug)]
pub struct MappedBytes {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl MappedBytes {
    fn base(&self) -> *mut u8 {
        // SAFETY: `split` made offset + len the mapping's length.
        unsafe { self.mapping.base.as_ptr().add(self.offset) }
    }

    /// Locks the whole file's mapping, words and bytes, and so makes all of it present.
    ///
    /// # Errors
    /// The host's.
    pub fn lock_mapping(&self) -> Result<(), Errno> {
        self.mapping.lock()
    }

    /// Keeps the bytes mapped, for registration with a device.
    #[must_use]
    pub fn keep(&self) -> KeptMapping {
        KeptMapping {
            mapping: Arc::clone(&self.mapping),
            offset: self.offset,
            len: self.len,
        }
    }

    /// All bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: in bounds by `split`; `&self` excludes `as_mut_slice`, and `MappedWords` never
        // reaches this part.
        unsafe { std::slice::from_raw_parts(self.base(), self.len) }
    }

    /// All bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`; `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.len) }
    }
}

/// Keeps bytes of a memory file mapped without giving access to them.
#[derive(Debug, Clone)]
pub struct KeptMapping {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl KeptMapping {
    /// Where a part of the bytes is; `None` if there is no such part.
    #[must_use]
    pub fn part(&self, skip: usize, len: usize) -> Option<NonNull<u8>> {
        let end = skip.checked_add(len)?;
        (end <= self.len).then(|| {
            // SAFETY: within the bytes, by the check, and those are within the mapping.
            unsafe { self.mapping.base.add(self.offset + skip) }
        })
    }
}

impl Buffers for MappedBytes {
    fn bytes(&self, range: BufferRange) -> &[u8] {
        &self.as_slice()[range.byte_offset()..][..range.byte_len()]
    }

    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8] {
        &mut self.as_mut_slice()[range.byte_offset()..][..range.byte_len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn content_outlives_the_mapping() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file = MappedFile::create(&path, 3 * 4096).expect("created");
        file.lock().expect("three pages");
        let (_, words, mut bytes) = file.split(4096).expect("one page of words");
        assert_eq!((words.len(), bytes.as_slice().len()), (512, 8192));
        words[511].store(7, Ordering::Release);
        let second = BufferRange { first: 1, pages: 1 };
        bytes.bytes_mut(second).fill(9);
        drop((words, bytes));
        let (_, words, bytes) = MappedFile::open(&path)
            .and_then(|file| file.split(4096))
            .expect("reopened");
        assert_eq!(words[511].load(Ordering::Acquire), 7);
        assert!(bytes.bytes(second).iter().all(|byte| *byte == 9));
        assert_eq!(bytes.as_slice()[4095], 0);
    }

    #[test]
    fn wrong_lengths_are_refused_and_leave_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for len in [0, 4095] {
            let refused = MappedFile::create(&path, len).expect_err("no whole pages");
            assert!(matches!(refused, MemoryFileError::Length { .. }));
            assert!(!path.exists());
        }
        let file = MappedFile::create(&path, 4096).expect("created");
        assert!(file.split(8192).is_err());
        assert!(MappedFile::create(&path, 4096).is_err(), "it exists");
    }
}
