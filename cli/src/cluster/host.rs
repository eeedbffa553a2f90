//! What a host must have before anything is started, each with the sentence that says so.
//!
//! Owns the preflight of `up` and `demo`. Changes nothing on the host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context, Result};
use dynamicswap_proto::frame::{DEVICE_SLABS_MAX, SERVER_SLOTS_MAX};
use dynamicswap_types::{Bytes, PAGE_SIZE};

use super::caution::{CAP_IPC_LOCK, CAP_SYS_ADMIN, capabilities, kernel_release, kernel_version};
use super::record::Shape;
use crate::failure::Refusal;
use crate::refuse_unless;

/// Most donors of a local cluster.
pub const DONORS_MAX: u32 = 16;
/// Memory that the host keeps for itself and for the programs.
pub const RESERVE: Bytes = Bytes::from_mib(512);
/// Tools that `down` and the watchdog take away with what a killed process has left; the device
/// itself is attached and detached by swapd alone.
const TOOLS: [&str; 3] = ["losetup", "swapoff", "umount"];
/// The first kernel with LOOP_CONFIGURE, which attaches the device.
pub const KERNEL_MIN: (u32, u32) = (5, 8);
/// The device that FUSE file systems are served by, as Linux numbers it.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// File systems that keep files in memory: tmpfs and ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Refuses a host that cannot run the cluster, and sizes that make no sense on it.
///
/// # Errors
/// A refusal with the first thing that is missing.
pub fn check(shape: &Shape) -> Result<()> {
    check_shape(shape)?;
    check_root()?;
    check_kernel(&kernel_release())?;
    check_fuse()?;
    refuse_unless!(
        Path::new("/dev/loop-control").exists(),
        "this host has no /dev/loop-control: load the loop module (modprobe loop)"
    );
    if let Some(tool) = tools_missing().first() {
        return Err(Refusal::error(format!(
            "{tool} is not installed: install it (apt-get install mount)"
        )));
    }
    check_memory(shape, &meminfo()?)
}

/// Refuses whoever is not root, or is a root who may not mount.
///
/// # Errors
/// A refusal.
pub fn check_root() -> Result<()> {
    refuse_unless!(
        rustix::process::geteuid().is_root(),
        "a swap device needs root (mount, loop device, swapon): run this with sudo"
    );
    check_capabilities(capabilities())
}

/// Refuses a root that lacks what only root can do, if the host tells what it may.
fn check_capabilities(held: Option<u64>) -> Result<()> {
    let has = |capability: u32| held.is_none_or(|bits| bits >> capability & 1 == 1);
    refuse_unless!(
        has(CAP_SYS_ADMIN),
        "root has no CAP_SYS_ADMIN here, without which nothing can be mounted and no swap device \
         attached: run this outside the container, or give it that capability"
    );
    refuse_unless!(
        has(CAP_IPC_LOCK),
        "root has no CAP_IPC_LOCK here, without which the swapd engine can be swapped out to its \
         own device, which it would have to serve itself: run this outside the container, or give \
         it that capability"
    );
    Ok(())
}

fn check_kernel(release: &str) -> Result<()> {
    let (major, minor) = KERNEL_MIN;
    refuse_unless!(
        kernel_version(release).is_none_or(|version| version >= KERNEL_MIN),
        "Linux {release} is too old for the swap device: use Linux {major}.{minor} or later"
    );
    Ok(())
}

/// Refuses a place for the spill file that is no disk, or has no room for it.
///
/// # Errors
/// A refusal.
pub fn check_spill(place: &Path, size: Bytes) -> Result<()> {
    // The directory itself is made later.
    let there = place.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("/"));
    let system = rustix::fs::statfs(there)
        .with_context(|| format!("cannot tell what {} lies on", there.display()))?;
    let block = u64::try_from(system.f_bsize).unwrap_or(0);
    let kind = u64::try_from(system.f_type).unwrap_or(0);
    check_disk(
        place,
        kind,
        Bytes::new(system.f_bavail.saturating_mul(block)),
        size,
    )
}

fn check_disk(place: &Path, kind: u64, free: Bytes, size: Bytes) -> Result<()> {
    let place = place.display();
    refuse_unless!(
        !MEMORY_FILE_SYSTEMS.contains(&kind),
        "{place} lies in memory, and a spill file belongs on a disk: mount one there, or leave \
         --spill out"
    );
    refuse_unless!(
        free >= size,
        "a spill file is as large as the device, {size}, and the disk of {place} has {:.1} GiB \
         left: choose a smaller --device-size, or leave --spill out",
        free.as_mib_f64() / 1024.0
    );
    Ok(())
}

/// Refuses sizes that no host could take.
///
/// # Errors
/// A refusal with the first such size.
pub fn check_shape(shape: &Shape) -> Result<()> {
    let slab = shape.slab.bytes();
    refuse_unless!(
        (1..=DONORS_MAX).contains(&shape.donors),
        "{} donors are not possible: choose 1 to {DONORS_MAX}",
        shape.donors
    );
    refuse_unless!(
        shape.donor_capacity >= slab,
        "a donor capacity of {} holds no slab of {slab}: give at least --donor-capacity {slab}",
        shape.donor_capacity
    );
    refuse_unless!(
        shape.device_size >= slab,
        "a device of {} holds no slab of {slab}: give at least --device-size {slab}",
        shape.device_size
    );
    let slots = shape.donor_capacity.get() / slab.get();
    refuse_unless!(
        shape.donor_capacity.get().is_multiple_of(slab.get()),
        "a donor capacity of {} is no whole number of slabs of {slab}: give --donor-capacity {} \
         or {}",
        shape.donor_capacity,
        Bytes::new(slots * slab.get()),
        Bytes::new((slots + 1).saturating_mul(slab.get()))
    );
    refuse_unless!(
        shape.device_size.get().is_multiple_of(PAGE_SIZE.get()),
        "a device of {} is no whole number of pages of 4Ki: give --device-size {}",
        shape.device_size,
        Bytes::new(shape.device_size.get() / PAGE_SIZE.get() * PAGE_SIZE.get())
    );
    check_slabs(shape)
}

/// Refuses what the controller could not describe in one message.
fn check_slabs(shape: &Shape) -> Result<()> {
    let slabs = shape.slab.slabs_for(shape.device_size);
    refuse_unless!(
        slabs <= DEVICE_SLABS_MAX,
        "a device of {} has {slabs} slabs of {}, and {DEVICE_SLABS_MAX} is the most: choose a \
         larger --slab, or a smaller --device-size",
        shape.device_size,
        shape.slab
    );
    let slots = shape.slab.slabs_for(shape.donor_capacity);
    refuse_unless!(
        slots <= SERVER_SLOTS_MAX,
        "a donor of {} has {slots} slots of {}, and {SERVER_SLOTS_MAX} is the most: choose a \
         larger --slab, or a smaller --donor-capacity",
        shape.donor_capacity,
        shape.slab
    );
    Ok(())
}

/// Refuses a host on which no FUSE file system can be served.
///
/// # Errors
/// A refusal.
pub fn check_fuse() -> Result<()> {
    match fuse_trouble() {
        None => Ok(()),
        Some(trouble) => Err(Refusal::error(format!(
            "{trouble}: load the fuse module (modprobe fuse), or in a container pass --device \
             /dev/fuse"
        ))),
    }
}

/// Why no FUSE file system can be served here, in words; none if one can.
#[must_use]
pub fn fuse_trouble() -> Option<String> {
    let path = "/dev/fuse";
    let Ok(found) = fs::metadata(path) else {
        return Some(format!("this host has no FUSE ({path} is missing)"));
    };
    let device = (
        rustix::fs::major(found.rdev()),
        rustix::fs::minor(found.rdev()),
    );
    if !found.file_type().is_char_device() || device != FUSE_DEVICE {
        return Some(format!("{path} is not the FUSE device"));
    }
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    opened
        .err()
        .map(|error| format!("{path} cannot be opened ({error})"))
}

/// Tools that are not installed, of those that take a killed process's leftovers away.
#[must_use]
pub fn tools_missing() -> Vec<&'static str> {
    let missing = TOOLS.into_iter().filter(|tool| !is_in_path(tool));
    missing.collect()
}

fn is_in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .any(|directory| directory.join(tool).is_file())
}

/// Said where the kernel does not tell.
const NO_AVAILABLE: &str = "/proc/meminfo does not tell MemAvailable";

/// The memory that could be had now.
///
/// # Errors
/// The host's, if it does not tell.
pub fn available_now() -> Result<Bytes> {
    available(&meminfo()?).context(NO_AVAILABLE)
}

fn meminfo() -> Result<String> {
    fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")
}

/// The memory that could be had now, from the text of /proc/meminfo.
#[must_use]
pub fn available(meminfo: &str) -> Option<Bytes> {
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024).map(Bytes::new)
}

fn check_memory(shape: &Shape, meminfo: &str) -> Result<()> {
    let donors = u64::from(shape.donors);
    let needed = shape.donor_capacity.get().saturating_mul(donors);
    let available = available(meminfo).context(NO_AVAILABLE)?;
    let most = available.saturating_sub(RESERVE).get() / donors;
    let slab = shape.slab.bytes().get();
    refuse_unless!(
        Bytes::new(needed).saturating_add(RESERVE) <= available,
        "{} donors of {} lock {:.1} GiB of memory and only {:.1} GiB is available: choose \
         --donor-capacity {} or less, or fewer --donors",
        shape.donors,
        shape.donor_capacity,
        Bytes::new(needed).as_mib_f64() / 1024.0,
        available.as_mib_f64() / 1024.0,
        Bytes::new(most / slab * slab)
    );
    Ok(())
}

/// Memory that this host can give without swapping.
///
/// # Errors
/// If the kernel does not say.
pub fn memory_available() -> Result<Bytes> {
    available(&meminfo()?).context(NO_AVAILABLE)
}

/// A loopback address for the controller: the given port, or one that is free.
///
/// # Errors
/// A refusal if the given port is in use.
pub fn controller_address(port: Option<u16>) -> Result<SocketAddrV4> {
    let wanted = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.unwrap_or(0));
    let listener = TcpListener::bind(wanted).map_err(|error| {
        Refusal::error(format!(
            "port {} is in use on 127.0.0.1 ({error}): choose another --controller-port, or \
             leave it out",
            wanted.port()
        ))
    })?;
    match listener
        .local_addr()
        .context("a bound port has no address")?
    {
        std::net::SocketAddr::V4(address) => Ok(address),
        std::net::SocketAddr::V6(address) => anyhow::bail!("{address} is not IPv4"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::SlabSize;

    fn shape(donors: u32, capacity_mib: u32, device_mib: u32) -> Shape {
        Shape {
            donors,
            donor_capacity: Bytes::from_mib(capacity_mib),
            device_size: Bytes::from_mib(device_mib),
            slab: SlabSize::try_from(Bytes::from_mib(16)).expect("a slab size"),
        }
    }

    fn refusal(result: Result<()>) -> String {
        let error = result.expect_err("refused");
        assert!(error.downcast_ref::<Refusal>().is_some());
        error.to_string()
    }

    #[test]
    fn root_without_what_only_root_can_do_is_refused() {
        let all = 1 << CAP_SYS_ADMIN | 1 << CAP_IPC_LOCK;
        check_capabilities(Some(all)).expect("enough");
        check_capabilities(None).expect("unknown is no reason to refuse");
        for (held, missing) in [
            (1 << CAP_SYS_ADMIN, "CAP_IPC_LOCK"),
            (1 << CAP_IPC_LOCK, "CAP_SYS_ADMIN"),
        ] {
            let refused = check_capabilities(Some(held)).expect_err("too little");
            assert!(refused.to_string().contains(missing), "{refused}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused_with_what_to_give_instead() {
        assert!(check_shape(&shape(3, 1024, 2048)).is_ok());
        assert!(refusal(check_shape(&shape(0, 64, 64))).starts_with("0 donors"));
        assert!(refusal(check_shape(&shape(17, 64, 64))).contains("1 to 16"));
        assert!(refusal(check_shape(&shape(3, 8, 64))).contains("--donor-capacity 16Mi"));
        assert!(refusal(check_shape(&shape(3, 64, 1))).contains("--device-size 16Mi"));
        let uneven = refusal(check_shape(&shape(3, 17, 64)));
        assert!(
            uneven.ends_with("give --donor-capacity 16Mi or 32Mi"),
            "{uneven}"
        );
        let mut half_a_page = shape(3, 64, 64);
        half_a_page.device_size = Bytes::new((64 << 20) + 1);
        let uneven = refusal(check_shape(&half_a_page));
        assert!(uneven.ends_with("give --device-size 64Mi"), "{uneven}");
        let large = refusal(check_shape(&shape(3, 64, 1 << 20)));
        assert!(large.contains("65536 slabs of 16Mi"), "{large}");
    }

    #[test]
    fn kernel_that_cannot_make_the_device_is_refused() {
        assert!(refusal(check_kernel("5.4.0")).contains("Linux 5.8 or later"));
        assert!(check_kernel("5.8.1").is_ok() && check_kernel("plan9").is_ok());
    }

    #[test]
    fn spill_belongs_on_a_disk_with_room() {
        let (place, gib) = (Path::new("/x/y"), Bytes::from_mib(1024));
        assert!(check_disk(place, 0xef53, gib, gib).is_ok());
        let memory = refusal(check_disk(place, 0x0102_1994, gib, gib));
        assert!(memory.starts_with("/x/y lies in memory"), "{memory}");
        let full = refusal(check_disk(place, 0xef53, Bytes::from_mib(512), gib));
        assert!(full.contains("has 0.5 GiB left"), "{full}");
        assert!(check_spill(Path::new("/nonexistent/a/b"), Bytes::ZERO).is_ok());
    }

    #[test]
    fn more_than_the_memory_is_refused_with_what_would_fit() {
        let meminfo = "MemTotal: 9 kB\nMemAvailable:    3670016 kB\n";
        assert!(check_memory(&shape(3, 1024, 2048), meminfo).is_ok());
        let text = refusal(check_memory(&shape(3, 1040, 2048), meminfo));
        assert!(text.contains("--donor-capacity 1Gi or less"), "{text}");
    }

    #[test]
    fn port_in_use_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let error = controller_address(Some(port)).expect_err("in use");
        let expected = format!("port {port} is in use");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_ne!(controller_address(None).expect("free").port(), 0);
    }
}
