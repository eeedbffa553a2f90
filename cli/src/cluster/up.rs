//! Starting a local cluster: controller, donors, borrower, until every agent has reported.
//!
//! Owns the order and the command lines. Whatever fails is named with its last words, and
//! everything that was started is taken down again.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dynamicswap_proto::control::v1 as pb;
use dynamicswap_types::Integrity;

use super::down::{self, Manner};
use super::host;
use super::leftovers::Leftovers;
use super::paths::{ClusterName, ClusterPaths, Programs};
use super::rdma;
use super::record::{BORROWER, ClusterRecord, Shape, name_option};
use crate::args::WhenUnserved;
use crate::client::Client;
use crate::failure::Refusal;
use crate::interrupt::Interrupt;
use crate::process::{Process, ProcessRecord, spawn};
use crate::refuse_unless;
use crate::ui::Ui;

/// Zeroing and locking a donor's memory takes a second per GiB on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at what is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// Time without an engine until the last resort: ten times what a hung engine's replacement may
/// take.
const UNSERVED_LIMIT: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its sizes.
    pub shape: Shape,
    /// The controller's port; any free one if absent.
    pub controller_port: Option<u16>,
    /// Whether the device gets a spill file.
    pub spill: bool,
    /// What protects the device's pages.
    pub integrity: Integrity,
    /// What becomes of a device that nobody serves.
    pub when_unserved: WhenUnserved,
}

/// A cluster that this command started. Unless it is kept, it is taken down with the value.
#[derive(Debug)]
pub struct Cluster {
    /// Where it is.
    pub paths: ClusterPaths,
    /// What it is made of.
    pub record: ClusterRecord,
    /// Its processes, in the order of their start.
    pub processes: Vec<Process>,
    owned: bool,
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    ///
    /// # Errors
    /// A refusal that says what is missing or what failed; nothing is left of the attempt.
    pub fn start(settings: &Settings, interrupt: &Interrupt, ui: &mut Ui) -> Result<Self> {
        host::check(&settings.shape)?;
        let programs = Programs::find()?;
        let paths = ClusterPaths::new(&settings.name);
        refuse_second(&settings.name, &paths)?;
        if settings.spill {
            host::check_spill(paths.spill(), settings.shape.device_size)?;
        }
        let address = host::controller_address(settings.controller_port)?;
        let mut cluster = Self::claim(settings, paths, address)?;
        cluster
            .start_all(&programs, settings, interrupt, ui)
            .or_else(|error| cluster.fail(error, ui))?;
        Ok(cluster)
    }

    /// Makes the cluster's directory: whoever makes it owns the name.
    fn claim(settings: &Settings, paths: ClusterPaths, address: SocketAddrV4) -> Result<Self> {
        let parent = paths.root().parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|error| no_directory(parent, &error))?;
        match fs::create_dir(paths.root()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(already_up(&settings.name));
            }
            other => other.map_err(|error| no_directory(paths.root(), &error))?,
        }
        let record = ClusterRecord {
            name: settings.name.clone(),
            controller: format!("http://{address}"),
            shape: settings.shape.clone(),
            processes: Vec::new(),
        };
        let cluster = Self {
            paths,
            record,
            processes: Vec::new(),
            owned: true,
        };
        for directory in [
            cluster.paths.logs(),
            cluster.paths.containers(),
            cluster.paths.controller(),
        ] {
            make_directory(&directory)?;
        }
        if settings.spill {
            make_spill_directory(cluster.paths.spill())?;
        }
        cluster.record.save(&cluster.paths)?;
        Ok(cluster)
    }

    fn start_all(
        &mut self,
        programs: &Programs,
        settings: &Settings,
        interrupt: &Interrupt,
        ui: &mut Ui,
    ) -> Result<()> {
        let address = self.record.controller.clone();
        let address = address.strip_prefix("http://").unwrap_or(&address);
        let ready_file = self.paths.controller().join("ready");
        self.spawn(
            "controller",
            &mut controller_command(programs, &self.paths, address),
        )?;
        self.wait(interrupt, ui, "controller", || {
            ready_when(ready_file.exists(), "it does not serve yet")
        })?;
        ui.done("controller", address);

        let donors = self.record.shape.donor_names();
        for donor in &donors {
            let mut command =
                memory_server_command(programs, &self.paths, donor, &self.record.shape)?;
            self.spawn(&format!("{donor}/memory-server"), &mut command)?;
        }
        let sockets: Vec<PathBuf> = donors
            .iter()
            .map(|donor| self.paths.socket(donor, "memory-server"))
            .collect();
        self.wait(interrupt, ui, "memory servers", || {
            ready_when(sockets.iter().all(|s| answers(s)), "one does not answer")
        })?;
        let way = rdma::address().map_or_else(String::new, |ip| format!(", RDMA at {ip}"));
        let detail = format!(
            "{}, {} each{way}",
            donors.join(" "),
            self.record.shape.donor_capacity
        );
        ui.done("memory servers", &detail);

        let mut command = swapd_command(programs, &self.paths, settings)?;
        self.spawn(&format!("{BORROWER}/swapd"), &mut command)?;
        let socket = self.paths.socket(BORROWER, "swapd");
        self.wait(interrupt, ui, "swap device", || {
            ready_when(answers(&socket), "swapd does not answer")
        })?;
        let spill = if settings.spill { ", spill file" } else { "" };
        let detail = format!(
            "{BORROWER}, {} in slabs of {}{spill}",
            self.record.shape.device_size, self.record.shape.slab
        );
        ui.done("swap device", &detail);

        self.start_agents(programs, interrupt, ui)
    }

    fn start_agents(
        &mut self,
        programs: &Programs,
        interrupt: &Interrupt,
        ui: &mut Ui,
    ) -> Result<()> {
        let nodes = self.record.shape.node_names();
        for node in &nodes {
            let mut command = agent_command(programs, &self.paths, node, &self.record.controller)?;
            self.spawn(&format!("{node}/agent"), &mut command)?;
        }
        let mut client = Client::new(&self.record.controller)?;
        self.wait(interrupt, ui, "agents", || {
            let missing = match client.status(0) {
                Ok(status) => not_ready(&nodes, &status),
                Err(error) => vec![error.to_string()],
            };
            missing.into_iter().next().map_or(Ok(()), Err)
        })?;
        ui.done(
            "agents",
            &format!("{} of {} connected", nodes.len(), nodes.len()),
        );
        Ok(())
    }

    /// Starts one more process of the cluster, writes it down and gives its id.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&mut self, name: &str, command: &mut Command) -> Result<i32> {
        let process = spawn(name, command, &self.paths.log(name))?;
        let pid = process.record.pid;
        self.record.processes.push(process.record.clone());
        self.processes.push(process);
        self.record.save(&self.paths)?;
        Ok(pid)
    }

    /// Waits until `ready` says nothing is missing, and fails as soon as a process has ended.
    fn wait(
        &mut self,
        interrupt: &Interrupt,
        ui: &mut Ui,
        what: &str,
        mut ready: impl FnMut() -> Result<(), String>,
    ) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let missing = ready();
            // Also of one that ended when all was ready: it will be missed.
            if let Some((process, status)) = self.first_ended() {
                return Err(died(&process, &status));
            }
            let Err(missing) = missing else {
                return Ok(());
            };
            refuse_unless!(
                Instant::now() < deadline,
                "{what}: not ready after {} s, for {missing}: run the same command again, with \
                 less to start if this host is slow or busy",
                START_LIMIT.as_secs()
            );
            ui.live(&format!("starting: {what}"));
            interrupt.wait(LOOK_EVERY)?;
        }
    }

    /// The first process that has ended, and how.
    pub fn first_ended(&mut self) -> Option<(ProcessRecord, String)> {
        self.processes.iter_mut().find_map(|process| {
            let status = process.ended()?;
            Some((process.record.clone(), status))
        })
    }

    /// Takes everything down and passes the error on.
    fn fail(&mut self, error: anyhow::Error, ui: &mut Ui) -> Result<()> {
        ui.clear_live();
        let left = self.take_down(ui);
        if left.is_empty() {
            return Err(error);
        }
        Err(error.context(format!("left behind: {}", left.join("; "))))
    }

    /// Takes the cluster down, pages that do not come home included: they are this command's own
    /// workload's. Returns what could not be removed.
    pub fn take_down(&mut self, ui: &mut Ui) -> Vec<String> {
        self.owned = false;
        let processes = &self.record.processes;
        let left = down::take_down(&self.paths, processes, Manner::OWN, ui);
        for process in &mut self.processes {
            // Takes it off the kernel's table.
            let _status = process.ended();
        }
        match left {
            Ok(left) => left.list(),
            Err(still) => vec![still.to_string()],
        }
    }

    /// Leaves the cluster running when this command ends.
    pub fn keep(mut self) {
        self.owned = false;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned {
            let mut ui = Ui::new();
            for left in self.take_down(&mut ui) {
                ui.bad("left behind", &left);
            }
        }
    }
}

fn refuse_second(name: &ClusterName, paths: &ClusterPaths) -> Result<()> {
    if !paths.root().exists() {
        return Ok(());
    }
    if Leftovers::find(paths).processes.is_empty() {
        return Err(Refusal::error(format!(
            "{} is left over from a cluster that did not end well: remove it with \
             'dynamicswap down{}'",
            paths.root().display(),
            name_option(name)
        )));
    }
    Err(already_up(name))
}

fn already_up(name: &ClusterName) -> anyhow::Error {
    let option = name_option(name);
    Refusal::error(format!(
        "the local cluster '{name}' is already up: look at it with 'dynamicswap status{option}' \
         or end it with 'dynamicswap down{option}'"
    ))
}

/// The sentence for a process that ended while the cluster was started.
fn died(process: &ProcessRecord, status: &str) -> anyhow::Error {
    Refusal::error(death(&process.name, status, &process.last_log_lines()))
}

/// A daemon that refuses to start says why in its last line, after its own name.
fn death(name: &str, status: &str, log: &[String]) -> String {
    let own = |line: &&String| line.starts_with("dynamicswap-");
    let last = log.iter().rfind(own).or(log.last());
    let said = last.map(|line| match line.split_once(": ") {
        Some((program, said)) if program.starts_with("dynamicswap-") => said,
        _ => line,
    });
    match said {
        _ if status.starts_with("signal") => format!(
            "{name} was killed ({status}) before the cluster was up, and nothing of it is left: \
             run the same command again"
        ),
        Some(said) => format!("{name} does not start: {said}"),
        None => format!(
            "{name} ended with {status} before the cluster was up and said nothing: run the same \
             command again"
        ),
    }
}

/// Ready, or what is missing.
fn ready_when(ready: bool, missing: &str) -> Result<(), String> {
    if ready {
        Ok(())
    } else {
        Err(missing.to_owned())
    }
}

fn no_directory(path: &Path, error: &std::io::Error) -> anyhow::Error {
    Refusal::error(format!(
        "the directory {} cannot be made ({error}): remove what is in its place, or run this as a \
         user who may",
        path.display()
    ))
}

/// What is missing until all nodes are ready, one sentence each.
fn not_ready(nodes: &[String], status: &pb::ClusterStatus) -> Vec<String> {
    let missing = |node: &String| {
        let Some(found) = status.nodes.iter().find(|n| &n.node == node && n.connected) else {
            return Some(format!("The agent of {node} has not connected."));
        };
        let report = found.report.as_ref()?;
        let (there, error) = if node == BORROWER {
            (report.swap_device.is_some(), &report.swap_device_error)
        } else {
            (report.memory_server.is_some(), &report.memory_server_error)
        };
        match (there, error.is_empty()) {
            (true, _) => None,
            (false, true) => Some(format!("{node} has not reported its daemon.")),
            (false, false) => Some(format!("{node}: {error}")),
        }
    };
    let unreported = status
        .nodes
        .iter()
        .filter(|n| n.connected && n.report.is_none())
        .map(|n| format!("{} has not reported yet.", n.node));
    nodes.iter().filter_map(missing).chain(unreported).collect()
}

fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Makes the directory of the spill file anew. One that is there already is of a cluster that a
/// reboot ended: whoever has made the cluster's own directory owns it.
fn make_spill_directory(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    make_directory(path)
}

/// The command of the watchdog over the cluster's device; with a parent it swaps the device off
/// once that process is gone.
#[must_use]
pub fn watchdog_command(programs: &Programs, paths: &ClusterPaths, parent: Option<u32>) -> Command {
    let mut command = Command::new(programs.path("workload"));
    command.args(["watchdog", "--unserved-s", "30", "--below"]);
    command.arg(paths.root());
    if let Some(parent) = parent {
        command.args(["--parent", &parent.to_string()]);
    }
    command
}

fn controller_command(programs: &Programs, paths: &ClusterPaths, address: &str) -> Command {
    let mut command = Command::new(programs.path("controller"));
    command.args(["--listen", address]);
    command
        .arg("--store")
        .arg(paths.controller().join("store.redb"));
    command
        .arg("--ready-file")
        .arg(paths.controller().join("ready"));
    command
}

/// The command that starts a donor's memory server: also used to start it again.
///
/// # Errors
/// If its directory cannot be made.
pub fn memory_server_command(
    programs: &Programs,
    paths: &ClusterPaths,
    node: &str,
    shape: &Shape,
) -> Result<Command> {
    let directory = paths.node(node, "memory-server");
    make_directory(&directory)?;
    let mut command = Command::new(programs.path("memory-server"));
    command.args(["--node", node, "--listen", "127.0.0.1:0"]);
    command.arg("--state-dir").arg(&directory);
    command
        .arg("--capacity")
        .arg(shape.donor_capacity.to_string());
    command.arg("--slab").arg(shape.slab.to_string());
    command
        .arg("--control-socket")
        .arg(paths.socket(node, "memory-server"));
    if let Some(address) = rdma::address() {
        command.arg("--rdma-listen").arg(format!("{address}:0"));
    }
    Ok(command)
}

fn swapd_command(
    programs: &Programs,
    paths: &ClusterPaths,
    settings: &Settings,
) -> Result<Command> {
    let directory = paths.node(BORROWER, "swapd");
    let shape = &settings.shape;
    make_directory(&directory)?;
    let mut command = Command::new(programs.path("swapd"));
    command.args(["--node", BORROWER]);
    command.arg("--state-dir").arg(&directory);
    command.arg("--size").arg(shape.device_size.to_string());
    command.arg("--slab").arg(shape.slab.to_string());
    command
        .arg("--control-socket")
        .arg(paths.socket(BORROWER, "swapd"));
    command.arg("--engine").arg(programs.path("swapd-engine"));
    if settings.spill {
        command.arg("--spill-file").arg(paths.spill().join("pages"));
    }
    command.args(["--integrity", settings.integrity.word()]);
    command.args(["--when-unserved", settings.when_unserved.as_str()]);
    command
        .arg("--unserved-timeout-ms")
        .arg(UNSERVED_LIMIT.as_millis().to_string());
    Ok(command)
}

fn agent_command(
    programs: &Programs,
    paths: &ClusterPaths,
    node: &str,
    controller: &str,
) -> Result<Command> {
    let directory = paths.node(node, "agent");
    make_directory(&directory)?;
    let mut command = Command::new(programs.path("agent"));
    command.args(["--node", node, "--failure-domain", node]);
    command.args(["--controller", controller]);
    command.arg("--state-dir").arg(&directory);
    if node == BORROWER {
        command
            .arg("--swapd-socket")
            .arg(paths.socket(node, "swapd"));
        command.arg("--containers-dir").arg(paths.containers());
    } else {
        command
            .arg("--memory-server-socket")
            .arg(paths.socket(node, "memory-server"));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_proto::common::v1::MemoryServerReport;
    use dynamicswap_types::{Bytes, SlabSize};

    fn node(name: &str, report: Option<pb::NodeReport>) -> pb::NodeStatus {
        pb::NodeStatus {
            node: name.to_owned(),
            connected: true,
            report,
            ..pb::NodeStatus::default()
        }
    }

    #[test]
    fn daemon_that_does_not_start_is_named_with_its_own_sentence() {
        let log = [
            "WARN PR_SET_IO_FLUSHER is not permitted",
            "dynamicswap-swapd: the device is too small: give more",
            "INFO gone",
        ];
        let log = log.map(str::to_owned);
        let said = death("borrower/swapd", "exit status: 2", &log);
        let expected = "borrower/swapd does not start: the device is too small: give more";
        assert_eq!(said, expected);
        let killed = death("donor-2/memory-server", "signal: 9 (SIGKILL)", &log);
        assert!(
            killed.starts_with("donor-2/memory-server was killed"),
            "{killed}"
        );
        assert!(killed.ends_with("run the same command again"));
        let silent = death("donor-2/agent", "exit status: 1", &[]);
        assert!(silent.contains("said nothing"), "{silent}");
    }

    /// The arguments of swapd, spill file or not.
    fn swapd_arguments(spill: bool, when_unserved: WhenUnserved) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let name: ClusterName = "t".parse().expect("a name");
        let paths = ClusterPaths::below(dir.path(), &name);
        let settings = Settings {
            name,
            shape: Shape {
                donors: 1,
                donor_capacity: Bytes::from_mib(64),
                device_size: Bytes::from_mib(64),
                slab: SlabSize::DEFAULT,
            },
            controller_port: None,
            spill,
            integrity: Integrity::Full,
            when_unserved,
        };
        let programs = Programs::beside(dir.path());
        let command = swapd_command(&programs, &paths, &settings).expect("made");
        let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
        arguments.collect()
    }

    #[test]
    fn swapd_has_a_last_resort_and_a_spill_file_if_asked_for() {
        let plain = swapd_arguments(false, WhenUnserved::Abort);
        let holds = |wanted: [&str; 2]| plain.windows(2).any(|pair| pair == wanted);
        assert!(holds(["--when-unserved", "abort"]), "{plain:?}");
        assert!(holds(["--unserved-timeout-ms", "30000"]), "{plain:?}");
        assert!(holds(["--integrity", "full"]), "{plain:?}");
        assert!(!plain.contains(&"--spill-file".to_owned()), "{plain:?}");
        let spill = swapd_arguments(true, WhenUnserved::Wait);
        assert!(spill.contains(&"wait".to_owned()), "{spill:?}");
        let place = spill.iter().position(|word| word == "--spill-file");
        let file = &spill[place.expect("a spill file") + 1];
        assert!(file.ends_with("/.spill/t/pages"), "{file}");
    }

    #[test]
    fn what_is_missing_is_said_for_each_node() {
        let nodes = ["donor-1", "donor-2", BORROWER].map(str::to_owned);
        let status = pb::ClusterStatus {
            nodes: vec![
                node(
                    "donor-1",
                    Some(pb::NodeReport {
                        memory_server: Some(MemoryServerReport::default()),
                        ..pb::NodeReport::default()
                    }),
                ),
                node(
                    BORROWER,
                    Some(pb::NodeReport {
                        swap_device_error: "cannot reach swapd".to_owned(),
                        ..pb::NodeReport::default()
                    }),
                ),
            ],
            ..pb::ClusterStatus::default()
        };
        assert_eq!(
            not_ready(&nodes, &status),
            [
                "The agent of donor-2 has not connected.",
                "borrower: cannot reach swapd"
            ]
        );
        assert_eq!(not_ready(&nodes[..1], &status), Vec::<String>::new());
    }
}
