//! What a borrower leaves in a donor's slots, nobody reads: slots full of a known pattern are taken from
//! one device and given to another, which scans them, over RDMA and over TCP. Whether the first one
//! goes on writing meanwhile, was killed or is frozen.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemons::{LONG, SHORT, memory_server, number, soft_roce, spawn};
use crate::guest::Guest;
use crate::switch::Way;
use crate::{Lab, stay, wait_for};

/// The first borrower's place at the switch.
const FIRST: usize = 1;
/// A pass over all slots.
const PASS: Duration = Duration::from_secs(240);
/// Beyond any patience of either side with a silent peer.
const FROZEN_TIME: Duration = Duration::from_secs(10);
/// Slots that change hands, and their pages: 8 MiB each.
const SLOTS: u64 = 2;
const PAGES: u64 = SLOTS * 2_048;

/// What becomes of the first borrower while its slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    WritesOn,
    Killed,
    Frozen,
}

struct Play {
    donor: Guest,
    first: Guest,
    second: Guest,
    way: &'static str,
    /// Engines so far; each has another number.
    engines: u64,
    /// Pages that the second borrower has scanned, and those with the pattern in them.
    scanned: u64,
    with_pattern: u64,
}

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut play = Play {
        donor: lab.start("donor", 384)?,
        first: lab.start("first", 256)?,
        second: lab.start("second", 256)?,
        way: "rdma",
        engines: 0,
        scanned: 0,
        with_pattern: 0,
    };
    for guest in [&mut play.donor, &mut play.first, &mut play.second] {
        soft_roce(guest)?;
    }
    memory_server(&mut play.donor, "64Mi")?;
    for way in ["rdma", "tcp"] {
        play.way = way;
        for fate in [Fate::WritesOn, Fate::Killed, Fate::Frozen] {
            play.taken(lab, fate)?;
        }
    }
    lab.note("pages_scanned", play.scanned);
    lab.note("pages_with_pattern", play.with_pattern);
    Ok(())
}

impl Play {
    /// The first borrower's slots go to the second one.
    fn taken(&mut self, lab: &Lab, fate: Fate) -> Result<()> {
        println!("    over {}: {fate:?}", self.way);
        self.grant(1)?;
        self.fill_and_find()?;
        self.write_on()?;
        match fate {
            Fate::WritesOn => {}
            Fate::Killed => {
                self.first
                    .succeed("kill -9 $(cat /run/ds/canary.pid)", SHORT)?;
            }
            Fate::Frozen => {
                // Its network card goes on losing what nobody takes.
                lab.switch().set_way(FIRST, Way::To, false);
                self.first.freeze()?;
                stay(FROZEN_TIME);
            }
        }
        self.grant(2)?;
        self.nothing_found(fate)?;
        if fate == Fate::Frozen {
            self.first.thaw()?;
            lab.switch().set_way(FIRST, Way::To, true);
        }
        if fate != Fate::Killed {
            // It believes to own them, and tries.
            let refused = "tail -1 /run/ds/canary.log; \
                           grep -E ': [1-9][0-9]* steps refused' /run/ds/canary.log";
            wait_for(
                &mut self.first,
                "the first one to be refused",
                LONG,
                refused,
            )?;
            self.nothing_found(fate)?;
            self.first
                .succeed("kill -9 $(cat /run/ds/canary.pid)", SHORT)?;
        }
        Ok(())
    }

    /// The positive control: the pattern is found in every page while it is there.
    fn fill_and_find(&mut self) -> Result<()> {
        let write = self.canary("write --once", 1);
        self.first.succeed(&write, PASS)?;
        let read = self.canary("read", 1);
        let found = self.first.succeed(&read, PASS)?;
        let with = number(&found, "pages_with_pattern")?;
        ensure!(
            with == PAGES && number(&found, "bytes_not_zero")? == PAGES * 4_096,
            "the scan finds the pattern in {with} of {PAGES} pages that are full of it: {found}"
        );
        beside_is_refused(&found)
    }

    /// The first one writes without end, and has begun to.
    fn write_on(&mut self) -> Result<()> {
        let write = self.canary("write", 1);
        self.first.succeed("rm -f /run/ds/canary.log", SHORT)?;
        spawn(&mut self.first, "canary", &write)?;
        let begun = "grep -q 'pass 1: 0 steps refused' /run/ds/canary.log || \
                     { cat /run/ds/canary.log; false; }";
        wait_for(&mut self.first, "a pass", PASS, begun)?;
        Ok(())
    }

    fn grant(&mut self, device: u8) -> Result<()> {
        let grant = format!(
            "/lab/canary grant --control /run/ds/server.sock --device {device} --slots {SLOTS}"
        );
        self.donor.succeed(&grant, LONG)?;
        Ok(())
    }

    fn nothing_found(&mut self, fate: Fate) -> Result<()> {
        let read = self.canary("read", 2);
        let found = self.second.succeed(&read, PASS)?;
        let (pages, bytes) = (number(&found, "pages")?, number(&found, "bytes_not_zero")?);
        let with = number(&found, "pages_with_pattern")?;
        self.scanned += pages;
        self.with_pattern += with;
        ensure!(
            pages == PAGES && bytes == 0 && with == 0,
            "over {}, {fate:?}: the second borrower reads {bytes} bytes of somebody: {found}",
            self.way
        );
        beside_is_refused(&found)
    }

    /// The command of a new engine of a device.
    fn canary(&mut self, task: &str, device: u8) -> String {
        self.engines += 1;
        format!(
            "/lab/canary {task} --server {}:7000 --over {} --device {device} --epoch {} \
             --slots {SLOTS} --slab 8Mi",
            self.donor.address(),
            self.way,
            self.engines
        )
    }
}

/// Another slot, and what lies behind the own one.
fn beside_is_refused(found: &str) -> Result<()> {
    let tries = number(found, "tries_beside")?;
    ensure!(
        tries > 0 && number(found, "refused_beside")? == tries,
        "what lies beside the own slots can be read: {found}"
    );
    Ok(())
}
