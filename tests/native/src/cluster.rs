//! A real local cluster for one test, started and ended by the product's own commands.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_cli::client::Client;
use dynamicswap_cli::cluster::paths::{ClusterName, ClusterPaths};
use dynamicswap_cli::cluster::record::{BORROWER, ClusterRecord};
use dynamicswap_cli::process::spawn;
use dynamicswap_proto::common::v1::SwapDeviceReport;
use dynamicswap_proto::control::v1::{ClusterStatus, NodeStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::host;

/// Longest wait for any condition.
const WAIT: Duration = Duration::from_secs(60);
/// Time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// A cluster that is up. Dropping it takes it down; [`Cluster::down`] also checks that nothing is
/// left.
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Its directories.
    pub paths: ClusterPaths,
    record: ClusterRecord,
    client: Client,
    watchdog: Child,
    is_down: bool,
}

/// Runs `dynamicswap` and returns its exit code and what it said.
///
/// # Errors
/// If it cannot be started.
pub fn dynamicswap(args: &[&str]) -> Result<(i32, String)> {
    let output = Command::new(host::program("dynamicswap")?)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("cannot run dynamicswap")?;
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().context("dynamicswap was killed")?;
    Ok((code, String::from_utf8_lossy(&said).into_owned()))
}

fn succeed(args: &[&str]) -> Result<String> {
    let (code, said) = dynamicswap(args)?;
    ensure!(
        code == 0,
        "dynamicswap {} ended with {code}: {said}",
        args.join(" ")
    );
    Ok(said)
}

impl Cluster {
    /// Starts a cluster with more options of `dynamicswap up`.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(name: &str, options: &[&str]) -> Result<Self> {
        let parsed: ClusterName = name.parse().map_err(anyhow::Error::msg)?;
        let paths = ClusterPaths::new(&parsed);
        let below = paths.root().display().to_string();
        let own = std::process::id().to_string();
        let watchdog = Command::new(host::program("dynamicswap-workload")?)
            .args(["watchdog", "--below", &below, "--parent", &own])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the watchdog")?;
        succeed(&[&["up", "--name", name], options].concat())?;
        let record = ClusterRecord::load(&parsed)?;
        let client = Client::new(&record.controller)?;
        Ok(Self {
            name: parsed,
            paths,
            record,
            client,
            watchdog,
            is_down: false,
        })
    }

    /// Applies a policy and waits until swap is on.
    ///
    /// # Errors
    /// If the policy is refused or swap does not come on.
    pub fn apply(&mut self, policy: &str) -> Result<()> {
        let name = self.name.to_string();
        let mut child = Command::new(host::program("dynamicswap")?)
            .args(["apply", "--name", &name, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run dynamicswap apply")?;
        let mut input = child.stdin.take().context("no standard input")?;
        input
            .write_all(policy.as_bytes())
            .context("cannot hand the policy over")?;
        drop(input);
        ensure!(child.wait()?.success(), "the policy was refused");
        self.wait("swap on", |status| {
            device(status).is_some_and(|d| d.attached)
        })
    }

    /// Kills every process of the cluster, as a power failure does.
    ///
    /// # Errors
    /// If one does not end.
    pub fn kill_all(&mut self) -> Result<()> {
        let record = ClusterRecord::load(&self.name)?;
        for process in &record.processes {
            process.signal(Signal::KILL);
        }
        for process in &record.processes {
            ensure!(process.wait_end(WAIT), "{} does not end", process.name);
        }
        Ok(())
    }

    /// The cluster's state.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub fn status(&mut self) -> Result<ClusterStatus> {
        self.client.status(0)
    }

    /// The borrower's device, as last reported.
    ///
    /// # Errors
    /// If there is no report.
    pub fn device(&mut self) -> Result<SwapDeviceReport> {
        device(&self.status()?)
            .cloned()
            .context("no report of the device")
    }

    /// Waits until the state fits.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub fn wait(&mut self, what: &str, fits: impl Fn(&ClusterStatus) -> bool) -> Result<()> {
        let deadline = Instant::now() + WAIT;
        let mut last = None;
        loop {
            match self.status() {
                Ok(status) if fits(&status) => return Ok(()),
                Ok(status) => last = Some(status),
                // The controller may be the one that was killed.
                Err(_) => {}
            }
            if Instant::now() > deadline {
                bail!("waited {WAIT:?} for: {what}. The last state: {last:#?}");
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Waits until every page has its copies and every set is whole.
    ///
    /// # Errors
    /// If that does not happen within a minute.
    pub fn wait_whole(&mut self) -> Result<()> {
        self.wait("every page with all its copies", |status| {
            device(status).is_some_and(|d| d.attached && d.pages_degraded == 0 && d.pages_used > 0)
        })
    }

    /// Checks that each of the cluster's processes lives.
    ///
    /// # Errors
    /// With the one that has ended by itself, and the end of its log.
    pub fn check_alive(&self) -> Result<()> {
        let dead = self.record.processes.iter().find(|p| !p.is_alive());
        dead.map_or(Ok(()), |dead| {
            let log = dead.last_log_lines().join("\n");
            bail!("{} has ended by itself: {log}", dead.name)
        })
    }

    /// Process id of one of the cluster's processes; `borrower/engine` is the engine.
    ///
    /// # Errors
    /// If there is none.
    pub fn pid(&self, process: &str) -> Result<i32> {
        if process == "borrower/engine" {
            return self.engine_pid();
        }
        let record = self.record.process(process);
        Ok(record
            .with_context(|| format!("the cluster has no process '{process}'"))?
            .pid)
    }

    fn engine_pid(&self) -> Result<i32> {
        let holder = self.pid(&format!("{BORROWER}/swapd"))?;
        let path = format!("/proc/{holder}/task/{holder}/children");
        let children =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let is_engine = |child: &&str| {
            let exe = std::fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
            exe.ends_with("dynamicswap-swapd-engine")
        };
        let engine = children.split_whitespace().find(is_engine);
        engine
            .context("the holder has no engine now")?
            .parse()
            .context("a process id")
    }

    /// Sends a signal to one of the cluster's processes.
    ///
    /// # Errors
    /// If it does not live.
    pub fn signal(&self, process: &str, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid(process)?).context("process id 0")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {process}"))
    }

    /// kill -9, and the command line to start it again.
    ///
    /// # Errors
    /// If it does not live.
    pub fn kill(&self, process: &str) -> Result<Vec<String>> {
        let command = host::command_line(self.pid(process)?)?;
        self.signal(process, Signal::KILL)?;
        Ok(command)
    }

    /// Starts a killed process again, as a supervisor would.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_again(&mut self, process: &str, command: &[String]) -> Result<()> {
        let place = self
            .record
            .processes
            .iter()
            .position(|record| record.name == process);
        let place = place.with_context(|| format!("the cluster has no process '{process}'"))?;
        let old = &self.record.processes[place];
        // A killed process keeps its port until its memory is taken apart, which takes a while for
        // a gigabyte. A supervisor would start the new one again and again meanwhile.
        ensure!(old.wait_end(WAIT), "{process} does not die");
        let log = old.log.clone();
        let (program, arguments) = command.split_first().context("an empty command line")?;
        let started = spawn(process, Command::new(program).args(arguments), &log)?;
        self.record.processes[place] = started.record;
        self.record.save(&self.paths)
    }

    /// What `dynamicswap down` says and its exit code, where it is expected to refuse.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn try_down(&self, options: &[&str]) -> Result<(i32, String)> {
        dynamicswap(&[&["down", "--name", &self.name.to_string()], options].concat())
    }

    /// Takes the cluster down and checks that nothing is left.
    ///
    /// # Errors
    /// With what is left.
    pub fn down(mut self) -> Result<()> {
        self.is_down = true;
        succeed(&["down", "--name", &self.name.to_string()])?;
        let swaps = std::fs::read_to_string("/proc/swaps").context("cannot read /proc/swaps")?;
        ensure!(swaps.lines().count() == 1, "swap is still on: {swaps}");
        ensure!(
            !self.paths.root().exists(),
            "{} is left",
            self.paths.root().display()
        );
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_down
            && let Err(error) = succeed(&["down", "--name", &self.name.to_string()])
        {
            eprintln!("the cluster {} is not down: {error:#}", self.name);
        }
        // The watchdog ends with its device; one that has ended is fine.
        let _ended = self.watchdog.kill();
        let _reaped = self.watchdog.wait();
    }
}

/// A node's state in a cluster's.
#[must_use]
pub fn node<'s>(status: &'s ClusterStatus, name: &str) -> Option<&'s NodeStatus> {
    status.nodes.iter().find(|node| node.node == name)
}

/// The borrower's device in a cluster's state.
#[must_use]
pub fn device(status: &ClusterStatus) -> Option<&SwapDeviceReport> {
    node(status, BORROWER)?
        .report
        .as_ref()?
        .swap_device
        .as_ref()
}
