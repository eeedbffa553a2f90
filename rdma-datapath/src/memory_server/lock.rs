//! One memory server at a time on a memory: a lock, and the end of the process before.
//!
//! The kernel gives the lock of a killed process away while it still takes its other descriptors
//! apart, RDMA queue pairs among them. So the process before must be gone altogether, before this
//! one zeroes a slot or accepts a session.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::daemon::options::BadInput;

/// How long a start waits for the lock of the process before it. One that was killed keeps it, and
/// its port, until its memory is taken apart, which takes a while for many gigabytes; refusing at
/// once would make a supervisor back off for longer.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(3);
/// And how long, once it has the lock, for the rest of that process.
const END_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Takes the lock, which is held as long as the process lives: two servers on one memory would
/// each believe it theirs.
///
/// # Errors
/// [`BadInput`] if another server uses the directory, or the one before does not end.
pub(super) fn take(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("memory-server.lock");
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let file = options.open(&path);
    let mut file = file.with_context(|| format!("open '{}'", path.display()))?;
    let deadline = Instant::now() + PREDECESSOR_PATIENCE;
    let locked = loop {
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        if locked != Err(Errno::WOULDBLOCK) || Instant::now() >= deadline {
            break locked;
        }
        std::thread::park_timeout(LOOK_EVERY);
    };
    match locked {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(BadInput::new(format!(
                "another memory server uses --state-dir '{}': stop it, or choose another directory",
                state_dir.display()
            ))
            .into());
        }
        Err(errno) => return Err(errno).with_context(|| format!("lock '{}'", path.display())),
    }
    wait_for_end(&mut file)?;
    let written = file
        .rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| write!(file, "{}", std::process::id()));
    written.with_context(|| format!("write '{}'", path.display()))?;
    Ok(file)
}

fn wait_for_end(file: &mut File) -> anyhow::Result<()> {
    let mut text = String::new();
    // What is no number was written by no server.
    let before: u32 = match file.read_to_string(&mut text) {
        Ok(_) => text.trim().parse().unwrap_or_default(),
        Err(_) => 0,
    };
    let deadline = Instant::now() + END_TIME_MAX;
    while before != 0 && lives(before) {
        if Instant::now() > deadline {
            return Err(BadInput::new(format!(
                "the memory server before, process {before}, was killed and does not end: look at \
                 what it waits for in /proc/{before}/stack"
            ))
            .into());
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    Ok(())
}

/// Whether a process of this program still has its descriptors.
fn lives(pid: u32) -> bool {
    let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match (name_and_state(&own), name_and_state(&stat)) {
        (Some((own, _)), Some((name, state))) => {
            pid != std::process::id() && name == own && !matches!(state, 'Z' | 'X')
        }
        _ => false,
    }
}

/// Name and state in the text of a `/proc/PID/stat`.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once('(')?;
    Some((name, rest.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_state_stand_around_the_last_bracket() {
        assert_eq!(
            name_and_state("12 (dynamicswap-mem) S 1 12"),
            Some(("dynamicswap-mem", 'S'))
        );
        assert_eq!(name_and_state("7 (a) b) Z 1"), Some(("a) b", 'Z')));
        assert_eq!(name_and_state(""), None);
    }

    #[test]
    fn second_server_is_refused_and_a_dead_one_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("memory-server.lock");
        fs::write(&path, "4194304").expect("written");
        let held = take(dir.path()).expect("nobody has it");
        let kept = fs::read_to_string(&path).expect("readable");
        assert_eq!(kept, std::process::id().to_string());
        let refused = take(dir.path()).expect_err("it is held");
        assert!(refused.to_string().contains("another memory server"));
        drop(held);
        take(dir.path()).expect("it is free");
    }

    #[test]
    fn other_programs_are_not_waited_for() {
        assert!(!lives(1), "the first process is no test");
    }
}
