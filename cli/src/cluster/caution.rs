//! What lets a cluster start and yet spoils what it is for: other swap, an older kernel.
//!
//! Owns the judgement and the sentences; what is made of them is the commands' own. Changes nothing
//! on the host.

use std::fs;
use std::path::Path;

use anyhow::Result;
use dynamicswap_workload::watchdog::ublk_devices_below;

use super::paths::cluster_of;
use crate::failure::Refusal;

/// The first kernel with FUSE_NOTIFY_RESEND, by which a new engine is given what a killed one had
/// taken.
pub const KERNEL_RESEND: (u32, u32) = (6, 9);
/// The capability to lock memory.
pub const CAP_IPC_LOCK: u32 = 14;
/// What mount and swapon ask for.
pub const CAP_SYS_ADMIN: u32 = 21;

/// What lets a cluster start and yet keeps it from doing what it is for, one sentence each. The
/// demo refuses it, because its story could not end well; `up` warns and goes on, because a
/// person may want just that: a disk for what is not urgent, a look at an older kernel.
#[must_use]
pub fn all() -> Vec<String> {
    let cautions = [swap(), old_kernel(&kernel_release())];
    cautions.into_iter().flatten().collect()
}

/// What swap that is on spoils, and what turns it off; none if there is none.
#[must_use]
pub fn swap() -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    other_swap(&swaps, cluster_of_device)
}

/// Refuses a host that has any.
///
/// # Errors
/// A refusal with the first.
pub fn refuse() -> Result<()> {
    match all().into_iter().next() {
        Some(caution) => Err(Refusal::error(caution)),
        None => Ok(()),
    }
}

/// Swap that is on, from the text of /proc/swaps; `cluster_of` names the local cluster that a
/// device belongs to, if it does.
fn other_swap(swaps: &str, cluster_of: impl Fn(&str) -> Option<String>) -> Option<String> {
    let device = |line: &'_ str| line.split_whitespace().next().map(str::to_owned);
    let devices: Vec<String> = swaps.lines().skip(1).filter_map(device).collect();
    if devices.is_empty() {
        return None;
    }
    let list = devices.join(", ");
    Some(match devices.iter().find_map(|device| cluster_of(device)) {
        Some(name) => format!(
            "the swap device of the local cluster '{name}' is on ({list}) and would take pages \
             first: end that cluster with 'dynamicswap down --name {name}'"
        ),
        None => format!(
            "other swap is on ({list}), and the kernel fills it before remote memory: turn it \
             off with 'swapoff -a'"
        ),
    })
}

/// The local cluster that serves a device, such as /dev/loop3.
fn cluster_of_device(device: &str) -> Option<String> {
    let name = device.strip_prefix("/dev/")?;
    let mut ublk = ublk_devices_below(Path::new("/")).into_iter();
    if let Some(record) = ublk.find(|record| record.device == name) {
        return cluster_of(&record.state);
    }
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    cluster_of(Path::new(file.trim()))
}

/// The kernel's release, as uname has it.
#[must_use]
pub fn kernel_release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

/// Major and minor version, from a release such as `6.8.0-31-generic`.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// This process's effective capabilities, a bit each; none if the host does not tell.
#[must_use]
pub fn capabilities() -> Option<u64> {
    parse_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The same, from the text of a /proc/PID/status.
fn parse_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// A kernel that forgets what a killed engine had taken, from its release.
fn old_kernel(release: &str) -> Option<String> {
    let (major, minor) = KERNEL_RESEND;
    (kernel_version(release)? < KERNEL_RESEND).then(|| {
        format!(
            "Linux {release} has no FUSE_NOTIFY_RESEND, so that what the swapd engine works on \
             when it is killed waits for ever: use Linux {major}.{minor} or later"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_that_is_on_is_named_with_what_turns_it_off() {
        let head = "Filename Type Size Used Priority\n";
        assert_eq!(other_swap(head, |_| None), None);
        assert_eq!(other_swap("", |_| None), None);
        let disks = format!("{head}/dev/sda2 partition 9 0 -2\n/swapfile file 9 0 -3\n");
        let told = other_swap(&disks, |_| None).expect("two disks");
        assert!(told.contains("(/dev/sda2, /swapfile)"), "{told}");
        assert!(told.ends_with("'swapoff -a'"), "{told}");
        let own = format!("{head}/dev/loop3 partition 9 0 -2\n");
        let of = |device: &str| (device == "/dev/loop3").then(|| "a".to_owned());
        let told = other_swap(&own, of).expect("another cluster");
        assert!(told.ends_with("'dynamicswap down --name a'"), "{told}");
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n";
        assert_eq!(parse_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(parse_capabilities(""), None);
    }

    #[test]
    fn kernel_is_judged_by_its_release() {
        for (release, version) in [
            ("6.18.44-fc-v782", Some((6, 18))),
            ("6.9-rc3", Some((6, 9))),
            ("5.15", Some((5, 15))),
            ("6", None),
            ("plan9", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release}");
        }
        let told = old_kernel("6.8.0-31-generic").expect("too old");
        assert!(told.contains("FUSE_NOTIFY_RESEND"), "{told}");
        assert!(told.ends_with("use Linux 6.9 or later"), "{told}");
        for fine in ["6.9.0", "6.10.1", "7.0", "plan9"] {
            assert_eq!(old_kernel(fine), None, "{fine}");
        }
    }
}
