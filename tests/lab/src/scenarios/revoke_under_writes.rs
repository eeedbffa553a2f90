//! Donors that want their memory back while a swap storm writes to exactly these slabs: a controller
//! and agents in the guests, and an operator who drains. With time, every slab moves live to the other
//! donor; without, it is given up for the disk, or for the other copy. No word is wrong either way, and
//! the memory goes back to the donor's host.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::control_plane::Controller;
use crate::daemons::{
    Device, LONG, SHORT, holder, holds, is_by_rdma, memory_server, number, report, soft_roce,
    spawn, unharmed,
};
use crate::guest::Guest;
use crate::load::Load;
use crate::{Lab, wait_for};

/// The load's last check.
const WORK: Duration = Duration::from_secs(300);
/// A whole drain.
const DRAIN: Duration = Duration::from_secs(500);
/// Slots of donors: 8 MiB each. Both fit twelve slabs and the reserve.
const CAPACITY: &str = "192Mi";
const DEVICE: Device = Device {
    size: "96Mi",
    // With a spill file ublk is not chosen unasked.
    holder: "--spill-file /var/spill --front-end ublk",
    class: "",
};

/// The machines.
struct Cluster {
    controller: Controller,
    donors: [Guest; 2],
    borrower: Guest,
    load: Load,
}

/// What a drain has come to.
struct Drained {
    bound: u64,
    under_way: u64,
    moved: u64,
    freed_before_whole: u64,
    freed_by_force: u64,
}

pub(super) fn play(lab: &mut Lab) -> Result<()> {
    let mut cluster = Cluster::start(lab)?;
    // With time: the other donor opens, and has every slab before the first one lets go.
    cluster.tell("uncordon server donor-2")?;
    let live = cluster.drain(lab, "live", 0, "10m")?;
    ensure!(
        live.moved >= 6 && live.freed_before_whole == 0 && live.freed_by_force == 0,
        "{} of {} slabs moved, {} were freed before, {} by force",
        live.moved,
        live.bound,
        live.freed_before_whole,
        live.freed_by_force
    );
    ensure!(live.under_way > 0, "no copy was seen under way");
    // Without time, and with a network that is too slow for any copy: the disk has the pages.
    cluster.class("1", "Async", "256Mi")?;
    cluster.on_disk()?;
    cluster.class("1", "Async", "1Mi")?;
    cluster.tell("uncordon server donor-1")?;
    let forced = cluster.drain(lab, "to_disk", 1, "1s")?;
    ensure!(
        forced.freed_before_whole > 0 && forced.freed_by_force > 0,
        "nothing was given up for the disk: {} of {} slabs moved",
        forced.moved,
        forced.bound
    );
    // And where there is no third donor: the other copy has them.
    cluster.class("2", "None", "256Mi")?;
    cluster.tell("uncordon server donor-2")?;
    cluster.whole()?;
    let forced = cluster.drain(lab, "to_other_copy", 0, "1s")?;
    ensure!(
        forced.freed_before_whole == 0 && forced.moved > 0 && forced.freed_by_force > 0,
        "{} of {} slabs were left to the other copy, {} of them before it was whole",
        forced.moved,
        forced.bound,
        forced.freed_before_whole
    );
    cluster.end(lab)
}

impl Cluster {
    /// Everything up, and a storm whose slabs are all on the first donor.
    fn start(lab: &mut Lab) -> Result<Self> {
        let mut donors = [lab.start("donor-1", 768)?, lab.start("donor-2", 768)?];
        let mut borrower = lab.start("borrower", 512)?;
        for guest in donors.iter_mut().chain([&mut borrower]) {
            soft_roce(guest)?;
        }
        for donor in &mut donors {
            memory_server(donor, CAPACITY)?;
        }
        borrower.succeed("modprobe ublk_drv", SHORT)?;
        holder(&mut borrower, DEVICE)?;
        let controller = Controller::start(&mut donors[0])?;
        for donor in &mut donors {
            controller.donor_agent(donor)?;
            // Their sockets, for whoever watches.
            let (name, address) = (donor.name(), donor.address());
            let reach = format!("socat UNIX-LISTEN:/run/ds/{name}.sock,fork TCP:{address}:7100");
            spawn(&mut borrower, &format!("socat-{name}"), &reach)?;
        }
        controller.borrower_agent(&mut borrower)?;
        controller.tell(&mut borrower, "cordon server donor-2")?;
        controller.apply(&mut borrower, &spec("1", "None", "256Mi"))?;
        let on = "grep ^/dev/ublkb /proc/swaps || { tail -5 /run/ds/swapd.log /run/ds/agent.log; false; }";
        wait_for(&mut borrower, "swap on", LONG, on)?;
        is_by_rdma(&report(&mut borrower)?)?;
        let load = Load::start(&mut borrower, "112Mi", "64Mi")?;
        holds(&mut borrower, 44)?;
        Ok(Self {
            controller,
            donors,
            borrower,
            load,
        })
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        self.controller.tell(&mut self.borrower, command)?;
        Ok(())
    }

    fn class(&mut self, copies: &str, spill: &str, bandwidth: &str) -> Result<()> {
        let spec = spec(copies, spill, bandwidth);
        self.controller.apply(&mut self.borrower, &spec)
    }

    /// Waits until the disk has most slabs whole: those that are written right now come and go.
    fn on_disk(&mut self) -> Result<()> {
        let most = "/lab/grant --swapd /run/ds/swapd.sock --report | \
                    awk '/slab: Some/{bound=1} /slab: None/{bound=0} \
                    /on_disk: /{if (bound) {all++; if (/true/) disk++}} \
                    END{print disk+0, \"of\", all+0; exit !(all >= 6 && disk * 2 > all)}'";
        wait_for(&mut self.borrower, "slabs on the disk", DRAIN, most)?;
        Ok(())
    }

    /// Waits until every slab has the copies that its class asks for.
    fn whole(&mut self) -> Result<()> {
        let whole = "/lab/grant --swapd /run/ds/swapd.sock --report | \
                     awk '/slab: Some/{bound=1; sets++} /slab: None/{bound=0} \
                     /state: Live/{if (bound) live++} \
                     END{print live+0, \"copies of\", sets+0; exit !(sets >= 6 && live >= sets * 2)}'";
        wait_for(&mut self.borrower, "two whole copies", DRAIN, whole)?;
        Ok(())
    }

    /// Drains a donor and watches it to its end, while the storm goes on.
    fn drain(&mut self, lab: &mut Lab, name: &str, from: usize, within: &str) -> Result<Drained> {
        let donor = self.donors[from].name().to_owned();
        let forced = self.freed_by_force()?;
        let room = available(&mut self.donors[from])?;
        self.load.stretch(&mut self.borrower)?;
        // Some of these drains are meant to have nowhere to go but the disk.
        let how = format!("--within {within} --no-wait --allow-stuck");
        self.tell(&format!("drain server {donor} {how}"))?;
        let watch = format!(
            "/lab/revoke_watch --swapd /run/ds/swapd.sock --server {donor}=/run/ds/{donor}.sock \
             --seconds {}",
            DRAIN.as_secs() - 20
        );
        let seen = self.borrower.succeed(&watch, DRAIN)?;
        let stretch = self.load.stretch(&mut self.borrower)?;
        for figure in [
            "bound",
            "moved",
            "freed_before_whole",
            "emptied",
            "elapsed_ms",
        ] {
            lab.note(&format!("{name}_{figure}"), number(&seen, figure)?);
        }
        lab.note(&format!("{name}_longest_stall_us"), stretch.stall_us);
        let written = number(&seen, "pages_written")?;
        ensure!(
            stretch.accesses > 0 && written > 0,
            "the storm stood still: {} accesses, {written} pages written",
            stretch.accesses
        );
        let in_use = number(&seen, "freed_while_in_use")?;
        ensure!(
            in_use == 0,
            "{in_use} slots were freed while in use: {seen}"
        );
        self.went_back(lab, name, (from, room), &seen)?;
        Ok(Drained {
            bound: number(&seen, "bound")?,
            under_way: number(&seen, "under_way")?,
            moved: number(&seen, "moved")?,
            freed_before_whole: number(&seen, "freed_before_whole")?,
            freed_by_force: self.freed_by_force()? - forced,
        })
    }

    /// The donor's machine has the memory again, by its own kernel's count.
    fn went_back(
        &mut self,
        lab: &mut Lab,
        name: &str,
        (from, before): (usize, u64),
        seen: &str,
    ) -> Result<()> {
        let held = number(seen, "memory_bytes_before")?;
        let left = number(seen, "memory_bytes_after")?;
        let room = available(&mut self.donors[from])?;
        let back = room.saturating_sub(before);
        lab.note(&format!("{name}_donor_bytes_back"), back);
        ensure!(
            left * 16 < held && back * 4 > (held - left) * 3,
            "the memory server had {held} bytes and has {left}, and its machine got {back}"
        );
        Ok(())
    }

    /// Copies that the controller says it has freed because their time was over.
    fn freed_by_force(&mut self) -> Result<u64> {
        let count = "grep -o 'frees [0-9]* copies of borrower on [^ ]* with fewer left' \
                     /run/ds/controller.log | awk '{n += $2} END{print n + 0}'";
        let said = self.donors[0].succeed(count, SHORT)?;
        Ok(said.trim().parse()?)
    }

    fn end(mut self, lab: &mut Lab) -> Result<()> {
        let end = self.load.finish(&mut self.borrower, WORK)?;
        lab.note("workload", end);
        let after = unharmed(lab, &mut self.borrower)?;
        ensure!(number(&after, "bytes_read")? > 0, "no page came back");
        self.borrower
            .succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
        Ok(())
    }
}

fn spec(copies: &str, spill: &str, bandwidth: &str) -> String {
    format!(
        "{{podSelector: {{}}, durability: {{copies: {copies}, spill: {spill}}}, \
         stall: {{writeHold: 2s, readStall: 30s}}, rebuild: {{bandwidthMax: {bandwidth}}}}}"
    )
}

/// Memory that a machine could use at once, in bytes.
fn available(guest: &mut Guest) -> Result<u64> {
    let said = guest.succeed("awk '/MemAvailable/{print $2 * 1024}' /proc/meminfo", SHORT)?;
    Ok(said.trim().parse()?)
}
