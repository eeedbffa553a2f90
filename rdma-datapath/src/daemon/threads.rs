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
