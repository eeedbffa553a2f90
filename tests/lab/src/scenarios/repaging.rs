//! Pages leave ahead of a limit and come home when there is room, on a distribution's kernel with
//! cgroup v2, where the kernel can be asked to reclaim. One guest with a small cluster of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::daemons::{LONG, SHORT, spawn};
use crate::guest::Guest;
use crate::{Lab, wait_for};

/// A cluster starts in a guest without hardware help within this time, and pages move.
const SLOW: Duration = Duration::from_secs(180);
const UP: &str =
    "/lab/dynamicswap up --donors 1 --donor-capacity 192Mi --device-size 96Mi --slab 8Mi";
const POLICY: &str = "\
apiVersion: dynamicswap.io/v1alpha1
kind: RemoteMemoryPolicy
metadata: {name: repaging, namespace: default}
spec:
  podSelector: {matchLabels: {app: verify}}
  durability: {copies: 1}
  pressure: {calmAfter: 2s}
  return: {quietFor: 2s, bandwidthMax: 64Mi}
";
const RUN: &str = "/lab/dynamicswap run --memory 48Mi --label app=verify -- \
                   /lab/dynamicswap-workload verify --size 72Mi --commands";
/// The workload's cgroup, and what `explain` says of it.
const CGROUP: &str = "$(dirname $(grep -l . $(find /sys/fs/cgroup -name cgroup.procs -path '*dynamicswap-local/*')))";
const EXPLAIN: &str = "/lab/dynamicswap explain container dynamicswap-workload";

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut guest = lab.start("whole", 1024)?;
    guest.succeed("modprobe -a fuse loop ublk_drv", SHORT)?;
    guest.succeed(UP, SLOW)?;
    guest.succeed(&format!("cat > /run/policy.yaml <<'E'\n{POLICY}E\n"), SHORT)?;
    guest.succeed("/lab/dynamicswap apply -f /run/policy.yaml", SHORT)?;
    wait_for(&mut guest, "the device", LONG, "grep /dev/ /proc/swaps")?;
    guest.succeed("mkfifo /run/commands", SHORT)?;
    // One end stays open, so that each command is a line and not the end.
    spawn(
        &mut guest,
        "commands",
        "sh -c 'sleep infinity > /run/commands'",
    )?;
    spawn(
        &mut guest,
        "run",
        &format!("sh -c '{RUN} < /run/commands > /run/verify.log'"),
    )?;
    let churns = "grep -q '\"churn\"' /run/verify.log";
    wait_for(&mut guest, "the load", SLOW, churns)?;
    leaves_ahead(lab, &mut guest)?;
    comes_home(lab, &mut guest)?;
    guest.succeed(
        "echo resume > /run/commands; echo finish > /run/commands",
        SHORT,
    )?;
    let end = wait_for(
        &mut guest,
        "the last check",
        SLOW,
        "grep '\"kind\":\"end\"' /run/verify.log",
    )?;
    let end: Value = serde_json::from_str(end.trim()).context("the workload's end")?;
    lab.note("wrong_pages", end["wrong_pages"].clone());
    lab.note("pages_checked", end["pages_checked"].clone());
    ensure!(end["wrong_pages"] == 0, "{end}");
    guest.succeed("/lab/dynamicswap down", SLOW)?;
    Ok(())
}

/// Room is kept below the limit by asking the kernel, and the agent says so.
fn leaves_ahead(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    let sent = format!("{EXPLAIN} | grep 'offload .*sent ahead so far' || {{ {EXPLAIN}; false; }}");
    let said = wait_for(guest, "pages to be sent ahead", LONG, &sent)?;
    lab.note("offload", said.trim());
    let events = format!("cat {CGROUP}/memory.events");
    let events = guest.succeed(&events, SHORT)?;
    lab.note("memory_events", events.trim());
    ensure!(events.contains("oom_kill 0"), "{events}");
    Ok(())
}

/// The load rests and gets room: its pages come home, and swap is empty again.
fn comes_home(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    let rest = format!(
        "echo rest > /run/commands; for f in high max; do echo max > {CGROUP}/memory.$f; done"
    );
    guest.succeed(&rest, SHORT)?;
    let home = format!(
        "{EXPLAIN} | grep 'brought home so far' && \
         test $(cat {CGROUP}/memory.swap.current) -lt 1048576 || \
         {{ {EXPLAIN}; cat /proc/swaps; false; }}"
    );
    let said = wait_for(guest, "pages to come home", SLOW, &home)?;
    lab.note("return", said.trim());
    let swaps = guest.succeed("tail -1 /proc/swaps", SHORT)?;
    lab.note("swaps", swaps.trim());
    Ok(())
}
