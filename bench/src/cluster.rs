//! A local cluster for one measurement, made by the same command that a person uses.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_cli::cluster::paths::{ClusterName, ClusterPaths};
use dynamicswap_cli::cluster::record::{BORROWER, ClusterRecord};
use dynamicswap_cli::process::ProcessRecord;

use crate::peers::Watchdog;
use crate::workload::beside;

/// Name of the benchmark's cluster.
const NAME: &str = "bench";
/// Longest time until swap is on.
const SWAP_ON_WAIT: Duration = Duration::from_secs(30);

/// A cluster that is up, with a policy of two copies applied and swap on.
#[derive(Debug)]
pub struct Cluster {
    record: ClusterRecord,
    policy: PathBuf,
    _watchdog: Watchdog,
}

fn dynamicswap(args: &[&str]) -> Result<String> {
    let program = beside("dynamicswap")?;
    let output = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "dynamicswap {} failed: {}",
        args.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const POLICY: &str = "apiVersion: dynamicswap.io/v1alpha1
kind: RemoteMemoryPolicy
metadata:
  name: bench
spec:
  podSelector: {}
  durability:
    copies: 2
    spill: None
";

impl Cluster {
    /// Starts three donors and a borrower, applies the policy, waits until swap is on.
    pub fn up() -> Result<Self> {
        let name: ClusterName = NAME.parse().map_err(anyhow::Error::msg)?;
        let watchdog = Watchdog::start(ClusterPaths::new(&name).root())?;
        dynamicswap(&["up", "--name", NAME, "--device-size", "2Gi"])?;
        let policy =
            std::env::temp_dir().join(format!("dynamicswap-bench-{}.yaml", std::process::id()));
        let cluster = Self {
            record: ClusterRecord::load(&name)?,
            policy,
            _watchdog: watchdog,
        };
        std::fs::write(&cluster.policy, POLICY).context("cannot write the benchmark's policy")?;
        let file = cluster.policy.display().to_string();
        dynamicswap(&["apply", "--name", NAME, "-f", &file])?;
        let deadline = Instant::now() + SWAP_ON_WAIT;
        while !swap_is_on()? {
            ensure!(
                Instant::now() < deadline,
                "swap is not on {SWAP_ON_WAIT:?} after the policy"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(cluster)
    }

    /// One of the cluster's processes.
    pub fn process(&self, name: &str) -> Result<&ProcessRecord> {
        self.record
            .process(name)
            .with_context(|| format!("the cluster has no process '{name}'"))
    }

    /// Process id of the borrower's engine, a child of the holder.
    pub fn engine_pid(&self) -> Result<i32> {
        let holder = self.process(&format!("{BORROWER}/swapd"))?.pid;
        let path = format!("/proc/{holder}/task/{holder}/children");
        let children =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        for child in children.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            let exe = std::fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
            if exe.ends_with("dynamicswap-swapd-engine") || name.contains("engine") {
                return child.parse().context("a process id");
            }
        }
        bail!("the holder {holder} has no engine among its children: {children}")
    }
}

fn swap_is_on() -> Result<bool> {
    let swaps = std::fs::read_to_string("/proc/swaps").context("cannot read /proc/swaps")?;
    Ok(swaps.lines().count() > 1)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = dynamicswap(&["down", "--name", NAME]) {
            eprintln!("bench: the cluster is not down: {error:#}");
        }
        if let Err(error) = std::fs::remove_file(&self.policy) {
            eprintln!("bench: cannot remove {}: {error}", self.policy.display());
        }
    }
}
