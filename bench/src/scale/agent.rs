//! The agent: what one that watches 200 containers takes of a processor, and of memory, while nothing
//! happens in them.
//!
//! The agent runs as on a Kubernetes node, with a real controller and a policy that lets every container
//! swap, but it finds its containers by descriptors and its swapd is simulated: nothing is swapped.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::containers::Containers;
use super::daemons::{Daemons, Shape};
use super::plane::Controller;
use super::process::{Figures, Program};
use super::session::Session;
use super::socket::Socket;
use crate::Args;
use crate::report::{Bar, Report};
use crate::workload::beside;

/// Containers on the node; a kubelet runs 110 pods as a rule.
const CONTAINERS: usize = 200;
/// Percent of one core.
const PROCESSOR_MAX: f64 = 1.0;
const RESIDENT_MIB_MAX: f64 = 64.0;
/// Time that it has until every container is reported.
const STEADY_WAIT: Duration = Duration::from_secs(30);
/// The borrower: a device of 16 GiB that is half full, on donors with room.
const BORROWER: Shape = Shape {
    slots: 0,
    slabs: 256,
    bound: 128,
};
const DONOR: Shape = Shape {
    slots: 512,
    slabs: 0,
    bound: 0,
};
/// As one that says nothing, with copies on two donors.
const POLICY: &str = "{podSelector: {}, durability: {copies: 2, spill: None}}";

/// Measures it on what this host has, and by the files of cgroup v2.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    let containers = Containers::make(CONTAINERS).context("containers to watch")?;
    let real = if containers.are_unified() {
        "cgroup v2"
    } else {
        "cgroup v1"
    };
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let described = directory.path().join("containers");
    containers.describe(&described)?;
    super::block_on(one(Path::new("/sys/fs/cgroup"), &described, real, report))?;
    if containers.are_unified() {
        return Ok(());
    }
    // Production has cgroup v2, whose containers have twice as many files.
    let (root, described) = (directory.path().join("v2"), directory.path().join("v2.d"));
    containers.describe_as_unified(&root, &described)?;
    let name = "the files of cgroup v2, made up";
    super::block_on(one(&root, &described, name, report))
}

async fn one(cgroup_root: &Path, containers: &Path, name: &str, report: &mut Report) -> Result<()> {
    let controller = Controller::start().await?;
    controller.apply(POLICY).await?;
    let mut donors = Vec::new();
    for number in [1, 2, 3] {
        let daemons = Daemons::new(number, DONOR);
        let node = format!("donor-{number}");
        donors.push(Session::open(controller.address(), node, daemons, Duration::ZERO).await?);
    }
    let state = tempfile::tempdir().context("cannot make a directory")?;
    let path = state.path().join("swapd.sock");
    let socket = Socket::listen(&path, Daemons::new(9, BORROWER))?;
    let mut command = Command::new(beside("dynamicswap-agent")?);
    command.args(["--node", "borrower", "--failure-domain", "borrower"]);
    command.args(["--controller", controller.address()]);
    command.arg("--state-dir").arg(state.path().join("state"));
    command.arg("--swapd-socket").arg(&path);
    command.arg("--containers-dir").arg(containers);
    command.arg("--cgroup-root").arg(cgroup_root);
    let agent = Program::start(&mut command)?;
    steady(&controller, &socket).await?;
    judge(Figures::at_rest(agent.pid()).await?, name, report);
    Ok(())
}

/// Waits until every container is reported, and the device has what it wants.
async fn steady(controller: &Controller, socket: &Socket) -> Result<()> {
    let deadline = Instant::now() + STEADY_WAIT;
    loop {
        let status = controller.status().await?;
        let nodes = status.nodes.into_iter();
        let of_agent = nodes.filter(|node| node.node == "borrower");
        let report = of_agent.filter_map(|node| node.report).next();
        let seen = report.map_or(0, |report| {
            let policies = report.containers.iter().map(|it| it.policy.as_str());
            policies.filter(|policy| *policy == "default/bench").count()
        });
        let sets = socket.sets();
        if seen == CONTAINERS && sets > usize::try_from(BORROWER.bound)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "after {STEADY_WAIT:?} the agent reports {seen} of {CONTAINERS} containers under a \
                 policy, and its device has {sets} sets"
            );
        }
        ensure!(status.term > 0, "the controller has no term");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn judge((after, percent, wakes): (Figures, f64, f64), name: &str, report: &mut Report) {
    let of = |what: &str| format!("agent, {CONTAINERS} containers, {name}: {what}");
    report.absolute(
        &of("processor [% of a core]"),
        percent,
        Bar::AtMost(PROCESSOR_MAX),
    );
    report.absolute(
        &of("resident memory, most [MiB]"),
        after.peak_mib(),
        Bar::AtMost(RESIDENT_MIB_MAX),
    );
    report.absolute(&of("wake-ups a second"), wakes, Bar::None);
}
