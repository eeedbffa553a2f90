//! The device as the holder sees it: probed for, made, found again, made anew, removed.
//!
//! A device is known by a token that the kernel keeps for its server, which names the state
//! directory: so a holder finds the devices of an earlier life also when nothing else is left of it.

use std::path::{Path, PathBuf};

use dynamicswap_engine::limits::REQUEST_PAGES_MAX;
use dynamicswap_types::{Bytes, PAGE_SIZE};

use super::abi::{CONTROL, DeviceInfo, feature, state};
use super::control::{Control, ControlError};
use super::{DEPTH, codec};

/// The upper half of every token of ours.
const MARK: u64 = 0xd5a9 << 48;
/// Devices are found by the names of their character devices.
const CHARACTER_DEVICES: &str = "/sys/class/ublk-char";
/// What the device needs of the driver.
const NEEDED: [(u64, &str); 4] = [
    (feature::USER_RECOVERY, "USER_RECOVERY"),
    (feature::USER_RECOVERY_REISSUE, "USER_RECOVERY_REISSUE"),
    (feature::CMD_IOCTL_ENCODE, "CMD_IOCTL_ENCODE"),
    (feature::USER_COPY, "USER_COPY"),
];

/// What a driver that serves can do beyond what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// An engine can be replaced with the device quiesced.
    pub quiesce: bool,
    /// A device can be stopped only if nobody uses it.
    pub safe_stop: bool,
}

/// Looks whether this host can have a ublk device.
///
/// # Errors
/// One sentence about what is missing.
pub fn probe() -> Result<Features, String> {
    if !Path::new(CONTROL).exists() {
        return Err(format!(
            "the kernel has no ublk, or its module is not loaded ({CONTROL})"
        ));
    }
    let features = Control::open().and_then(|mut control| control.features());
    judge(features.map_err(|error| chain(&error))?)
}

/// Whether these features are enough.
fn judge(features: u64) -> Result<Features, String> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(bit, _)| features & bit == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(format!(
            "the kernel's ublk lacks {missing} (Linux 6.5 has them)"
        ));
    }
    Ok(Features {
        quiesce: features & feature::QUIESCE != 0,
        safe_stop: features & feature::SAFE_STOP != 0,
    })
}

/// Path of a device's block device.
#[must_use]
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

/// A device of a state directory.
#[derive(Debug)]
pub struct UblkDevice {
    control: Control,
    number: u32,
    size: Bytes,
    token: u64,
    features: Features,
}

impl UblkDevice {
    /// Adds a device for a state directory.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left then.
    pub fn make(state: &Path, size: Bytes) -> Result<Self, ControlError> {
        let mut control = Control::open()?;
        let features = features_of(control.features()?);
        let token = token(state);
        let number = add(&mut control, wanted(token, u32::MAX, features), size)?;
        Ok(Self {
            control,
            number,
            size,
            token,
            features,
        })
    }

    /// The device that an earlier holder made for a state directory, if there is one.
    ///
    /// # Errors
    /// [`ControlError`] if the driver cannot be asked.
    pub fn find(state: &Path, size: Bytes) -> Result<Option<Self>, ControlError> {
        if !Path::new(CONTROL).exists() {
            return Ok(None);
        }
        let numbers = numbers();
        if numbers.is_empty() {
            return Ok(None);
        }
        let mut control = Control::open()?;
        let features = features_of(control.features()?);
        let token = token(state);
        let own = |control: &mut Control, number: u32| {
            control.info(number).is_ok_and(|info| info.token == token)
        };
        let number = numbers
            .into_iter()
            .find(|number| own(&mut control, *number));
        Ok(number.map(|number| Self {
            control,
            number,
            size,
            token,
            features,
        }))
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether there is a block device, served or waiting for the next server.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn is_started(&mut self) -> Result<bool, ControlError> {
        Ok(self.control.info(self.number)?.state != state::DEAD)
    }

    /// Before an engine is started that is not the first: a device whose engine died before the
    /// block device was there takes no other engine, and is made anew.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn prepare(&mut self) -> Result<(), ControlError> {
        if self.is_started()? {
            return Ok(());
        }
        self.control.remove(self.number)?;
        let wanted = wanted(self.token, u32::MAX, self.features);
        self.number = add(&mut self.control, wanted, self.size)?;
        Ok(())
    }

    /// Lets the engine finish what it can before it is replaced. False where the driver cannot.
    ///
    /// # Errors
    /// [`ControlError`]; the engine must be replaced all the same.
    pub fn quiesce(&mut self, patience: std::time::Duration) -> Result<bool, ControlError> {
        if self.features.quiesce {
            self.control.quiesce(self.number, patience)?;
        }
        Ok(self.features.quiesce)
    }

    /// The last resort: every request ends with an error, now and later.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn abort(&mut self) -> Result<(), ControlError> {
        self.control.stop(self.number)
    }

    /// Removes an idle device. Somebody who has it open keeps it, where the driver can tell.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn remove(&mut self) -> Result<(), ControlError> {
        match self.try_remove() {
            // Somebody else was faster.
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    fn try_remove(&mut self) -> Result<(), ControlError> {
        if self.features.safe_stop && self.is_started()? {
            self.control.try_stop(self.number)?;
        }
        self.control.remove(self.number)
    }
}

/// Adds a device and sets its parameters; gives its number.
fn add(control: &mut Control, wanted: DeviceInfo, size: Bytes) -> Result<u32, ControlError> {
    let made = control.add(wanted)?;
    let set = control.set_parameters(made.device, &codec::parameters(size));
    if let Err(error) = set {
        // The first error is the one to tell.
        let _removed = control.remove(made.device);
        return Err(error);
    }
    Ok(made.device)
}

fn wanted(token: u64, device: u32, features: Features) -> DeviceInfo {
    let quiesce = if features.quiesce {
        feature::QUIESCE
    } else {
        0
    };
    DeviceInfo {
        queues: 1,
        depth: DEPTH,
        io_bytes_max: REQUEST_PAGES_MAX * u32::try_from(PAGE_SIZE.get()).unwrap_or_default(),
        device,
        flags: NEEDED.iter().fold(quiesce, |flags, (bit, _)| flags | bit),
        token,
        ..DeviceInfo::default()
    }
}

fn features_of(features: u64) -> Features {
    Features {
        quiesce: features & feature::QUIESCE != 0,
        safe_stop: features & feature::SAFE_STOP != 0,
    }
}

/// Numbers of all ublk devices of this host.
fn numbers() -> Vec<u32> {
    let entries = std::fs::read_dir(CHARACTER_DEVICES)
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names
        .filter_map(|name| name.strip_prefix("ublkc")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The token of a state directory's devices: FNV-1a of its path, below the mark.
fn token(state: &Path) -> u64 {
    let bytes = state.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    MARK | hash >> 16
}

/// The error with its cause.
fn chain(error: &ControlError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = feature::USER_RECOVERY
        | feature::USER_RECOVERY_REISSUE
        | feature::CMD_IOCTL_ENCODE
        | feature::USER_COPY;

    #[test]
    fn driver_without_a_needed_feature_is_refused_by_its_name() {
        assert!(judge(ALL).is_ok());
        for (bit, name) in NEEDED {
            let sentence = judge(ALL & !bit).expect_err("missing");
            assert!(sentence.contains(name), "{sentence}");
        }
        let features = judge(ALL | feature::QUIESCE).expect("enough");
        assert!(features.quiesce && !features.safe_stop);
    }

    #[test]
    fn tokens_carry_the_mark_and_differ_by_directory() {
        let token = |path: &str| super::token(Path::new(path));
        assert_eq!(token("/run/a") >> 48, 0xd5a9);
        assert_eq!(token("/run/a"), token("/run/a"));
        assert_ne!(token("/run/a"), token("/run/b"));
    }

    #[test]
    fn device_is_asked_for_with_recovery_and_without_queue_buffers() {
        let wanted = wanted(1, u32::MAX, features_of(ALL));
        assert_eq!(wanted.flags, ALL);
        assert_eq!((wanted.queues, wanted.depth), (1, 128));
        assert_eq!(wanted.io_bytes_max, 1 << 20);
        let with_quiesce = super::wanted(1, 0, features_of(u64::MAX));
        assert_eq!(with_quiesce.flags, ALL | feature::QUIESCE);
    }
}
