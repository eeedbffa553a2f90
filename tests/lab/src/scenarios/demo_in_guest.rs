//! `dynamicswap demo`, as a user starts it, in one guest: the whole story with its kills, on the device
//! and the network that its programs find there by themselves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::Lab;
use crate::daemons::{SHORT, soft_roce};

/// The story in a guest without hardware help.
const STORY: Duration = Duration::from_secs(1_500);
/// The least memory that the demo takes, so that its donors' memory fits in the guest: they hold two
/// copies of a device half as large again, with the reserve, when one of them is gone.
const DEMO: &str = "/lab/dynamicswap demo --memory 64Mi --calm 5 --out /run/demo-report";
/// What a demo of the past could have left.
const LEFT: &str = "tail -n +2 /proc/swaps; pgrep -a dynamicswap; grep dynamicswap /proc/mounts; \
                    ls -d /run/dynamicswap* /dev/ublkb* /dev/ublkc* 2>/dev/null; \
                    find /sys/fs/cgroup -type d -name '*dynamicswap*'; losetup -a; true";

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut guest = lab.start("whole", 3_072)?;
    guest.succeed("modprobe -a fuse loop ublk_drv", SHORT)?;
    soft_roce(&mut guest)?;
    let (code, said) = guest.run(DEMO, STORY)?;
    let text = guest.run("cat /run/demo-report/report.json", SHORT)?.1;
    let report: Value =
        serde_json::from_str(&text).with_context(|| format!("no report, but: {said}"))?;
    let named = [
        "front_end",
        "transports",
        "pages_remote_peak",
        "pages_checked",
    ];
    for name in named
        .iter()
        .chain(&["wrong_pages", "processes_lost", "duration_ms"])
    {
        lab.note(name, report[*name].clone());
    }
    ensure!(
        code == 0 && report["passed"] == true,
        "the demo ended with {code}: {}: {said}",
        report["failures"]
    );
    ensure!(report["front_end"] == "ublk", "not on ublk: {said}");
    let by_rdma = report["transports"].as_array();
    ensure!(
        by_rdma.is_some_and(|ways| ways.iter().any(|way| way == "rdma")),
        "not over RDMA: {}",
        report["transports"]
    );
    let figure = |name: &str| {
        let value = report[name].as_u64();
        value.with_context(|| format!("the report has no {name}"))
    };
    for name in ["wrong_pages", "processes_lost"] {
        ensure!(figure(name)? == 0, "{name}: {said}");
    }
    for name in ["pages_remote_peak", "pages_checked"] {
        ensure!(figure(name)? > 1_000, "{name}: {said}");
    }
    let kills = report["kills"].as_array().map_or(0, Vec::len);
    ensure!(kills == 2, "{kills} kills in the report");
    let left = report["left_behind"].as_array();
    ensure!(left.is_some_and(Vec::is_empty), "{}", report["left_behind"]);
    // The report is the demo's word; this is the machine's.
    let left = guest.succeed(LEFT, SHORT)?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}
