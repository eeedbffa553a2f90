//! Starting the device, or ending its recovery, beside the I/O thread.
//!
//! Both commands wait until every tag is fetched, and requests may flow before they return, so a
//! thread of its own gives them. It does nothing else.
//!
//! One of the few files with unsafe code: a thread's scheduling class has no safe call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::abi::state;
use super::control::{Control, ControlError};
use crate::daemon::clock::monotonic_now;
use crate::daemon::threads;
use crate::front_end::FrontEndError;

/// The driver needs a moment to notice that the server before has gone.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(4);
/// Time between two tries.
const RECOVERY_PAUSE: Duration = Duration::from_millis(5);

/// The outcome of the start, which the I/O thread looks at.
#[derive(Debug, Default)]
pub struct Starter {
    /// The error number of a start that failed.
    failure: Arc<AtomicI32>,
}

impl Starter {
    /// Takes the device over, lets `fetch` fetch every tag, and starts the device or ends its
    /// recovery.
    ///
    /// # Errors
    /// [`FrontEndError`]: the process must end.
    pub fn begin(
        &self,
        number: u32,
        fetch: impl FnOnce(u32) -> io::Result<()>,
    ) -> Result<(), FrontEndError> {
        let mut control = Control::open().map_err(|error| failed("opening", error))?;
        let info = control
            .info(number)
            .map_err(|error| failed("asking about", error))?;
        let is_new = info.state == state::DEAD;
        if !is_new {
            start_recovery(&mut control, number)?;
        }
        let failure = Arc::clone(&self.failure);
        let run = move || {
            if let Err(error) = start(number, is_new) {
                let hint = hint(&error);
                tracing::error!("{error}: {}{hint}", source(&error));
                let errno = error.errno().unwrap_or(libc::EIO);
                failure.store(errno, Ordering::Release);
            }
        };
        threads::spawn("starter", run).map_err(|source| FrontEndError::Io {
            action: "starting",
            source,
        })?;
        give_up_admin();
        fetch(number).map_err(|source| FrontEndError::Io {
            action: "fetching the tags of",
            source,
        })
    }

    /// Whether the start failed.
    ///
    /// # Errors
    /// Then: the process must end.
    pub fn check(&self) -> Result<(), FrontEndError> {
        match self.failure.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(FrontEndError::Io {
                action: "starting",
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }
}

/// Makes the device ready for this server, as soon as the driver has noticed that the one before
/// has gone.
fn start_recovery(control: &mut Control, number: u32) -> Result<(), FrontEndError> {
    let deadline = monotonic_now().after(RECOVERY_TIME_MAX);
    loop {
        match control.start_recovery(number) {
            Ok(()) => return Ok(()),
            // A server before this one came as far and no further.
            Err(error) if error.errno() == Some(libc::EINVAL) => return Ok(()),
            Err(error) if error.errno() == Some(libc::EBUSY) && monotonic_now() < deadline => {
                std::thread::park_timeout(RECOVERY_PAUSE);
            }
            Err(error) => return Err(failed("recovering", error)),
        }
    }
}

fn start(number: u32, is_new: bool) -> Result<(), ControlError> {
    hurry();
    let mut control = Control::open()?;
    let own = std::process::id();
    if is_new {
        control.start(number, own)
    } else {
        control.end_recovery(number, own)
    }
}

/// Lets this thread, and the driver's worker that it starts, run before all others. A server that
/// is killed between its last fetch and the end of the recovery would leave kernels of 6.12 with a
/// device that counts as served: the end must follow the last fetch at once.
fn hurry() {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads the parameter, and changes this thread alone.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!("the starter has no priority: {error}");
    }
}

/// The I/O thread needs no right to administer the host. Without it, the driver does not let the
/// kernel look for partitions: reads that would be under way while the device is being started, and
/// that a killed engine would leave to nobody.
fn give_up_admin() {
    let lowered = capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets)
    });
    if let Err(errno) = lowered {
        tracing::warn!("the I/O thread keeps CAP_SYS_ADMIN: {errno}");
    }
}

fn failed(action: &'static str, error: ControlError) -> FrontEndError {
    tracing::error!("{error}: {}", source(&error));
    let source = io::Error::from_raw_os_error(error.errno().unwrap_or(libc::EIO));
    FrontEndError::Io { action, source }
}

/// Newer drivers compare the server's process id with what they see themselves.
fn hint(error: &ControlError) -> &'static str {
    if error.errno() == Some(libc::EINVAL) {
        "; swapd must run in the host's pid namespace (hostPID: true in a pod)"
    } else {
        ""
    }
}

/// Why, in the system's words.
fn source(error: &ControlError) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}
