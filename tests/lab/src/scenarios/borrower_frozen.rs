//! A borrower that is frozen, and so takes part in nothing while its slots are given to another: when
//! it wakes up, it believes to own them, and must not be able to write or read a word there.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::daemons::{
    Device, SHORT, events, nothing_lost, production, production_device, report, soft_roce, storm,
    unharmed, verified,
};
use crate::switch::Way;
use crate::{Lab, stay};

/// The frozen one's place at the switch.
const FROZEN: usize = 1;
/// Longer than anything waits for it.
const FROZEN_TIME: Duration = Duration::from_secs(125);
/// The workloads' longest time.
const WORK: Duration = Duration::from_secs(400);

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let (donor, mut frozen) = production(lab, Device::with_disk("224Mi"))?;
    storm(&mut frozen, "120Mi", 3_000)?;
    // Its network card goes on losing what nobody takes.
    lab.switch().set_way(FROZEN, Way::To, false);
    frozen.freeze()?;
    let begun = Instant::now();
    let mut other = lab.start("other", 512)?;
    soft_roce(&mut other)?;
    // Its slots are those that the frozen one had: they are taken back, zeroed, and granted again.
    production_device(&mut other, &[&donor], Device::plain("224Mi"))?;
    storm(&mut other, "120Mi", 2_000)?;
    stay(FROZEN_TIME.saturating_sub(begun.elapsed()));
    lab.note("frozen_s", begun.elapsed().as_secs());
    frozen.thaw()?;
    lab.switch().set_way(FROZEN, Way::To, true);
    let end = verified(&mut other, WORK)?;
    lab.note("other", end);
    let after = report(&mut other)?;
    nothing_lost(&after)?;
    // What it had is on its disk, and none of it is lost.
    let end = verified(&mut frozen, WORK)?;
    lab.note("frozen", end);
    let after = unharmed(lab, &mut frozen)?;
    ensure!(
        events(&after).contains("is out of date"),
        "no copy was refused to the frozen borrower: {after}"
    );
    frozen.succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
    Ok(())
}
