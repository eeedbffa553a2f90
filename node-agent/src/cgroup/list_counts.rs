//! The kernel's counts of a cgroup's lists, kept fresh where reclaim goes by stale ones.
//!
//! A kernel without the multi-generational LRU decides by counts whether a cgroup's inactive list
//! must be refilled, and refreshes them every two seconds or so. A container at its limit that
//! swaps fast empties that list meanwhile: reclaim finds nothing to take, and the kernel kills the
//! container with its memory full of pages that could go and swap free. It takes no device of ours:
//! with zram, 128 MiB accessed at random under a limit of 64 MiB (cgroup v1, kernel 6.18) ended so
//! in two runs of three of 40 s, and in none of fourteen while memory.stat was read ten times a
//! second, because that refreshes the counts.

use std::path::Path;

use dynamicswap_policy::Memory;
use dynamicswap_types::Bytes;

use super::{CgroupError, read_text};

/// Where a kernel with the multi-generational LRU says which parts of it are on.
pub const LRU_GEN_FILE: &str = "/sys/kernel/mm/lru_gen/enabled";

/// Whether reclaim goes by such counts, judged by what stands in [`LRU_GEN_FILE`]: not if its
/// lowest bit is set, the main switch.
#[must_use]
pub fn reclaim_goes_by_counts(lru_gen: Option<&str>) -> bool {
    let digits = lru_gen.map(|text| text.trim().trim_start_matches("0x"));
    let parts = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    parts.is_none_or(|parts| parts & 1 == 0)
}

/// The same, of this host.
#[must_use]
pub fn host_reclaims_by_counts() -> bool {
    reclaim_goes_by_counts(read_text(Path::new(LRU_GEN_FILE)).ok().as_deref())
}

/// Whether stale counts could kill a container with this memory: it swaps and is at its limit, or
/// within an eighth of it.
#[must_use]
pub fn is_endangered(memory: &Memory) -> bool {
    let near = |limit: Bytes| memory.used.get() >= limit.get().saturating_sub(limit.get() / 8);
    memory.swapped > Bytes::ZERO && memory.limit.is_some_and(near)
}

/// Has the kernel refresh the counts of a cgroup in the memory hierarchy.
///
/// # Errors
/// [`CgroupError`] if the cgroup cannot be read.
pub fn refresh(cgroup: &Path) -> Result<(), CgroupError> {
    read_text(&cgroup.join("memory.stat")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_switch_of_the_new_lru_decides() {
        for on in ["0x0007\n", "0x0001\n", "0x0003"] {
            assert!(!reclaim_goes_by_counts(Some(on)), "{on}");
        }
        for off in [None, Some("0x0000\n"), Some("0x0006\n"), Some("")] {
            assert!(reclaim_goes_by_counts(off), "{off:?}");
        }
    }

    #[test]
    fn only_a_container_that_swaps_at_its_limit_is_endangered() {
        let of = |used: u32, limit: Option<u32>, swapped: u32| {
            is_endangered(&Memory {
                used: Bytes::from_mib(used),
                limit: limit.map(Bytes::from_mib),
                swapped: Bytes::from_mib(swapped),
            })
        };
        assert!(of(64, Some(64), 1));
        assert!(of(56, Some(64), 1));
        assert!(!of(55, Some(64), 1), "far from its limit");
        assert!(!of(64, Some(64), 0), "does not swap");
        assert!(!of(64, None, 1), "has no limit");
    }

    #[test]
    fn cgroup_that_is_gone_is_told_as_such() {
        let error = refresh(Path::new("/nonexistent")).expect_err("no such cgroup");
        assert!(error.is_gone());
    }
}
