//! Runs the verify workload inside a memory cgroup and gathers what it prints.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_types::Bytes;
use dynamicswap_workload::line::{Line, Phase, Progress};

/// What the measured workload owns.
pub const SIZE: Bytes = Bytes::from_mib(256);
/// What its cgroup lets it keep in RAM.
pub const LIMIT: Bytes = Bytes::from_mib(128);
/// Longest time for fill and check around the measured churn.
const MARGIN: Duration = Duration::from_secs(120);

/// A program that was built beside this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let path = own.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing: build it with 'cargo build --release'",
        path.display()
    );
    Ok(path)
}

/// A workload that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<(Instant, Line)>,
    deadline: Instant,
    progress: Vec<(Instant, Progress)>,
}

/// What a workload did.
#[derive(Debug)]
pub struct Finished {
    /// Each interval of the churn, with the moment when it was told.
    pub churn: Vec<(Instant, Progress)>,
}

/// How a workload runs.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Seconds of churn.
    pub seconds: u32,
    /// Length of an interval.
    pub progress_ms: u32,
    /// Threads.
    pub threads: u32,
    /// Share of accesses that also write.
    pub write_percent: u32,
}

impl Running {
    /// Starts the workload.
    pub fn start(container: &str, plan: Plan) -> Result<Self> {
        let program = beside("dynamicswap-workload")?;
        let mut command = Command::new(&program);
        command.args([
            "contain",
            "--limit",
            &LIMIT.to_string(),
            "--name",
            container,
            "--",
        ]);
        command
            .arg(&program)
            .args(["verify", "--size", &SIZE.to_string()]);
        command.args(["--seconds", &plan.seconds.to_string()]);
        command.args(["--threads", &plan.threads.to_string()]);
        command.args(["--write-percent", &plan.write_percent.to_string()]);
        command.args([
            "--progress-ms",
            &plan.progress_ms.to_string(),
            "--seed",
            "7",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the workload")?;
        let output = child.stdout.take().context("the workload has no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&text)
                    && sender.send((Instant::now(), line)).is_err()
                {
                    return;
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(u64::from(plan.seconds)) + MARGIN;
        Ok(Self {
            child,
            lines,
            deadline,
            progress: Vec::new(),
        })
    }

    /// Waits until the churn has run for `time`.
    pub fn wait_churn(&mut self, time: Duration) -> Result<()> {
        let mut began = None;
        while began.is_none_or(|began: Instant| began.elapsed() < time) {
            match self.next()? {
                (
                    when,
                    Line::Phase {
                        phase: Phase::Churn,
                    },
                ) => began = Some(when),
                (_, Line::End(_)) => bail!("the workload ended before its churn"),
                _ => {}
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(Instant, Line)> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (when, line) = self
            .lines
            .recv_timeout(left)
            .context("the workload does not come to its end")?;
        if let Line::Progress(progress) = &line {
            self.progress.push((when, progress.clone()));
        }
        Ok((when, line))
    }

    /// Waits for the end; a wrong page is an error.
    pub fn finish(mut self) -> Result<Finished> {
        let end = loop {
            if let (_, Line::End(end)) = self.next()? {
                break end;
            }
        };
        let status = self.child.wait().context("cannot wait for the workload")?;
        ensure!(status.success(), "the workload ended with {status}");
        ensure!(end.wrong_pages == 0, "{} pages were wrong", end.wrong_pages);
        let churn = std::mem::take(&mut self.progress)
            .into_iter()
            .filter(|(_, progress)| progress.phase == Some(Phase::Churn))
            .collect();
        Ok(Finished { churn })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Finished {
    /// Median over the churn's intervals of one of their figures, in microseconds.
    pub fn median_of(&self, figure: fn(&Progress) -> u64) -> Result<f64> {
        let with_faults = self
            .churn
            .iter()
            .filter(|(_, progress)| progress.swap_ins > 0);
        let mut values: Vec<u64> = with_faults.map(|(_, progress)| figure(progress)).collect();
        values.sort_unstable();
        let median = values
            .get(values.len() / 2)
            .context("no page was swapped in")?;
        Ok(*median as f64)
    }
}
