//! The workload's process: started inside the container, told what to do, and listened to.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use dynamicswap_types::Bytes;
use dynamicswap_workload::container::Container;
use dynamicswap_workload::line::Line;
use rustix::process::Signal;

use super::recorder::Recorder;
use crate::args::Workload;
use crate::cluster::paths::{ClusterPaths, Programs};
use crate::process::{Process, spawn_prepared};

/// The running workload; it is killed with the value.
#[derive(Debug)]
pub struct Load {
    process: Process,
    commands: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts `workload` with `memory`, inside `container`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        workload: Workload,
        memory: Bytes,
        places: (&Programs, &ClusterPaths, &Container),
        recorder: Arc<Recorder>,
    ) -> Result<Self> {
        let (programs, paths, container) = places;
        let log = paths.log("workload");
        let mut command = Command::new(programs.path("workload"));
        command.args([workload.as_str(), "--commands", "--progress-ms", "100"]);
        command.args(["--size", &memory.to_string()]);
        match workload {
            Workload::Verify => container.enter(&mut command)?,
            Workload::Redis => {
                // The driver stays outside: only the server's memory shall swap.
                command.arg("--cgroup").arg(container.memory_cgroup());
                command.arg("--cgroup").arg(container.unified_cgroup());
            }
        }
        let errors = std::fs::File::create(&log).context("cannot make the workload's log")?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut process = spawn_prepared("workload", &mut command, &log)?;
        let commands = process.child_mut().stdin.take();
        let output = process.child_mut().stdout.take();
        let output = output.context("the workload has no output")?;
        let reader = std::thread::Builder::new()
            .name("workload".to_owned())
            .spawn(move || {
                for text in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Ok(line) = serde_json::from_str::<Line>(&text) {
                        recorder.line(line);
                    }
                }
            })
            .context("cannot start the thread that listens to the workload")?;
        Ok(Self {
            process,
            commands,
            reader: Some(reader),
        })
    }

    /// Sends a command: `check` or `finish`.
    ///
    /// # Errors
    /// If the workload is gone.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let input = self
            .commands
            .as_mut()
            .context("the workload has no input")?;
        writeln!(input, "{command}").context("the workload does not listen any more")
    }

    /// How it ended, with its last words, if it has. All its output has been taken then.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has told so itself.
            let _panicked = reader.join();
        }
        let words = self.process.record.last_log_lines();
        Some(if words.is_empty() {
            status
        } else {
            format!("{status}: {}", words.join("; "))
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.commands = None;
        self.process.end(Signal::KILL, Duration::ZERO);
    }
}
