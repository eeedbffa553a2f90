//! The FUSE connection as the holder sees it: opened, mounted, aborted, unmounted.
//!
//! Nothing here may ask the file system anything: while no engine serves it, the caller would
//! hang with it. What is mounted is read from `/proc/self/mountinfo`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

/// Where the kernel hands over the requests of a FUSE mount.
const DEVICE: &str = "/dev/fuse";
/// How our mounts are called in the mount table.
const TYPE: &str = "fuse.dynamicswap";

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// No such device.
    #[error(
        "{DEVICE} cannot be opened: the fuse-loop device needs it; load the kernel's fuse module or run on a host that has it"
    )]
    Device(#[source] io::Error),
    /// The mount was refused.
    #[error("the device's file system cannot be mounted at {0}: run as root with CAP_SYS_ADMIN")]
    Mount(PathBuf, #[source] io::Error),
    /// It cannot be unmounted.
    #[error("{0} cannot be unmounted: end whatever still uses it, then stop swapd again")]
    Unmount(PathBuf, #[source] io::Error),
    /// The mount table cannot be read.
    #[error("the mount table cannot be read")]
    MountTable(#[source] io::Error),
}

/// Opens the device and mounts a new connection at `target`, an existing directory. The
/// descriptor is non-blocking and is closed on exec.
///
/// # Errors
/// [`ConnectionError`] with what is missing; nothing is mounted then.
pub fn mount(target: &Path) -> Result<OwnedFd, ConnectionError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(DEVICE, flags, Mode::empty())
        .map_err(|errno| ConnectionError::Device(errno.into()))?;
    let refused = |error: io::Error| ConnectionError::Mount(target.to_owned(), error);
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        descriptor.as_raw_fd()
    );
    let options = CString::new(options).map_err(|error| refused(error.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    rustix::mount::mount("dynamicswap", target, TYPE, flags, Some(options.as_c_str()))
        .map_err(|errno| refused(errno.into()))?;
    Ok(descriptor)
}

/// The last resort: every request under way and every later one ends with an error, so that
/// nobody waits any longer. The mount stays until it is no longer used.
///
/// # Errors
/// [`ConnectionError::Unmount`] if the mount is not there.
pub fn abort(target: &Path) -> Result<(), ConnectionError> {
    match rustix::mount::unmount(target, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        // Forcing aborts the connection first, and then finds the mount in use.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(errno) => Err(ConnectionError::Unmount(target.to_owned(), errno.into())),
    }
}

/// Unmounts an idle connection.
///
/// # Errors
/// [`ConnectionError::Unmount`] if it is still used, or not there.
pub fn unmount(target: &Path) -> Result<(), ConnectionError> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)
        .map_err(|errno| ConnectionError::Unmount(target.to_owned(), errno.into()))
}

/// The type of the file system that is mounted at exactly `target`, if one is.
///
/// # Errors
/// [`ConnectionError::MountTable`] if the mount table cannot be read.
pub fn mounted_type(target: &Path) -> Result<Option<String>, ConnectionError> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(ConnectionError::MountTable)?;
    Ok(find_mount(&table, &target.to_string_lossy()))
}

/// The topmost mount at `target` in a mountinfo table.
fn find_mount(table: &str, target: &str) -> Option<String> {
    table
        .lines()
        .rev()
        .filter(|line| line.split(' ').nth(4).map(unescape).as_deref() == Some(target))
        .find_map(|line| {
            line.split_once(" - ")?
                .1
                .split(' ')
                .next()
                .map(str::to_owned)
        })
}

/// Undoes the table's octal escapes of blanks and backslashes.
fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /run/a\\040b/device rw,nosuid - fuse.dynamicswap dynamicswap rw,user_id=0
41 22 0:36 / /run/a rw shared:2 master:1 - tmpfs memory rw,noswap
42 41 0:37 / /run/a rw - fuse.dynamicswap dynamicswap rw
";

    #[test]
    fn mount_is_found_by_its_exact_place_and_the_topmost_counts() {
        let found = |target| find_mount(TABLE, target);
        assert_eq!(found("/").as_deref(), Some("ext4"));
        assert_eq!(found("/run/a b/device").as_deref(), Some(TYPE));
        assert_eq!(found("/run/a").as_deref(), Some(TYPE));
        assert_eq!(found("/run"), None);
    }

    #[test]
    fn unmounting_what_is_not_there_names_the_place() {
        let error = unmount(Path::new("/nowhere")).expect_err("not mounted");
        assert!(error.to_string().contains("/nowhere"));
    }
}
