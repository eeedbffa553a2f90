//! Start-up self-protection, in the order of the design: a process on the swap path must never
//! be swapped out, wait for its own device when it allocates, or be chosen by the OOM killer.
//!
//! Call [`Protection::start`] on the main thread before any other thread exists: the IO-flusher
//! flag is inherited by threads that are made later.

use std::fs;

use dynamicswap_proto::common::v1 as pb;
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, configure_io_flusher_behavior, is_io_flusher,
    set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities};

/// Whether the host permitted a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permitted {
    /// Done.
    Yes,
    /// Refused, and why.
    No(Errno),
}

impl From<Result<(), Errno>> for Permitted {
    fn from(result: Result<(), Errno>) -> Self {
        match result {
            Ok(()) => Self::Yes,
            Err(errno) => Self::No(errno),
        }
    }
}

/// What the host permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// `RLIMIT_MEMLOCK` raised. Not needed with `CAP_IPC_LOCK`.
    pub memlock_limit: Permitted,
    /// All present and future memory locked.
    pub locked: Permitted,
    /// `PR_SET_IO_FLUSHER` set, and read back as set.
    pub io_flusher: Permitted,
    /// `oom_score_adj` at -1000.
    pub oom_score: Permitted,
    /// No core dumps, no ptrace by others.
    pub not_dumpable: Permitted,
}

impl Protection {
    /// Takes each measure; what the host refuses is a fact and not an error.
    #[must_use]
    pub fn start() -> Self {
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        let memlock_limit = setrlimit(Resource::Memlock, unlimited).into();
        let locked = lock_everything(memlock_limit).into();
        let io_flusher = configure_io_flusher_behavior(true)
            .and_then(|()| {
                if is_io_flusher()? {
                    Ok(())
                } else {
                    Err(Errno::PERM)
                }
            })
            .into();
        let oom_score = fs::write("/proc/self/oom_score_adj", "-1000")
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .into();
        let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable).into();
        Self {
            memlock_limit,
            locked,
            io_flusher,
            oom_score,
            not_dumpable,
        }
    }

    /// The same for a report.
    #[must_use]
    pub fn report(&self) -> pb::Protection {
        let is_permitted = |permitted: Permitted| permitted == Permitted::Yes;
        pb::Protection {
            locked: is_permitted(self.locked),
            io_flusher: is_permitted(self.io_flusher),
            oom_score: is_permitted(self.oom_score),
            not_dumpable: is_permitted(self.not_dumpable),
        }
    }

    /// What the host refused, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let measures = [
            (
                self.locked,
                "memory could not be locked",
                "under pressure this daemon can be swapped out and stall; give it CAP_IPC_LOCK",
            ),
            (
                self.io_flusher,
                "PR_SET_IO_FLUSHER was refused",
                "an allocation under pressure can wait for its own device; give it CAP_SYS_RESOURCE",
            ),
            (
                self.oom_score,
                "oom_score_adj could not be set to -1000",
                "the OOM killer may choose this daemon; give it CAP_SYS_RESOURCE",
            ),
            (
                self.not_dumpable,
                "PR_SET_DUMPABLE was refused",
                "swapped pages can end up in a core dump",
            ),
        ];
        let refused = measures.into_iter().filter_map(|(permitted, what, so)| {
            let Permitted::No(errno) = permitted else {
                return None;
            };
            Some(format!("{what} ({errno}): {so}"))
        });
        refused.collect()
    }
}

/// Locks present and future memory. Not under a limit: `MCL_FUTURE` would turn every later
/// allocation above it into a failure.
fn lock_everything(memlock_limit: Permitted) -> Result<(), Errno> {
    let exempt =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if exempt || memlock_limit == Permitted::Yes {
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
    } else {
        Err(Errno::PERM)
    }
}

/// Whether the calling thread has the IO-flusher flag; false where the host does not tell.
#[must_use]
pub fn thread_is_io_flusher() -> bool {
    is_io_flusher().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_one_sentence_and_success_is_silent() {
        let good = Protection {
            memlock_limit: Permitted::No(Errno::PERM),
            locked: Permitted::Yes,
            io_flusher: Permitted::Yes,
            oom_score: Permitted::Yes,
            not_dumpable: Permitted::Yes,
        };
        assert!(good.warnings().is_empty(), "the limit alone does no harm");
        let bad = Protection {
            locked: Permitted::No(Errno::PERM),
            io_flusher: Permitted::No(Errno::PERM),
            ..good
        };
        let warnings = bad.warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("CAP_IPC_LOCK"));
        assert!(warnings[1].contains("CAP_SYS_RESOURCE"));
    }
}
