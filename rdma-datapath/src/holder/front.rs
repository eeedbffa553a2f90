//! What a front end stands on, made by the holder: a FUSE mount, or a ublk device.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use dynamicswap_types::Bytes;

use super::resources::{chain, report};
use crate::daemon::options::BadInput;
use crate::device::swap_area;
use crate::front_end::choice::{Choice, FrontEndKind};
use crate::front_end::fuse_loop::connection;
use crate::front_end::ublk::ControlError;
use crate::front_end::ublk::device::{self as ublk, UblkDevice};
use crate::swapd::paths::Paths;

/// What the front end stands on; undone when dropped.
#[derive(Debug)]
pub enum Front {
    /// The FUSE mount.
    FuseLoop(Mount),
    /// The ublk device.
    Ublk(Box<UblkGuard>),
}

impl Front {
    /// Makes it. Gives the FUSE connection, if it is one.
    ///
    /// # Errors
    /// [`BadInput`] where the host does not permit it; nothing is left then.
    pub fn make(
        kind: FrontEndKind,
        paths: &Paths,
        size: Bytes,
    ) -> anyhow::Result<(Self, Option<OwnedFd>)> {
        match kind {
            FrontEndKind::FuseLoop => {
                let (mount, fuse) = Mount::make(paths.mount())?;
                Ok((Self::FuseLoop(mount), Some(fuse)))
            }
            FrontEndKind::Ublk => {
                let made = UblkDevice::make(&paths.state, size);
                let device = made.map_err(|error| BadInput::new(chain(&error)))?;
                Ok((
                    Self::Ublk(Box::new(UblkGuard::new(device, &paths.state))),
                    None,
                ))
            }
        }
    }

    /// What an engine that serves on stands on.
    ///
    /// # Errors
    /// If it is a ublk device that is not there.
    pub fn take_over(ublk: Option<u32>, paths: &Paths, size: Bytes) -> anyhow::Result<Self> {
        let Some(number) = ublk else {
            return Ok(Self::FuseLoop(Mount(paths.mount())));
        };
        let found = UblkDevice::find(&paths.state, size)?;
        let device = found.with_context(|| format!("ublk device {number} is not there"))?;
        Ok(Self::Ublk(Box::new(UblkGuard::new(device, &paths.state))))
    }

    /// Number of the ublk device, if it is one.
    pub fn ublk(&self) -> Option<u32> {
        match self {
            Self::FuseLoop(_) => None,
            Self::Ublk(guard) => Some(guard.device.number()),
        }
    }

    /// Before an engine is started that is not the first.
    ///
    /// # Errors
    /// The driver's.
    pub fn prepare(&mut self) -> Result<(), ControlError> {
        match self {
            Self::FuseLoop(_) => Ok(()),
            Self::Ublk(guard) => guard.prepare(),
        }
    }

    /// Lets the engine finish what it can before it is replaced, where the kernel has a way.
    ///
    /// # Errors
    /// The driver's; the engine must be replaced all the same.
    pub fn quiesce(&mut self, patience: Duration) -> Result<bool, ControlError> {
        match self {
            Self::FuseLoop(_) => Ok(false),
            Self::Ublk(guard) => guard.device.quiesce(patience),
        }
    }

    /// Whether an engine that was told that its device is gone can be replaced all the same.
    pub fn outlives_engine(&mut self) -> bool {
        match self {
            Self::FuseLoop(_) => false,
            Self::Ublk(guard) => guard.device.is_started().unwrap_or(false),
        }
    }

    /// The last resort: every request ends with an error.
    ///
    /// # Errors
    /// One sentence.
    pub fn abort(&mut self) -> Result<(), String> {
        match self {
            Self::FuseLoop(mount) => connection::abort(&mount.0).map_err(|error| chain(&error)),
            Self::Ublk(guard) => guard.device.abort().map_err(|error| chain(&error)),
        }
    }
}

/// Said of a device that a holder before this one made.
pub fn kept_choice(ublk: Option<u32>) -> Choice {
    Choice {
        kind: ublk.map_or(FrontEndKind::FuseLoop, |_| FrontEndKind::Ublk),
        reason: "taken over from a holder that died".to_owned(),
    }
}

/// Files named after our ublk devices, each with its state directory: for the host's udev rule,
/// which hides these devices, and for whoever finds a device and looks for its swapd.
const RECORDS: &str = "/run/dynamicswap-ublk";

/// A ublk device and its record, removed when dropped, unless the kernel still swaps to it.
#[derive(Debug)]
pub struct UblkGuard {
    device: UblkDevice,
    state: PathBuf,
}

impl UblkGuard {
    /// Keeps a record of the device.
    pub fn new(device: UblkDevice, state: &Path) -> Self {
        let state = state.to_owned();
        let guard = Self { device, state };
        guard.write_record();
        guard
    }

    fn prepare(&mut self) -> Result<(), ControlError> {
        let before = self.record();
        self.device.prepare()?;
        if self.record() != before {
            // It may have been gone already.
            let _removed = fs::remove_file(before);
            self.write_record();
        }
        Ok(())
    }

    fn record(&self) -> PathBuf {
        record(self.device.number())
    }

    fn write_record(&self) {
        let record = self.record();
        let line = format!("{}\n", self.state.display());
        let written = fs::create_dir_all(RECORDS).and_then(|()| fs::write(&record, line));
        report("write", written, &record);
    }
}

impl Drop for UblkGuard {
    fn drop(&mut self) {
        let path = ublk::path(self.device.number());
        if swap_area::is_on(&path).unwrap_or(true) {
            tracing::error!(
                "{} is still used as swap and stays: start dynamicswap-swapd again with the same options",
                path.display()
            );
            return;
        }
        report("remove", self.device.remove(), &path);
        forget(self.device.number());
    }
}

fn record(number: u32) -> PathBuf {
    Path::new(RECORDS).join(format!("ublkb{number}"))
}

/// Removes a device's record, if there is one.
pub fn forget(number: u32) {
    let record = record(number);
    if record.exists() {
        report("remove", fs::remove_file(&record), &record);
    }
    // With the last record the directory goes; others in it are a reason to leave it.
    let _others = fs::remove_dir(RECORDS);
}

/// The FUSE mount and its directory.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    fn make(path: PathBuf) -> anyhow::Result<(Self, OwnedFd)> {
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        match connection::mount(&path) {
            Ok(descriptor) => Ok((Self(path), descriptor)),
            Err(error) => {
                report("remove", fs::remove_dir(&path), &path);
                Err(BadInput::new(chain(&error)).into())
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        report("unmount", connection::unmount(&self.0), &self.0);
        report("remove", fs::remove_dir(&self.0), &self.0);
    }
}
