//! Whether the container that this process is in may swap, and the wait until it may.
//!
//! Reads one file of its own cgroup and changes nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

/// The limit of a container that sees its own cgroup v2 alone, as Kubernetes' runtimes have it.
pub const OWN_LIMIT: &str = "/sys/fs/cgroup/memory.swap.max";
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why it was not waited for, or for nothing.
#[derive(Debug, Error)]
pub enum AllowanceError {
    /// The file cannot be read: there is no cgroup v2, or it is not this container's.
    #[error("whether this container may swap is not known: {path} cannot be read")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody let it out in time.
    #[error(
        "this container was not let swap within {0:?}: its memory.swap.max is 0; a policy in force must \
         select it, and the swap device be attached"
    )]
    NotAllowed(Duration),
}

/// Waits until the limit in `file` lets anything out, for `time` at the most. Without that, whoever fills
/// memory faster than the limit is raised is killed.
///
/// # Errors
/// [`AllowanceError`].
pub fn wait(file: &Path, time: Duration) -> Result<(), AllowanceError> {
    let deadline = Instant::now() + time;
    loop {
        let limit = std::fs::read_to_string(file).map_err(|source| AllowanceError::Unknown {
            path: file.to_owned(),
            source,
        })?;
        if limit.trim() != "0" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(AllowanceError::NotAllowed(time));
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit's file, removed with the value.
    struct Limit(PathBuf);

    impl Limit {
        fn of(name: &str, text: &str) -> Self {
            let name = format!("dynamicswap-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).expect("written");
            Self(path)
        }
    }

    impl Drop for Limit {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn container_that_may_swap_does_not_wait() {
        for text in ["max\n", "4096\n"] {
            let limit = Limit::of("may-swap", text);
            wait(&limit.0, Duration::ZERO).expect("it may");
        }
    }

    #[test]
    fn limit_that_is_raised_ends_the_wait() {
        let limit = Limit::of("raised", "0\n");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait(&limit.0, Duration::from_secs(60)));
            std::fs::write(&limit.0, "max\n").expect("written");
            waits.join().expect("joined").expect("it may");
        });
    }

    #[test]
    fn nobody_is_waited_for_longer_than_said() {
        let limit = Limit::of("stays", "0\n");
        let error = wait(&limit.0, Duration::ZERO).expect_err("not allowed");
        assert!(
            error.to_string().contains("memory.swap.max is 0"),
            "{error}"
        );
        let error = wait(Path::new("/nowhere/at/all"), Duration::ZERO).expect_err("no file");
        assert!(matches!(error, AllowanceError::Unknown { .. }));
    }
}
