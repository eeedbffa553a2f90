//! A ublk device under a swap storm: engines killed at random moments, one hung, holder and engine
//! killed together.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    LONG, SHORT, memory_server, number, report, spawn, swap_device, swapd, verified,
};
use crate::guest::Guest;
use crate::{Lab, wait_for};

const SIZE: &str = "256Mi";
const KILLS: u64 = 50;
/// The kills take as long as they take in a guest that has a storm.
const KILLS_TIME: Duration = Duration::from_secs(240);
/// The workload's longest time beyond its own.
const WORK: Duration = Duration::from_secs(240);

/// Kills engines at random moments of their lives: some before they serve, most at work.
const KILLER: &str = r#"
engine() { pgrep -f '^/lab/dynamicswap-swapd-engine'; }
for n in $(seq KILLS); do
    sleep $((RANDOM % 2)).$((RANDOM % 10))$((RANDOM % 10))
    until pid=$(engine); do sleep 0.02; done
    kill -9 $pid && echo "$n: $pid, $(awk '/ublk/{print $4}' /proc/swaps) KiB in swap"
done
echo killed
"#;

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut donor = lab.start("donor", 640)?;
    let mut borrower = lab.start("borrower", 512)?;
    memory_server(&mut donor, SIZE)?;
    borrower.succeed("modprobe ublk_drv", SHORT)?;
    swap_device(&mut borrower, &donor, SIZE)?;
    let first = report(&mut borrower)?;
    ensure!(first.contains("front_end: \"ublk\""), "{first}");
    spawn(
        &mut borrower,
        "verify",
        "/lab/dynamicswap-workload contain --limit 48Mi -- /lab/dynamicswap-workload verify \
         --size 96Mi --threads 2 --seconds 110 --progress-ms 2000",
    )?;
    let swapping = "test $(awk '/ublk/{print $4}' /proc/swaps) -gt 16000";
    wait_for(&mut borrower, "16 MB in the device", LONG, swapping)?;
    kill_many(lab, &mut borrower)?;
    hang_one(lab, &mut borrower)?;
    kill_both(lab, &mut borrower)?;
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = report(&mut borrower)?;
    let starts = number(&after, "engine_starts")?;
    ensure!(starts > KILLS, "the engine was started {starts} times");
    for name in [
        "engine_starts",
        "integrity_failures",
        "pages_lost",
        "read_failures",
    ] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    ensure!(number(&after, "read_failures")? == 0, "a read failed");
    nothing_left(&mut borrower)
}

fn kill_many(lab: &mut Lab, borrower: &mut Guest) -> Result<()> {
    let script = KILLER.replace("KILLS", &KILLS.to_string());
    borrower.succeed(
        &format!("cat > /run/ds/killer.sh <<'E'\n{script}\nE"),
        SHORT,
    )?;
    spawn(borrower, "killer", "bash /run/ds/killer.sh")?;
    let ended = "grep -q ^killed /run/ds/killer.log || { tail -1 /run/ds/killer.log; false; }";
    wait_for(borrower, "the kills", KILLS_TIME, ended)?;
    let at_work = borrower.succeed("tail -2 /run/ds/verify.log", SHORT)?;
    ensure!(
        !at_work.contains("\"end\""),
        "the workload ended before the last kill"
    );
    lab.note("engines_killed", KILLS);
    Ok(())
}

/// A stopped engine is noticed by its heartbeat.
fn hang_one(lab: &mut Lab, borrower: &mut Guest) -> Result<()> {
    wait_for(
        borrower,
        "an engine",
        LONG,
        "pgrep -f '^/lab/dynamicswap-swapd-engine'",
    )?;
    let hang = "pid=$(pgrep -f '^/lab/dynamicswap-swapd-engine'); kill -STOP $pid; \
                begun=$(date +%s%3N); \
                for n in $(seq 200); do \
                    test -d /proc/$pid || { echo $(($(date +%s%3N) - begun)); exit 0; }; \
                    sleep 0.05; \
                done; exit 1";
    let took = borrower.succeed(hang, LONG)?;
    lab.note("hung_engine_replaced_after_ms", took.trim());
    wait_for(borrower, "the next engine", LONG, ASKED)?;
    Ok(())
}

/// The engine answers.
const ASKED: &str = "/lab/grant --swapd /run/ds/swapd.sock --report >/dev/null";

/// As when a pod is killed: the device waits, and a new holder finds it.
fn kill_both(lab: &mut Lab, borrower: &mut Guest) -> Result<()> {
    let both = "kill -9 $(cat /run/ds/swapd.pid) $(pgrep -f '^/lab/dynamicswap-swapd-engine') && \
                sleep 1; ! pgrep -f '^/lab/dynamicswap-swapd' && grep ublk /proc/swaps";
    borrower.succeed(both, SHORT)?;
    swapd(borrower, SIZE)?;
    wait_for(borrower, "an engine of the new holder", LONG, ASKED)?;
    let told = borrower.succeed("grep 'is served again' /run/ds/swapd.log", SHORT)?;
    lab.note("revived", told.trim());
    let after = report(borrower)?;
    ensure!(after.contains("attached: true"), "{after}");
    Ok(())
}

/// The product's own end: swap off, the device away, nobody waits.
fn nothing_left(borrower: &mut Guest) -> Result<()> {
    borrower.succeed("kill $(cat /run/ds/swapd.pid)", SHORT)?;
    let gone = "! pgrep -f '^/lab/dynamicswap-swapd' && ! grep ublk /proc/swaps && \
                ! ls /dev/ublkb* /dev/ublkc* 2>/dev/null && ! test -e /run/ds/swapd";
    wait_for(borrower, "the device's end", LONG, gone)?;
    let waiting = "! ps -eo pid,stat,wchan:32,comm | awk '$2 ~ /^D/' | grep .";
    wait_for(borrower, "tasks that wait for ever", SHORT, waiting)?;
    borrower.succeed("! dmesg | grep -E 'BUG:|WARNING:|Oops|hung task'", SHORT)?;
    Ok(())
}
