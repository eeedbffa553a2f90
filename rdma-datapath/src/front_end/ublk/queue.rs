//! The device's one queue: the ring that brings requests and takes answers, the descriptors that
//! the kernel shares, and the copies of data.
//!
//! One of the few files with unsafe code: the shared descriptors, and commands in a ring. No command
//! names memory of this process: data is copied by reads and writes of the character device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, opcode, types};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use super::abi::{IoCommand, IoDescriptor, RESULT_OK, command};
use super::{DEPTH, codec};

/// Bytes of the shared descriptors.
const DESCRIPTOR_BYTES: usize = (DEPTH as usize * size_of::<IoDescriptor>()).next_multiple_of(4096);
/// Tries to hand all fetches to a kernel that is short of memory.
const FETCH_TRIES_MAX: u32 = 1000;

/// Why the queue brings nothing more.
#[derive(Debug)]
pub enum QueueError {
    /// The kernel takes the device back.
    Aborted,
    /// Something else.
    System(io::Error),
}

impl From<io::Error> for QueueError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// The queue, of a device that is opened later.
pub struct Queue {
    ring: IoUring,
    device: Option<OwnedFd>,
    descriptors: Option<Descriptors>,
    /// Tags whose requests have come and were not taken.
    ready: VecDeque<u16>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Queue");
        debug.field("device", &self.device).finish_non_exhaustive()
    }
}

/// Descriptors that the kernel writes, one for each tag.
struct Descriptors {
    base: *const IoDescriptor,
}

impl Queue {
    /// Makes the ring. To be called by the thread that will serve the queue.
    ///
    /// # Errors
    /// The host's, where it does not permit io_uring.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // Requests arrive when this thread enters the kernel, and the ring says so: no interrupts.
        builder
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag();
        Ok(Self {
            ring: builder.build(DEPTH.into())?,
            device: None,
            descriptors: None,
            ready: VecDeque::with_capacity(DEPTH.into()),
        })
    }

    /// Opens the device and waits for the first request of every tag.
    ///
    /// The order matters to kernels of 6.12: a server that is killed with some tags fetched, or with
    /// the descriptors mapped and not all tags fetched, leaves a device that no other server can
    /// take. So all tags are fetched by one system call, which no signal divides, and the
    /// descriptors are mapped after it.
    ///
    /// # Errors
    /// The host's; the process must then end.
    pub fn begin(&mut self, number: u32) -> io::Result<()> {
        let path = format!("/dev/ublkc{number}");
        let device = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for tag in 0..DEPTH {
            self.push(&device, command::FETCH, codec::fetch(tag))?;
        }
        self.submit_all()?;
        self.descriptors = Some(Descriptors::map(&device)?);
        self.device = Some(device);
        Ok(())
    }

    fn submit_all(&mut self) -> io::Result<()> {
        for _ in 0..FETCH_TRIES_MAX {
            let result = self.ring.submit();
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            match result.err().and_then(|error| error.raw_os_error()) {
                None | Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM) => {}
                Some(other) => return Err(io::Error::from_raw_os_error(other)),
            }
        }
        Err(io::ErrorKind::OutOfMemory.into())
    }

    /// The next tag that has a request.
    ///
    /// # Errors
    /// [`QueueError`]: the queue brings nothing more.
    pub fn next(&mut self) -> Result<Option<u16>, QueueError> {
        if self.ready.is_empty() {
            self.gather()?;
        }
        Ok(self.ready.pop_front())
    }

    fn gather(&mut self) -> Result<(), QueueError> {
        if self.ring.submission().taskrun() {
            // Enters the kernel, which then hands over what has come.
            self.enter()?;
        }
        for arrived in self.ring.completion() {
            match (arrived.result(), u16::try_from(arrived.user_data())) {
                (RESULT_OK, Ok(tag)) if tag < DEPTH => self.ready.push_back(tag),
                (result, _) if result == -libc::ENODEV => return Err(QueueError::Aborted),
                (result, _) => {
                    return Err(io::Error::from_raw_os_error(result.saturating_neg()).into());
                }
            }
        }
        Ok(())
    }

    /// A tag's request.
    #[must_use]
    pub fn descriptor(&self, tag: u16) -> IoDescriptor {
        let descriptors = self.descriptors.as_ref();
        descriptors.map_or_else(IoDescriptor::default, |descriptors| descriptors.read(tag))
    }

    /// Copies a write's data out of the kernel.
    ///
    /// # Errors
    /// The kernel's, also if there is less.
    pub fn copy_out(&self, tag: u16, bytes: &mut [u8]) -> Result<(), Errno> {
        let device = self.device.as_ref().ok_or(Errno::NODEV)?;
        let mut done = 0;
        while done < bytes.len() {
            let position = codec::data_position(tag) + done as u64;
            match rustix::io::pread(device, &mut bytes[done..], position) {
                Ok(0) => return Err(Errno::IO),
                Ok(more) => done += more,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Copies a read's data into the kernel.
    ///
    /// # Errors
    /// The kernel's, also if it takes less.
    pub fn copy_in(&self, tag: u16, bytes: &[u8]) -> Result<(), Errno> {
        let device = self.device.as_ref().ok_or(Errno::NODEV)?;
        let mut done = 0;
        while done < bytes.len() {
            let position = codec::data_position(tag) + done as u64;
            match rustix::io::pwrite(device, &bytes[done..], position) {
                Ok(0) => return Err(Errno::IO),
                Ok(more) => done += more,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Answers a tag's request, with the next [`Self::flush`].
    ///
    /// # Errors
    /// If the ring has no place; it has one for each tag.
    pub fn answer(&mut self, tag: u16, result: i32) -> io::Result<()> {
        let device = self.device.take().ok_or(io::ErrorKind::NotConnected)?;
        let pushed = self.push(
            &device,
            command::COMMIT_AND_FETCH,
            codec::commit(tag, result),
        );
        self.device = Some(device);
        pushed
    }

    /// Hands answers to the kernel.
    ///
    /// # Errors
    /// The host's; the process must then end.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        self.enter()
    }

    /// Submits what there is. What a kernel that is short of memory did not take stays for later.
    fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether answers still wait to be handed over.
    #[must_use]
    pub fn has_unsent(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Readable while a request waits to be taken.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    fn push(&mut self, device: &OwnedFd, code: u32, body: IoCommand) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(body.as_bytes());
        let entry = opcode::UringCmd16::new(types::Fd(device.as_raw_fd()), code)
            .cmd(bytes)
            .build()
            .user_data(body.tag.into());
        // SAFETY: the entry holds the whole command and names no memory.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}

impl Descriptors {
    fn map(device: &OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing. It lives
        // until the process ends.
        let base = unsafe {
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            let place = std::ptr::null_mut();
            rustix::mm::mmap(place, DESCRIPTOR_BYTES, ProtFlags::READ, flags, device, 0)?
        };
        Ok(Self {
            base: base.cast::<IoDescriptor>().cast_const(),
        })
    }

    fn read(&self, tag: u16) -> IoDescriptor {
        assert!(tag < DEPTH);
        // SAFETY: the mapping has a descriptor for each tag below DEPTH (asserted) and is aligned to
        // a page; any bytes are a descriptor. The kernel writes it before it tells of the request,
        // and leaves it alone until the request is answered; a volatile read takes it as it is now.
        unsafe { self.base.add(tag.into()).read_volatile() }
    }
}
