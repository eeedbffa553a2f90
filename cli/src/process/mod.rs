//! One process of a local cluster: started, watched, ended.
//!
//! Owns a process's identity (its id and start time, so that a reused id is never mistaken for
//! it) and its log. Knows nothing of what the process does.

mod spawn;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub use spawn::{spawn, spawn_prepared};

/// Lines of a log that a failure shows.
const LOG_LINES: usize = 5;

/// A process as it is written down: enough to find it again from another command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// What it is called here: "controller", "donor-1/memory-server".
    pub name: String,
    /// Its id.
    pub pid: i32,
    /// Its start, in clock ticks since boot: two lives of one id differ in it.
    pub started: u64,
    /// Where its standard error goes.
    pub log: PathBuf,
}

impl ProcessRecord {
    /// The record of a living process.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(name: &str, pid: i32, log: &Path) -> Result<Self> {
        let stat = Stat::read(pid).with_context(|| format!("{name} (pid {pid}) is gone"))?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            started: stat.started,
            log: log.to_owned(),
        })
    }

    /// Whether it lives: a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid)
            .is_ok_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal, if it lives. The signal cannot reach another process with the same id.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if self.is_alive() {
            // One that ends in this moment is as good as signalled.
            let _gone = pidfd_send_signal(&descriptor, signal);
        }
    }

    /// Waits until it has ended, at most `limit`; says whether it has. A killed process whose first
    /// thread is a zombie may have others that still hold its files and ports: they are waited for.
    #[must_use]
    pub fn wait_end(&self, limit: Duration) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return true;
        };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return true;
        };
        let is_another = |stat: Stat| stat.started != self.started;
        if Stat::read(self.pid).map_or(true, is_another) {
            return true;
        }
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
        let timeout = Timespec::try_from(limit).ok();
        loop {
            match poll(&mut polled, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(ended) => return ended > 0,
                Err(_) => return !self.is_alive(),
            }
        }
    }

    /// The last lines of its log, without the times.
    #[must_use]
    pub fn last_log_lines(&self) -> Vec<String> {
        last_lines(&self.log, LOG_LINES)
    }
}

/// A process that this command started.
#[derive(Debug)]
pub struct Process {
    /// Its identity.
    pub record: ProcessRecord,
    child: Child,
}

impl Process {
    /// How it ended, if it has: also takes it off the kernel's table.
    pub fn ended(&mut self) -> Option<String> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|status| status.to_string())
    }

    /// The child's standard input and output, where they were asked for.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Ends it with `signal`, with SIGKILL after `patience`, and reaps it.
    pub fn end(&mut self, signal: Signal, patience: Duration) -> Option<String> {
        if self.ended().is_none() {
            self.record.signal(signal);
            if !self.record.wait_end(patience) {
                self.record.signal(Signal::KILL);
            }
            // A process that waits for a dead device ignores even SIGKILL: do not wait for it
            // for ever, what is left is found and named at the end.
            let _ended = self.record.wait_end(Duration::from_secs(10));
        }
        self.ended()
    }
}

/// The parts of /proc/PID/stat that identify a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The command's name may hold spaces and brackets: fields count from its last bracket.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        Some(Self {
            state: fields.next()?.chars().next()?,
            started: fields.nth(18)?.parse().ok()?,
        })
    }
}

/// The last `count` lines of a file, for people: escape sequences and empty lines left out.
fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(16 << 10)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<String> = text
        .lines()
        .map(without_escapes)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// The text without terminal escape sequences.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        text.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn shell(script: &str, dir: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        spawn("test", &mut command, &dir.join("log")).expect("sh is everywhere")
    }

    #[test]
    fn stat_is_read_past_a_name_with_brackets() {
        let text = format!("7 (a) b) S {}4242 x", "1 ".repeat(18));
        let expected = Stat {
            state: 'S',
            started: 4242,
        };
        assert_eq!(Stat::parse(&text), Some(expected));
    }

    #[test]
    fn process_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut process = shell(
            "trap '' TERM; echo ready >&2; while :; do sleep 0.1; done",
            dir.path(),
        );
        while process.record.last_log_lines().is_empty() {
            assert!(!process.record.wait_end(Duration::from_millis(5)));
        }
        assert!(process.record.is_alive());
        let end = process.end(Signal::TERM, Duration::from_millis(100));
        assert!(end.expect("ended").contains("signal: 9"));
        assert!(!process.record.is_alive());
        assert!(process.record.wait_end(Duration::ZERO));
    }

    #[test]
    fn record_with_another_start_time_is_not_alive_and_gets_no_signal() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut process = shell("sleep 1000", dir.path());
        let mut other = process.record.clone();
        other.started += 1;
        assert!(!other.is_alive());
        other.signal(Signal::KILL);
        assert!(process.record.is_alive());
        process.end(Signal::KILL, Duration::from_secs(5));
    }

    #[test]
    fn last_log_lines_are_readable() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut process = shell(
            r"i=0; while [ $i -lt 9 ]; do echo line $i; echo; i=$((i+1)); done; printf '\033[31mred\033[0m end\n' >&2; exit 3",
            dir.path(),
        );
        assert!(process.record.wait_end(Duration::from_secs(10)));
        assert_eq!(process.ended().expect("ended"), "exit status: 3");
        let lines = process.record.last_log_lines();
        assert_eq!(lines, ["line 5", "line 6", "line 7", "line 8", "red end"]);
    }
}
