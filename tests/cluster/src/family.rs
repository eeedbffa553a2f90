//! Processes that belong together: started with a log each, ended together.
//!
//! A family either ends with this process, however that ends, or is kept for a later command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dynamicswap_cli::process::{Process, ProcessRecord, spawn};
use rustix::process::Signal;

/// A killed process ends within it, unless the kernel holds it.
const KILL_TIME_MAX: Duration = Duration::from_secs(5);

/// Until when a family lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// As long as its handle and this process at most.
    #[default]
    Handle,
    /// As `Handle`, and longer if it is kept.
    Keepable,
}

/// One process to start.
struct Job {
    name: String,
    command: Command,
    log: PathBuf,
    started: Sender<Result<Process>>,
}

/// The family.
#[derive(Debug)]
pub struct Family {
    logs: PathBuf,
    lifetime: Lifetime,
    /// The kernel ends a child with the thread that started it: this one lives as long as the
    /// handle, which a test's own thread may not.
    starter: Option<(Sender<Job>, JoinHandle<()>)>,
    processes: Vec<Process>,
}

impl Family {
    /// Without members yet; their logs go to `logs`, which exists.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(logs: &Path, lifetime: Lifetime) -> Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let work = move || {
            for mut job in waiting {
                let started = spawn(&job.name, &mut job.command, &job.log);
                // The other end waits for it.
                let _told = job.started.send(started);
            }
        };
        let thread = std::thread::Builder::new().name("starter".to_owned());
        let thread = thread.spawn(work).context("cannot start a thread")?;
        Ok(Self {
            logs: logs.to_owned(),
            lifetime,
            starter: Some((jobs, thread)),
            processes: Vec::new(),
        })
    }

    /// Starts a member.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, name: &str, command: Command) -> Result<()> {
        let command = match self.lifetime {
            Lifetime::Handle => ended_with_its_starter(&command),
            Lifetime::Keepable => command,
        };
        let (started, answer) = channel();
        let job = Job {
            name: name.to_owned(),
            command,
            log: self.logs.join(format!("{name}.log")),
            started,
        };
        let (jobs, _) = self.starter.as_ref().context("the family has ended")?;
        jobs.send(job).context("the starting thread has ended")?;
        let process = answer.recv().context("the starting thread has ended")??;
        self.processes.push(process);
        Ok(())
    }

    /// The members.
    #[must_use]
    pub fn records(&self) -> Vec<ProcessRecord> {
        self.processes
            .iter()
            .map(|process| process.record.clone())
            .collect()
    }

    /// What became of the first member that has ended by itself, if one has.
    pub fn loss(&mut self) -> Option<String> {
        self.processes.iter_mut().find_map(|process| {
            let status = process.ended()?;
            let ProcessRecord { name, log, .. } = &process.record;
            let lines = process.record.last_log_lines().join("\n  ");
            let log = log.display();
            Some(format!(
                "{name} ended with {status}; the end of {log}:\n  {lines}"
            ))
        })
    }

    /// Ends all members, the youngest first. What they have written is not worth a farewell.
    pub fn end(&mut self) {
        while let Some(mut process) = self.processes.pop() {
            let _status = process.end(Signal::KILL, KILL_TIME_MAX);
        }
    }

    /// Leaves the members running, for who ends them by their records.
    #[must_use]
    pub fn keep(mut self) -> Vec<ProcessRecord> {
        let records = self.records();
        self.processes.clear();
        records
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.end();
        if let Some((jobs, thread)) = self.starter.take() {
            drop(jobs);
            // It does nothing that could panic.
            let _ended = thread.join();
        }
    }
}

/// The same command, which the kernel kills once the thread that starts it has ended.
fn ended_with_its_starter(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    #[test]
    fn family_ends_with_its_handle_and_not_with_the_thread_that_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut family = Family::new(folder.path(), Lifetime::Handle).expect("a family");
        let family = std::thread::spawn(move || {
            family.start("sleeper", sleeper()).expect("started");
            family
        });
        let mut family = family.join().expect("started");
        let [record] = &family.records()[..] else {
            panic!("one member");
        };
        assert!(!record.wait_end(Duration::from_millis(200)));
        assert_eq!(family.loss(), None);
        drop(family);
        assert!(!record.is_alive());
    }

    #[test]
    fn kept_family_lives_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut family = Family::new(folder.path(), Lifetime::Keepable).expect("a family");
        family.start("sleeper", sleeper()).expect("started");
        let records = family.keep();
        assert!(!records[0].wait_end(Duration::from_millis(200)));
        records[0].signal(Signal::KILL);
        assert!(records[0].wait_end(KILL_TIME_MAX));
    }

    #[test]
    fn member_that_ends_is_a_loss_and_its_last_words_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut family = Family::new(folder.path(), Lifetime::Handle).expect("a family");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no room >&2; exit 7"]);
        family.start("short", command).expect("started");
        assert!(family.records()[0].wait_end(KILL_TIME_MAX));
        let loss = family.loss().expect("it has ended");
        assert!(loss.contains("short ended with exit status: 7"), "{loss}");
        assert!(loss.ends_with("no room"), "{loss}");
    }
}
