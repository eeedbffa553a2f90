//! A block device, open for direct I/O: pages written, read and discarded, sizes asked for.
//!
//! One of the few files with unsafe code: the block layer's ioctls.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dynamicswap_types::{Bytes, PAGE_SIZE};
use rustix::fs::{Mode, OFlags};

use super::DeviceError;

const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// A block device.
#[derive(Debug)]
pub struct RawDevice {
    file: File,
    path: PathBuf,
}

impl RawDevice {
    /// Opens it.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = open_direct(&path)?;
        Ok(Self { file, path })
    }

    /// Opens it for this process alone: nobody can make it swap, and no swap can be opened.
    ///
    /// # Errors
    /// The host's; EBUSY if somebody has it so already.
    pub(super) fn claim(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::EXCL;
        let descriptor: OwnedFd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self {
            file: descriptor.into(),
            path,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Reads back that it has this size, and blocks of a page.
    pub(super) fn verify(&self, size: Bytes) -> Result<(), DeviceError> {
        let asking =
            |error| DeviceError::system("asking about", &self.path, "see the kernel's log", error);
        let found_size = device_size(&self.file).map_err(asking)?;
        let block = logical_block_bytes(&self.file).map_err(asking)?;
        let page = PAGE_SIZE.get();
        let wrong = if found_size != size.get() {
            format!("its size is {found_size} instead of {} bytes", size.get())
        } else if u64::try_from(block) != Ok(page) {
            format!("its blocks have {block} instead of {page} bytes")
        } else {
            return Ok(());
        };
        Err(DeviceError::ReadBack {
            path: self.path.clone(),
            what: wrong,
        })
    }

    /// Writes pages; `bytes` is page-aligned.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        let hint = "the engine could not keep the page; see its log and the links in its report";
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| DeviceError::system("writing to", &self.path, hint, error))
    }

    /// Reads pages; `bytes` is page-aligned.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let hint = "the engine could not give the page back; see its log";
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| DeviceError::system("reading from", &self.path, hint, error))
    }

    /// Discards the first `length` bytes.
    pub(super) fn discard(&self, length: Bytes) -> Result<(), DeviceError> {
        let range = [0_u64, length.get()];
        // SAFETY: the ioctl reads two u64, which `range` holds, and keeps no pointer.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD, &raw const range) };
        let hint = "freed pages could never be given back; see the engine's log";
        check(result)
            .map(|_| ())
            .map_err(|error| DeviceError::system("discarding on", &self.path, hint, error))
    }
}

/// Opens a file or a device for direct I/O.
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let descriptor: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(descriptor.into())
}

/// The result of a call that gives a negative number for a failure.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: the ioctl writes one u64.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
    Ok(size)
}

fn logical_block_bytes(device: &File) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the ioctl writes one int.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &raw mut bytes) })?;
    Ok(bytes)
}
