//! Devices, protection domains, memory regions, completion queues.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dynamicswap_types::PAGE_SIZE;
use libc::c_int;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::abi::{self, AsyncEvent, CompChannel, Context, Cq, Mr, Opaque, WorkCompletion};
use super::library::{Verbs, VerbsError, errno};

/// An RDMA device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    context: NonNull<Context>,
}

// SAFETY: contexts are open for the life of the process and may be used from any thread.
unsafe impl Send for Device {}

impl Device {
    /// All devices of the host.
    pub fn all(verbs: &Verbs) -> impl Iterator<Item = Self> + '_ {
        verbs.contexts().map(|context| Self { context })
    }

    /// Of a context that a connection names; `None` before its address is resolved.
    pub(super) fn of(context: *mut Context) -> Option<Self> {
        NonNull::new(context).map(|context| Self { context })
    }

    pub(super) const fn raw(self) -> *mut Context {
        self.context.as_ptr()
    }

    /// Its name, such as `mlx5_0`.
    #[must_use]
    pub fn name(self, verbs: &Verbs) -> String {
        // SAFETY: a context begins with the pointer to its device, both live as long as the
        // process, and a device's name is a string that ends with zero.
        unsafe {
            let device = *self.raw().cast();
            let name = (verbs.ibv.ibv_get_device_name)(device);
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }

    /// Makes looking for access errors not wait.
    ///
    /// # Errors
    /// The host's.
    pub fn make_non_blocking(self) -> Result<(), Errno> {
        set_non_blocking(self.async_fd())
    }

    /// Becomes readable with an asynchronous event.
    #[must_use]
    pub fn async_fd(self) -> BorrowedFd<'static> {
        // SAFETY: contexts, and so their descriptors, are open for the life of the process.
        unsafe { BorrowedFd::borrow_raw((*self.raw()).async_fd) }
    }

    /// Takes the next asynchronous event: whether a peer used a key that it does not have, and
    /// against which queue pair. `None` if there is no event.
    #[must_use]
    pub fn next_event(self, verbs: &Verbs) -> Option<Option<QueuePairKey>> {
        let mut event = AsyncEvent {
            element: std::ptr::null_mut(),
            event_type: 0,
        };
        // SAFETY: the context is open, the event's memory is ours. A queue pair of which an event
        // was taken cannot end before it is acknowledged, which happens at once.
        unsafe {
            if (verbs.ibv.ibv_get_async_event)(self.raw(), &raw mut event) != 0 {
                return None;
            }
            (verbs.ibv.ibv_ack_async_event)(&raw mut event);
        }
        let foreign = event.event_type == abi::EVENT_QP_ACCESS;
        Some(foreign.then_some(QueuePairKey(event.element as usize)))
    }
}

/// Names a queue pair within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairKey(pub(super) usize);

fn set_non_blocking(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = fcntl_getfl(fd)?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK)
}

/// A protection domain: keys of its regions work on its queue pairs and nowhere else.
#[derive(Debug, Clone)]
pub struct ProtectionDomain(Arc<Domain>);

#[derive(Debug)]
struct Domain {
    verbs: &'static Verbs,
    raw: NonNull<Opaque>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Domain {}
// SAFETY: as above; the library locks what it must.
unsafe impl Sync for Domain {}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: everything made in the domain holds a reference to it, and so is gone.
        unsafe { (self.verbs.ibv.ibv_dealloc_pd)(self.raw.as_ptr()) };
    }
}

impl ProtectionDomain {
    /// A new one.
    ///
    /// # Errors
    /// The device's.
    pub fn new(verbs: &'static Verbs, device: Device) -> Result<Self, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (verbs.ibv.ibv_alloc_pd)(device.raw()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        Ok(Self(Arc::new(Domain { verbs, raw })))
    }

    pub(super) fn raw(&self) -> *mut Opaque {
        self.0.raw.as_ptr()
    }
}

/// What a region's keys permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device itself, for operations that this process posts.
    Local,
    /// A peer reads and writes, at addresses that begin with this number.
    RemoteWriteAt(u64),
}

/// Memory that the device may touch.
#[derive(Debug)]
pub struct MemoryRegion {
    domain: ProtectionDomain,
    raw: Option<NonNull<Mr>>,
    lkey: u32,
    rkey: u32,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for MemoryRegion {}

impl MemoryRegion {
    /// Registers memory.
    ///
    /// # Errors
    /// The device's or the host's, a memlock limit for example.
    ///
    /// # Safety
    /// The memory must stay mapped as long as the region lives, and whoever reads or writes it
    /// meanwhile must expect the device, and with remote access the peer, to do so as well.
    pub unsafe fn register(
        domain: &ProtectionDomain,
        memory: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<Self, VerbsError> {
        let verbs = domain.0.verbs;
        let (pd, at) = (domain.raw(), memory.as_ptr().cast());
        // SAFETY: the domain is alive; that the memory is, and stays so, is the caller's promise.
        let raw = unsafe {
            match access {
                Access::Local => (verbs.ibv.ibv_reg_mr)(pd, at, len, abi::ACCESS_LOCAL_WRITE),
                Access::RemoteWriteAt(base) => {
                    let all = abi::ACCESS_LOCAL_WRITE
                        | abi::ACCESS_REMOTE_WRITE
                        | abi::ACCESS_REMOTE_READ;
                    (verbs.ibv.ibv_reg_mr_iova)(pd, at, len, base, all)
                }
            }
        };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_reg_mr"))?;
        // SAFETY: the library gave a region, whose keys do not change.
        let (lkey, rkey) = unsafe { (raw.as_ref().lkey, raw.as_ref().rkey) };
        Ok(Self {
            domain: domain.clone(),
            raw: Some(raw),
            lkey,
            rkey,
        })
    }

    /// The key for the local side of an operation.
    #[must_use]
    pub const fn lkey(&self) -> u32 {
        self.lkey
    }

    /// The key that a peer uses.
    #[must_use]
    pub const fn rkey(&self) -> u32 {
        self.rkey
    }

    /// Ends the region. Afterwards, and not before, no operation with its keys touches the memory
    /// any more: the device waits for those that it has begun.
    ///
    /// # Errors
    /// The device's; the region still lives then, and a later call may succeed.
    pub fn end(&mut self) -> Result<(), Errno> {
        let Some(raw) = self.raw else {
            return Ok(());
        };
        // SAFETY: the region lives, and is forgotten below if it has ended.
        let code = unsafe { (self.domain.0.verbs.ibv.ibv_dereg_mr)(raw.as_ptr()) };
        if code != 0 {
            return Err(errno(code));
        }
        self.raw = None;
        Ok(())
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // A region that cannot end keeps its pages; there is nobody left to be told.
        let _ = self.end();
    }
}

/// Words of this process that a device, or a peer through it, reads and writes as well.
#[derive(Debug)]
pub struct SharedWords {
    // Before the words: it ends first.
    region: MemoryRegion,
    words: Box<[AtomicU64]>,
    base: u64,
}

impl SharedWords {
    /// Words of zero. A peer reaches them at an address near `remote`, a whole number of pages;
    /// without one, only own operations do.
    ///
    /// # Errors
    /// The device's or the host's.
    pub fn new(
        domain: &ProtectionDomain,
        words: usize,
        remote: Option<u64>,
    ) -> Result<Self, VerbsError> {
        let words: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let memory: NonNull<u8> = NonNull::from(words.as_ref()).cast();
        let own = memory.as_ptr().addr() as u64;
        // Address and memory must begin at the same place within their pages.
        let base = remote.map_or(own, |remote| remote + own % PAGE_SIZE.get());
        let access = remote.map_or(Access::Local, |_| Access::RemoteWriteAt(base));
        // SAFETY: the words are on the heap and stay where they are; the region ends before them;
        // atomics expect others to read and write.
        let region =
            unsafe { MemoryRegion::register(domain, memory, size_of_val(words.as_ref()), access) }?;
        Ok(Self {
            region,
            words,
            base,
        })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// Address of a word, as operations name it.
    #[must_use]
    pub const fn address(&self, word: usize) -> u64 {
        self.base + (word * size_of::<u64>()) as u64
    }

    /// The region.
    #[must_use]
    pub const fn region(&self) -> &MemoryRegion {
        &self.region
    }
}

/// Where completion queues announce that they have something.
#[derive(Debug, Clone)]
pub struct CompletionChannel(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    verbs: &'static Verbs,
    raw: NonNull<CompChannel>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above; the library locks what it must.
unsafe impl Sync for Channel {}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: every queue of the channel holds a reference to it, and so is gone.
        unsafe { (self.verbs.ibv.ibv_destroy_comp_channel)(self.raw.as_ptr()) };
    }
}

impl CompletionChannel {
    /// A new one that never waits.
    ///
    /// # Errors
    /// The host's.
    pub fn new(verbs: &'static Verbs, device: Device) -> Result<Self, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (verbs.ibv.ibv_create_comp_channel)(device.raw()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        let channel = Self(Arc::new(Channel { verbs, raw }));
        set_non_blocking(channel.as_fd()).map_err(|errno| VerbsError::Call {
            call: "fcntl",
            errno,
        })?;
        Ok(channel)
    }

    /// Takes every announcement that has come.
    pub fn clear(&self) {
        let (mut queue, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        let Channel { verbs, raw } = *self.0;
        // SAFETY: the channel is alive, both places are ours, and the queue that an announcement
        // names lives until it is acknowledged, which happens at once.
        unsafe {
            while (verbs.ibv.ibv_get_cq_event)(raw.as_ptr(), &raw mut queue, &raw mut context) == 0
            {
                (verbs.ibv.ibv_ack_cq_events)(queue, 1);
            }
        }
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel, and so its descriptor, lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.raw.as_ref().fd) }
    }
}

/// Where operations' ends come out.
#[derive(Debug)]
pub struct CompletionQueue {
    verbs: &'static Verbs,
    raw: NonNull<Cq>,
    _channel: Option<CompletionChannel>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// For `depth` completions.
    ///
    /// # Errors
    /// The device's.
    pub fn new(
        verbs: &'static Verbs,
        device: Device,
        channel: Option<&CompletionChannel>,
        depth: usize,
    ) -> Result<Self, VerbsError> {
        let announce = channel.map_or(std::ptr::null_mut(), |channel| channel.0.raw.as_ptr());
        let depth = c_int::try_from(depth).unwrap_or(c_int::MAX);
        let nobody = std::ptr::null_mut();
        // SAFETY: the context is open, and the channel is kept below as long as the queue lives.
        let raw = unsafe { (verbs.ibv.ibv_create_cq)(device.raw(), depth, nobody, announce, 0) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_cq"))?;
        Ok(Self {
            verbs,
            raw,
            _channel: channel.cloned(),
        })
    }

    pub(super) const fn raw(&self) -> *mut Cq {
        self.raw.as_ptr()
    }

    /// Takes completions; gives those that there were.
    pub fn poll<'a>(&mut self, into: &'a mut [WorkCompletion]) -> &'a [WorkCompletion] {
        let most = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, its context holds its device's call, and there is room for
        // `most` completions.
        let found = unsafe {
            let context = self.raw.as_ref().context;
            ((*context).ops.poll_cq)(self.raw.as_ptr(), most, into.as_mut_ptr())
        };
        // Negative if the queue is broken: then nothing completes, and its link is late.
        let found = usize::try_from(found).unwrap_or_default().min(into.len());
        &into[..found]
    }

    /// Asks for one announcement, of the next completion.
    pub fn arm(&mut self) {
        // SAFETY: the queue is alive, and its context holds its device's call. A refusal is as
        // good as an announcement that does not come: the caller's deadline finds out.
        unsafe {
            let context = self.raw.as_ref().context;
            ((*context).ops.req_notify_cq)(self.raw.as_ptr(), 0);
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue pair that used it is gone: a connection drops it first. Announcements
        // are acknowledged as they are taken, so this does not wait.
        unsafe { (self.verbs.ibv.ibv_destroy_cq)(self.raw.as_ptr()) };
    }
}
