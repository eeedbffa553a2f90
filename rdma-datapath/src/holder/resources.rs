//! Everything that the holder makes at its start and takes away at its end, in that order.
//!
//! Each part undoes itself when it is dropped, so a start that fails half-way leaves the machine
//! as it was.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use dynamicswap_engine::page_guard::PageKey;
use dynamicswap_types::{Bytes, Integrity, SwapDeviceId};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::front::{Front, UblkGuard, kept_choice};
use super::leftovers;
use super::options::{Backend, Options};
use super::process::Process;
use super::takeover::{Revival, Takeover};
use crate::daemon::control_server;
use crate::daemon::mapped_file::{MappedFile, MemoryFileError};
use crate::daemon::memory_mount::{MemoryDirectory, MountError};
use crate::daemon::options::BadInput;
use crate::daemon::random;
use crate::device::swap_area;
use crate::front_end::choice::{self, Choice};
use crate::front_end::ublk::device::{self as ublk, UblkDevice};
use crate::swapd::local;
use crate::swapd::memory::{self, Identity, SwapdMemory};
use crate::swapd::paths::Paths;

/// The descriptors that every engine inherits.
#[derive(Debug)]
pub struct Descriptors {
    /// The FUSE connection, of a fuse-loop device.
    pub fuse: Option<OwnedFd>,
    /// The memory file.
    pub memory: OwnedFd,
    /// The listening control socket.
    pub control: OwnedFd,
    /// The state directory's lock.
    pub lock: OwnedFd,
    /// The spill file.
    pub spill: Option<OwnedFd>,
}

impl Descriptors {
    /// All of them.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        let fixed = [&self.memory, &self.control, &self.lock];
        let others = [&self.fuse, &self.spill].into_iter().flatten();
        fixed.into_iter().chain(others).map(AsFd::as_fd).collect()
    }
}

/// What the holder has made.
#[derive(Debug)]
pub struct Resources {
    // Dropped from top to bottom: descriptors and mappings first, then what they keep busy.
    /// What engines inherit.
    pub descriptors: Descriptors,
    /// The memory file.
    pub memory: SwapdMemory,
    /// What the front end stands on.
    pub front: Front,
    /// Which front end, and why.
    pub choice: Choice,
    _socket: Socket,
    memory_mount: Memory,
    state: StateDirectory,
}

impl Resources {
    /// Makes everything, or takes over what a dead holder's engine still serves. Gives that
    /// engine, too.
    ///
    /// # Errors
    /// [`BadInput`] where the caller can mend it; everything made so far is undone.
    pub fn make(options: &Options) -> anyhow::Result<(Self, Option<Process>)> {
        let state = StateDirectory::take(&options.state_dir)?;
        let Some(lock) = take_lock(&state.paths.lock())? else {
            return Self::take_over(options, state);
        };
        match leftovers::find_ublk(&state.paths, options.size)? {
            Some(device) => Ok((Self::revive(options, state, (lock, device))?, None)),
            None => Ok((Self::make_new(options, state, lock)?, None)),
        }
    }

    fn make_new(
        options: &Options,
        mut state: StateDirectory,
        lock: OwnedFd,
    ) -> anyhow::Result<Self> {
        let choice = choice::choose(options.front_end, options.spill_file.is_some())
            .map_err(BadInput::new)?;
        tracing::info!("front end {}: {}", choice.kind.name(), choice.reason);
        state.created |= leftovers::state_was_created(&state.paths);
        leftovers::clean(&state.paths)?;
        let spill = match &options.spill_file {
            Some(path) => Some(make_spill(path, options.size)?),
            None => None,
        };
        let (mut memory_guard, file, noswap) = Memory::make(options, &state.paths)?;
        let control = control_server::bind(&options.control_socket).map_err(BadInput::new)?;
        let socket = Socket(options.control_socket.clone());
        let identity = Identity {
            device_id: draw_id()?,
            size: options.size,
            slab: options.slab,
            spill: spill.as_ref().map_or(Bytes::ZERO, |_| options.size),
            noswap,
            integrity: options.integrity,
        };
        let descriptor = file.as_fd().try_clone_to_owned();
        let descriptor = descriptor.context("duplicate a descriptor")?;
        let (memory, _) = SwapdMemory::create(file, &identity)?;
        let holder = std::process::id();
        memory.header().holder_pid.store(holder, Ordering::Release);
        memory.set_state_created(state.created);
        if options.integrity != Integrity::None {
            let key = random::bytes().context("draw the device's key")?;
            memory.set_page_key(&PageKey::from_bytes(key));
        }
        let (front, fuse) = Front::make(choice.kind, &state.paths, options.size)?;
        memory.set_ublk(front.ublk());
        memory_guard.ublk = front.ublk();
        Ok(Self {
            descriptors: Descriptors {
                fuse,
                memory: descriptor,
                control: OwnedFd::from(control),
                lock,
                spill,
            },
            memory,
            front,
            choice,
            _socket: socket,
            memory_mount: memory_guard,
            state,
        })
    }

    fn take_over(
        options: &Options,
        mut state: StateDirectory,
    ) -> anyhow::Result<(Self, Option<Process>)> {
        // Whatever fails here must leave everything to the engine, which serves it.
        state.keep = true;
        let takeover = Takeover::begin(options, &state.paths)?;
        state.created = takeover.memory.is_state_created();
        let ublk = takeover.memory.ublk();
        let mut resources = Self {
            descriptors: takeover.descriptors,
            front: Front::take_over(ublk, &state.paths, options.size)?,
            choice: kept_choice(ublk),
            memory: takeover.memory,
            _socket: Socket(takeover.control_socket),
            memory_mount: Memory {
                state: state.paths.state.clone(),
                ublk,
            },
            state,
        };
        resources.state.keep = false;
        Ok((resources, Some(takeover.engine)))
    }

    /// Goes on with a device that outlived its holder and its engine: swap is on, requests wait, and
    /// the memory file is there.
    fn revive(
        options: &Options,
        mut state: StateDirectory,
        (lock, device): (OwnedFd, UblkDevice),
    ) -> anyhow::Result<Self> {
        // Whatever fails here must leave the memory file to another try.
        state.keep = true;
        let kept = Revival::begin(options, &state.paths, &device)?;
        let control = control_server::bind(&options.control_socket).map_err(BadInput::new)?;
        let holder = std::process::id();
        let header = kept.memory.header();
        header.holder_pid.store(holder, Ordering::Release);
        let ublk = Some(device.number());
        tracing::warn!(
            "{} of an earlier swapd is still used as swap: it is served again",
            ublk::path(device.number()).display()
        );
        state.created = kept.memory.is_state_created();
        state.keep = false;
        Ok(Self {
            descriptors: Descriptors {
                fuse: None,
                memory: kept.descriptor,
                control: OwnedFd::from(control),
                lock,
                spill: None,
            },
            memory: kept.memory,
            front: Front::Ublk(Box::new(UblkGuard::new(device, &state.paths.state))),
            choice: kept_choice(ublk),
            _socket: Socket(options.control_socket.clone()),
            memory_mount: Memory {
                state: state.paths.state.clone(),
                ublk,
            },
            state,
        })
    }

    /// Says in the memory file which device the front end has now.
    pub fn note_front(&mut self) {
        let ublk = self.front.ublk();
        self.memory.set_ublk(ublk);
        self.memory_mount.ublk = ublk;
    }

    /// Paths under the state directory.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.state.paths
    }
}

/// The state directory, locked for this holder.
#[derive(Debug)]
struct StateDirectory {
    paths: Paths,
    created: bool,
    keep: bool,
    _lock: OwnedFd,
}

impl StateDirectory {
    fn take(path: &Path) -> anyhow::Result<Self> {
        let created = !path.exists();
        let place = path.display();
        fs::create_dir_all(path).map_err(|error| {
            BadInput::new(format!(
                "the state directory {place} cannot be made ({error}): choose another --state-dir"
            ))
        })?;
        let path = fs::canonicalize(path).with_context(|| format!("resolve {place}"))?;
        let paths = Paths::from(path.as_path());
        let file = paths.holder_lock();
        let Some(lock) = take_lock(&file)? else {
            let owner = fs::read_to_string(&file).unwrap_or_default();
            return Err(BadInput::new(format!(
                "another swapd (process {}) already serves {}: stop it, or choose another --state-dir",
                owner.trim(),
                paths.state.display()
            ))
            .into());
        };
        fs::write(&file, format!("{}\n", std::process::id()))
            .with_context(|| format!("write {}", file.display()))?;
        Ok(Self {
            paths,
            created,
            keep: false,
            _lock: lock,
        })
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        let lock = self.paths.holder_lock();
        report("remove", fs::remove_file(&lock), &lock);
        if self.keep {
            return;
        }
        let lock = self.paths.lock();
        report("remove", fs::remove_file(&lock), &lock);
        if self.created {
            // Another program's files in it are a reason to leave it.
            let _ = fs::remove_dir(&self.paths.state);
        }
    }
}

/// Takes a lock that lives as long as its descriptor and the copies of it; `None` if it is taken.
fn take_lock(path: &Path) -> anyhow::Result<Option<OwnedFd>> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| {
            BadInput::new(format!(
                "{} cannot be opened ({error}): run as root",
                path.display()
            ))
        })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file.into())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno).with_context(|| format!("lock {}", path.display())),
    }
}

/// The noswap tmpfs with the memory files; it stays if the kernel still swaps to the ublk device.
#[derive(Debug)]
struct Memory {
    state: PathBuf,
    ublk: Option<u32>,
}

impl Memory {
    fn make(options: &Options, paths: &Paths) -> anyhow::Result<(Self, MappedFile, bool)> {
        let geometry = memory::geometry(options.size, options.slab, options.integrity)?;
        let file_bytes = memory::file_bytes(geometry);
        let tables = Bytes::new(u64::try_from(file_bytes)?);
        let content = match options.backend {
            Backend::Local => local::content_bytes(options.size, options.slab),
            Backend::Remote => Bytes::ZERO,
        };
        // The kept document: at most one frame, and its successor while it is written.
        let document = Bytes::new(2 * dynamicswap_proto::frame::FRAME_BYTES_MAX as u64);
        let room = tables.saturating_add(content).saturating_add(document);
        check_memory(tables.saturating_add(content), options)?;
        let directory = MemoryDirectory::prepare(&paths.state, room).map_err(mount_error)?;
        for warning in &directory.warnings {
            tracing::warn!("{warning}");
        }
        let guard = Self {
            state: paths.state.clone(),
            ublk: None,
        };
        let file = make_file(&paths.memory_file(), file_bytes, options)?;
        if options.backend == Backend::Local {
            let content = local::content_bytes(options.size, options.slab);
            make_file(&paths.local_content(), content.as_usize(), options)?;
        }
        if let Err(error) = file.lock() {
            tracing::warn!("{error}: without CAP_IPC_LOCK the noswap mount alone protects it");
        }
        Ok((guard, file, directory.noswap))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Without it the pages are lost, and the device can never be served again.
        let needed = |number| swap_area::is_on(&ublk::path(number)).unwrap_or(true);
        if self.ublk.is_some_and(needed) {
            return;
        }
        report(
            "unmount the memory of",
            MemoryDirectory::discard(&self.state),
            &self.state,
        );
    }
}

/// Taking more memory than there is would call the OOM killer, which would choose this process.
fn check_memory(needed: Bytes, options: &Options) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    match mem_available(&text) {
        Some(available) if needed > available => Err(BadInput::new(format!(
            "a device of {} needs {needed} of memory here, and {available} are available: choose a smaller --size",
            options.size
        ))
        .into()),
        _ => Ok(()),
    }
}

fn mem_available(meminfo: &str) -> Option<Bytes> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(Bytes::new(kib.saturating_mul(1024)))
}

fn make_file(path: &Path, bytes: usize, options: &Options) -> anyhow::Result<MappedFile> {
    MappedFile::create(path, bytes).map_err(|error| match error {
        MemoryFileError::NoMemory { .. } => BadInput::new(format!(
            "a device of {} needs {} of memory here, which there is not: choose a smaller --size",
            options.size,
            Bytes::new(bytes as u64)
        ))
        .into(),
        other => anyhow::Error::from(other),
    })
}

fn mount_error(error: MountError) -> anyhow::Error {
    match error {
        MountError::Refused { .. } => BadInput::new(error).into(),
        other => other.into(),
    }
}

/// The control socket's file.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        report("remove", fs::remove_file(&self.0), &self.0);
    }
}

/// The spill file: made with all its blocks, and unlinked at once, so that nothing is left of it
/// whatever happens.
fn make_spill(path: &Path, size: Bytes) -> anyhow::Result<OwnedFd> {
    let place = path.display();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| {
        BadInput::new(match errno {
            Errno::EXIST => format!("the spill file {place} exists already: remove it, or choose another --spill-file"),
            Errno::INVAL => format!("the spill file {place} cannot be opened for direct I/O: choose a --spill-file on a disk file system"),
            other => format!("the spill file {place} cannot be made ({other}): choose another --spill-file"),
        })
    })?;
    let unlinked = fs::remove_file(path);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size.get()).map_err(|errno| {
        BadInput::new(format!("the disk has no room for the spill file {place} of {size} ({errno}): choose another --spill-file or a smaller --size"))
    })?;
    unlinked.with_context(|| format!("unlink {place}"))?;
    Ok(file)
}

fn draw_id() -> anyhow::Result<SwapDeviceId> {
    let bytes = random::bytes().context("draw the device's id")?;
    Ok(SwapDeviceId::from_bytes(bytes))
}

/// The error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

/// What cannot be undone is said, and the rest is undone all the same.
pub(super) fn report<E: std::error::Error + 'static>(
    action: &str,
    result: Result<(), E>,
    path: &Path,
) {
    if let Err(error) = result {
        tracing::warn!("could not {action} {}: {}", path.display(), chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let _first = StateDirectory::take(directory.path()).expect("free");
        let error = StateDirectory::take(directory.path()).expect_err("taken");
        let sentence = error.to_string();
        assert!(
            sentence.contains(&std::process::id().to_string()),
            "{sentence}"
        );
        assert!(error.downcast_ref::<BadInput>().is_some());
    }

    #[test]
    fn created_state_directory_is_removed_and_a_found_one_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = directory.path().join("state");
        drop(StateDirectory::take(&made).expect("made"));
        assert!(!made.exists());
        drop(StateDirectory::take(directory.path()).expect("found"));
        assert!(directory.path().exists());
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
    }

    #[test]
    fn available_memory_is_read_from_the_kernel_s_words() {
        let meminfo = "MemTotal: 9 kB\nMemAvailable:     8 kB\n";
        assert_eq!(mem_available(meminfo), Some(Bytes::new(8192)));
        assert_eq!(mem_available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn spill_file_that_exists_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("spill");
        fs::write(&path, b"a person's file").expect("written");
        let error = make_spill(&path, Bytes::from_mib(1)).expect_err("refused");
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(fs::read(&path).expect("kept"), b"a person's file");
    }
}
