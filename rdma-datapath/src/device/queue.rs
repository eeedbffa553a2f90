//! Settings of a loop device's request queue for its time as a swap device.

use std::path::{Path, PathBuf};

/// What the kernel takes for its own default.
const DEFAULT: &str = "-1";

/// File of the writeback throttle of `/dev/NAME`.
fn throttle_file(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?;
    Some(
        Path::new("/sys/block")
            .join(name)
            .join("queue/wbt_lat_usec"),
    )
}

/// Switches the writeback throttle off. It is made for disks whose reads suffer under writes: it
/// lets one write through at a time once reads take longer than 2 ms, and the task that waits for
/// it is the one that needs the memory. A kernel without it has nothing to switch off.
pub(super) fn release_throttle(device: &Path) {
    set_throttle(device, "0");
}

/// Gives the next user of the device the kernel's default: the setting outlives the binding.
pub(super) fn restore_throttle(device: &Path) {
    set_throttle(device, DEFAULT);
}

fn set_throttle(device: &Path, value: &str) {
    if let Some(file) = throttle_file(device).filter(|file| file.exists())
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
            throttle_file(Path::new("/dev/loop7")).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn device_that_is_not_there_is_no_failure() {
        release_throttle(Path::new("/dev/never-was"));
        restore_throttle(Path::new("/dev/never-was"));
    }
}
