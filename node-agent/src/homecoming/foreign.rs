//! The memory of another process: what of it is swapped out, and bringing that in.
//!
//! The agent's only file with unsafe code: three system calls and an ioctl that no vetted library
//! wraps. None of them changes a byte of the other process, and none stops it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;

use dynamicswap_types::PAGE_SIZE;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::pages::{Run, Swapped, append};

/// Runs that one call of `process_madvise` takes; the kernel's IOV_MAX.
pub const RUNS_MAX: usize = 1024;
/// Pages that one call maps: what the kernel holds of them at once in one array of pointers.
pub const MAPPED_PAGES_MAX: u64 = 1024;
/// Pagemap entries that are read at once.
const ENTRIES_READ: usize = 512;
/// Regions that one call of PAGEMAP_SCAN answers.
const REGIONS_MAX: usize = 1024;
/// Bit of a pagemap entry: the page is swapped out, and the entry has its offset.
const SWAPPED: u64 = 1 << 62;
/// Bits of a swapped page's entry below the offset: the number of the swap device.
const DEVICE_BITS: u32 = 5;
/// Bits of the offset.
const OFFSET_MASK: u64 = (1 << 50) - 1;

/// Bits of a pagemap entry: the page is in RAM, of a file or shared, mapped by this process alone; and
/// the number of its frame, 0 without CAP_SYS_ADMIN.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const FRAME_MASK: u64 = (1 << 55) - 1;
/// `KPF_SWAPCACHE` of linux/kernel-page-flags.h: the page has a place in swap.
const IN_SWAP_CACHE: u64 = 1 << 13;

/// The flags of all frames of the host (/proc/kpageflags).
#[derive(Debug)]
pub struct FrameFlags(File);

impl FrameFlags {
    /// Opens them.
    ///
    /// # Errors
    /// The kernel's: this process is not root, or the kernel does not show them.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/kpageflags").map(Self)
    }

    fn of(&self, frame: u64) -> io::Result<u64> {
        let mut bytes = [0; size_of::<u64>()];
        self.0.read_exact_at(&mut bytes, frame.saturating_mul(8))?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// Addresses that no copy can read or write: it is mapped without any permission.
///
/// `process_vm_writev` brings in and makes writable the pages it is to write, and then copies. With a
/// source that cannot be read it does the first and nothing of the second.
#[derive(Debug)]
pub struct Unreadable {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the value and is never dereferenced, only its address is used.
unsafe impl Send for Unreadable {}

impl Unreadable {
    /// Maps it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let bytes =
            usize::try_from(MAPPED_PAGES_MAX * PAGE_SIZE.get()).map_err(io::Error::other)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nothing refers to it.
        let _still_mapped = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// How pages are brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// As a read would.
    Read,
    /// As a write would, which also frees their place in swap; writes nothing.
    Write,
}

/// Another process's memory.
#[derive(Debug)]
pub struct Foreign {
    pid: Pid,
    pidfd: OwnedFd,
    pagemap: File,
    /// Whether this kernel has PAGEMAP_SCAN (Linux 6.7).
    scans: bool,
}

impl Foreign {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// The kernel's: it is gone, or it may not be looked into (CAP_SYS_PTRACE).
    pub fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let pagemap = File::open(format!("/proc/{}/pagemap", pid.as_raw_nonzero()))?;
        Ok(Self {
            pid,
            pidfd,
            pagemap,
            scans: true,
        })
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Appends the swapped pages of `run` to `found`, until there are `most` of them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn swapped(&mut self, run: Run, most: usize, found: &mut Vec<Swapped>) -> io::Result<()> {
        let end = run.end();
        let mut at = run.start;
        while at < end && found.len() < most {
            let rest = Run {
                start: at,
                pages: run.pages - (at - run.start) / PAGE_SIZE.get(),
            };
            let (regions, next) = self.regions(rest)?;
            for region in regions {
                self.entries(region, most, found)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Where pages are swapped out from the start of `run` on, and how far that goes. Without
    /// PAGEMAP_SCAN, the run itself: the entries say it page by page.
    fn regions(&mut self, run: Run) -> io::Result<(Vec<Run>, u64)> {
        if !self.scans {
            return Ok((vec![run], run.end()));
        }
        let mut regions = [Region::default(); REGIONS_MAX];
        let mut request = ScanRequest {
            size: size_of::<ScanRequest>() as u64,
            start: run.start,
            end: run.end(),
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS_MAX as u64,
            category_mask: IS_SWAPPED,
            return_mask: IS_SWAPPED,
            ..ScanRequest::default()
        };
        // SAFETY: the request has the kernel's layout (see its test) and names an array of as many
        // regions as it says; both live until the call is over.
        let count =
            unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut request) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            // Older kernels know no ioctl on this file.
            if error.raw_os_error() == Some(libc::ENOTTY) {
                self.scans = false;
                return Ok((vec![run], run.end()));
            }
            return Err(error);
        };
        let runs = regions[..count.min(REGIONS_MAX)].iter();
        let runs = runs.map(|region| Run {
            start: region.start,
            pages: region.end.saturating_sub(region.start) / PAGE_SIZE.get(),
        });
        // A walk that stands still would never end.
        let walked = request
            .walk_end
            .clamp(run.start + PAGE_SIZE.get(), run.end());
        Ok((runs.collect(), walked))
    }

    /// Appends the swapped pages of `run` by its pagemap entries.
    fn entries(&self, run: Run, most: usize, found: &mut Vec<Swapped>) -> io::Result<()> {
        self.each_entry(run, |address, entry| {
            if entry & SWAPPED != 0 && found.len() < most {
                let offset = (entry >> DEVICE_BITS) & OFFSET_MASK;
                found.push(Swapped { address, offset });
            }
            Ok(found.len() < most)
        })
    }

    /// The pages of `run` that are in RAM, of this process alone, and still have a place in swap, as
    /// runs appended to `found`. Nothing where the kernel does not show frames.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_place(&self, run: Run, flags: &FrameFlags, found: &mut Vec<Run>) -> io::Result<()> {
        self.each_entry(run, |address, entry| {
            let frame = entry & FRAME_MASK;
            let is_own = entry & (PRESENT | EXCLUSIVE | OF_FILE) == PRESENT | EXCLUSIVE;
            if is_own && frame > 0 && flags.of(frame)? & IN_SWAP_CACHE != 0 {
                append(found, address);
            }
            Ok(true)
        })
    }

    /// Calls `look` with the address and the pagemap entry of each page of `run`, until it says false.
    fn each_entry(
        &self,
        run: Run,
        mut look: impl FnMut(u64, u64) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut bytes = [0; ENTRIES_READ * size_of::<u64>()];
        let mut address = run.start;
        while address < run.end() {
            let left = (run.end() - address) / PAGE_SIZE.get();
            let left = usize::try_from(left).unwrap_or(ENTRIES_READ);
            let wanted = left.min(ENTRIES_READ) * size_of::<u64>();
            let offset = address / PAGE_SIZE.get() * size_of::<u64>() as u64;
            let read = self.pagemap.read_at(&mut bytes[..wanted], offset)?;
            let (entries, _) = bytes[..read].as_chunks::<{ size_of::<u64>() }>();
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                if !look(address, u64::from_ne_bytes(*entry))? {
                    return Ok(());
                }
                address += PAGE_SIZE.get();
            }
        }
        Ok(())
    }

    /// Has the kernel take `runs` out of RAM, to their places in swap.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn page_out(&self, runs: &[Run]) -> io::Result<()> {
        self.advise(runs, libc::MADV_PAGEOUT)
    }

    /// Has the kernel read `runs` into memory, all at once and without waiting for each page;
    /// [`RUNS_MAX`] of them at most.
    ///
    /// # Errors
    /// The kernel's: the process is gone, or this one lacks CAP_SYS_NICE or CAP_SYS_PTRACE.
    pub fn load(&self, runs: &[Run]) -> io::Result<()> {
        self.advise(runs, libc::MADV_WILLNEED)
    }

    fn advise(&self, runs: &[Run], advice: libc::c_int) -> io::Result<()> {
        let vectors: Vec<libc::iovec> =
            runs.iter().take(RUNS_MAX).map(|run| vector(*run)).collect();
        // SAFETY: the vectors are read only, and their addresses are of the other process.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.pidfd.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len(),
                advice,
                0,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Maps the pages of `run`, [`MAPPED_PAGES_MAX`] at most. Pages that cannot be touched so are left
    /// as they are.
    ///
    /// A process number that has passed to another process meanwhile does no harm: no byte changes.
    ///
    /// # Errors
    /// The kernel's: the process is gone, or this one lacks CAP_SYS_PTRACE.
    pub fn map(&self, run: Run, touch: Touch, unreadable: &Unreadable) -> io::Result<()> {
        let pages = run.pages.min(MAPPED_PAGES_MAX);
        let remote = vector(Run { pages, ..run });
        let local = libc::iovec {
            iov_base: unreadable.start.as_ptr(),
            iov_len: remote.iov_len.min(unreadable.bytes),
        };
        let pid = self.pid.as_raw_nonzero().get();
        // SAFETY: the local vector has no permission, so that the kernel copies not one byte, in
        // neither direction; the remote one is memory of the other process.
        let copied = unsafe {
            match touch {
                Touch::Read => {
                    libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0)
                }
                Touch::Write => {
                    libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0)
                }
            }
        };
        let error = io::Error::last_os_error();
        match (copied, error.raw_os_error()) {
            // The copy that was not to be, or an address that is no longer there.
            (-1, Some(libc::EFAULT)) | (0, _) => Ok(()),
            (-1, _) => Err(error),
            // The mapping has no permission, see there: nothing can have been copied.
            _ => Err(io::Error::other(
                "the kernel copied from memory that cannot be read",
            )),
        }
    }
}

fn vector(run: Run) -> libc::iovec {
    libc::iovec {
        // An address of the other process, never dereferenced here.
        iov_base: std::ptr::without_provenance_mut(usize::try_from(run.start).unwrap_or(0)),
        iov_len: usize::try_from(run.pages * PAGE_SIZE.get()).unwrap_or(0),
    }
}

/// `PAGE_IS_SWAPPED` of linux/fs.h.
const IS_SWAPPED: u64 = 1 << 4;
/// `PAGEMAP_SCAN` of linux/fs.h: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanRequest {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_the_size_that_its_number_says() {
        assert_eq!(size_of::<ScanRequest>(), 96);
        assert_eq!((PAGEMAP_SCAN >> 16) & 0x3fff, 96);
        assert_eq!(size_of::<Region>(), 24);
    }

    #[test]
    fn touching_changes_no_byte() {
        let pages = 8_u64;
        let mut memory = vec![0_u8; 10 * PAGE_SIZE.as_usize()];
        for (index, byte) in memory.iter_mut().enumerate() {
            *byte = u8::try_from(index % 251).expect("below 251");
        }
        let before = memory.clone();
        let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE_SIZE.get());
        let own = Foreign::open(rustix::process::getpid()).expect("itself");
        let unreadable = Unreadable::new().expect("mapped");
        for touch in [Touch::Write, Touch::Read] {
            own.map(Run { start, pages }, touch, &unreadable)
                .expect("touched");
        }
        own.load(&[Run { start, pages }]).expect("advised");
        assert!(memory == before);
    }

    #[test]
    fn process_that_is_gone_is_an_error() {
        // It lives until its input is closed: one that ends by itself may be gone before it is opened.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let pid = Pid::from_child(&child);
        let foreign = Foreign::open(pid).expect("it waits for input");
        child.wait().expect("ended");
        let run = Run {
            start: PAGE_SIZE.get(),
            pages: 1,
        };
        let unreadable = Unreadable::new().expect("mapped");
        assert!(foreign.map(run, Touch::Write, &unreadable).is_err());
        assert!(Foreign::open(pid).is_err());
    }
}
