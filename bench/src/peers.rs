//! Peers that need no cluster: swap on a disk file, on zram, and the fuse-loop device on local
//! memory, which is the floor.
//!
//! Each is a guard: dropping it swaps off and removes what it made.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_types::Bytes;

use crate::workload::beside;

/// Runs a program to its end and fails with what it said.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        args.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A swap area that this run made.
#[derive(Debug)]
pub struct SwapArea {
    path: PathBuf,
    undo: Undo,
}

/// What remains to be undone after swapoff.
#[derive(Debug)]
enum Undo {
    RemoveFile,
    RemoveZram(String),
}

impl SwapArea {
    /// A swap file of `size` in `dir`, on whatever disk that is.
    pub fn disk_file(dir: &Path, size: Bytes) -> Result<Self> {
        let path = dir.join("swapfile");
        let text = path.display().to_string();
        let area = Self {
            path,
            undo: Undo::RemoveFile,
        };
        // Written, not only reserved: the kernel refuses holes, and a real disk file has none.
        let mebibytes = format!("count={}", size.get() >> 20);
        tool(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={text}"),
                "bs=1M",
                &mebibytes,
                "conv=fsync",
            ],
        )?;
        tool("chmod", &["600", &text])?;
        tool("mkswap", &[&text])?;
        tool("swapon", &[&text])?;
        Ok(area)
    }

    /// A zram device of `size`.
    pub fn zram(size: Bytes) -> Result<Self> {
        let added = "/sys/class/zram-control/hot_add";
        if !Path::new(added).exists() {
            tool("modprobe", &["zram"]).context("this host has no zram")?;
        }
        let index =
            std::fs::read_to_string(added).with_context(|| format!("cannot read {added}"))?;
        let index = index.trim().to_owned();
        let path = PathBuf::from(format!("/dev/zram{index}"));
        let text = path.display().to_string();
        let area = Self {
            path,
            undo: Undo::RemoveZram(index.clone()),
        };
        let disksize = format!("/sys/block/zram{index}/disksize");
        std::fs::write(&disksize, size.get().to_string())
            .with_context(|| format!("cannot write {disksize}"))?;
        tool("mkswap", &[&text])?;
        tool("swapon", &[&text])?;
        Ok(area)
    }
}

impl Drop for SwapArea {
    fn drop(&mut self) {
        let text = self.path.display().to_string();
        let _ = tool("swapoff", &[&text]);
        let removed = match &self.undo {
            Undo::RemoveFile => std::fs::remove_file(&self.path),
            Undo::RemoveZram(index) => std::fs::write("/sys/class/zram-control/hot_remove", index),
        };
        if let Err(error) = removed {
            eprintln!("bench: cannot remove {text}: {error}");
        }
    }
}

/// The fuse-loop device with its pages in memory of its own engine process: what the front end
/// costs without any network.
#[derive(Debug)]
pub struct LocalDevice {
    holder: Child,
    _watchdog: Watchdog,
    // Removed after the holder has unmounted what lies in it.
    _state: tempfile::TempDir,
}

impl LocalDevice {
    /// Starts it and waits until swap is on.
    pub fn start(size: Bytes) -> Result<Self> {
        let state = tempfile::tempdir().context("cannot make a directory")?;
        let watchdog = Watchdog::start(state.path())?;
        let mut command = Command::new(beside("dynamicswap-swapd")?);
        command.args(["--node=bench", "--backend=local", "--slab=16Mi"]);
        command.arg(format!("--size={size}"));
        command.arg(format!("--state-dir={}", state.path().display()));
        command.arg(format!(
            "--control-socket={}",
            state.path().join("swapd.sock").display()
        ));
        let holder = command
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start swapd")?;
        let device = Self {
            holder,
            _watchdog: watchdog,
            _state: state,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::fs::read_to_string("/proc/swaps")?.lines().count() < 2 {
            ensure!(
                Instant::now() < deadline,
                "the local device is not swap after 30 s"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(device)
    }
}

impl Drop for LocalDevice {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.holder);
        // SIGTERM, never -9: the holder swaps off first. One that has ended is fine.
        let _asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ended = self.holder.wait();
    }
}

/// The watchdog over the devices below a directory, beside them for as long as they live: it
/// aborts one that nobody serves, and swaps them off if this program dies.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Starts it.
    pub fn start(below: &Path) -> Result<Self> {
        let mut command = Command::new(beside("dynamicswap-workload")?);
        command.arg("watchdog").arg("--below").arg(below);
        command.args(["--parent", &std::process::id().to_string()]);
        let child = command.stderr(Stdio::null()).spawn();
        Ok(Self(child.context("cannot start the watchdog")?))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // One that has ended had a reason, which its device shows.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Sets `vm.page-cluster` for one run and puts it back: readahead would measure the guess of the
/// kernel, not the device.
#[derive(Debug)]
pub struct PageCluster {
    before: String,
}

const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";

impl PageCluster {
    /// Switches swap readahead off.
    pub fn off() -> Result<Self> {
        let before =
            std::fs::read_to_string(PAGE_CLUSTER).context("cannot read vm.page-cluster")?;
        std::fs::write(PAGE_CLUSTER, "0").context("cannot write vm.page-cluster")?;
        Ok(Self { before })
    }
}

impl Drop for PageCluster {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(PAGE_CLUSTER, &self.before) {
            eprintln!(
                "bench: cannot restore vm.page-cluster to {}: {error}",
                self.before.trim()
            );
        }
    }
}

/// Refuses to measure while any swap is on: the figures would be somebody else's.
pub fn require_no_swap() -> Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").context("cannot read /proc/swaps")?;
    if let Some(line) = swaps.lines().nth(1) {
        bail!("swap is on ({line}): switch it off with 'swapoff -a', then measure again");
    }
    Ok(())
}
