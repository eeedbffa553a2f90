//! The watchdog: aborts a swap device that nobody serves (its FUSE connection, or the ublk device
//! itself), and swaps it off.
//!
//! Owns the last way out of a wedged machine. It runs as a process of its own, locked in memory
//! and started before swapon. It never touches the FUSE mount itself: everything it reads is in
//! /proc and /sys, so that it cannot wait for the device it watches.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Programs that serve a device, or start who does.
const SERVERS: [&str; 2] = ["dynamicswap-swapd", "dynamicswap-swapd-engine"];
/// A device without any of them for this long has nobody left who could serve it again: its FUSE
/// connection ended with the last of them, and every request fails at once.
const LIFELESS_AFTER: Duration = Duration::from_secs(3);
/// Time between two looks for them.
const LIFE_EVERY: Duration = Duration::from_secs(1);
/// Where the kernel shows FUSE connections.
const FUSE_CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Where swapd leaves a file for each ublk device, named after it, with its state directory.
const UBLK_RECORDS: &str = "/run/dynamicswap-ublk";
/// How the kernel names ublk devices.
const UBLK_PREFIX: &str = "ublkb";

/// What to watch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Loop devices whose backing file lies below this directory, the FUSE mounts there, and ublk
    /// devices whose state directory lies below it.
    pub below: PathBuf,
    /// A device with requests under way and none completed for this long is not served.
    pub unserved_after: Duration,
    /// The watchdog ends with this process, once no device is swapped on any more and nobody is left
    /// who could attach one: it asks the holders to detach and end.
    pub parent: Option<Pid>,
}

/// How a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The parent ended and no device is left as swap.
    ParentEnded,
    /// A device was not served: its connection was aborted, the device swapped off.
    Aborted(String),
}

/// Progress of one block device, as its `stat` file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockProgress {
    /// Requests completed: reads, writes, discards and flushes.
    pub completed: u64,
    /// Requests under way.
    pub in_flight: u64,
}

impl BlockProgress {
    /// Reads it from the text of /sys/block/DEVICE/stat.
    #[must_use]
    pub fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        let completed = [0, 4, 11, 15].iter().filter_map(|at| fields.get(*at));
        Some(Self {
            completed: completed.sum(),
            in_flight: *fields.get(8)?,
        })
    }
}

/// Since when a device makes no progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stall {
    last: BlockProgress,
    since: Option<Instant>,
}

impl Stall {
    /// Takes a look's figures; tells how long requests have been under way with none completed.
    pub fn observe(&mut self, progress: BlockProgress, now: Instant) -> Duration {
        let stands = progress.in_flight > 0 && progress.completed == self.last.completed;
        self.last = progress;
        if !stands {
            self.since = None;
            return Duration::ZERO;
        }
        now.duration_since(*self.since.get_or_insert(now))
    }
}

/// Since when no process serves the devices.
#[derive(Debug)]
struct Life {
    looked: Instant,
    absent_since: Option<Instant>,
}

impl Life {
    const fn new(now: Instant) -> Self {
        Self {
            looked: now,
            absent_since: None,
        }
    }

    /// Looks once a second; tells for how long there has been nobody.
    fn absent_for(&mut self, now: Instant, is_served: impl Fn() -> bool) -> Duration {
        if now.duration_since(self.looked) >= LIFE_EVERY {
            self.looked = now;
            self.absent_since = if is_served() {
                None
            } else {
                self.absent_since.or(Some(now))
            };
        }
        self.absent_since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

/// Whether a live process serves devices below a directory, or would start one that does.
#[must_use]
pub fn is_served(below: &Path) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| serves(&line, below))
}

/// Whether a command line, its words ended by zeroes, is of a server below a directory.
fn serves(command_line: &[u8], below: &Path) -> bool {
    is_one_of(&SERVERS, command_line, below)
}

fn is_one_of(programs: &[&str], command_line: &[u8], below: &Path) -> bool {
    let line = String::from_utf8_lossy(command_line);
    let program = line.split('\0').next().map(Path::new);
    let name = program.and_then(Path::file_name).and_then(|n| n.to_str());
    name.is_some_and(|name| programs.contains(&name)) && line.contains(&*below.to_string_lossy())
}

/// The holders of devices below a directory, each by a descriptor that names no other process.
fn holders_below(below: &Path) -> Vec<OwnedFd> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holder = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Read after it was opened: what the descriptor names has this command line.
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        is_one_of(&SERVERS[..1], &line, below).then_some(process)
    };
    entries.filter_map(holder).collect()
}

/// Asks a holder to detach its device and end.
fn ask_to_stop(holder: &OwnedFd) {
    // One that has just ended is as good as told.
    let _told = pidfd_send_signal(holder, Signal::TERM);
}

/// Watches until the parent ends or a device had to be aborted.
///
/// # Errors
/// If the parent cannot be watched, or a wedged device cannot be freed.
pub fn watch(settings: &Settings) -> io::Result<Outcome> {
    let parent = settings
        .parent
        .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .transpose()
        .or_else(|error| match error {
            // It ended before the watch began.
            rustix::io::Errno::SRCH => Ok(None),
            other => Err(io::Error::from(other)),
        })?;
    let mut alive = parent.is_some() || settings.parent.is_none();
    let mut told = false;
    let mut stalls: BTreeMap<String, Stall> = BTreeMap::new();
    let mut life = Life::new(Instant::now());
    loop {
        let devices = devices_below(&settings.below);
        for device in &devices {
            let stat = fs::read_to_string(format!("/sys/block/{device}/stat"));
            let progress = stat.ok().and_then(|text| BlockProgress::parse(&text));
            let stall = stalls.entry(device.clone()).or_default();
            let stalled = stall.observe(progress.unwrap_or_default(), Instant::now());
            if stalled >= settings.unserved_after {
                let seconds = stalled.as_secs_f64();
                let why = format!("completed nothing for {seconds:.0} s with requests under way");
                return rescue(settings, device, &why);
            }
        }
        let lifeless = life.absent_for(Instant::now(), || is_served(&settings.below));
        if let Some(device) = devices.iter().find(|device| is_swap(device))
            && lifeless >= LIFELESS_AFTER
        {
            return rescue(settings, device, "has no process left that serves it");
        }
        if !alive {
            // Or it would attach the device again: nobody has told it otherwise.
            let holders = holders_below(&settings.below);
            if !std::mem::replace(&mut told, true) {
                holders.iter().for_each(ask_to_stop);
            }
            let attached: Vec<_> = devices.iter().filter(|d| is_swap(d)).cloned().collect();
            match attached.first() {
                None if holders.is_empty() => return Ok(Outcome::ParentEnded),
                None => {}
                // Served, so this ends; a device that stops being served meanwhile is aborted
                // by the next look, which makes the swapoff end too.
                Some(device) => swap_off_in_background(device),
            }
        }
        alive = pause(parent.as_ref().filter(|_| alive)) && alive;
    }
}

/// Waits for the next look; false if the parent ended.
fn pause(parent: Option<&OwnedFd>) -> bool {
    let mut polled: Vec<PollFd<'_>> = parent
        .into_iter()
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(LOOK_EVERY).ok();
    // An interrupted wait only makes the next look an early one.
    let _waited = poll(&mut polled, timeout.as_ref());
    polled.iter().all(|fd| fd.revents().is_empty())
}

/// Swap devices of swapds below a directory, by kernel name.
fn devices_below(below: &Path) -> Vec<String> {
    let mut devices = loop_devices_below(Path::new("/sys/block"), below);
    devices.extend(
        ublk_devices_below(below)
            .into_iter()
            .map(|ublk| ublk.device),
    );
    devices
}

/// A ublk device and the swapd that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UblkRecord {
    /// Its kernel name.
    pub device: String,
    /// The swapd's state directory.
    pub state: PathBuf,
}

/// ublk devices whose swapd has its state directory below a directory.
#[must_use]
pub fn ublk_devices_below(below: &Path) -> Vec<UblkRecord> {
    ublk_records(Path::new(UBLK_RECORDS), Path::new("/sys/block"), below)
}

fn ublk_records(records: &Path, sys_block: &Path, below: &Path) -> Vec<UblkRecord> {
    let entries = fs::read_dir(records).into_iter().flatten().flatten();
    let record = |entry: fs::DirEntry| {
        let device = entry.file_name().into_string().ok()?;
        let state = PathBuf::from(fs::read_to_string(entry.path()).ok()?.trim());
        let is_there = device.starts_with(UBLK_PREFIX) && sys_block.join(&device).exists();
        (is_there && state.starts_with(below)).then_some(UblkRecord { device, state })
    };
    let mut devices: Vec<UblkRecord> = entries.filter_map(record).collect();
    devices.sort_by(|one, other| one.device.cmp(&other.device));
    devices
}

/// The last resort for a ublk device: every request ends with an error, swap is turned off, the
/// device removed. The driver's interface is swapd's, and so its program does it.
///
/// # Errors
/// If the program, which stands beside this one, cannot be run, or fails.
pub fn abort_ublk(record: &UblkRecord) -> io::Result<()> {
    let program = std::env::current_exe()?.with_file_name(SERVERS[0]);
    let output = std::process::Command::new(program)
        .arg("abort")
        .arg("--state-dir")
        .arg(&record.state)
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(told.trim().to_owned()))
    }
}

/// Loop devices (their kernel names) whose backing file lies below a directory.
#[must_use]
pub fn loop_devices_below(sys_block: &Path, below: &Path) -> Vec<String> {
    let entries = fs::read_dir(sys_block).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut devices: Vec<String> = names
        .filter(|name| name.starts_with("loop"))
        .filter(|name| {
            let file = sys_block.join(name).join("loop/backing_file");
            fs::read_to_string(file).is_ok_and(|path| Path::new(path.trim()).starts_with(below))
        })
        .collect();
    devices.sort();
    devices
}

/// Numbers of the FUSE connections mounted below a directory, from the text of
/// /proc/self/mountinfo. A connection's number is the minor number of its file system.
#[must_use]
pub fn fuse_connections_below(mountinfo: &str, below: &Path) -> Vec<u32> {
    let connection = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_fuse = file_system.starts_with("fuse ") || file_system.starts_with("fuse.");
        let mut fields = mount.split(' ').skip(2);
        let minor = fields.next()?.split_once(':')?.1.parse().ok()?;
        let point = Path::new(fields.nth(1)?);
        (is_fuse && point.starts_with(below)).then_some(minor)
    };
    mountinfo.lines().filter_map(connection).collect()
}

/// Whether a device is in use as swap.
#[must_use]
pub fn is_swap(device: &str) -> bool {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let path = format!("/dev/{device}");
    swaps
        .lines()
        .any(|line| line.split_whitespace().next() == Some(&path))
}

/// Aborts the connection below a device that is not served, then swaps the device off. A ublk device
/// cannot be swapped off once it is aborted: swapd's program does both in the right order.
fn rescue(settings: &Settings, device: &str, why: &str) -> io::Result<Outcome> {
    let mut records = ublk_devices_below(&settings.below).into_iter();
    if let Some(record) = records.find(|record| record.device == device) {
        let aborted = abort_ublk(&record);
        let result = aborted.map_or_else(|error| error.to_string(), |()| "done".to_owned());
        return Ok(Outcome::Aborted(format!(
            "{device} {why}: aborting it: {result}"
        )));
    }
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let connections = fuse_connections_below(&mountinfo, &settings.below);
    let mut aborted = 0;
    {
        let _control = FuseControl::mount();
        for connection in &connections {
            aborted += usize::from(abort(*connection).is_ok());
        }
    }
    let swapped_off = swap_off(device);
    let told = format!(
        "{device} {why}: {aborted} of {} FUSE connections aborted, swapoff: {}",
        connections.len(),
        swapped_off.map_or_else(|error| error.to_string(), |()| "done".to_owned()),
    );
    Ok(Outcome::Aborted(told))
}

/// Aborts one FUSE connection; requests under way fail at once.
fn abort(connection: u32) -> io::Result<()> {
    fs::write(format!("{FUSE_CONNECTIONS}/{connection}/abort"), "1")
}

/// The kernel's list of FUSE connections, mounted for a while where the host has not mounted it.
#[derive(Debug)]
struct FuseControl {
    is_own: bool,
}

impl FuseControl {
    fn mount() -> Self {
        let has_entries =
            || fs::read_dir(FUSE_CONNECTIONS).is_ok_and(|mut entries| entries.next().is_some());
        let none = rustix::mount::MountFlags::empty();
        let mount = || rustix::mount::mount("none", FUSE_CONNECTIONS, c"fusectl", none, None);
        Self {
            is_own: !has_entries() && mount().is_ok(),
        }
    }
}

impl Drop for FuseControl {
    fn drop(&mut self) {
        if self.is_own {
            let lazily = rustix::mount::UnmountFlags::DETACH;
            // What cannot be unmounted harms nobody.
            let _left = rustix::mount::unmount(FUSE_CONNECTIONS, lazily);
        }
    }
}

/// swapoff of a device, by its kernel name. A device that is no swap is fine.
fn swap_off(device: &str) -> io::Result<()> {
    if !is_swap(device) {
        return Ok(());
    }
    let status = std::process::Command::new("swapoff")
        .arg(format!("/dev/{device}"))
        .status()?;
    if status.success() || !is_swap(device) {
        Ok(())
    } else {
        Err(io::Error::other(format!("swapoff ended with {status}")))
    }
}

fn swap_off_in_background(device: &str) {
    let device = device.to_owned();
    std::thread::spawn(move || swap_off(&device));
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "  105 0 840 12 7 1 56 3 2 15 15 4 0 8 0 1 0\n";

    fn progress(completed: u64, in_flight: u64) -> BlockProgress {
        BlockProgress {
            completed,
            in_flight,
        }
    }

    #[test]
    fn block_progress_counts_every_kind_of_request() {
        assert_eq!(
            BlockProgress::parse(STAT),
            Some(progress(105 + 7 + 4 + 1, 2))
        );
        assert_eq!(BlockProgress::parse("1 2 3"), None);
    }

    #[test]
    fn only_requests_under_way_without_completions_are_a_stall() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::default();
        assert_eq!(stall.observe(progress(5, 1), at(0)), Duration::ZERO);
        assert_eq!(stall.observe(progress(5, 1), at(1)), Duration::ZERO);
        assert_eq!(stall.observe(progress(5, 3), at(9)), Duration::from_secs(8));
        assert_eq!(stall.observe(progress(6, 3), at(10)), Duration::ZERO);
        assert_eq!(stall.observe(progress(6, 0), at(20)), Duration::ZERO);
        assert_eq!(stall.observe(progress(6, 2), at(30)), Duration::ZERO);
        assert_eq!(
            stall.observe(progress(6, 2), at(31)),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn device_is_lifeless_once_its_servers_have_been_gone_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut life = Life::new(start);
        assert_eq!(life.absent_for(at(1), || true), Duration::ZERO);
        assert_eq!(life.absent_for(at(2), || false), Duration::ZERO);
        assert_eq!(life.absent_for(at(5), || false), Duration::from_secs(3));
        assert_eq!(life.absent_for(at(6), || true), Duration::ZERO);
        assert_eq!(life.absent_for(at(8), || false), Duration::ZERO);
    }

    #[test]
    fn servers_are_known_by_program_and_directory() {
        let below = Path::new("/run/dynamicswap/a");
        let line = |program: &str, directory: &str| {
            serves(
                format!("{program}\0--state-dir={directory}/swapd\0").as_bytes(),
                below,
            )
        };
        assert!(line(
            "/usr/bin/dynamicswap-swapd-engine",
            "/run/dynamicswap/a"
        ));
        assert!(line("dynamicswap-swapd", "/run/dynamicswap/a"));
        assert!(!line("dynamicswap-swapd", "/run/dynamicswap/b"));
        assert!(!line("dynamicswap-agent", "/run/dynamicswap/a"));
        assert!(!serves(b"", below));
    }

    #[test]
    fn only_fuse_mounts_below_the_directory_are_found() {
        let info = "30 1 0:41 / /run/dynamicswap/a/m rw,relatime - fuse.dynamicswap none rw\n\
                    31 1 0:42 / /run/dynamicswap/ab rw shared:4 - fuse none rw\n\
                    32 1 0:43 / /run/dynamicswap/a/t rw - tmpfs none rw\n\
                    33 1 0:44 / /run/dynamicswap/a/c rw - fusectl none rw\n";
        assert_eq!(
            fuse_connections_below(info, Path::new("/run/dynamicswap/a")),
            [41]
        );
    }

    #[test]
    fn only_ublk_devices_of_swapds_below_the_directory_are_found() {
        let dir = std::env::temp_dir().join(format!("dynamicswap-ublk-{}", std::process::id()));
        let (records, block) = (dir.join("records"), dir.join("block"));
        fs::create_dir_all(&records).expect("made");
        for (name, state) in [
            ("ublkb0", "/run/x/n"),
            ("ublkb1", "/run/y"),
            ("ublkb2", "/run/x/m"),
        ] {
            fs::write(records.join(name), format!("{state}\n")).expect("written");
        }
        for name in ["ublkb0", "ublkb1"] {
            fs::create_dir_all(block.join(name)).expect("made");
        }
        let found = ublk_records(&records, &block, Path::new("/run/x"));
        let expected = UblkRecord {
            device: "ublkb0".to_owned(),
            state: PathBuf::from("/run/x/n"),
        };
        assert_eq!(found, [expected], "ublkb2 is gone, ublkb1 is another's");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn only_loop_devices_backed_from_below_the_directory_are_found() {
        let dir = std::env::temp_dir().join(format!("dynamicswap-sys-{}", std::process::id()));
        for (name, file) in [("loop3", "/run/x/dev\n"), ("loop4", "/other\n")] {
            let at = dir.join(name).join("loop");
            fs::create_dir_all(&at).expect("made");
            fs::write(at.join("backing_file"), file).expect("written");
        }
        fs::create_dir_all(dir.join("loop5")).expect("made");
        assert_eq!(loop_devices_below(&dir, Path::new("/run/x")), ["loop3"]);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
