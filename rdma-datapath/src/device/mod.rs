//! The block device: a loop device made of the device's file, or a ublk device; attached as swap and
//! detached again.
//!
//! Runs in a short-lived process of its own, because every step may wait for the engine, and
//! neither the holder nor the engine may ever wait for the device that they serve. Each step is
//! read back. A loop device takes itself away when its last user closes it, so a failed or
//! killed attach leaves nothing behind.

pub mod loop_device;
mod page;
mod queue;
mod raw;
mod self_test;
pub mod swap_area;
pub mod swap_users;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamicswap_types::Bytes;
use thiserror::Error;

use loop_device::LoopDevice;
use page::AlignedPages;
use raw::RawDevice;
pub use swap_area::Priority;

use crate::daemon::clock::monotonic_now;

/// Why the device could not be attached or detached. Each says what, to what, and what next.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// A system call failed.
    #[error("{action} {path} failed: {hint}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A step seemed to succeed, and reading it back shows otherwise.
    #[error("{path} does not show what was set: {what}; look for another user of the device")]
    ReadBack {
        /// The device.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The raw device gave back something else than was written.
    #[error(
        "the self-test of {path} failed: page {page} {what}; the device is not used as swap, see the engine's log"
    )]
    SelfTest {
        /// The device.
        path: PathBuf,
        /// The first wrong page.
        page: u64,
        /// How it is wrong.
        what: &'static str,
    },
    /// No loop device could be had.
    #[error("no free loop device after {0} tries: others take them as fast; try again")]
    NoLoopDevice(u32),
}

impl DeviceError {
    fn system(
        action: &'static str,
        path: &Path,
        hint: &'static str,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System {
            action,
            path: path.to_owned(),
            hint,
            source: source.into(),
        }
    }
}

/// What becomes swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A loop device, to be made of this file.
    LoopOver(PathBuf),
    /// This ublk device, which the driver makes once its engine serves.
    Ublk(PathBuf),
}

impl Target {
    /// Opens the block device, and looks whether it is as it must be.
    fn open(&self, size: Bytes) -> Result<RawDevice, DeviceError> {
        let device = match self {
            Self::LoopOver(backing) => LoopDevice::create(backing)?.verified()?,
            Self::Ublk(path) => open_ublk(path)?,
        };
        device.verify(size)?;
        Ok(device)
    }
}

/// Time for an engine to start its device.
const START_TIME_MAX: Duration = Duration::from_secs(5);
/// Time between two looks for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

fn open_ublk(path: &Path) -> Result<RawDevice, DeviceError> {
    let deadline = monotonic_now().after(START_TIME_MAX);
    loop {
        match RawDevice::claim(path.to_owned()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && monotonic_now() < deadline => {
                std::thread::park_timeout(LOOK_INTERVAL);
            }
            opened => {
                let hint = "an engine must serve it, and its node must be visible here: see the engine's log, and run with the host's /dev";
                return opened.map_err(|error| DeviceError::system("opening", path, hint, error));
            }
        }
    }
}

/// What to attach, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// What becomes swap.
    pub target: Target,
    /// Its size.
    pub size: Bytes,
    /// Priority among swap devices; `None` leaves the choice to the kernel, below all others.
    pub priority: Option<Priority>,
    /// Identifies the swap area.
    pub uuid: [u8; 16],
}

/// Makes the block device, tests it, writes the swap header and turns it on. Returns its path.
///
/// # Errors
/// [`DeviceError`] of the step that failed; nothing is left behind then.
pub fn attach(plan: &AttachPlan) -> Result<PathBuf, DeviceError> {
    if let Target::Ublk(path) = &plan.target
        && swap_area::is_on(path)?
    {
        // The helper of a holder that died was faster.
        return Ok(path.clone());
    }
    let device = plan.target.open(plan.size)?;
    self_test::run(&device, plan.size)?;
    let header = swap_area::header(plan.size, plan.uuid);
    let mut page = AlignedPages::new(1);
    page.bytes_mut().copy_from_slice(&header);
    device.write_at(page.bytes(), 0)?;
    page.bytes_mut().fill(0);
    device.read_at(page.bytes_mut(), 0)?;
    if page.bytes() != header {
        return Err(DeviceError::ReadBack {
            path: device.path().to_owned(),
            what: "the swap header differs".to_owned(),
        });
    }
    let path = device.path().to_owned();
    queue::release_throttle(&path);
    let _kept = match &plan.target {
        // It would go away with its last user.
        Target::LoopOver(_) => Some(device),
        // While it is claimed, it cannot become swap.
        Target::Ublk(_) => {
            drop(device);
            queue::spare_tags(&path);
            None
        }
    };
    let turned_on = swap_area::turn_on(&path, plan.priority);
    turned_on.inspect_err(|_| queue::restore_throttle(&path))?;
    // From here on the swap area keeps the device open.
    Ok(path)
}

/// Turns the swap area off, which brings every page home, and sees to it that a loop device over
/// `backing` is gone; a ublk device stays with its engine. Takes as long as it takes; safe to run
/// again.
///
/// # Errors
/// [`DeviceError`] of the step that failed; the device is then still in use and must be served.
pub fn detach(device: &Path, backing: Option<&Path>) -> Result<(), DeviceError> {
    if swap_area::is_on(device)? {
        swap_area::turn_off(device)?;
    }
    let Some(backing) = backing else {
        return Ok(());
    };
    let gone = loop_device::ensure_gone(device, backing);
    queue::restore_throttle(device);
    gone
}

/// Turns the swap area of a device off that nobody serves any more, while `abort` makes every request
/// end with an error: whoever needs its pages dies of SIGBUS. A device that is gone cannot be turned
/// off, so the one begins before the other.
///
/// # Errors
/// What `abort` gave; or [`DeviceError`], if the area is still on.
pub fn give_up<E>(
    device: &Path,
    abort: impl FnOnce() -> Result<(), E>,
) -> Result<Result<(), DeviceError>, E> {
    let path = device.to_owned();
    let begun = std::thread::spawn(move || match swap_area::is_on(&path) {
        Ok(true) => swap_area::turn_off(&path),
        other => other.map(|_| ()),
    });
    std::thread::park_timeout(SWAPOFF_HEAD_START);
    abort()?;
    let panicked = || DeviceError::ReadBack {
        path: device.to_owned(),
        what: "turning swap off ended early".to_owned(),
    };
    Ok(begun.join().unwrap_or_else(|_| Err(panicked())))
}

/// Time for a swapoff to open its device.
const SWAPOFF_HEAD_START: Duration = Duration::from_secs(1);
