//! A memory server whose memory is not what was written: overwritten, moved to another place, and put
//! back to what it was a while ago. None of it is ever handed to the kernel.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{
    Device, LONG, SHORT, holds, note_falls, number, production, report, storm, verified,
};
use crate::guest::Guest;
use crate::{Lab, wait_for};

/// The workload's longest time.
const WORK: Duration = Duration::from_secs(400);
/// Eight MiB each, beyond the file's first eighth, where its tables are; in slots that the device uses first.
const KEEP: &str = "file=$(ls -S /run/ds/server/memory/* | head -1); \
                    dd if=$file of=/run/old bs=1M skip=40 count=8 status=none";
const ROLL_BACK: &str = "file=$(ls -S /run/ds/server/memory/* | head -1); \
                         ! cmp -s -n 8388608 $file /run/old 41943040 0 && \
                         dd if=/run/old of=$file bs=1M seek=40 conv=notrunc status=none";
const OVERWRITE: &str = "file=$(ls -S /run/ds/server/memory/* | head -1); \
                         dd if=/dev/urandom of=$file bs=1M seek=48 count=8 conv=notrunc status=none";
const MOVE: &str = "file=$(ls -S /run/ds/server/memory/* | head -1); \
                    dd if=$file of=$file bs=1M skip=64 seek=56 count=8 conv=notrunc status=none";

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = production(lab, Device::with_disk("224Mi"))?;
    storm(&mut borrower, "160Mi", 5_000)?;
    holds(&mut borrower, 60)?;
    donor.succeed(KEEP, SHORT)?;
    let mut refused = 0;
    for (name, damage) in [
        ("overwritten", OVERWRITE),
        ("moved", MOVE),
        ("rolled_back", ROLL_BACK),
    ] {
        donor.succeed(damage, SHORT)?;
        let now = noticed(&mut borrower, name, refused)?;
        lab.note(&format!("{name}_refused"), now - refused);
        refused = now;
    }
    let end = verified(&mut borrower, WORK)?;
    lab.note("workload", end);
    let after = report(&mut borrower)?;
    note_falls(lab, &after);
    for name in ["integrity_failures", "pages_repaired"] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    for name in ["pages_lost", "read_failures"] {
        ensure!(number(&after, name)? == 0, "{name}: {after}");
    }
    Ok(())
}

/// Waits until more pages than `before` were refused; gives how many were.
fn noticed(borrower: &mut Guest, what: &str, before: u64) -> Result<u64> {
    let more = format!(
        "n=$(/lab/grant --swapd /run/ds/swapd.sock --report | sed -n 's/.*integrity_failures: \\([0-9]*\\).*/\\1/p'); \
         test $n -gt {before}"
    );
    wait_for(
        borrower,
        &format!("pages {what} to be refused"),
        LONG,
        &more,
    )?;
    number(&report(borrower)?, "integrity_failures")
}
