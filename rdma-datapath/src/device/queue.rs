//! Settings of a device's request queue for its time as a swap device.

use std::path::{Path, PathBuf};

use crate::front_end::ublk::{DEPTH, DEPTH_SPARE};

/// What the kernel takes for its own default.
const DEFAULT: &str = "-1";

/// A ublk driver of 6.12 that finds no idle tag notices a dead server when a request is older than
/// this. A second line: some tags are left idle.
const REQUEST_TIMEOUT_MS: &str = "1000";

/// A file of the request queue of `/dev/NAME`.
fn file(device: &Path, setting: &str) -> Option<PathBuf> {
    let name = device.file_name()?;
    Some(
        Path::new("/sys/block")
            .join(name)
            .join("queue")
            .join(setting),
    )
}

/// Keeps the kernel from using every tag of a ublk device at once, because the driver notices the
/// death of a server by its idle tags. No scheduler: swap has its own order, and a scheduler has
/// tags of its own.
pub(super) fn spare_tags(device: &Path) {
    set(device, "scheduler", "none");
    set(device, "nr_requests", &(DEPTH - DEPTH_SPARE).to_string());
    set(device, "io_timeout", REQUEST_TIMEOUT_MS);
}

/// Switches the writeback throttle off. It is made for disks whose reads suffer under writes: it
/// lets one write through at a time once reads take longer than 2 ms, and the task that waits for
/// it is the one that needs the memory. A kernel without it has nothing to switch off.
pub(super) fn release_throttle(device: &Path) {
    set(device, "wbt_lat_usec", "0");
}

/// Gives the next user of the device the kernel's default: the setting outlives the binding.
pub(super) fn restore_throttle(device: &Path) {
    set(device, "wbt_lat_usec", DEFAULT);
}

fn set(device: &Path, setting: &str, value: &str) {
    if let Some(file) = file(device, setting).filter(|file| file.exists())
        && let Err(error) = std::fs::write(&file, value)
    {
        // Slower, not wrong.
        tracing::warn!("cannot write {value} to {}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_named_after_the_device() {
        let expected = Path::new("/sys/block/loop7/queue/wbt_lat_usec");
        assert_eq!(
            file(Path::new("/dev/loop7"), "wbt_lat_usec").as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn device_that_is_not_there_is_no_failure() {
        release_throttle(Path::new("/dev/never-was"));
        restore_throttle(Path::new("/dev/never-was"));
        spare_tags(Path::new("/dev/never-was"));
    }
}
