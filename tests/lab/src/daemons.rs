//! Starting the project's daemons in guests, and asking them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::guest::Guest;
use crate::{Lab, wait_for};

/// A short command in a guest without hardware help.
pub const SHORT: Duration = Duration::from_secs(30);
/// Something that several processes must agree on.
pub const LONG: Duration = Duration::from_secs(90);

const SLAB: &str = "8Mi";
/// Every daemon's files in a guest.
const PLACE: &str = "/run/ds";

/// Gives the guest an RDMA device over its network card.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn soft_roce(guest: &mut Guest) -> Result<()> {
    guest.succeed(
        "modprobe -a ib_core ib_uverbs rdma_ucm rdma_cm rdma_rxe && \
         rdma link add rxe0 type rxe netdev $net && rdma link",
        SHORT,
    )?;
    Ok(())
}

/// A donor and a borrower with RDMA devices, not joined by any grant yet.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn donor_and_borrower(lab: &mut Lab) -> Result<(Guest, Guest)> {
    let mut donor = lab.start("donor", 640)?;
    let mut borrower = lab.start("borrower", 512)?;
    soft_roce(&mut donor)?;
    soft_roce(&mut borrower)?;
    Ok((donor, borrower))
}

/// Starts a program in the background; its output goes to `/run/ds/NAME.log`.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn spawn(guest: &mut Guest, name: &str, command: &str) -> Result<()> {
    guest.succeed(
        &format!(
            "mkdir -p {PLACE}; setsid nohup {command} </dev/null >>{PLACE}/{name}.log 2>&1 3>&- & \
             echo $! > {PLACE}/{name}.pid"
        ),
        SHORT,
    )?;
    Ok(())
}

/// Starts the memory server and waits until it answers; its control socket is offered to the
/// other guests.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn memory_server(guest: &mut Guest, capacity: &str) -> Result<()> {
    let (name, address) = (guest.name().to_owned(), guest.address().to_owned());
    spawn(
        guest,
        "server",
        &format!(
            "/lab/dynamicswap-memory-server --node {name} --listen {address}:7000 \
             --rdma-listen {address}:7000 --state-dir {PLACE}/server --capacity {capacity} \
             --slab {SLAB} --control-socket {PLACE}/server.sock"
        ),
    )?;
    let up = format!("test -S {PLACE}/server.sock || {{ cat {PLACE}/server.log; false; }}");
    wait_for(guest, "the memory server", SHORT, &up)?;
    let offer = "socat TCP-LISTEN:7100,fork,reuseaddr UNIX-CONNECT:/run/ds/server.sock";
    if guest.run("pgrep socat", SHORT)?.0 != 0 {
        spawn(guest, "socat", offer)?;
    }
    Ok(())
}

/// What of a swap device differs between scenarios.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Its size.
    pub size: &'static str,
    /// What else the holder is told.
    pub holder: &'static str,
    /// Its durability class.
    pub class: &'static str,
}

impl Device {
    /// One copy and no disk.
    #[must_use]
    pub const fn plain(size: &'static str) -> Self {
        Self {
            size,
            holder: "",
            class: "--copies 1",
        }
    }

    /// One copy, and the disk has every page a little later.
    #[must_use]
    pub const fn with_disk(size: &'static str) -> Self {
        Self {
            size,
            // With a spill file ublk is not chosen unasked.
            holder: "--spill-file /var/spill --front-end ublk",
            class: "--copies 1 --spill Async",
        }
    }
}

/// Starts swapd, grants it slots of the donor, and waits until the kernel swaps to it.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn swap_device(borrower: &mut Guest, donor: &Guest, size: &'static str) -> Result<()> {
    swap_device_of(borrower, &[donor], Device::plain(size))
}

/// As [`swap_device`], for a device that is not plain, or of several donors.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn swap_device_of(borrower: &mut Guest, donors: &[&Guest], device: Device) -> Result<()> {
    borrower.succeed("modprobe -a fuse loop", SHORT)?;
    holder(borrower, device)?;
    let mut grant = format!("/lab/grant --swapd {PLACE}/swapd.sock {}", device.class);
    for donor in donors {
        let (name, address) = (donor.name(), donor.address());
        let reach = format!("socat UNIX-LISTEN:{PLACE}/{name}.sock,fork TCP:{address}:7100");
        spawn(borrower, &format!("socat-{name}"), &reach)?;
        let server = format!(" --server {name}={PLACE}/{name}.sock");
        grant.push_str(&server);
    }
    wait_for(borrower, "the grants", SHORT, &grant)?;
    let on = "grep -q /dev/ /proc/swaps || { /lab/grant --swapd /run/ds/swapd.sock --report | grep -A6 Event; tail -5 /run/ds/swapd.log; false; }";
    wait_for(borrower, "swap on", LONG, on)?;
    Ok(())
}

/// Starts the holder of a swap device, and waits until it has its control socket.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn swapd(borrower: &mut Guest, size: &'static str) -> Result<()> {
    holder(borrower, Device::plain(size))
}

/// As [`swapd`], for a device that is not plain.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn holder(borrower: &mut Guest, device: Device) -> Result<()> {
    let Device { size, holder, .. } = device;
    spawn(
        borrower,
        "swapd",
        &format!(
            "/lab/dynamicswap-swapd --node borrower --state-dir {PLACE}/swapd --size {size} \
             --slab {SLAB} --control-socket {PLACE}/swapd.sock {holder}"
        ),
    )?;
    let up = format!("test -S {PLACE}/swapd.sock || {{ cat {PLACE}/swapd.log; false; }}");
    wait_for(borrower, "swapd", SHORT, &up)?;
    Ok(())
}

/// A donor with memory to lend, and a borrower that swaps to it as in production: a ublk device
/// whose pages go by RDMA.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn production(lab: &mut Lab, device: Device) -> Result<(Guest, Guest)> {
    let (mut donor, mut borrower) = donor_and_borrower(lab)?;
    memory_server(&mut donor, "256Mi")?;
    production_device(&mut borrower, &[&donor], device)?;
    Ok((donor, borrower))
}

/// The same, in a guest that has its RDMA device already.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn production_device(borrower: &mut Guest, donors: &[&Guest], device: Device) -> Result<()> {
    borrower.succeed("modprobe ublk_drv", SHORT)?;
    swap_device_of(borrower, donors, device)?;
    borrower.succeed("grep ^/dev/ublkb /proc/swaps", SHORT)?;
    is_by_rdma(&report(borrower)?)
}

/// Starts the workload on a ublk device, and waits until it is at work there.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn storm(borrower: &mut Guest, size: &str, accesses: u32) -> Result<()> {
    verify(borrower, size, accesses)?;
    holds(borrower, 16)
}

/// Waits until a ublk device holds more than so many MB.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn holds(borrower: &mut Guest, megabytes: u32) -> Result<()> {
    let swapping = format!("test $(awk '/ublkb/{{print $4}}' /proc/swaps) -gt {megabytes}000");
    let what = format!("{megabytes} MB in the device");
    wait_for(borrower, &what, LONG, &swapping)?;
    Ok(())
}

/// Shapes what a guest sends, in the words of `tc qdisc ... netem`.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn shape(guest: &mut Guest, netem: &str) -> Result<()> {
    let set = format!("modprobe sch_netem && tc qdisc add dev $net root netem {netem}");
    guest.succeed(&set, SHORT)?;
    Ok(())
}

/// Fails if a device's report tells of a page that was lost or wrong.
///
/// # Errors
/// With the report.
pub fn nothing_lost(report: &str) -> Result<()> {
    for name in ["integrity_failures", "pages_lost", "read_failures"] {
        ensure!(number(report, name)? == 0, "{name}: {report}");
    }
    Ok(())
}

/// Notes what a device that has gone through a fault says, and fails if it has lost or mistaken
/// anything.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn unharmed(lab: &mut Lab, borrower: &mut Guest) -> Result<String> {
    let after = report(borrower)?;
    note_falls(lab, &after);
    note_ends(lab, borrower)?;
    for name in ["engine_starts", "bytes_read", "bytes_written"] {
        let value = number(&after, name)?;
        lab.note(name, value);
    }
    nothing_lost(&after)?;
    let waiting = "! ps -eo pid,stat,wchan:32,comm | awk '$2 ~ /^D/' | grep .";
    wait_for(borrower, "tasks that wait for ever", SHORT, waiting)?;
    Ok(after)
}

/// Waits until the link goes by RDMA.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn by_rdma_again(borrower: &mut Guest) -> Result<()> {
    let again = "/lab/grant --swapd /run/ds/swapd.sock --report | grep -q 'transport: \"rdma\"'";
    wait_for(borrower, "RDMA again", LONG, again)?;
    Ok(())
}

/// The device's report, in the words of the `grant` example.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn report(borrower: &mut Guest) -> Result<String> {
    borrower.succeed(
        &format!("/lab/grant --swapd {PLACE}/swapd.sock --report"),
        SHORT,
    )
}

/// The sentences of a report.
#[must_use]
pub fn events(report: &str) -> String {
    let lines = report.lines().map(str::trim);
    let told = lines.filter(|line| line.starts_with("message:") || line.starts_with("transport"));
    let told: Vec<&str> = told
        .filter(|line| !line.contains("writes to slab"))
        .collect();
    told.join("\n")
}

/// A number out of a report: `name: 12,`.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn number(report: &str, name: &str) -> Result<u64> {
    let key = format!("{name}: ");
    let line = report
        .lines()
        .find_map(|line| line.trim().strip_prefix(&key));
    let line = line.with_context(|| format!("the report has no '{name}'"))?;
    line.trim_end_matches(',')
        .parse()
        .with_context(|| format!("'{name}' is {line}"))
}

/// Fails unless the device's link goes over RDMA.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn is_by_rdma(report: &str) -> Result<()> {
    ensure!(
        report.contains("transport: \"rdma\""),
        "the link does not go over RDMA: {}",
        events(report)
    );
    Ok(())
}

/// The workload that checks every page, in a container with 96 MiB, in the background.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn verify(borrower: &mut Guest, size: &str, accesses: u32) -> Result<()> {
    spawn(
        borrower,
        "verify",
        &format!(
            "/lab/dynamicswap-workload contain --limit 96Mi -- /lab/dynamicswap-workload verify \
             --size {size} --threads 1 --ops {accesses} --progress-ms 2000"
        ),
    )
}

/// Waits for the workload's end; gives its last line. Fails if a page was wrong, if it died, or
/// if the kernel complains.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn verified(borrower: &mut Guest, time: Duration) -> Result<serde_json::Value> {
    let ended = "! pgrep -f 'workload verify' >/dev/null || { tail -1 /run/ds/verify.log; false; }";
    wait_for(borrower, "the workload's end", time, ended)?;
    let last = borrower.succeed("tail -1 /run/ds/verify.log", SHORT)?;
    let end: serde_json::Value =
        serde_json::from_str(&last).with_context(|| format!("the workload ended with: {last}"))?;
    ensure!(
        end["kind"] == "end" && end["wrong_pages"] == 0,
        "the workload ended with: {last}"
    );
    let complaints = "dmesg | grep -i -E 'out of memory|oom-kill|hung task|blocked for more'";
    let (found, said) = borrower.run(complaints, SHORT)?;
    ensure!(found != 0, "the kernel complains: {said}");
    Ok(end)
}

/// kill -9 of the process that serves the device; its holder starts another. The device's report
/// names it: its program is a memory file.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn kill_engine(borrower: &mut Guest) -> Result<()> {
    let engine = number(&report(borrower)?, "engine_pid")?;
    borrower.succeed(&format!("kill -9 {engine}"), SHORT)?;
    Ok(())
}

/// Replaces the engine, which then sees the host as it is now.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn restart_swapd(borrower: &mut Guest) -> Result<()> {
    kill_engine(borrower)?;
    let up = "/lab/grant --swapd /run/ds/swapd.sock --report >/dev/null";
    wait_for(borrower, "a new engine", SHORT, up)?;
    Ok(())
}

/// Notes how often the device's links fell, and why the last time: a slow guest loses a link to
/// its own time limits now and then, which costs time and no page.
pub fn note_falls(lab: &mut Lab, report: &str) {
    let falls = report
        .lines()
        .filter(|line| line.contains("is not reachable"));
    let falls: Vec<&str> = falls.map(str::trim).collect();
    lab.note("link_falls", falls.len());
    if let Some(last) = falls.last() {
        lab.note("last_fall", *last);
    }
}

/// Notes why engines ended, in the holder's words.
///
/// # Errors
/// If a guest, or what runs in it, does not do it in time.
pub fn note_ends(lab: &mut Lab, borrower: &mut Guest) -> Result<()> {
    let ends = "grep -E 'the engine( |.s heartbeat)' /run/ds/swapd.log || true";
    let ends = borrower.succeed(ends, SHORT)?;
    let ends: Vec<&str> = ends.lines().map(str::trim).collect();
    lab.note("engine_ends", ends);
    Ok(())
}
