//! Anonymous memory that the kernel may swap, one page at a time, and locking of all the rest.
//!
//! One of the crate's two files with unsafe code: it owns a mapping and hands out its pages.

use std::io;
use std::ptr::NonNull;

use dynamicswap_types::{Bytes, PAGE_SIZE};
use rustix::mm::{Advice, MapFlags, MlockAllFlags, ProtFlags};

use crate::page::Page;

/// Memory of whole pages, zeroed, in no huge page, never locked: what a workload swaps.
#[derive(Debug)]
pub struct Region {
    start: NonNull<Page>,
    pages: usize,
}

impl Region {
    /// Maps `size`, rounded down to whole pages. Nothing is touched yet.
    ///
    /// # Errors
    /// What mmap or madvise say.
    pub fn map(size: Bytes, huge_pages: HugePages) -> io::Result<Self> {
        let pages = Bytes::new(size.get() / PAGE_SIZE.get()).as_usize();
        let length = pages * size_of::<Page>();
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice
        // overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let region = Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            pages,
        };
        if huge_pages == HugePages::Never {
            // SAFETY: the range is exactly the mapping made above; the advice moves no data.
            unsafe { rustix::mm::madvise(start, length, Advice::LinuxNoHugepage)? };
        }
        Ok(region)
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// All pages.
    pub fn as_mut_slice(&mut self) -> &mut [Page] {
        // SAFETY: `start` is page-aligned and maps `pages` pages, readable, writable, zeroed and
        // owned by self alone; the borrow of self makes the slice exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.pages) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let length = self.pages * size_of::<Page>();
        // SAFETY: the mapping is self's own and no slice of it outlives self.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), length) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping: {unmapped:?}");
    }
}

/// Whether the kernel may back a region by huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// `MADV_NOHUGEPAGE`: each page swaps alone.
    Never,
    /// As the host is set up.
    AsHost,
}

/// Locks what is mapped now, so that only what is mapped later (the region) can swap.
///
/// # Errors
/// What mlockall says: the memory-lock limit is too low, as a rule.
pub fn lock_everything_so_far() -> io::Result<()> {
    Ok(rustix::mm::mlockall(MlockAllFlags::CURRENT)?)
}

/// Locks what is mapped now and later: for processes that must never swap.
///
/// # Errors
/// What mlockall says.
pub fn lock_everything() -> io::Result<()> {
    Ok(rustix::mm::mlockall(
        MlockAllFlags::CURRENT | MlockAllFlags::FUTURE,
    )?)
}

/// Major page faults of the calling thread so far: touches that waited for a swap device.
#[must_use]
pub fn major_faults_of_thread() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to writable memory of the right type; RUSAGE_THREAD needs nothing
    // else, and all-zero bytes are a valid rusage should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{RunId, Stamp};

    #[test]
    fn region_is_zeroed_and_keeps_what_is_written() {
        let mut region = Region::map(Bytes::new(10_000), HugePages::Never).expect("small");
        assert_eq!(region.pages(), 2);
        let stamp = Stamp {
            run: RunId::new(1),
            index: 1,
            version: 1,
        };
        let pages = region.as_mut_slice();
        assert!(pages.iter().flatten().all(|word| *word == 0));
        stamp.fill(&mut pages[1]);
        assert_eq!(stamp.check(&region.as_mut_slice()[1]), Ok(()));
    }
}
