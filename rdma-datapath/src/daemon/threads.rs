//! Threads of a daemon: named, and with a stack that is small enough to be locked in memory.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Stack of each thread. `mlockall` makes all of it resident, so the usual 2 MiB would cost
/// more than the tables of a small device.
pub const STACK_BYTES: usize = 256 << 10;

/// Starts a thread.
///
/// # Errors
/// The host's, with the thread's name.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .map_err(|error| io::Error::new(error.kind(), format!("start thread '{name}': {error}")))
}

/// Where the kernel names the processors that it keeps ordinary work away from.
const ISOLATED: &str = "/sys/devices/system/cpu/isolated";

/// Keeps the calling thread on the first isolated processor, if the host has one; gives its number.
/// On a host without one the scheduler knows better than we do which processor is free.
#[must_use]
pub fn pin_to_isolated() -> Option<usize> {
    let cpu = first_cpu(&std::fs::read_to_string(ISOLATED).ok()?)?;
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return None;
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).ok()?;
    Some(cpu)
}

/// The first of a list such as `2-3,6`.
fn first_cpu(list: &str) -> Option<usize> {
    list.trim().split([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_isolated_processor_is_read() {
        assert_eq!(first_cpu("\n"), None);
        assert_eq!(first_cpu("3\n"), Some(3));
        assert_eq!(first_cpu("2-3,6\n"), Some(2));
    }
}
