//! One borrower's RDMA session: queue pair, directory, and a region for each of its grants.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_engine::slots::{Grant, Hello, SlotGeometry};
use dynamicswap_engine::wire::{
    Accepted, Directory, DirectoryEntry, ENTRY_WORDS, WISHES, encode_entry, encode_rdma_accepted,
};
use dynamicswap_types::{MonotonicTime, SetId, SlotIndex};
use rustix::io::Errno;

use super::super::shared::CloseReason;
use crate::daemon::clock::monotonic_now;
use crate::daemon::mapped_file::KeptMapping;
use crate::daemon::random;
use crate::verbs::{
    Access, Batch, CmKey, CompletionQueue, Connection, MemoryRegion, Posting, ProtectionDomain,
    QueuePairKey, SharedWords, Verbs, VerbsError, WorkCompletion,
};

/// A connection must be there after this time.
const GREETING_TIME_MAX: Duration = Duration::from_secs(4);
/// Own pings go this often; the borrower's device acknowledges them. Its process may be stopped.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Time until a key is tried again that the device had no room for.
const KEY_RETRY: Duration = Duration::from_millis(200);
/// Times that it is: for the most of two seconds, in which a borrower's writes may wait.
const KEY_RETRIES_MAX: u32 = 5;
/// Own operations at once: a ping.
const DEPTH: usize = 4;
/// First addresses are drawn below this number of pages, so that they and a slot's length fit.
const ADDRESS_PAGES: u64 = 1 << 46;
const PAGE_SHIFT: u32 = 12;

/// A slot that the borrower can reach.
struct Window {
    set: SetId,
    region: MemoryRegion,
    // After the region, which it outlives.
    _slots: KeptMapping,
}

/// A grant without a key.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    slot: SlotIndex,
    set: SetId,
    /// Times that it could not be made.
    failures: u32,
}

/// The session. Fields are dropped in this order: the queue pair ends before any region does.
pub(super) struct Session {
    connection: Connection,
    windows: BTreeMap<SlotIndex, Window>,
    directory: SharedWords,
    domain: ProtectionDomain,
    hello: Hello,
    /// Grants without a key.
    wanted: VecDeque<Wanted>,
    /// The device had no room for a key: none is tried before.
    keys_rest_until: MonotonicTime,
    since: MonotonicTime,
    is_open: bool,
    batch: Batch,
    /// A ping is under way since then.
    pinged: Option<MonotonicTime>,
}

impl Session {
    pub(super) fn new(
        verbs: &'static Verbs,
        mut connection: Connection,
        hello: Hello,
        geometry: SlotGeometry,
    ) -> Result<Self, VerbsError> {
        let device = connection.device().ok_or(VerbsError::NoDevice)?;
        let domain = ProtectionDomain::new(verbs, device)?;
        let words = SlotIndex::new(geometry.slots).as_usize() * ENTRY_WORDS + WISHES;
        let directory = SharedWords::new(&domain, words, Some(draw_address()?))?;
        let queue = CompletionQueue::new(verbs, device, None, DEPTH)?;
        connection.make_queue_pair(&domain, queue, DEPTH)?;
        let session = Self {
            connection,
            windows: BTreeMap::new(),
            directory,
            domain,
            hello,
            wanted: VecDeque::new(),
            keys_rest_until: MonotonicTime::ZERO,
            since: monotonic_now(),
            is_open: false,
            batch: Batch::new(1),
            pinged: None,
        };
        for slot in (0..geometry.slots).map(SlotIndex::new) {
            session.write(slot, DirectoryEntry::NotYours);
        }
        Ok(session)
    }

    pub(super) const fn hello(&self) -> Hello {
        self.hello
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    pub(super) fn is_named(&self, key: CmKey) -> bool {
        self.connection.key() == key
    }

    pub(super) fn queue_pair(&self) -> Option<QueuePairKey> {
        self.connection.queue_pair()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.connection.is_broken()
    }

    pub(super) const fn established(&mut self) {
        self.is_open = true;
    }

    /// Says yes to the borrower.
    pub(super) fn accept(&self, accepted: &Accepted) -> Result<(), VerbsError> {
        let directory = Directory {
            address: self.directory.address(0),
            key: self.directory.region().rkey(),
        };
        self.connection
            .accept(&encode_rdma_accepted(accepted, directory))
    }

    /// Writes a slot's entry. The borrower's device may read it at any moment: the last word,
    /// which holds the checksum, goes last.
    fn write(&self, slot: SlotIndex, entry: DirectoryEntry) {
        let place = slot.as_usize() * ENTRY_WORDS;
        let Some(words) = self.directory.words().get(place..place + ENTRY_WORDS) else {
            return;
        };
        for (word, value) in words.iter().zip(encode_entry(entry)) {
            word.store(value, Ordering::Release);
        }
    }

    /// Compares with what is granted to the device now, of all grants given: what is new is
    /// pending at once. What was taken away has been revoked before.
    pub(super) fn refresh(&mut self, grants: impl Iterator<Item = Grant>) {
        let device = self.hello.device;
        let own = grants.filter(|grant| grant.owner.device == device);
        for Grant { slot, owner } in own {
            let has = self.windows.get(&slot).map(|window| window.set) == Some(owner.set);
            let set = owner.set;
            let waits = |it: &Wanted| (it.slot, it.set) == (slot, set);
            if !has && !self.wanted.iter().any(waits) {
                self.wanted.push_back(Wanted {
                    slot,
                    set,
                    failures: 0,
                });
                self.write(slot, DirectoryEntry::Pending);
            }
        }
    }

    pub(super) fn wants_keys(&self, now: MonotonicTime) -> bool {
        !self.wanted.is_empty() && self.keys_rest_until <= now
    }

    /// Puts first what the borrower waits for.
    fn take_wishes(&mut self) {
        let words = self.directory.words();
        for wish in &words[words.len() - WISHES..] {
            let wished = wish.swap(0, Ordering::Relaxed);
            let mut wanted = self.wanted.iter();
            let place = wanted.position(|it| u64::from(it.slot.get()) + 1 == wished);
            if let Some(first) = place.and_then(|place| self.wanted.remove(place)) {
                self.wanted.push_front(first);
            }
        }
    }

    /// Makes the key of the first grant that wants one, or of one that is waited for. The borrower sees the region at an
    /// address drawn at random: who guesses a key has to guess its address as well, and a key
    /// that was taken back and given out again is at another one.
    pub(super) fn make_key(
        &mut self,
        geometry: SlotGeometry,
        slots: &KeptMapping,
        now: MonotonicTime,
    ) -> Result<(), VerbsError> {
        self.take_wishes();
        let Some(wanted) = self.wanted.pop_front() else {
            return Ok(());
        };
        let Wanted { slot, set, .. } = wanted;
        let made = self.make_window(slot, set, geometry, slots);
        let (window, address) = match made {
            Ok(made) => made,
            Err(_) if wanted.failures < KEY_RETRIES_MAX => {
                // The grant stands and its pages are there: a borrower that is told otherwise gives the copy
                // up for ever. Its operations wait meanwhile.
                let failures = wanted.failures + 1;
                self.wanted.push_back(Wanted { failures, ..wanted });
                self.keys_rest_until = now.after(KEY_RETRY);
                return Ok(());
            }
            Err(error) => {
                self.write(slot, DirectoryEntry::NotYours);
                return Err(error);
            }
        };
        let key = window.region.rkey();
        self.windows.insert(slot, window);
        self.write(slot, DirectoryEntry::Ready { set, address, key });
        Ok(())
    }

    fn make_window(
        &self,
        slot: SlotIndex,
        set: SetId,
        geometry: SlotGeometry,
        slots: &KeptMapping,
    ) -> Result<(Window, u64), VerbsError> {
        let address = draw_address()?;
        let len = geometry.slot_size.bytes().as_usize();
        let memory = slots.part(slot.as_usize() * len, len);
        let memory = memory.ok_or(VerbsError::NoDevice)?;
        // SAFETY: the part is of a mapping that the window keeps as long as the region lives. The
        // slots are shared memory: their content is only ever copied, by this process for a TCP
        // session of the same device, or by the zeroing thread after the region's end.
        let region = unsafe {
            let access = Access::RemoteWriteAt(address);
            MemoryRegion::register(&self.domain, NonNull::cast(memory), len, access)?
        };
        let window = Window {
            set,
            region,
            _slots: slots.clone(),
        };
        Ok((window, address))
    }

    /// Takes the slot's key back and waits until the device has let go of it.
    ///
    /// # Errors
    /// The device's: it may still touch the slot, until the queue pair's end.
    pub(super) fn revoke(&mut self, slot: SlotIndex) -> Result<(), Errno> {
        self.wanted.retain(|wanted| wanted.slot != slot);
        self.write(slot, DirectoryEntry::NotYours);
        if let Some(window) = self.windows.get_mut(&slot) {
            window.region.end()?;
            self.windows.remove(&slot);
        }
        Ok(())
    }

    /// Looks after the borrower: it may be gone without a word.
    pub(super) fn tick(&mut self, now: MonotonicTime) -> Result<(), CloseReason> {
        if !self.is_open {
            let late = now.since(self.since) > GREETING_TIME_MAX;
            return if late { Err(CloseReason::Idle) } else { Ok(()) };
        }
        let mut found = [WorkCompletion::default(); DEPTH];
        let queue = self.connection.completions();
        let found = queue.map_or(&[][..], |queue| queue.poll(&mut found));
        if found.iter().any(|completion| completion.status != 0) {
            return Err(CloseReason::Network(Errno::TIMEDOUT));
        }
        if !found.is_empty() {
            self.pinged = None;
            self.since = now;
        }
        if self.pinged.is_none() && now.since(self.since) >= PING_EVERY {
            self.ping(now).map_err(CloseReason::Network)?;
        }
        Ok(())
    }

    /// A WRITE of nothing, which needs no key: the borrower's device acknowledges it.
    fn ping(&mut self, now: MonotonicTime) -> Result<(), Errno> {
        self.batch.push(Posting {
            id: 0,
            read: false,
            local: 0,
            len: 0,
            lkey: 0,
            remote: 0,
            rkey: 0,
            signalled: true,
        });
        self.pinged = Some(now);
        self.connection.post(&mut self.batch)
    }
}

/// An address at which a borrower shall see a region: drawn at random, because it is a secret
/// beside the key.
fn draw_address() -> Result<u64, VerbsError> {
    let random = random::bytes().map_err(|error| VerbsError::Call {
        call: "read /dev/urandom",
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    Ok((u64::from_ne_bytes(random) % ADDRESS_PAGES) << PAGE_SHIFT)
}
