//! What an earlier swapd left behind when it died with all its engines: cleaned, or refused with
//! the sentence that says what to do.
//!
//! Called with the state directory's lock held, which every engine process inherits: so nobody
//! serves the earlier connection any more, and it answers everything with an error at once.

use std::path::Path;

use anyhow::Context;
use dynamicswap_types::Bytes;

use super::front;
use crate::daemon::mapped_file::MappedFile;
use crate::daemon::memory_mount::MemoryDirectory;
use crate::daemon::options::BadInput;
use crate::device::{self, loop_device, swap_area};
use crate::front_end::fuse_loop::connection;
use crate::front_end::ublk::device::{self as ublk, UblkDevice};
use crate::swapd::memory::SwapdMemory;
use crate::swapd::paths::Paths;

/// The ublk device of an earlier swapd that the kernel still swaps to. One that it does not is
/// removed.
///
/// # Errors
/// The kernel's lists cannot be read, or the device cannot be removed.
pub fn find_ublk(paths: &Paths, size: Bytes) -> anyhow::Result<Option<UblkDevice>> {
    let found = UblkDevice::find(&paths.state, size);
    let device = found.unwrap_or_else(|error| {
        // Whether there is one at all is not known; `clean` looks at the swap that is on.
        tracing::warn!("cannot look for ublk devices of an earlier swapd: {error}");
        None
    });
    let Some(mut device) = device else {
        return Ok(None);
    };
    let path = ublk::path(device.number());
    if swap_area::is_on(&path)? {
        return Ok(Some(device));
    }
    tracing::warn!("{} of an earlier swapd is removed", path.display());
    device.remove().context("clean up after an earlier swapd")?;
    front::forget(device.number());
    Ok(None)
}

/// Cleans up, or refuses.
///
/// # Errors
/// [`BadInput`] if pages are still in the earlier device's swap area: they are lost, and whoever
/// needs them must be ended by a person. Else what could not be cleaned.
pub fn clean(paths: &Paths) -> anyhow::Result<()> {
    let ublk = kept_memory(paths).and_then(|memory| memory.ublk());
    if let Some(path) = ublk.map(ublk::path).filter(|path| path.exists())
        && swap_area::is_on(&path)?
    {
        refuse_pages(&path)?;
    }
    let backing = paths.backing();
    for bound in loop_device::bound_to(&backing)? {
        if swap_area::is_on(&bound)? {
            refuse_pages(&bound)?;
            tracing::warn!("{} of an earlier swapd is turned off", bound.display());
        }
        device::detach(&bound, Some(&backing)).context("clean up after an earlier swapd")?;
    }
    let mount = paths.mount();
    while let Some(kind) = connection::mounted_type(&mount)? {
        tracing::warn!(
            "{kind} of an earlier swapd is unmounted from {}",
            mount.display()
        );
        connection::unmount(&mount)?;
    }
    MemoryDirectory::discard(&paths.state).context("clean up after an earlier swapd")?;
    Ok(())
}

/// Whether the swapd that left the memory file had made the state directory.
pub fn state_was_created(paths: &Paths) -> bool {
    kept_memory(paths).is_some_and(|memory| memory.is_state_created())
}

fn kept_memory(paths: &Paths) -> Option<SwapdMemory> {
    let open = || MappedFile::open(&paths.memory_file());
    let (file, again) = open().ok().zip(open().ok())?;
    let (memory, _) = SwapdMemory::open(file, again).ok()?;
    Some(memory)
}

fn refuse_pages(device: &Path) -> anyhow::Result<()> {
    match swap_area::used(device)? {
        Some(Bytes::ZERO) | None => Ok(()),
        Some(used) => Err(BadInput::new(format!(
            "{device} still holds {kib} KiB that an earlier swapd took with it when it died: end \
             the processes that swapped, run `swapoff {device}`, then start again",
            device = device.display(),
            kib = used.get() / 1024
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_state_directory_needs_no_cleaning() {
        let directory = tempfile::tempdir().expect("a directory");
        clean(&Paths::from(directory.path())).expect("nothing to clean");
    }
}
