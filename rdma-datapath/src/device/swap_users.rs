//! Whether anybody's pages are on swap, where the kernel's own count cannot tell.
//!
//! Kernels before 6.15 keep swap places ready for each processor: up to 64 that are taken in advance, and 64
//! that are free and not handed back yet (`mm/swap_slots.c`). /proc/swaps counts all of them as in use, for
//! ever on a device that nobody swaps to any more.

use std::fs;
use std::path::Path;

use dynamicswap_types::{Bytes, PageCount};

/// Places that the kernel keeps ready for a processor.
const KEPT_READY: u64 = 2 * 64;
/// Processors of this host, by number: `0-3,6`.
const PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// What is in use at the most without anybody's page in it.
#[must_use]
pub fn kept_ready() -> Bytes {
    let list = fs::read_to_string(PROCESSORS).unwrap_or_default();
    PageCount::new(processors(&list) * KEPT_READY).bytes()
}

fn processors(list: &str) -> u64 {
    let numbers = list.trim().rsplit([',', '-']).next();
    let last = numbers.and_then(|last| last.parse::<u64>().ok());
    last.map_or(1, |last| last.saturating_add(1))
}

/// Whether any process has private pages on swap, of this device or another. Shared memory is no
/// process's own, and is not seen.
#[must_use]
pub fn is_anyone_out() -> bool {
    is_anyone_out_of(Path::new("/proc"))
}

fn is_anyone_out_of(proc: &Path) -> bool {
    // What cannot be known counts as somebody.
    let Ok(entries) = fs::read_dir(proc) else {
        return true;
    };
    let of_processes = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    of_processes
        // One that has ended has nothing.
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .any(|status| has_pages_out(&status))
}

fn has_pages_out(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    // A thread of the kernel has no memory of its own, and no such line.
    line.is_some_and(|line| line.split_whitespace().next() != Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_processor_says_how_many_there_are() {
        for (list, count) in [
            ("0\n", 1),
            ("0-3\n", 4),
            ("0-3,6", 7),
            ("0,2,5-11\n", 12),
            ("", 1),
        ] {
            assert_eq!(processors(list), count, "{list}");
        }
        assert!(kept_ready() >= Bytes::new(KEPT_READY * 4096));
    }

    #[test]
    fn process_with_pages_out_is_found_among_others() {
        let proc = tempfile::tempdir().expect("a directory");
        let process = |name: &str, status: &str| {
            let directory = proc.path().join(name);
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join("status"), status).expect("written");
        };
        process("1", "Name:\tinit\nVmSwap:\t       0 kB\nThreads:\t1\n");
        process("2", "Name:\tkthreadd\nThreads:\t1\n");
        process("self", "VmSwap:\t 12 kB\n");
        assert!(!is_anyone_out_of(proc.path()));
        process("37", "VmSwap:\t      12 kB\n");
        assert!(is_anyone_out_of(proc.path()));
        assert!(is_anyone_out_of(Path::new("/nonexistent")));
    }
}
