//! What this machine has, and how what it lacks is installed: Debian packages, as root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// A program that a task needs, and the Debian package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Name in PATH.
    pub program: &'static str,
    /// Package.
    pub package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What the demo and the native tests start. The product attaches its device by itself; the tools
/// take away what a killed process has left.
pub const RUN_NEEDS: [Need; 4] = [
    need("redis-server", "redis-server"),
    need("losetup", "mount"),
    need("swapoff", "mount"),
    need("umount", "mount"),
];

/// What the benchmarks start besides: swap on a disk file and on zram, to compare with.
pub const BENCH_NEEDS: [Need; 2] = [need("mkswap", "util-linux"), need("swapon", "mount")];

/// What the lab starts, and what it makes the guests' image with.
pub const LAB_NEEDS: [Need; 6] = [
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("mmdebstrap", "mmdebstrap"),
    need("busybox", "busybox-static"),
    need("cpio", "cpio"),
    need("mke2fs", "e2fsprogs"),
    need("unxz", "xz-utils"),
];

/// What a control plane alone is started with.
pub const CONTROL_PLANE_NEEDS: [Need; 2] = [need("setpriv", "util-linux"), need("ip", "iproute2")];

/// What a cluster is started with, and what it makes its nodes' image with.
pub const CLUSTER_NEEDS: [Need; 7] = [
    need("ip", "iproute2"),
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("mmdebstrap", "mmdebstrap"),
    need("busybox", "busybox-static"),
    need("cpio", "cpio"),
    need("mke2fs", "e2fsprogs"),
    need("unxz", "xz-utils"),
];

/// What images are made with, besides apt.
pub const IMAGE_NEEDS: [Need; 3] = [
    need("dpkg", "dpkg"),
    need("readelf", "binutils"),
    need("strip", "binutils"),
];

/// Whether this process is root.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective_user(&status))
        == Some(0)
}

/// The effective user id in the text of /proc/self/status.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Where `program` lies in PATH or the system folders.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Those of `needs` that are not there.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    let absent = |need: &&Need| find_program(need.program).is_none();
    needs.iter().filter(absent).copied().collect()
}

/// Installs what is missing of `needs`; says so first. An error where it cannot.
pub fn install(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let list = packages.join(" ");
    if !is_root() || find_program("apt-get").is_none() {
        bail!("missing programs: install the packages {list}, then run this again");
    }
    eprintln!("installing by apt: {list}");
    if apt_install(&packages).is_err() {
        // A fresh machine has no package lists yet.
        exec::run(apt().arg("update")).context("the package lists could not be fetched")?;
        apt_install(&packages).with_context(|| format!("installing {list} by apt"))?;
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    // The report of a developer task is what belongs on standard output.
    command.stdout(Stdio::null()).stdin(Stdio::null());
    command
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = apt();
    command.args(["install", "--yes", "--no-install-recommends"]);
    // The redis package would start a server of its own; nothing here wants it.
    command.env("RUNLEVEL", "1");
    exec::run(command.args(packages))
}

/// Which of these programs are missing, in a sentence; `None` if all are there.
fn lacking(needs: &[Need]) -> Option<String> {
    let missing = missing(needs);
    let names: Vec<&str> = missing.iter().map(|need| need.program).collect();
    (!names.is_empty()).then(|| format!("missing programs: {}", names.join(", ")))
}

/// Why swap tests cannot run here; `None` if they can.
pub fn native_obstacle() -> Option<String> {
    if !is_root() {
        return Some("it needs root (swapon, mount, memory cgroups)".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("this host has no /dev/fuse: load the fuse module".to_owned());
    }
    let lacking = lacking(&RUN_NEEDS);
    if lacking.is_some() {
        return lacking;
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("this host has no /dev/loop-control: load the loop module".to_owned());
    }
    other_swap(&std::fs::read_to_string("/proc/swaps").unwrap_or_default())
}

/// Why the tests with an API server cannot run here; `None` if they can.
pub fn cluster_obstacle() -> Option<String> {
    if !is_root() {
        return Some("it needs root (network namespaces)".to_owned());
    }
    if find_program("go").is_none() {
        return Some("there is no 'go' in PATH: it builds Kubernetes, Go 1.26 or later".to_owned());
    }
    lacking(&CONTROL_PLANE_NEEDS)
}

/// Why virtual machines cannot run here; `None` if they can.
pub fn lab_obstacle() -> Option<String> {
    if !is_root() {
        return Some("it needs root (the guests' root file system is made of packages)".to_owned());
    }
    lacking(&LAB_NEEDS)
}

/// Why swap tests cannot run with the swap that is on, from the text of /proc/swaps. The native
/// tests look at the same lines and would run nothing.
fn other_swap(swaps: &str) -> Option<String> {
    let device = swaps.lines().nth(1)?.split_whitespace().next()?;
    Some(format!(
        "swap is on already ({device}): pages would go there ('swapoff -a' first)"
    ))
}

/// Layers named in `DYNAMICSWAP_REQUIRE`: where one of them cannot run, the run fails.
pub fn required_layers(value: Option<&OsStr>, known: &[&str]) -> Result<Vec<String>> {
    let text = value.map(OsStr::to_string_lossy).unwrap_or_default();
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let layers: Vec<String> = names.map(str::to_owned).collect();
    match layers.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => bail!(
            "DYNAMICSWAP_REQUIRE names the layer '{name}', which does not exist: choose among {}",
            known.join(", ")
        ),
        None => Ok(layers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_user_is_the_second_number() {
        assert_eq!(
            effective_user("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"),
            Some(0)
        );
        assert_eq!(effective_user("Name:\tx\n"), None);
    }

    #[test]
    fn absent_program_is_missing_and_a_shell_is_not() {
        let shell = need("sh", "dash");
        let absent = need("no-such-program-here", "none");
        assert_eq!(missing(&[shell, absent]), [absent]);
    }

    #[test]
    fn any_swap_that_is_on_is_an_obstacle() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(other_swap(head), None);
        assert_eq!(other_swap(""), None);
        let on = format!("{head}/dev/sda2 partition 1048572 0 -2\n");
        let reason = other_swap(&on).expect("swap is on");
        assert!(reason.contains("/dev/sda2") && reason.contains("swapoff -a"));
    }

    #[test]
    fn required_layers_are_split_and_unknown_ones_refused() {
        let known = ["native", "lab"];
        let both = required_layers(Some(OsStr::new("native, lab")), &known);
        assert_eq!(both.expect("known"), ["native", "lab"]);
        assert!(required_layers(None, &known).expect("none").is_empty());
        let error = required_layers(Some(OsStr::new("nativ")), &known).expect_err("unknown");
        assert!(error.to_string().contains("'nativ'"));
    }
}
