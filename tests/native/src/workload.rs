//! A verify workload in a container of the cluster, and what it tells.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_types::Bytes;
use dynamicswap_workload::line::{End, Line, Phase, Progress};

use crate::cluster::Cluster;
use crate::host;

/// Longest wait for a line.
const WAIT: Duration = Duration::from_secs(120);

/// Memory of a workload and the part that it may keep in RAM.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// What it owns.
    pub owned: Bytes,
    /// Its cgroup's limit.
    pub limit: Bytes,
}

impl Size {
    /// 128 MiB in 64 MiB.
    pub const HALF_IN_RAM: Self = Self {
        owned: Bytes::from_mib(128),
        limit: Bytes::from_mib(64),
    };
}

/// A workload that runs until it is told to finish.
pub struct Workload {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Line>,
    /// The last progress that it told.
    pub last: Progress,
}

impl Workload {
    /// Starts it.
    ///
    /// # Errors
    /// If the container or the program cannot be started.
    pub fn start(cluster: &Cluster, container: &str, size: Size) -> Result<Self> {
        let mut command = Command::new(host::program("dynamicswap")?);
        command.args([
            "run",
            "--name",
            &cluster.name.to_string(),
            "--container",
            container,
        ]);
        command.args([
            "--memory",
            &size.limit.to_string(),
            "--label",
            "app=verify",
            "--",
        ]);
        Self::spawn(command, size)
    }

    /// Starts it in a cgroup that no cluster knows: a stranger's program.
    ///
    /// # Errors
    /// If the cgroup or the program cannot be started.
    pub fn start_outside(name: &str, size: Size) -> Result<Self> {
        let mut command = Command::new(host::program("dynamicswap-workload")?);
        let limit = size.limit.to_string();
        command.args(["contain", "--limit", &limit, "--name", name, "--"]);
        Self::spawn(command, size)
    }

    fn spawn(mut command: Command, size: Size) -> Result<Self> {
        command.arg(host::program("dynamicswap-workload")?);
        command.args([
            "verify",
            "--commands",
            "--threads",
            "2",
            "--progress-ms",
            "100",
        ]);
        command.args(["--size", &size.owned.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the workload")?;
        let output = child.stdout.take().context("the workload has no output")?;
        let input = child.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let texts = BufReader::new(output).lines().map_while(Result::ok);
            for line in texts.filter_map(|text| serde_json::from_str(&text).ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            lines,
            last: Progress::default(),
        })
    }

    fn next(&mut self) -> Result<Line> {
        let line = match self.lines.recv_timeout(WAIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("the workload has said nothing for {WAIT:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the workload died: {}", self.child.wait()?)
            }
        };
        if let Line::Progress(progress) = &line {
            self.last = progress.clone();
        }
        if let Line::Wrong { page, reason } = &line {
            bail!("page {page} is wrong: {reason}");
        }
        Ok(line)
    }

    /// Waits until its memory is full and the random accesses have begun.
    ///
    /// # Errors
    /// If it dies first or a page is wrong.
    pub fn wait_churn(&mut self) -> Result<()> {
        while !matches!(
            self.next()?,
            Line::Phase {
                phase: Phase::Churn
            }
        ) {}
        Ok(())
    }

    /// Lets it run for a time; a wrong page or its death ends the wait with an error.
    ///
    /// # Errors
    /// As said.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.next()?;
        }
        Ok(())
    }

    /// Ends the accesses, checks every page, and returns the result.
    ///
    /// # Errors
    /// If a page is wrong or it dies.
    pub fn finish(mut self) -> Result<End> {
        let mut input = self.input.take().context("already told to finish")?;
        writeln!(input, "finish").context("cannot tell the workload to finish")?;
        let end = loop {
            if let Line::End(end) = self.next()? {
                break end;
            }
        };
        let status = self.child.wait().context("cannot wait for the workload")?;
        ensure!(status.success(), "the workload ended with {status}");
        ensure!(end.wrong_pages == 0, "{} pages were wrong", end.wrong_pages);
        let pages = end.pages_final;
        ensure!(pages > 0, "the last pass checked nothing");
        Ok(end)
    }

    /// Waits for its death and says how it died.
    ///
    /// # Errors
    /// If it lives on.
    pub fn wait_death(mut self) -> Result<ExitStatus> {
        loop {
            match self.lines.recv_timeout(WAIT) {
                Ok(Line::End(end)) => bail!("the workload lived to its end: {end:?}"),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("the workload still lives"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.wait().context("cannot wait for the workload")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // The end of its input aborts it, and `run` removes the container after it.
        drop(self.input.take());
        let _reaped = self.child.wait();
    }
}
