//! Starting the device, or ending its recovery, beside the I/O thread.
//!
//! Both commands wait until every tag is fetched, and requests may flow before they return, so a
//! thread of its own gives them. It does nothing else.
//!
//! That thread alone keeps the right to administer the host, which the control device asks for: it
//! is started before the I/O thread gives the right up, and a thread's credentials are its own.
//! Every change of them makes new ones, even to the same rights, and the kernel's RDMA files take
//! calls only under the very credentials that opened them (`ib_safe_file_access` compares pointers;
//! anything else is "Permission denied"). So the I/O thread changes its own once, in
//! [`Starter::new`], before it opens any such file, and never again; the threads that it starts
//! after that share them.
//!
//! One of the few files with unsafe code: a thread's scheduling class has no safe call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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

/// The I/O thread's end of the thread that starts the device.
#[derive(Debug)]
pub struct Starter {
    /// Says which device to take over.
    number: SyncSender<u32>,
    /// Whether it was taken over: its tags may be fetched.
    taken_over: Receiver<Result<(), FrontEndError>>,
    /// The error number of a start that failed.
    failure: Arc<AtomicI32>,
}

impl Starter {
    /// Starts the thread, and gives up the calling thread's right to administer the host: to be
    /// called by the I/O thread, before it opens any file of RDMA.
    ///
    /// # Errors
    /// [`FrontEndError`]: the host gives no thread.
    pub fn new() -> Result<Self, FrontEndError> {
        let (number, numbers) = sync_channel(1);
        let (taken, taken_over) = sync_channel(1);
        let failure = Arc::new(AtomicI32::new(0));
        let noted = Arc::clone(&failure);
        let run = move || {
            // Without a number the front end was dropped before it was begun.
            if let Ok(number) = numbers.recv() {
                take_over_and_start(number, &taken, &noted);
            }
        };
        threads::spawn("starter", run).map_err(no_starter)?;
        give_up_admin();
        Ok(Self {
            number,
            taken_over,
            failure,
        })
    }

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
        let gone = || no_starter(io::ErrorKind::BrokenPipe.into());
        self.number.try_send(number).map_err(|_| gone())?;
        self.taken_over.recv().map_err(|_| gone())??;
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

/// The thread's work: what [`Starter::begin`] waits for, and then what waits for its fetches.
fn take_over_and_start(
    number: u32,
    taken: &SyncSender<Result<(), FrontEndError>>,
    failure: &AtomicI32,
) {
    // Before the first command: the driver's worker is started by that one and does the rest, too.
    hurry();
    let (mut control, is_new) = match take_over(number) {
        Ok(ours) => ours,
        Err(error) => {
            // Nobody waits where the front end was dropped.
            let _told = taken.try_send(Err(error));
            return;
        }
    };
    if taken.try_send(Ok(())).is_err() {
        return;
    }
    let own = std::process::id();
    let started = if is_new {
        control.start(number, own)
    } else {
        control.end_recovery(number, own)
    };
    if let Err(error) = started {
        let hint = hint(&error);
        tracing::error!("{error}: {}{hint}", source(&error));
        failure.store(error.errno().unwrap_or(libc::EIO), Ordering::Release);
    }
}

/// Makes the device ready for this server; also tells whether it never had one.
fn take_over(number: u32) -> Result<(Control, bool), FrontEndError> {
    let mut control = Control::open().map_err(|error| failed("opening", error))?;
    let info = control
        .info(number)
        .map_err(|error| failed("asking about", error))?;
    let is_new = info.state == state::DEAD;
    if !is_new {
        start_recovery(&mut control, number)?;
    }
    Ok((control, is_new))
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

fn no_starter(source: io::Error) -> FrontEndError {
    FrontEndError::Io {
        action: "starting",
        source,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn is_admin() -> bool {
        let sets = capabilities(None).expect("own capabilities");
        sets.effective.contains(CapabilitySet::SYS_ADMIN)
    }

    #[test]
    fn right_to_administer_is_given_up_by_the_thread_that_makes_a_starter_and_by_no_other() {
        let before = is_admin();
        let other = std::thread::spawn(|| {
            let _starter = Starter::new().expect("a thread");
            is_admin()
        });
        assert!(!other.join().expect("no panic"));
        assert_eq!(is_admin(), before);
    }

    #[test]
    fn device_that_cannot_be_taken_over_is_never_fetched() {
        let begun = std::thread::spawn(|| {
            let starter = Starter::new().expect("a thread");
            let fetched = std::cell::Cell::new(false);
            let begun = starter.begin(u32::MAX, |_| {
                fetched.set(true);
                Ok(())
            });
            (begun.is_err(), fetched.get())
        });
        assert_eq!(begun.join().expect("no panic"), (true, false));
    }
}
