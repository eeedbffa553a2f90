//! The control device: one command at a time over a ring of its own.
//!
//! One of the few files with unsafe code: submitted commands name memory that the kernel reads and
//! writes. The driver carries each command out on a worker of the ring, so that a caller may stop
//! waiting for it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::abi::{CONTROL, ControlCommand, DeviceInfo, Parameters, command};
use super::codec;

/// Commands under way at once; more than one only after a wait that was given up.
const DEPTH: u32 = 8;
/// A command that need not wait for anybody takes less.
const SHORT: Duration = Duration::from_secs(10);

/// Why the control device did not do what it was asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is none, or it may not be opened.
    #[error("{CONTROL} cannot be opened: load the kernel's ublk_drv module, and run as root")]
    Device(#[source] io::Error),
    /// The host does not permit io_uring.
    #[error(
        "the host does not permit io_uring, which ublk needs: see kernel.io_uring_disabled and the container's seccomp profile"
    )]
    Ring(#[source] io::Error),
    /// A command failed.
    #[error("the ublk driver refused to {action}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A command took too long; it may still be carried out.
    #[error("the ublk driver does not {action} within {0:?}", action = .1)]
    Slow(Duration, &'static str),
}

impl ControlError {
    /// The driver's error number, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A buffer for a command that a caller may stop waiting for: it is then never freed.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
struct Buffer([u8; 64]);

/// The control device, open.
pub struct Control {
    device: OwnedFd,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    number: u64,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// One command, as it is put.
#[derive(Debug, Clone, Copy)]
struct Question {
    code: u32,
    action: &'static str,
    command: ControlCommand,
    /// How long to wait; for ever if none.
    patience: Option<Duration>,
}

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// [`ControlError::Device`], [`ControlError::Ring`].
    pub fn open() -> Result<Self, ControlError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(CONTROL, flags, Mode::empty())
            .map_err(|errno| ControlError::Device(errno.into()))?;
        let ring = IoUring::builder()
            .build(DEPTH)
            .map_err(ControlError::Ring)?;
        Ok(Self {
            device,
            ring,
            number: 0,
        })
    }

    /// What the driver can do; see the driver's feature bits.
    ///
    /// # Errors
    /// [`ControlError`]; drivers before Linux 6.5 do not know the question.
    pub fn features(&mut self) -> Result<u64, ControlError> {
        let mut buffer = Buffer::new_zeroed();
        let question = question(command::GET_FEATURES, "tell its features", 0);
        buffer = self.ask_with(question, buffer, 8)?;
        Ok(u64::from_ne_bytes(first_eight(&buffer)))
    }

    /// What a device is and does.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn info(&mut self, device: u32) -> Result<DeviceInfo, ControlError> {
        let question = question(command::GET_DEV_INFO, "tell about the device", device);
        let buffer = self.ask_with(question, Buffer::new_zeroed(), size_of::<DeviceInfo>())?;
        Ok(read_info(&buffer))
    }

    /// Adds a device; gives it as the driver made it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn add(&mut self, info: DeviceInfo) -> Result<DeviceInfo, ControlError> {
        let mut buffer = Buffer::new_zeroed();
        buffer.0.copy_from_slice(info.as_bytes());
        let question = question(command::ADD_DEV, "add a device", info.device);
        let buffer = self.ask_with(question, buffer, size_of::<DeviceInfo>())?;
        Ok(read_info(&buffer))
    }

    /// Sets the parameters of a device that was not started yet.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_parameters(
        &mut self,
        device: u32,
        parameters: &Parameters,
    ) -> Result<(), ControlError> {
        let mut buffer = Buffer::new_zeroed();
        buffer.0.copy_from_slice(parameters.as_bytes());
        let question = question(command::SET_PARAMS, "take the device's parameters", device);
        self.ask_with(question, buffer, size_of::<Parameters>())?;
        Ok(())
    }

    /// Makes the block device. Waits until the server has fetched every tag.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(&mut self, device: u32, server: u32) -> Result<(), ControlError> {
        let mut question = question(command::START_DEV, "start the device", device);
        question.command.data = server.into();
        question.patience = None;
        self.ask(question)
    }

    /// Makes a quiesced device ready for its next server.
    ///
    /// # Errors
    /// [`ControlError`]; with EBUSY while the old server has not gone, with EINVAL if this was
    /// done before and no server has come since.
    pub fn start_recovery(&mut self, device: u32) -> Result<(), ControlError> {
        self.ask(question(
            command::START_USER_RECOVERY,
            "start the device's recovery",
            device,
        ))
    }

    /// Lets requests flow to the next server. Waits until it has fetched every tag.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn end_recovery(&mut self, device: u32, server: u32) -> Result<(), ControlError> {
        let action = "end the device's recovery";
        let mut question = question(command::END_USER_RECOVERY, action, device);
        question.command.data = server.into();
        question.patience = None;
        self.ask(question)
    }

    /// Lets a device that is served finish what it can and queue the rest, for at most so long.
    ///
    /// # Errors
    /// [`ControlError`]; the device may then already refuse its server, which must be replaced all
    /// the same.
    pub fn quiesce(&mut self, device: u32, patience: Duration) -> Result<(), ControlError> {
        let mut question = question(command::QUIESCE_DEV, "quiesce the device", device);
        question.command.data = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        question.patience = Some(patience + SHORT);
        self.ask(question)
    }

    /// Takes the block device away, whoever uses it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stop(&mut self, device: u32) -> Result<(), ControlError> {
        self.ask(question(command::STOP_DEV, "stop the device", device))
    }

    /// Takes the block device away unless somebody has it open.
    ///
    /// # Errors
    /// [`ControlError`]; with EBUSY if somebody has.
    pub fn try_stop(&mut self, device: u32) -> Result<(), ControlError> {
        self.ask(question(command::TRY_STOP_DEV, "stop the device", device))
    }

    /// Removes a device. Does not wait for those who have it open, where the driver can.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn remove(&mut self, device: u32) -> Result<(), ControlError> {
        let action = "remove the device";
        match self.ask(question(command::DEL_DEV_ASYNC, action, device)) {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                self.ask(question(command::DEL_DEV, action, device))
            }
            result => result,
        }
    }

    fn ask(&mut self, question: Question) -> Result<(), ControlError> {
        let result = self.submit(question)?;
        answer(result, question.action)
    }

    /// Asks with a buffer of `len` bytes, which is given back as the driver left it.
    fn ask_with(
        &mut self,
        mut question: Question,
        buffer: Buffer,
        len: usize,
    ) -> Result<Buffer, ControlError> {
        let mut buffer = Box::new(buffer);
        question.command.address = (&raw mut *buffer).addr() as u64;
        question.command.len = u16::try_from(len).unwrap_or(u16::MAX);
        (&raw mut *buffer).expose_provenance();
        match self.submit(question) {
            Ok(result) => answer(result, question.action).map(|()| *buffer),
            Err(error) => {
                // The driver may still come to use it.
                std::mem::forget(buffer);
                Err(error)
            }
        }
    }

    /// Submits a command and waits for its result.
    fn submit(&mut self, question: Question) -> Result<i32, ControlError> {
        let refused = |source| ControlError::Refused {
            action: question.action,
            source,
        };
        self.number += 1;
        let mut bytes = [0; 80];
        bytes[..size_of::<ControlCommand>()].copy_from_slice(question.command.as_bytes());
        let entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), question.code)
            .cmd(bytes)
            .build()
            .user_data(self.number);
        // SAFETY: the entry holds the command itself; the buffer that its address names is boxed by
        // the caller, and is leaked unless the command has completed.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| refused(io::ErrorKind::WouldBlock.into()))?;
        loop {
            let timeout =
                types::Timespec::from(question.patience.unwrap_or(Duration::from_secs(3600)));
            let arguments = types::SubmitArgs::new().timespec(&timeout);
            let waited = self.ring.submitter().submit_with_args(1, &arguments);
            // Only the last command counts: an earlier one was given up.
            let results = self.ring.completion();
            let own = results
                .filter(|result| result.user_data() == self.number)
                .last();
            if let Some(own) = own {
                return Ok(own.result());
            }
            match waited {
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                    if let Some(patience) = question.patience {
                        return Err(ControlError::Slow(patience, question.action));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(refused(error)),
                Ok(_) => {}
            }
        }
    }
}

fn question(code: u32, action: &'static str, device: u32) -> Question {
    Question {
        code,
        action,
        command: codec::control(device),
        patience: Some(SHORT),
    }
}

fn answer(result: i32, action: &'static str) -> Result<(), ControlError> {
    if result < 0 {
        let source = io::Error::from_raw_os_error(-result);
        return Err(ControlError::Refused { action, source });
    }
    Ok(())
}

fn first_eight(buffer: &Buffer) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&buffer.0[..8]);
    eight
}

fn read_info(buffer: &Buffer) -> DeviceInfo {
    zerocopy::transmute!(buffer.0)
}
