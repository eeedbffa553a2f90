//! What a network does to a swap device, and a donor that goes for good: a workload that checks every
//! page goes through it on a ublk device over RDMA, and nobody dies.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{Device, LONG, SHORT, number, production, shape, storm, unharmed, verified};
use crate::guest::Guest;
use crate::switch::Way;
use crate::{Lab, stay, wait_for};

/// The borrower's place at the switch.
const BORROWER: usize = 1;
/// Short cuts, one after another: a link that flaps.
const FLAPS: u32 = 5;
const FLAP: Duration = Duration::from_millis(200);
const FLAP_PAUSE: Duration = Duration::from_secs(2);
/// Long enough for the link to be given up on both sides, and for writes to be handed back to the
/// kernel, whose hold is 2 s here.
const CUT: Duration = Duration::from_secs(5);
/// The workload's longest time; a slow network needs it.
const WORK: Duration = Duration::from_secs(540);

/// Cut both ways, in short and for long.
pub(super) fn cut(lab: &mut Lab) -> Result<()> {
    let (_donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    storm(&mut borrower, "120Mi", 6_000)?;
    for _ in 0..FLAPS {
        cut_for(lab, FLAP);
        stay(FLAP_PAUSE);
    }
    cut_for(lab, CUT);
    borrower.succeed("pgrep -f 'workload verify'", SHORT)?;
    end(lab, &mut borrower)
}

/// Cut one way only, then the other: one end hears and is not heard.
pub(super) fn one_way(lab: &mut Lab) -> Result<()> {
    let (_donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    storm(&mut borrower, "120Mi", 3_000)?;
    for way in [Way::From, Way::To] {
        lab.switch().set_way(BORROWER, way, false);
        stay(CUT);
        lab.switch().set_way(BORROWER, way, true);
        stay(CUT);
    }
    borrower.succeed("pgrep -f 'workload verify'", SHORT)?;
    end(lab, &mut borrower)
}

fn cut_for(lab: &Lab, time: Duration) {
    lab.switch().set_link(BORROWER, false);
    stay(time);
    lab.switch().set_link(BORROWER, true);
}

/// Every frame comes 25 ms late: 50 ms there and back.
pub(super) fn slow(lab: &mut Lab) -> Result<()> {
    shaped(lab, "delay 25ms limit 100000", 1_500)
}

/// One frame of twenty is lost, in either direction.
pub(super) fn lossy(lab: &mut Lab) -> Result<()> {
    shaped(lab, "loss 5% limit 100000", 1_500)
}

fn shaped(lab: &mut Lab, netem: &str, accesses: u32) -> Result<()> {
    let (mut donor, mut borrower) = production(lab, Device::plain("224Mi"))?;
    for guest in [&mut donor, &mut borrower] {
        shape(guest, netem)?;
    }
    storm(&mut borrower, "120Mi", accesses)?;
    end(lab, &mut borrower)
}

/// The donor's power fails, for good: the disk has what it held.
pub(super) fn donor_off(lab: &mut Lab) -> Result<()> {
    let (mut donor, mut borrower) = production(lab, Device::with_disk("224Mi"))?;
    storm(&mut borrower, "120Mi", 6_000)?;
    donor.power_off();
    let noticed = "/lab/grant --swapd /run/ds/swapd.sock --report | grep 'is not reachable'";
    wait_for(
        &mut borrower,
        "the donor's end to be noticed",
        LONG,
        noticed,
    )?;
    borrower.succeed("pgrep -f 'workload verify'", SHORT)?;
    end(lab, &mut borrower)
}

/// Every word was right, nobody died, and pages came back.
fn end(lab: &mut Lab, borrower: &mut Guest) -> Result<()> {
    let end = verified(borrower, WORK)?;
    lab.note("workload", end);
    let after = unharmed(lab, borrower)?;
    // A way that works is kept: after a long cut it is the one whose turn it was.
    let way = after
        .lines()
        .find(|line| line.contains("transport_reason: "));
    lab.note("way", way.unwrap_or_default().trim());
    ensure!(number(&after, "bytes_read")? > 0, "no page came back");
    Ok(())
}
