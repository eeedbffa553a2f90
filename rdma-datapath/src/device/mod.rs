//! The block device made of the device's file: attached as swap and detached again.
//!
//! Runs in a short-lived process of its own, because every step may wait for the engine, and
//! neither the holder nor the engine may ever wait for the device that they serve. Each step is
//! read back. The loop device takes itself away when its last user closes it, so a failed or
//! killed attach leaves nothing behind.

pub mod loop_device;
mod page;
mod queue;
mod self_test;
pub mod swap_area;

use std::io;
use std::path::{Path, PathBuf};

use dynamicswap_types::Bytes;
use thiserror::Error;

use loop_device::LoopDevice;
use page::AlignedPages;
pub use swap_area::Priority;

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
    #[error("{path} does not show what was set: {what}; look for another user of loop devices")]
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

/// What to attach, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// The file to make a block device of.
    pub backing: PathBuf,
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
    let device = LoopDevice::create(&plan.backing)?;
    device.verify(plan.size)?;
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
    queue::release_throttle(device.path());
    let turned_on = swap_area::turn_on(device.path(), plan.priority);
    turned_on.inspect_err(|_| queue::restore_throttle(device.path()))?;
    // From here on the swap area keeps the device open.
    Ok(device.path().to_owned())
}

/// Turns the swap area off, which brings every page home, and sees to it that the loop device
/// is gone. Takes as long as it takes; safe to run again.
///
/// # Errors
/// [`DeviceError`] of the step that failed; the device is then still in use and must be served.
pub fn detach(device: &Path, backing: &Path) -> Result<(), DeviceError> {
    if swap_area::is_on(device)? {
        swap_area::turn_off(device)?;
    }
    let gone = loop_device::ensure_gone(device, backing);
    queue::restore_throttle(device);
    gone
}
