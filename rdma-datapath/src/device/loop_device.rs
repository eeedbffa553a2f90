//! Loop devices: made with direct I/O and 4096-byte blocks, read back, and gone by themselves.
//!
//! One of the few files with unsafe code: the loop driver's ioctls.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use super::DeviceError;
use super::raw::{RawDevice, check, open_direct};

const CONTROL: &str = "/dev/loop-control";
/// Others may take the free device first; each try asks for the next.
const TRIES_MAX: u32 = 16;
const BLOCK_BYTES: u32 = 4096;

const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;

const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[derive(FromZeros, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[derive(FromZeros, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Config {
    descriptor: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// A loop device, open; it goes away with its last user.
#[derive(Debug)]
pub struct LoopDevice {
    raw: RawDevice,
}

impl LoopDevice {
    /// Binds a free loop device to `backing`.
    ///
    /// # Errors
    /// [`DeviceError`] with what is missing.
    pub fn create(backing: &Path) -> Result<Self, DeviceError> {
        let hint = "the device's file must be served by an engine; see its log";
        let backing_file = open_direct(backing)
            .map_err(|error| DeviceError::system("opening", backing, hint, error))?;
        let hint = "the loop driver is needed: load the kernel's loop module";
        let control = File::options()
            .read(true)
            .write(true)
            .open(CONTROL)
            .map_err(|error| DeviceError::system("opening", Path::new(CONTROL), hint, error))?;
        for _ in 0..TRIES_MAX {
            let number = control_get_free(&control).map_err(|error| {
                DeviceError::system("asking for a device at", Path::new(CONTROL), hint, error)
            })?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let raw = RawDevice::open(path.clone()).map_err(|error| {
                let hint = "the node must be visible here: do not run in a container without the host's /dev";
                DeviceError::system("opening", &path, hint, error)
            })?;
            match configure(raw.file(), &backing_file) {
                Ok(()) => return Ok(Self { raw }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => {
                    let hint = "direct I/O and 4096-byte blocks are needed (Linux 5.8)";
                    return Err(DeviceError::system("configuring", &path, hint, error));
                }
            }
        }
        Err(DeviceError::NoLoopDevice(TRIES_MAX))
    }

    /// Reads back what was set: direct I/O, and that it goes away by itself. Gives the device.
    pub(super) fn verified(self) -> Result<RawDevice, DeviceError> {
        let path = self.raw.path();
        let flags = status_flags(self.raw.file()).map_err(|error| {
            DeviceError::system("asking about", path, "see the kernel's log", error)
        })?;
        let wrong = if flags & FLAG_DIRECT_IO == 0 {
            "direct I/O is off"
        } else if flags & FLAG_AUTOCLEAR == 0 {
            "it would not go away by itself"
        } else {
            return Ok(self.raw);
        };
        Err(DeviceError::ReadBack {
            path: path.to_owned(),
            what: wrong.to_owned(),
        })
    }
}

/// Devices that are bound to `backing` now, also when that file is no longer reachable.
///
/// # Errors
/// [`DeviceError::System`] if the list of block devices cannot be read.
pub fn bound_to(backing: &Path) -> Result<Vec<PathBuf>, DeviceError> {
    let list = Path::new("/sys/block");
    let entries = std::fs::read_dir(list)
        .map_err(|error| DeviceError::system("reading", list, "a mounted /sys is needed", error))?;
    let bound = entries.flatten().filter(|entry| {
        std::fs::read_to_string(entry.path().join("loop/backing_file"))
            .is_ok_and(|file| names(&file, backing))
    });
    Ok(bound
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect())
}

/// Whether the driver's text names the file; it marks an unreachable one.
fn names(text: &str, backing: &Path) -> bool {
    let text = text.trim_end_matches('\n');
    let text = text.strip_suffix(" (deleted)").unwrap_or(text);
    Path::new(text) == backing
}

/// Sees to it that `device` is no longer bound to `backing`.
pub(super) fn ensure_gone(device: &Path, backing: &Path) -> Result<(), DeviceError> {
    if !bound_to(backing)?.iter().any(|bound| bound == device) {
        return Ok(());
    }
    let hint = "something else has it open: close it, then stop swapd again";
    let failed = |error| DeviceError::system("unbinding", device, hint, error);
    let file = File::open(device).map_err(failed)?;
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CLR_FD, 0) };
    drop(file);
    match check(result) {
        // ENXIO: it went away meanwhile.
        Err(error) if error.raw_os_error() != Some(libc::ENXIO) => return Err(failed(error)),
        _ => {}
    }
    if bound_to(backing)?.iter().any(|bound| bound == device) {
        return Err(failed(io::Error::from_raw_os_error(libc::EBUSY)));
    }
    Ok(())
}

fn control_get_free(control: &File) -> io::Result<libc::c_int> {
    // SAFETY: the ioctl takes no argument and returns a number.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
}

fn configure(device: &File, backing: &File) -> io::Result<()> {
    let mut config = Config::new_zeroed();
    config.descriptor = u32::try_from(backing.as_raw_fd())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    config.block_size = BLOCK_BYTES;
    config.info.flags = FLAG_DIRECT_IO | FLAG_AUTOCLEAR;
    // SAFETY: `config` is a `struct loop_config` that the ioctl only reads.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }).map(|_| ())
}

fn status_flags(device: &File) -> io::Result<u32> {
    let mut info = Info::new_zeroed();
    // SAFETY: `info` is a `struct loop_info64` that the ioctl fills.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
    Ok(info.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_file_is_recognised_also_when_it_is_gone() {
        let backing = Path::new("/run/a/device/swap");
        assert!(names("/run/a/device/swap\n", backing));
        assert!(names("/run/a/device/swap (deleted)\n", backing));
        assert!(!names("/run/a/device/swap2\n", backing));
    }

    #[test]
    fn nothing_is_bound_to_a_file_that_never_was() {
        let found = bound_to(Path::new("/never/was")).expect("/sys is mounted");
        assert!(found.is_empty());
    }

    #[test]
    fn backing_that_does_not_exist_is_named() {
        let error = LoopDevice::create(Path::new("/never/was")).expect_err("no such file");
        assert!(error.to_string().contains("/never/was"));
    }
}
