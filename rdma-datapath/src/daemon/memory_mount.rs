//! The directory for memory files: a tmpfs of our own, mounted `noswap`, at `STATE_DIR/memory`.
//!
//! A memory file must never be swapped out: to our own device, it would wait for itself. `noswap`
//! (Linux 6.4) makes that impossible even while no process holds the file.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dynamicswap_types::Bytes;
use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use thiserror::Error;

/// Why there is no directory for memory files.
#[derive(Debug, Error)]
pub enum MountError {
    /// The directory could not be made or looked at.
    #[error("{action} '{}': {source}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The host refuses the mount.
    #[error(
        "the host refuses to mount a tmpfs on '{}' ({errno}): run as root with CAP_SYS_ADMIN, or \
         choose a state directory that lies on a tmpfs", path.display()
    )]
    Refused {
        /// The directory.
        path: PathBuf,
        /// The host's answer.
        errno: Errno,
    },
    /// Something still uses it.
    #[error("'{}' cannot be unmounted ({errno}): stop the daemon that uses it", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The host's answer.
        errno: Errno,
    },
}

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Room for directories and small files beside the memory files.
const MARGIN: Bytes = Bytes::from_mib(1);

/// A directory for memory files.
#[derive(Debug)]
pub struct MemoryDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether its files can never be swapped out, even while nobody locks them.
    pub noswap: bool,
    /// What the host refused, one sentence each.
    pub warnings: Vec<String>,
}

impl MemoryDirectory {
    /// Mounts `STATE_DIR/memory` with room for `size`, or takes the mount that an earlier process
    /// left there, with its files.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn prepare(state_dir: &Path, size: Bytes) -> Result<Self, MountError> {
        let path = state_dir.join("memory");
        fs::create_dir_all(&path).map_err(|error| directory("make", &path, error))?;
        let path = fs::canonicalize(&path).map_err(|error| directory("resolve", &path, error))?;
        let size = size.saturating_add(MARGIN);
        match mounted(&path)? {
            Some(found) if found.file_system == "tmpfs" => {
                resize(&path, size)?;
                Ok(Self::made(path, found.noswap))
            }
            _ => Self::mount(path, size),
        }
    }

    fn mount(path: PathBuf, size: Bytes) -> Result<Self, MountError> {
        match mount_tmpfs(&path, size, ",noswap") {
            Ok(()) => return Ok(Self::made(path, true)),
            Err(Errno::INVAL) => {}
            Err(errno) => return Self::unmounted(path, errno),
        }
        match mount_tmpfs(&path, size, "") {
            Ok(()) => Ok(Self::made(path, false)),
            Err(errno) => Self::unmounted(path, errno),
        }
    }

    /// Without a mount of our own, a directory that lies on a tmpfs will do.
    fn unmounted(path: PathBuf, errno: Errno) -> Result<Self, MountError> {
        let kind = statfs(&path).map(|found| u64::try_from(found.f_type).unwrap_or_default());
        if kind == Ok(TMPFS_MAGIC) {
            let mut directory = Self::made(path, false);
            directory.warnings.push(format!(
                "a tmpfs could not be mounted ({errno}): memory files lie on the one that was there"
            ));
            Ok(directory)
        } else {
            Err(MountError::Refused { path, errno })
        }
    }

    fn made(path: PathBuf, noswap: bool) -> Self {
        let warning = "memory files are not on a noswap tmpfs (Linux 6.4 has it): they stay out of \
                       swap only while a process keeps them locked";
        Self {
            path,
            noswap,
            warnings: if noswap {
                Vec::new()
            } else {
                vec![warning.to_owned()]
            },
        }
    }

    /// Unmounts `STATE_DIR/memory` and removes it with all memory files. Does nothing if there is
    /// none.
    ///
    /// # Errors
    /// See [`MountError`]; `Busy` while a process uses it.
    pub fn discard(state_dir: &Path) -> Result<(), MountError> {
        let path = state_dir.join("memory");
        let Ok(path) = fs::canonicalize(&path) else {
            return Ok(());
        };
        while mounted(&path)?.is_some() {
            if let Err(errno) = unmount(&path, UnmountFlags::empty()) {
                return Err(MountError::Busy { path, errno });
            }
        }
        fs::remove_dir_all(&path).map_err(|error| directory("remove", &path, error))
    }
}

fn directory(action: &'static str, path: &Path, source: io::Error) -> MountError {
    let path = path.to_owned();
    MountError::Directory {
        action,
        path,
        source,
    }
}

const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

fn mount_tmpfs(path: &Path, size: Bytes, option: &str) -> Result<(), Errno> {
    let options = format!("size={},mode=0700{option}", size.get());
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("dynamicswap", path, "tmpfs", FLAGS, options.as_c_str())
}

/// Makes sure that the mount has room for `size`.
fn resize(path: &Path, size: Bytes) -> Result<(), MountError> {
    let busy = |errno| MountError::Busy {
        path: path.to_owned(),
        errno,
    };
    let found = statfs(path).map_err(busy)?;
    let block = u64::try_from(found.f_bsize).unwrap_or_default();
    if found.f_blocks.saturating_mul(block) >= size.get() {
        return Ok(());
    }
    let options = CString::new(format!("size={}", size.get())).map_err(|_| busy(Errno::INVAL))?;
    mount_remount(path, FLAGS, options.as_c_str()).map_err(busy)
}

/// A mount, as /proc/self/mountinfo tells it.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    file_system: String,
    noswap: bool,
}

fn mounted(path: &Path) -> Result<Option<Mounted>, MountError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(|error| directory("read", table, error))?;
    Ok(find_mount(&text, path))
}

/// The topmost mount at `path`. A line reads
/// `36 35 98:0 /root /mount/point options [optional]... - fs source super,options`.
fn find_mount(mountinfo: &str, path: &Path) -> Option<Mounted> {
    let wanted = path.to_str()?;
    mountinfo.lines().rev().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let point = front.split(' ').nth(4)?.replace("\\040", " ");
        let mut back = back.split(' ');
        let file_system = back.next()?.to_owned();
        let noswap = back.nth(1)?.split(',').any(|option| option == "noswap");
        (point == wanted).then_some(Mounted {
            file_system,
            noswap,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        36 35 98:0 / / rw - ext4 /dev/vda rw\n\
        40 36 0:30 / /run/a\\040b/memory rw,nosuid shared:7 - tmpfs dynamicswap rw,size=64k,noswap\n\
        41 36 0:31 / /run/c rw - tmpfs none rw\n";

    #[test]
    fn mounts_are_found_by_their_point() {
        let found = find_mount(TABLE, Path::new("/run/a b/memory")).expect("there");
        assert_eq!((found.file_system.as_str(), found.noswap), ("tmpfs", true));
        let plain = find_mount(TABLE, Path::new("/run/c")).expect("there");
        assert!(!plain.noswap);
        assert_eq!(find_mount(TABLE, Path::new("/run")), None);
    }

    #[test]
    fn mount_keeps_its_files_until_it_is_discarded() {
        let state = tempfile::tempdir().expect("a directory");
        let size = Bytes::from_mib(1);
        let Ok(made) = MemoryDirectory::prepare(state.path(), size) else {
            eprintln!("SKIPPED: mounting needs CAP_SYS_ADMIN");
            return;
        };
        fs::write(made.path.join("kept"), b"content").expect("room");
        let larger = Bytes::from_mib(64);
        let again = MemoryDirectory::prepare(state.path(), larger).expect("it is there");
        assert_eq!(again.noswap, made.noswap);
        assert_eq!(fs::read(again.path.join("kept")).expect("kept"), b"content");
        fs::write(again.path.join("large"), vec![1; 8 << 20]).expect("the mount has grown");
        MemoryDirectory::discard(state.path()).expect("nobody uses it");
        assert!(!state.path().join("memory").exists());
        assert_eq!(mounted(&made.path).expect("readable"), None);
    }
}
