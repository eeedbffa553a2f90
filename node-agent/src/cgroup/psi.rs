//! Pressure files: reading them, and arming the kernel's triggers in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamicswap_policy::{Grain, Line, Pressure, Share, Stall, Trigger};
use procfs::{FromBufRead as _, MemoryPressure, PressureRecord};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{CgroupError, KeptFiles, beginning};

/// Reads a pressure file: memory.pressure of a cgroup, or /proc/pressure/memory.
///
/// # Errors
/// [`CgroupError`] if it is not there or holds something else.
pub fn read_pressure(path: &Path, files: &mut KeptFiles) -> Result<Pressure, CgroupError> {
    let text = files.read_text(path)?;
    let parsed = MemoryPressure::from_buf_read(text.as_bytes());
    let parsed = parsed.map_err(|_| CgroupError::Content {
        path: path.to_owned(),
        found: beginning(&text),
        wanted: "pressure figures",
    })?;
    Ok(Pressure {
        some: stall(&parsed.some),
        full: stall(&parsed.full),
    })
}

fn stall(record: &PressureRecord) -> Stall {
    Stall {
        avg10: share(record.avg10),
        avg60: share(record.avg60),
        avg300: share(record.avg300),
        total: Duration::from_micros(record.total),
    }
}

/// The kernel prints two decimals, so hundredths lose nothing.
fn share(percent: f32) -> Share {
    let hundredths = (f64::from(percent) * 100.0).round().clamp(0.0, 10_000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=10000 in the line above"
    )]
    Share::from_hundredths(hundredths as u16)
}

/// What triggers the kernel lets this process arm, tried in the node's own pressure file.
///
/// # Errors
/// [`CgroupError`] if it lets none.
pub fn probe_triggers(file: &Path) -> Result<Grain, CgroupError> {
    let attempt = |grain: Grain| {
        let trigger = Trigger {
            line: Line::Some,
            share: Share::ALL,
            window: grain.window(),
        };
        write_trigger(file, trigger).map(|_| grain)
    };
    match attempt(Grain::Fine) {
        Err(CgroupError::Io { source, .. }) if is(&source, Errno::INVAL) => attempt(Grain::Coarse),
        other => other,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Opens the file and writes the trigger; it lives as long as the file is open. One open file
/// holds one trigger.
fn write_trigger(path: &Path, trigger: Trigger) -> Result<File, CgroupError> {
    let failed = |source| CgroupError::Io {
        what: "arm a pressure trigger in",
        path: path.to_owned(),
        source,
    };
    // The kernel wants the zero at the end, and all of it in one write.
    let text = format!(
        "{} {} {}\0",
        trigger.line.word(),
        trigger.threshold().as_micros(),
        trigger.window.as_micros()
    );
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(file)
}

/// How the wait for a trigger ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// The threshold was reached within a window. The trigger stays armed; the kernel says so
    /// once a window at most.
    Reached,
    /// The cgroup is gone, and the trigger with it.
    Gone,
}

/// A trigger in force, disarmed when dropped.
///
/// Waits in the runtime's own epoll, so that a watch costs one descriptor and no thread.
#[derive(Debug)]
pub struct Armed {
    file: AsyncFd<File>,
    path: PathBuf,
}

impl Armed {
    /// Arms `trigger` in a pressure file.
    ///
    /// # Errors
    /// [`CgroupError`] with what the kernel says.
    pub fn arm(path: &Path, trigger: Trigger) -> Result<Self, CgroupError> {
        let file = write_trigger(path, trigger)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe code, for owners whose descriptor may change; that \
                      of a File does not"
        )]
        let file = AsyncFd::with_interest(file, Interest::PRIORITY);
        let file = file.map_err(|source| CgroupError::Io {
            what: "wait for a pressure trigger in",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Waits until it fires, or its cgroup is removed. Cancelling loses nothing but an event that
    /// was not waited for.
    pub async fn fired(&self) -> Fired {
        // An error comes with the runtime's end only; nothing can fire then.
        let Ok(mut guard) = self.file.ready(Interest::PRIORITY | Interest::ERROR).await else {
            return Fired::Gone;
        };
        let gone = guard.ready().is_error() || !self.path.exists();
        guard.clear_ready();
        if gone { Fired::Gone } else { Fired::Reached }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Files, Host};
    use super::*;

    #[test]
    fn pressure_file_is_read_to_the_last_decimal() {
        let host = Host::unified();
        let files = Files {
            some: "41.23",
            ..Files::default()
        };
        let (_, cgroup) = host.container("web", files);
        let path = cgroup.join("memory.pressure");
        let pressure = read_pressure(&path, &mut KeptFiles::default()).expect("read");
        assert_eq!(pressure.some.avg10.to_string(), "41.23 %");
        assert_eq!(pressure.some.avg300.to_string(), "0.25 %");
        assert_eq!(pressure.some.total, Duration::from_micros(123_456));
        assert_eq!(pressure.full.total, Duration::from_micros(23_456));
    }

    #[test]
    fn file_with_something_else_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("memory.pressure");
        let mut files = KeptFiles::default();
        let error = read_pressure(&path, &mut files).expect_err("not there");
        assert!(error.is_gone());
        std::fs::write(&path, "low\n").expect("written");
        let error = read_pressure(&path, &mut files).expect_err("no pressure");
        assert!(error.to_string().contains("holds 'low'"), "{error}");
    }

    #[test]
    fn trigger_is_written_as_the_kernel_documents() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("memory.pressure");
        std::fs::write(&path, "").expect("written");
        let trigger = Trigger {
            line: Line::Full,
            share: Share::from_hundredths(250),
            window: Duration::from_secs(2),
        };
        write_trigger(&path, trigger).expect("a plain file takes it");
        let text = std::fs::read(&path).expect("read");
        assert_eq!(text, b"full 50000 2000000\0");
    }
}
