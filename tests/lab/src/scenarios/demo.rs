//! The demo's whole story in one guest with a distribution's kernel: ublk chosen by probing, cgroup v2,
//! and a kernel that can be asked to reclaim.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::daemons::{SHORT, spawn};
use crate::{Lab, wait_for};

/// Three donors that lock 624 MiB each, and all the rest.
const MEMORY_MIB: u32 = 3072;
/// The story's own steps have limits of two minutes each.
const STORY: Duration = Duration::from_secs(600);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut guest = lab.start("whole", MEMORY_MIB)?;
    guest.succeed("modprobe -a fuse loop ublk_drv", SHORT)?;
    let story = "/lab/dynamicswap demo --memory 64Mi --calm 10 --out /run/demo";
    spawn(&mut guest, "demo", story)?;
    let over = "! test -d /proc/$(cat /run/ds/demo.pid) || { tail -1 /run/ds/demo.log; false; }";
    wait_for(&mut guest, "the demo's end", STORY, over)?;
    let told = guest.succeed("tail -40 /run/ds/demo.log", SHORT)?;
    lab.note("told", told.trim());
    let report = guest.succeed("cat /run/demo/report.json", SHORT)?;
    let report: Value = serde_json::from_str(&report).context("report.json")?;
    let count = |field: &str| report[field].as_u64().unwrap_or_default();
    for field in [
        "pages_remote_peak",
        "pages_checked",
        "wrong_pages",
        "processes_lost",
        "pages_returned",
        "return_speedup",
        "donor_bytes_given_back",
    ] {
        lab.note(field, report[field].clone());
    }
    ensure!(report["passed"] == true, "{}: {told}", report["failures"]);
    ensure!(count("wrong_pages") == 0 && count("processes_lost") == 0);
    ensure!(count("pages_returned") > 0 && count("donor_bytes_given_back") > 0);
    let ublk = guest.succeed("grep -c 'ublk' /run/ds/demo.log", SHORT)?;
    ensure!(ublk.trim() != "0", "ublk was not chosen: {told}");
    Ok(())
}
