//! The swap area: its header, written by ourselves, and turning it on and off.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use super::DeviceError;

/// Label of every swap area of ours: tells people and tools whose it is.
pub const LABEL: &[u8; 11] = b"DYNAMICSWAP";
/// Magic at the header page's end.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// Where version, last page and the rest stand.
const INFO_OFFSET: usize = 1024;
const SWAPS: &str = "/proc/swaps";

/// Priority among swap devices: higher is used first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(u16);

impl Priority {
    /// Highest that the kernel takes.
    pub const MAX: u16 = 32767;

    /// From 0 to [`Self::MAX`].
    #[must_use]
    pub const fn new(priority: u16) -> Option<Self> {
        if priority <= Self::MAX {
            Some(Self(priority))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The header page of a swap area of `size`.
#[must_use]
pub fn header(size: Bytes, uuid: [u8; 16]) -> [u8; 4096] {
    let pages = size.get() / PAGE_SIZE.get();
    let last = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut page = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(INFO_OFFSET, &1_u32.to_ne_bytes());
    put(INFO_OFFSET + 4, &last.to_ne_bytes());
    put(INFO_OFFSET + 12, &uuid);
    put(INFO_OFFSET + 28, LABEL);
    put(4096 - MAGIC.len(), MAGIC);
    page
}

/// Turns it on, with discards of freed clusters, and reads back that it is.
pub(super) fn turn_on(device: &Path, priority: Option<Priority>) -> Result<(), DeviceError> {
    const PREFER: i32 = 0x8000;
    const DISCARD: i32 = 0x1_0000;
    const DISCARD_PAGES: i32 = 0x4_0000;
    let preferred = priority.map_or(0, |priority| PREFER | i32::from(priority.get()));
    let path = c_path(device)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let result = unsafe { libc::swapon(path.as_ptr(), preferred | DISCARD | DISCARD_PAGES) };
    if result != 0 {
        let hint = "run as root with CAP_SYS_ADMIN, and see the kernel's log";
        let error = std::io::Error::last_os_error();
        return Err(DeviceError::system(
            "turning on swap on",
            device,
            hint,
            error,
        ));
    }
    if is_on(device)? {
        Ok(())
    } else {
        Err(DeviceError::ReadBack {
            path: device.to_owned(),
            what: format!("{SWAPS} does not list it"),
        })
    }
}

/// Turns it off and reads back that it is.
pub(super) fn turn_off(device: &Path) -> Result<(), DeviceError> {
    let path = c_path(device)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let result = unsafe { libc::swapoff(path.as_ptr()) };
    if result != 0 {
        let hint = "its pages need room in memory: free some, then stop swapd again; until then the device is served";
        let error = std::io::Error::last_os_error();
        return Err(DeviceError::system(
            "turning off swap on",
            device,
            hint,
            error,
        ));
    }
    if is_on(device)? {
        Err(DeviceError::ReadBack {
            path: device.to_owned(),
            what: format!("{SWAPS} still lists it"),
        })
    } else {
        Ok(())
    }
}

/// Whether the kernel swaps to the device now.
///
/// # Errors
/// [`DeviceError::System`] if the kernel's list cannot be read.
pub fn is_on(device: &Path) -> Result<bool, DeviceError> {
    Ok(used(device)?.is_some())
}

/// What the kernel has swapped out to the device; `None` if it does not swap to it.
///
/// # Errors
/// [`DeviceError::System`] if the kernel's list cannot be read.
pub fn used(device: &Path) -> Result<Option<Bytes>, DeviceError> {
    let hint = "a mounted /proc is needed";
    let table = std::fs::read_to_string(SWAPS)
        .map_err(|error| DeviceError::system("reading", Path::new(SWAPS), hint, error))?;
    Ok(used_of(&table, device))
}

/// A line says path, type, size in KiB, used in KiB, priority. What cannot be read counts as
/// full: nobody then takes the device for empty.
fn used_of(table: &str, device: &Path) -> Option<Bytes> {
    let mut lines = table.lines().skip(1).map(str::split_whitespace);
    let mut line = lines.find(|line| is_of(line.clone(), device))?;
    let kib = line.nth(3).and_then(|kib| kib.parse::<u64>().ok());
    Some(kib.map_or(Bytes::new(u64::MAX), |kib| {
        Bytes::new(kib.saturating_mul(1024))
    }))
}

/// Whether a line is the device's. The kernel writes the path as seen from the mount that swapon was
/// given: once the container that turned swap on is gone, /dev/ublkb0 is written as /ublkb0, or as
/// unreachable, or as deleted. A block device's own name says which it is on the whole host.
fn is_of<'a>(mut line: impl Iterator<Item = &'a str>, device: &Path) -> bool {
    let (Some(path), kind) = (line.next(), line.next()) else {
        return false;
    };
    let path = path.strip_suffix("\\040(deleted)").unwrap_or(path);
    let is_block = kind == Some("partition") && device.starts_with("/dev");
    Path::new(path) == device || is_block && Path::new(path).file_name() == device.file_name()
}

fn c_path(device: &Path) -> Result<CString, DeviceError> {
    CString::new(device.as_os_str().as_bytes())
        .map_err(|error| DeviceError::system("naming", device, "a path has no NUL byte", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_stands_where_the_kernel_looks() {
        let page = header(Bytes::from_mib(8), [0xcd; 16]);
        assert_eq!(&page[4086..], b"SWAPSPACE2");
        assert_eq!(page[1024..1028], 1_u32.to_ne_bytes());
        assert_eq!(page[1028..1032], 2047_u32.to_ne_bytes());
        assert_eq!(page[1032..1036], [0; 4], "no bad pages");
        assert_eq!(page[1036..1052], [0xcd; 16]);
        assert_eq!(&page[1052..1068], b"DYNAMICSWAP\0\0\0\0\0");
        assert!(
            page[..1024].iter().all(|byte| *byte == 0),
            "boot block stays empty"
        );
    }

    #[test]
    fn device_is_found_in_the_kernel_s_list_by_its_whole_path() {
        let table = "Filename\tType\tSize\n/dev/loop10   partition\t16\t8\t-2\n";
        let used = |table, device| used_of(table, Path::new(device));
        assert_eq!(used(table, "/dev/loop10"), Some(Bytes::new(8 * 1024)));
        assert_eq!(used(table, "/dev/loop1"), None);
        assert_eq!(used("Filename\n", "/dev/loop1"), None);
        let table = "Filename Type Size Used Priority\n/dev/loop3 partition 1048572 517 -2\n";
        assert_eq!(used(table, "/dev/loop3"), Some(Bytes::new(517 * 1024)));
        assert_eq!(used(table, "/dev/loop4"), None);
        let cut = "Filename\n/dev/loop1 partition\n";
        assert_eq!(used(cut, "/dev/loop1"), Some(Bytes::new(u64::MAX)));
    }

    #[test]
    fn device_is_found_after_the_container_that_turned_it_on_is_gone() {
        for path in [
            "/ublkb0",
            "(unreachable)/ublkb0",
            "/dev/ublkb0\\040(deleted)",
            "/host/dev/ublkb0",
        ] {
            let table =
                format!("Filename Type Size Used Priority\n{path} partition 524284 52 -2\n");
            let used = |device| used_of(&table, Path::new(device));
            assert_eq!(used("/dev/ublkb0"), Some(Bytes::new(52 * 1024)), "{path}");
            assert_eq!(used("/dev/ublkb1"), None, "{path}");
        }
        let file = "Filename Type Size Used Priority\n/mnt/ublkb0 file 524284 52 -2\n";
        assert_eq!(used_of(file, Path::new("/dev/ublkb0")), None, "a file");
    }

    #[test]
    fn priority_above_the_kernel_s_highest_is_refused() {
        assert_eq!(Priority::new(32767).map(Priority::get), Some(32767));
        assert_eq!(Priority::new(32768), None);
    }
}
