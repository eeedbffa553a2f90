//! The spill file, read and written by io_uring from the I/O thread.
//!
//! One of the few files with unsafe code: submitted entries name memory that the kernel reads and
//! writes until they complete.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::effect::SpillOperation;
use dynamicswap_engine::limits::OPERATIONS_MAX;
use dynamicswap_engine::operation::OperationId;
use dynamicswap_types::PAGE_SIZE;
use io_uring::{IoUring, opcode, types};
use rustix::event::EventfdFlags;

/// Entries under way at once; a disk gains nothing above it.
const DEPTH: u32 = 64;

/// How an access ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpillEvent {
    /// Its name.
    pub id: OperationId,
    /// Whether all of it was read or written.
    pub ok: bool,
}

/// Accesses to the spill file.
pub struct SpillFile {
    ring: IoUring,
    file: OwnedFd,
    event: OwnedFd,
    /// Operation and bytes of each entry under way; its place is the entry's user data.
    under_way: Vec<Option<(OperationId, u32)>>,
    free: Vec<usize>,
    /// Accesses beyond those, in order: a slow disk must not keep what goes to donors waiting.
    waiting: VecDeque<SpillOperation>,
}

impl std::fmt::Debug for SpillFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpillFile")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl SpillFile {
    /// Makes the ring for a file that is open for direct I/O.
    ///
    /// # Errors
    /// The host's, where it does not permit io_uring.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let ring = IoUring::builder().build(DEPTH)?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let places = DEPTH as usize;
        Ok(Self {
            ring,
            file,
            event,
            under_way: vec![None; places],
            free: (0..places).collect(),
            waiting: VecDeque::with_capacity(OPERATIONS_MAX),
        })
    }

    /// Queues an access. There is room for all that an engine can have under way.
    pub fn post(&mut self, operation: &SpillOperation) {
        self.waiting.push_back(*operation);
    }

    /// Hands queued accesses to the kernel, as many as a disk can use.
    pub fn flush(&mut self, buffers: &mut dyn Buffers) {
        while !self.free.is_empty()
            && let Some(operation) = self.waiting.pop_front()
        {
            if !self.push(&operation, buffers) {
                self.waiting.push_front(operation);
                break;
            }
        }
        if self.ring.submission().is_empty() {
            return;
        }
        if let Err(error) = self.ring.submit()
            && error.raw_os_error() != Some(libc::EBUSY)
            && error.raw_os_error() != Some(libc::EINTR)
        {
            tracing::error!("the spill file cannot be reached: {error}");
        }
    }

    /// Puts an access into the ring; false if there is no place.
    fn push(&mut self, operation: &SpillOperation, buffers: &mut dyn Buffers) -> bool {
        let Some(place) = self.free.pop() else {
            return false;
        };
        let offset = operation.page.get() * PAGE_SIZE.get();
        let bytes = buffers.bytes_mut(operation.buffer);
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = if operation.write {
            opcode::Write::new(types::Fixed(0), bytes.as_ptr(), len)
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(types::Fixed(0), bytes.as_mut_ptr(), len)
                .offset(offset)
                .build()
        };
        self.under_way[place] = Some((operation.id, len));
        // SAFETY: the pool's memory is mapped for the life of the process, and the engine leaves
        // the buffer alone until the operation is completed. The queue has a place for each entry
        // under way, so the push cannot fail for want of room.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(place as u64)) };
        if pushed.is_err() {
            self.under_way[place] = None;
            self.free.push(place);
        }
        pushed.is_ok()
    }

    /// Hands each completion to `sink`; returns how many there were.
    pub fn poll(&mut self, sink: &mut dyn FnMut(SpillEvent)) -> usize {
        let mut count = 0;
        for completion in self.ring.completion() {
            let place = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some(entry) = self.under_way.get_mut(place) else {
                continue;
            };
            if let Some((id, len)) = entry.take() {
                self.free.push(place);
                count += 1;
                let ok = u32::try_from(completion.result()).is_ok_and(|done| done == len);
                sink(SpillEvent { id, ok });
            }
        }
        count
    }

    /// Whether anything is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.free.len() < self.under_way.len() || !self.waiting.is_empty()
    }

    /// Becomes readable when something has completed; see [`Self::arm`].
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes [`Self::event_fd`] tell of completions from now on. Returns true if there are some
    /// already.
    pub fn arm(&mut self) -> bool {
        let mut count = [0; 8];
        // Fails only where nothing was told, which is what is wanted.
        let _ = rustix::io::read(&self.event, &mut count);
        !self.ring.completion().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::buffer::BufferRange;
    use dynamicswap_types::PageIndex;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::fs::File;

    fn operation(id: u64, page: u64, write: bool, first: u32) -> SpillOperation {
        SpillOperation {
            id: OperationId(id),
            page: PageIndex::new(page),
            write,
            buffer: BufferRange { first, pages: 2 },
        }
    }

    fn wait(spill: &mut SpillFile, pool: &mut Vec<u8>) -> SpillEvent {
        loop {
            spill.flush(pool);
            let mut events = Vec::new();
            if spill.poll(&mut |event| events.push(event)) > 0 {
                return events[0];
            }
            if !spill.arm() {
                let mut ready = [PollFd::from_borrowed_fd(spill.event_fd(), PollFlags::IN)];
                poll(&mut ready, None).expect("polled");
            }
        }
    }

    #[test]
    fn pages_come_back_from_where_they_were_written() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(16 * 4096).expect("room");
        let Ok(mut spill) = SpillFile::new(file.into()) else {
            eprintln!("SKIPPED: the host does not permit io_uring");
            return;
        };
        let mut pool = vec![0_u8; 8 * 4096];
        pool[..8192].fill(5);
        spill.post(&operation(1, 4, true, 0));
        let done = SpillEvent {
            id: OperationId(1),
            ok: true,
        };
        assert_eq!(wait(&mut spill, &mut pool), done);
        spill.post(&operation(2, 4, false, 2));
        assert!(wait(&mut spill, &mut pool).ok);
        assert!(pool[8192..16384].iter().all(|byte| *byte == 5));
        assert!(!spill.is_busy());
    }

    #[test]
    fn access_that_fails_or_is_short_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let Ok(mut spill) = SpillFile::new(File::open(file.path()).expect("opened").into()) else {
            eprintln!("SKIPPED: the host does not permit io_uring");
            return;
        };
        let mut pool = vec![0_u8; 8 * 4096];
        spill.post(&operation(1, 0, true, 0));
        assert!(!wait(&mut spill, &mut pool).ok, "opened for reading only");
        spill.post(&operation(2, 0, false, 0));
        assert!(!wait(&mut spill, &mut pool).ok, "the file is empty");
    }

    #[test]
    fn accesses_beyond_the_ring_wait_and_none_is_forgotten() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(16 * 4096).expect("room");
        let Ok(mut spill) = SpillFile::new(file.into()) else {
            eprintln!("SKIPPED: the host does not permit io_uring");
            return;
        };
        let mut pool = vec![0_u8; 8 * 4096];
        let count = u64::from(DEPTH) * 3;
        for id in 0..count {
            spill.post(&operation(id, 0, false, 0));
        }
        let mut ended = Vec::new();
        while spill.is_busy() {
            spill.flush(&mut pool);
            assert!(spill.under_way.iter().flatten().count() <= DEPTH as usize);
            spill.poll(&mut |event| ended.push((event.id.0, event.ok)));
        }
        ended.sort_unstable();
        assert!(ended.into_iter().eq((0..count).map(|id| (id, true))));
    }
}
