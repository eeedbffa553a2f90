//! Layers of tests: which must run, which are run by a step of their own, and no test without an
//! end. What a layer needs of its host is the layer's own matter.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Names the layers that must run, with commas between them.
const REQUIRED: &str = "DYNAMICSWAP_REQUIRE";

/// Whether the environment says that this layer must run: then a skip is a failure.
#[must_use]
pub fn is_required(layer: &str) -> bool {
    let required = std::env::var(REQUIRED).unwrap_or_default();
    required.split(',').any(|name| name.trim() == layer)
}

/// Whether the layer that the variable `asked` starts is run by a step of its own, and not now.
#[must_use]
pub fn is_run_apart(asked: &str) -> bool {
    std::env::var_os(asked).is_some_and(|value| value == "apart")
}

/// Runs a test. One that has not ended after `limit` hangs, and ends the whole run; what the run
/// has started must end with its process.
pub fn run_within<T>(name: &'static str, limit: Duration, test: impl FnOnce() -> T) -> T {
    let (ended, watch) = channel::<()>();
    std::thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            give_up(name, limit);
        }
    });
    let result = test();
    drop(ended);
    result
}

#[expect(
    clippy::disallowed_methods,
    reason = "the thread that should return hangs"
)]
fn give_up(name: &str, limit: Duration) {
    eprintln!("{name} has not ended after {limit:?}: the whole run is given up");
    std::process::exit(101);
}
