//! Taking over from a holder that died: its engine serves on, and its descriptors are taken out
//! of the engine, so that no page is lost and nobody waits.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use dynamicswap_engine::tables::AttachState;
use dynamicswap_types::Bytes;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::options::Options;
use super::process::Process;
use super::resources::Descriptors;
use crate::daemon::mapped_file::MappedFile;
use crate::daemon::options::BadInput;
use crate::device::{loop_device, swap_area};
use crate::front_end::choice::FrontEndKind;
use crate::front_end::ublk::device::{self as ublk, UblkDevice};
use crate::swapd::memory::{Identity, SwapdMemory};
use crate::swapd::paths::Paths;

/// What an orphaned engine and its memory file give.
#[derive(Debug)]
pub struct Takeover {
    /// The engine.
    pub engine: Process,
    /// Copies of the descriptors that it inherited.
    pub descriptors: Descriptors,
    /// The memory file.
    pub memory: SwapdMemory,
    /// Where the control socket is bound.
    pub control_socket: PathBuf,
}

impl Takeover {
    /// Takes over the engine that serves this state directory.
    ///
    /// # Errors
    /// [`BadInput`] if the device is another one than the options say; else what is missing.
    pub fn begin(options: &Options, paths: &Paths) -> anyhow::Result<Self> {
        let path = paths.memory_file();
        let open = || MappedFile::open(&path);
        let file = open()?;
        let memory_descriptor = file
            .as_fd()
            .try_clone_to_owned()
            .context("duplicate a descriptor")?;
        let (memory, _) = SwapdMemory::open(file, open()?)?;
        check_same(options, &memory)?;
        let pid = memory.header().engine_pid.load(Ordering::Acquire);
        let engine = Process::adopt(pid)
            .with_context(|| format!("watch the orphaned engine (process {pid})"))?;
        let numbers = memory.engine_descriptors();
        let take = |number: RawFd| {
            pidfd_getfd(&engine, number, PidfdGetfdFlags::empty()).with_context(|| {
                format!("take descriptor {number} from the orphaned engine (process {pid})")
            })
        };
        let control = UnixListener::from(take(numbers.control)?);
        let address = control.local_addr().context("look at the control socket")?;
        let control_socket = address
            .as_pathname()
            .map_or_else(|| options.control_socket.clone(), Path::to_path_buf);
        let descriptors = Descriptors {
            fuse: numbers.fuse.map(take).transpose()?,
            memory: memory_descriptor,
            control: OwnedFd::from(control),
            lock: take(numbers.lock)?,
            spill: numbers.spill.map(take).transpose()?,
        };
        memory
            .header()
            .holder_pid
            .store(std::process::id(), Ordering::Release);
        tracing::info!("took over engine (process {pid}) from a holder that died");
        Ok(Self {
            engine,
            descriptors,
            memory,
            control_socket,
        })
    }
}

/// Refuses options that are not the device's.
///
/// # Errors
/// [`BadInput`].
pub fn check_same(options: &Options, memory: &SwapdMemory) -> anyhow::Result<()> {
    let Identity {
        size,
        slab,
        integrity,
        ..
    } = memory.identity()?;
    if (size, slab, integrity) == (options.size, options.slab, options.integrity) {
        return Ok(());
    }
    Err(BadInput::new(format!(
        "the state directory's device has --size {size}, --slab {slab} and --integrity {integrity}: \
         start swapd with these, or detach the device first to make another one"
    ))
    .into())
}

/// What a ublk device that outlived holder and engine goes on with.
#[derive(Debug)]
pub struct Revival {
    /// The memory file.
    pub memory: SwapdMemory,
    /// A descriptor of it, for engines.
    pub descriptor: OwnedFd,
}

impl Revival {
    /// Opens what is left under this state directory.
    ///
    /// # Errors
    /// [`BadInput`] if the device's pages are lost with what is missing, or if the device is another
    /// one than the options say.
    pub fn begin(options: &Options, paths: &Paths, device: &UblkDevice) -> anyhow::Result<Self> {
        let lost = |what: &str| {
            let (device, state) = (ublk::path(device.number()), paths.state.display());
            BadInput::new(format!(
                "{} is still used as swap, and its pages are lost because {what}: end the processes \
                 that swapped, run `dynamicswap-swapd abort --state-dir {state}`, then start again",
                device.display()
            ))
        };
        let path = paths.memory_file();
        let open = || MappedFile::open(&path);
        let opened = open().ok().zip(open().ok());
        let (file, again) = opened.ok_or_else(|| lost("its memory file is gone"))?;
        if let Err(error) = file.lock() {
            tracing::warn!("{error}: without CAP_IPC_LOCK the noswap mount alone protects it");
        }
        let descriptor = file.as_fd().try_clone_to_owned();
        let descriptor = descriptor.context("duplicate a descriptor")?;
        let (memory, _) = SwapdMemory::open(file, again)?;
        check_same(options, &memory)?;
        if memory.ublk() != Some(device.number()) {
            return Err(lost("its memory file is that of another device").into());
        }
        if memory.identity()?.spill != Bytes::ZERO {
            return Err(lost("its spill file ended with the swapd that made it").into());
        }
        Ok(Self { memory, descriptor })
    }
}

/// What a ublk device is doing, as the kernel tells it.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn ublk_state(number: u32) -> anyhow::Result<(AttachState, Option<u32>)> {
    if swap_area::is_on(&ublk::path(number))? {
        Ok((AttachState::Attached, Some(number)))
    } else {
        Ok((AttachState::Detached, None))
    }
}

/// What the block device is doing, as the kernel tells it. `None` while a helper of the dead
/// holder is still at work.
///
/// # Errors
/// The kernel's lists cannot be read.
pub fn device_state(backing: &Path) -> anyhow::Result<Option<(AttachState, Option<u32>)>> {
    let bound = loop_device::bound_to(backing)?;
    for device in &bound {
        if swap_area::is_on(device)? {
            return Ok(Some((
                AttachState::Attached,
                FrontEndKind::FuseLoop.number(device),
            )));
        }
    }
    Ok(bound.is_empty().then_some((AttachState::Detached, None)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use dynamicswap_types::{Integrity, SlabSize, SwapDeviceId};

    use super::*;
    use crate::holder::options::CommandLine;
    use crate::swapd::memory;

    fn options(size: &str, integrity: &str) -> Options {
        let line = ["swapd", "--node", "n", "--state-dir", "/s"];
        let control = ["--control-socket", "/c"];
        let device = ["--size", size, "--integrity", integrity];
        let line = line.iter().chain(&control).chain(&device);
        let line = CommandLine::try_parse_from(line).expect("valid");
        line.holder.expect("the holder's")
    }

    #[test]
    fn options_of_another_device_are_refused_and_the_right_ones_are_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = Identity {
            device_id: SwapDeviceId::from_bytes([7; 16]),
            size: Bytes::from_mib(128),
            slab: SlabSize::DEFAULT,
            spill: Bytes::ZERO,
            noswap: true,
            integrity: Integrity::Full,
        };
        let geometry = memory::geometry(identity.size, identity.slab, identity.integrity);
        let bytes = memory::file_bytes(geometry.expect("possible"));
        let path = directory.path().join("memory");
        let file = MappedFile::create(&path, bytes).expect("room");
        let (memory, _) = SwapdMemory::create(file, &identity).expect("fits");
        assert!(check_same(&options("128Mi", "full"), &memory).is_ok());
        for (size, integrity) in [("128Mi", "tag64"), ("128Mi", "none"), ("256Mi", "full")] {
            let error = check_same(&options(size, integrity), &memory).expect_err("another device");
            assert!(error.downcast_ref::<BadInput>().is_some());
            let sentence = error.to_string();
            for said in ["--size 128Mi", "--slab 64Mi", "--integrity full"] {
                assert!(sentence.contains(said), "{sentence}");
            }
        }
    }
}
