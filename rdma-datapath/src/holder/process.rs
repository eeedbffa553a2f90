//! Child processes of the holder: engines and helpers, watched by descriptor.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that can be polled for its end.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    descriptor: OwnedFd,
    /// `None` for a process that another holder started.
    child: Option<Child>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code, if it ended by itself and told.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C in a terminal reaches the
    /// holder alone. It inherits `descriptors` and, besides the standard ones, no others.
    ///
    /// # Errors
    /// The host's.
    pub fn start(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<Self> {
        // The holder has one thread: nobody else starts a process between the two settings.
        set_flags(descriptors, FdFlags::empty())?;
        let child = command.process_group(0).spawn();
        set_flags(descriptors, FdFlags::CLOEXEC)?;
        let mut child = child?;
        match open(child.id()) {
            Ok(descriptor) => Ok(Self {
                pid: child.id(),
                descriptor,
                child: Some(child),
            }),
            Err(error) => {
                // Cannot be watched, so it must not run; both calls can only fail if it ended.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// A process that somebody else started.
    ///
    /// # Errors
    /// The host's, such as that it does not exist.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            descriptor: open(pid)?,
            child: None,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it. Its end is still to be awaited.
    pub fn kill(&self) {
        if let Err(errno) = pidfd_send_signal(&self.descriptor, Signal::KILL) {
            tracing::debug!("process {} cannot be killed: {errno}", self.pid);
        }
    }

    /// How it ended, once its descriptor is readable.
    ///
    /// # Errors
    /// The host's.
    pub fn ending(&mut self) -> io::Result<Ending> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.as_mut().map(Child::wait).transpose()?;
        Ok(Ending {
            code: status.as_ref().and_then(ExitStatus::code),
            signal: status.as_ref().and_then(ExitStatus::signal),
        })
    }

    /// What it wrote to its standard output; call it after its end.
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        let output = self.child.as_mut().and_then(|child| child.stdout.take());
        if let Some(mut output) = output
            && let Err(error) = output.read_to_string(&mut text)
        {
            tracing::warn!("the output of process {} cannot be read: {error}", self.pid);
        }
        text
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn set_flags(descriptors: &[BorrowedFd<'_>], flags: FdFlags) -> io::Result<()> {
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::process::Stdio;

    fn wait(process: &Process) {
        let mut ready = [PollFd::new(process, PollFlags::IN)];
        poll(&mut ready, None).expect("polled");
    }

    #[test]
    fn end_and_output_are_seen_through_the_descriptor() {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo ok; exit 3"])
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command, &[]).expect("started");
        wait(&process);
        assert_eq!(process.ending().expect("ended").code, Some(3));
        assert_eq!(process.output(), "ok\n");
    }

    #[test]
    fn killed_process_tells_its_signal() {
        let mut command = Command::new("/bin/sleep");
        let mut process = Process::start(command.arg("60"), &[]).expect("started");
        process.kill();
        wait(&process);
        let ending = process.ending().expect("ended");
        assert_eq!((ending.code, ending.signal), (None, Some(9)));
    }

    #[test]
    fn only_named_descriptors_are_inherited() {
        // Numbers that the listing program itself does not come to use.
        let high = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 300).expect("a number");
        let (kept, given) = rustix::pipe::pipe().expect("a pipe");
        let (kept, given) = (high(kept), high(given));
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "ls /proc/self/fd"])
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command, &[given.as_fd()]).expect("started");
        wait(&process);
        let number = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd).to_string();
        let output = process.output();
        let listed: Vec<&str> = output.lines().collect();
        assert!(listed.contains(&number(&given).as_str()), "{listed:?}");
        assert!(!listed.contains(&number(&kept).as_str()), "{listed:?}");
        let flags = rustix::io::fcntl_getfd(&given).expect("flags");
        assert_eq!(flags, FdFlags::CLOEXEC);
    }
}
