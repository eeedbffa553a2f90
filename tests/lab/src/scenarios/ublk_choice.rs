//! When ublk serves and when not, what the device is like, what becomes of an orphan, and the last
//! resort. One guest: pages go to its own memory.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{LONG, SHORT, report, spawn};
use crate::guest::Guest;
use crate::{Lab, wait_for};

/// The holder's command line, but for the front end.
const SWAPD: &str = "/lab/dynamicswap-swapd --node borrower --state-dir /run/ds/swapd --size 128Mi \
                     --slab 8Mi --control-socket /run/ds/swapd.sock --backend local --front-end";
/// Holder and engine, dead at once. A helper that waits for the device stays, as it would in a pod.
const KILL_BOTH: &str = "holder=$(cat /run/ds/swapd.pid); \
                         kill -9 $holder $(pgrep -f '^/lab/dynamicswap-swapd-engine') && \
                         while test -d /proc/$holder || pgrep -f '^/lab/dynamicswap-swapd-engine'; \
                         do sleep 0.1; done";

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut guest = lab.start("borrower", 512)?;
    guest.succeed("mkdir -p /run/ds && modprobe -a fuse loop", SHORT)?;
    refused(lab, &mut guest)?;
    serves(
        lab,
        &mut guest,
        "auto",
        ("fuse-loop", "the kernel has no ublk"),
    )?;
    stop(&mut guest)?;
    guest.succeed("modprobe ublk_drv", SHORT)?;
    guest.succeed("sysctl -qw kernel.io_uring_disabled=2", SHORT)?;
    refused(lab, &mut guest)?;
    guest.succeed("sysctl -qw kernel.io_uring_disabled=0", SHORT)?;
    serves(
        lab,
        &mut guest,
        "fuse-loop",
        ("fuse-loop", "chosen by --front-end"),
    )?;
    stop(&mut guest)?;
    serves(lab, &mut guest, "auto", ("ublk", "the kernel's ublk can"))?;
    is_made_for_swap(&mut guest)?;
    orphan_is_removed(lab, &mut guest)?;
    last_resort(lab, &mut guest)?;
    serves(lab, &mut guest, "ublk", ("ublk", "chosen by --front-end"))?;
    planned_change(lab, &mut guest)?;
    stop(&mut guest)
}

/// ublk by name where it is impossible: one sentence, exit code 2, nothing left.
fn refused(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    let (code, said) = guest.run(
        &format!("{SWAPD} ublk 2>&1 | grep -v WARN; exit ${{PIPESTATUS[0]}}"),
        SHORT,
    )?;
    ensure!(code == 2, "it ended with {code}: {said}");
    ensure!(
        said.contains("--front-end ublk is impossible on this host"),
        "{said}"
    );
    ensure!(
        said.trim().lines().count() == 1,
        "more than a sentence: {said}"
    );
    lab.note("refusal", said.trim());
    nothing_left(guest)
}

/// Starts swapd and waits for its swap; `(front end, begin of its reason)` is what the report says.
fn serves(lab: &mut Lab, guest: &mut Guest, wish: &str, expected: (&str, &str)) -> Result<()> {
    spawn(guest, "swapd", &format!("{SWAPD} {wish}"))?;
    let on = "grep -q /dev/ /proc/swaps || { tail -3 /run/ds/swapd.log; false; }";
    wait_for(guest, "swap on", LONG, on)?;
    let said = report(guest)?;
    let (name, reason) = expected;
    ensure!(said.contains(&format!("front_end: \"{name}\"")), "{said}");
    ensure!(
        said.contains(&format!("front_end_reason: \"{reason}")),
        "{said}"
    );
    let told = said.lines().find(|line| line.contains("front_end_reason"));
    lab.note(
        &format!("{wish}_chose_{name}"),
        told.unwrap_or_default().trim(),
    );
    Ok(())
}

fn stop(guest: &mut Guest) -> Result<()> {
    guest.succeed("kill $(cat /run/ds/swapd.pid)", SHORT)?;
    wait_for(
        guest,
        "the end",
        LONG,
        "! pgrep -f '^/lab/dynamicswap-swapd'",
    )?;
    nothing_left(guest)
}

fn nothing_left(guest: &mut Guest) -> Result<()> {
    let gone = "! grep -E 'loop|ublk' /proc/swaps && ! ls /dev/ublkb* /dev/ublkc* 2>/dev/null && \
                ! test -e /run/ds/swapd && ! test -e /run/dynamicswap-ublk && \
                ! grep /run/ds /proc/self/mountinfo";
    wait_for(guest, "nothing left", SHORT, gone)?;
    Ok(())
}

/// What the block layer makes of the device's parameters.
fn is_made_for_swap(guest: &mut Guest) -> Result<()> {
    for (file, wanted) in [
        ("logical_block_size", "4096"),
        ("max_hw_sectors_kb", "1024"),
        ("discard_granularity", "4096"),
        ("rotational", "0"),
        ("write_cache", "write through"),
        ("scheduler", "[none] mq-deadline"),
        ("nr_requests", "120"),
        ("io_timeout", "1000"),
    ] {
        let said = guest.succeed(&format!("cat /sys/block/ublkb0/queue/{file}"), SHORT)?;
        ensure!(said.trim() == wanted, "{file} is {said}");
    }
    let record = guest.succeed("cat /run/dynamicswap-ublk/ublkb0", SHORT)?;
    ensure!(record.trim() == "/run/ds/swapd", "the record says {record}");
    let parts = "test $(cat /sys/block/ublkb0/queue/discard_max_bytes) -gt 0 && \
                 test $(cat /sys/block/ublkb0/queue/write_zeroes_max_bytes) -gt 0 && \
                 ! ls -d /sys/block/ublkb0/ublkb0p* 2>/dev/null";
    guest.succeed(parts, SHORT)?;
    Ok(())
}

/// A device of an earlier life that is no swap any more does not stay.
fn orphan_is_removed(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    guest.succeed("swapoff /dev/ublkb0", SHORT)?;
    guest.succeed(KILL_BOTH, SHORT)?;
    guest.succeed("test -e /dev/ublkc0", SHORT)?;
    serves(lab, guest, "auto", ("ublk", "the kernel's ublk can"))?;
    let told = guest.succeed(
        "grep 'of an earlier swapd is removed' /run/ds/swapd.log",
        SHORT,
    )?;
    lab.note("orphan", told.trim());
    guest.succeed("test $(ls -d /dev/ublkc* | wc -l) -eq 1", SHORT)?;
    Ok(())
}

/// Nobody will ever serve the device again: whoever needs its pages dies, and nobody waits.
fn last_resort(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    spawn(
        guest,
        "verify",
        "/lab/dynamicswap-workload contain --limit 32Mi -- /lab/dynamicswap-workload verify \
         --size 64Mi --threads 1 --seconds 600 --progress-ms 2000",
    )?;
    let swapping = "test $(awk '/ublk/{print $4}' /proc/swaps) -gt 16000";
    wait_for(guest, "16 MB in the device", LONG, swapping)?;
    guest.succeed(KILL_BOTH, SHORT)?;
    // A holder that cannot go on with the device leaves it, and its pages, to another try.
    let (code, said) = guest.run(&format!("{SWAPD} auto --engine /none 2>&1"), SHORT)?;
    ensure!(
        code == 2 && said.contains("the engine's program /none"),
        "{code}: {said}"
    );
    guest.succeed(
        "test -s /run/ds/swapd/memory/swapd && grep ublk /proc/swaps",
        SHORT,
    )?;
    let aborted = "/lab/dynamicswap-swapd abort --state-dir /run/ds/swapd";
    let said = guest.succeed(aborted, Duration::from_secs(60))?;
    lab.note("aborted", said.trim());
    let freed = "! grep ublk /proc/swaps && ! ls /dev/ublkb* /dev/ublkc* 2>/dev/null && \
                 ! pgrep -f 'workload verify' && \
                 ! ps -eo pid,stat,wchan:32,comm | awk '$2 ~ /^D/' | grep .";
    wait_for(guest, "the workload's end by SIGBUS", LONG, freed)?;
    Ok(())
}

/// SIGHUP changes engines while the device stays.
fn planned_change(lab: &mut Lab, guest: &mut Guest) -> Result<()> {
    let change = "old=$(pgrep -f '^/lab/dynamicswap-swapd-engine'); \
                  kill -HUP $(cat /run/ds/swapd.pid); \
                  for n in $(seq 100); do \
                      new=$(pgrep -f '^/lab/dynamicswap-swapd-engine'); \
                      test -n \"$new\" && test \"$new\" != \"$old\" && break; sleep 0.1; \
                  done; \
                  test \"$new\" != \"$old\" && grep 'asked to replace' /run/ds/swapd.log";
    let told = guest.succeed(change, SHORT)?;
    lab.note("planned", told.trim());
    let up = "/lab/grant --swapd /run/ds/swapd.sock --report | grep 'engine_starts: 2'";
    wait_for(guest, "the next engine", LONG, up)?;
    Ok(())
}
