//! Persistent tables in the memory file: layout and typed access.
//!
//! Owns what outlives an engine process: the header with the holder's and the engine's shared
//! words, the servers' lives, the slab table, the set table, the page table and, where tags are kept
//! whole, the rests of the tags. Behind them, in the same file, lies the buffer pool, whose content
//! does not outlive anything. Every field that changes is atomic:
//! the holder reads them from another process, and a process killed between two stores leaves
//! each field whole. Mapping the file is the shell's; see [`Tables`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dynamicswap_types::{Bytes, IncarnationId, Integrity, PAGE_SIZE, SlabSize, SwapDeviceId};
use thiserror::Error;

use crate::heat::SlabHeat;
use crate::limits::{DEVICE_PAGES_MAX, SERVERS_MAX, SETS_SPARE_MAX};
pub use crate::pages::{PageEntry, PageRecord, PageTag, TagRest};
use crate::progress::CopyProgress;

/// "DSWAPTBL" as it stands in the file.
const MAGIC: u64 = u64::from_le_bytes(*b"DSWAPTBL");
/// Version of this layout; another one is refused.
const LAYOUT_VERSION: u32 = 4;

/// Why a memory file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TablesError {
    /// The device is empty, too large or not a whole number of pages.
    #[error("a device of {0} is not possible: choose a multiple of 4Ki from one slab to 1Ti")]
    DeviceSize(Bytes),
    /// The file's first bytes are not ours.
    #[error("the memory file does not hold swapd's tables")]
    Foreign,
    /// Written by another version of this program.
    #[error("the memory file has layout {0}, this program knows {LAYOUT_VERSION}")]
    LayoutVersion(u32),
    /// Made for another device size, slab size, integrity or pool.
    #[error(
        "the memory file was made for another device size, slab size, integrity or buffer pool"
    )]
    Geometry,
    /// A table of the wrong length was handed over.
    #[error("the mapped tables do not have the lengths of their layout")]
    Length,
}

/// Sizes that fix every offset in the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Pages of the device.
    pub device_pages: u64,
    /// Pages of one slab.
    pub slab_pages: u32,
    /// Slabs of the device.
    pub slabs: u32,
    /// Places in the set table.
    pub sets: u32,
    /// Pages of the buffer pool.
    pub pool_pages: u32,
    /// How much of each page's tag is kept.
    pub integrity: Integrity,
}

impl Geometry {
    /// Sizes for a device of `size` in slabs of `slab`, with a buffer pool of `pool_pages`.
    ///
    /// # Errors
    /// [`TablesError::DeviceSize`].
    pub fn new(
        size: Bytes,
        slab: SlabSize,
        pool_pages: u32,
        integrity: Integrity,
    ) -> Result<Self, TablesError> {
        let device_pages = size.get() / PAGE_SIZE.get();
        let whole = size.get().is_multiple_of(PAGE_SIZE.get()) && size >= slab.bytes();
        if !whole || device_pages > DEVICE_PAGES_MAX {
            return Err(TablesError::DeviceSize(size));
        }
        let number = |value: u64| u32::try_from(value).map_err(|_| TablesError::DeviceSize(size));
        let slabs = number(slab.slabs_for(size))?;
        Ok(Self {
            device_pages,
            slab_pages: number(slab.pages().get())?,
            slabs,
            sets: slabs.saturating_add(SETS_SPARE_MAX),
            pool_pages,
            integrity,
        })
    }

    /// Rests of tags: one for each page where tags are kept whole.
    #[must_use]
    pub const fn tag_rests(&self) -> u64 {
        match self.integrity {
            Integrity::Full => self.device_pages,
            Integrity::None | Integrity::Tag64 => 0,
        }
    }
}

/// Where each table begins in the memory file, in bytes, each at a page edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What it was computed from.
    pub geometry: Geometry,
    /// Lives of servers.
    pub lives: usize,
    /// Slab entries.
    pub slabs: usize,
    /// Set entries.
    pub sets: usize,
    /// Page entries.
    pub pages: usize,
    /// Rests of tags.
    pub tag_rests: usize,
    /// Buffer pool.
    pub pool: usize,
    /// Length of the file.
    pub total: usize,
}

impl Layout {
    /// The layout of a memory file for these sizes.
    #[must_use]
    pub const fn new(geometry: Geometry) -> Self {
        const fn aligned(bytes: usize) -> usize {
            bytes.next_multiple_of(PAGE_SIZE.as_usize())
        }
        let page_count = Bytes::new(geometry.device_pages).as_usize();
        let lives = size_of::<Header>();
        let slabs = lives + aligned(SERVERS_MAX * size_of::<ServerLife>());
        let sets = slabs + aligned(geometry.slabs as usize * size_of::<SlabEntry>());
        let pages = sets + aligned(geometry.sets as usize * size_of::<SetEntry>());
        let tag_rests = pages + aligned(page_count * size_of::<PageEntry>());
        let rest_count = Bytes::new(geometry.tag_rests()).as_usize();
        let pool = tag_rests + aligned(rest_count * size_of::<TagRest>());
        let total = pool + geometry.pool_pages as usize * PAGE_SIZE.as_usize();
        Self {
            geometry,
            lives,
            slabs,
            sets,
            pages,
            tag_rests,
            pool,
            total,
        }
    }

    /// Bytes of the tables alone, without the buffer pool.
    #[must_use]
    pub const fn tables_bytes(&self) -> usize {
        self.pool
    }
}

/// State of an engine process, in [`Header::engine_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EngineState {
    /// Started by the holder, not serving yet.
    Starting = 0,
    /// Serves the device.
    Serving = 1,
    /// Fenced by a newer epoch: it must not be restarted with this memory file.
    Fenced = 2,
}

/// What the attach helper has reached, in [`Header::attach_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachState {
    /// Not a swap device.
    Detached = 0,
    /// A helper attaches it.
    Attaching = 1,
    /// Swap is on.
    Attached = 2,
    /// A helper detaches it.
    Detaching = 3,
    /// The last helper failed; the holder's log says why.
    Failed = 4,
}

impl AttachState {
    /// Reads the word as it stands in the header; what is none of them is `Failed`.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Detached,
            1 => Self::Attaching,
            2 => Self::Attached,
            3 => Self::Detaching,
            _ => Self::Failed,
        }
    }
}

/// What is counted over the device's life; positions in the counters of [`Header`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[expect(
    missing_docs,
    reason = "each is documented in DeviceCounters of proto/common.proto"
)]
pub enum Counter {
    Reads,
    Writes,
    PagesRead,
    PagesWritten,
    PagesDiscarded,
    WriteFailures,
    ReadFailures,
    IntegrityFailures,
    PagesRepaired,
    PagesRebuilt,
    PagesLost,
    RequestsResent,
    WritesHeld,
    SlabsMapped,
    SlabsReturned,
}

/// Places for counters, some of them still free.
const COUNTERS: usize = 32;

/// First page of the memory file: what it is, and the words that holder and engine share.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Header {
    magic: AtomicU64,
    layout_version: AtomicU32,
    slab_pages: AtomicU32,
    device_id: [AtomicU64; 2],
    device_pages: AtomicU64,
    sets: AtomicU32,
    pool_pages: AtomicU32,
    /// Epoch of the engine that serves or served last. The engine raises it before it serves.
    pub epoch: AtomicU64,
    /// CLOCK_MONOTONIC nanoseconds of the I/O thread's last round.
    pub heartbeat: AtomicU64,
    /// [`EngineState`], written by the engine.
    pub engine_state: AtomicU32,
    /// 1 when enough is mapped for the attach helper's self-test; written by the engine.
    pub ready_to_attach: AtomicU32,
    /// 1 when the document wants the device attached; written by the engine.
    pub desired_attached: AtomicU32,
    /// [`AttachState`], written by the holder.
    pub attach_state: AtomicU32,
    /// Engine processes started, written by the holder.
    pub engine_starts: AtomicU32,
    /// Process id of the holder.
    pub holder_pid: AtomicU32,
    /// Process id of the engine, written by the holder.
    pub engine_pid: AtomicU32,
    /// Number N of /dev/loopN plus 1 while a loop device exists, else 0; written by the helper.
    pub loop_device: AtomicU32,
    integrity: AtomicU32,
    /// Counters by [`Counter`].
    counters: [AtomicU64; COUNTERS],
}

const _: () = assert!(size_of::<Header>() == 4096);

impl Header {
    /// A header of zeroes, as a new memory file has it.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self {
            magic: AtomicU64::new(0),
            layout_version: AtomicU32::new(0),
            slab_pages: AtomicU32::new(0),
            device_id: [const { AtomicU64::new(0) }; 2],
            device_pages: AtomicU64::new(0),
            sets: AtomicU32::new(0),
            pool_pages: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            engine_state: AtomicU32::new(0),
            ready_to_attach: AtomicU32::new(0),
            desired_attached: AtomicU32::new(0),
            attach_state: AtomicU32::new(0),
            engine_starts: AtomicU32::new(0),
            holder_pid: AtomicU32::new(0),
            engine_pid: AtomicU32::new(0),
            loop_device: AtomicU32::new(0),
            integrity: AtomicU32::new(0),
            counters: [const { AtomicU64::new(0) }; COUNTERS],
        }
    }

    /// Marks a zeroed file as holding the tables of `device`.
    pub fn initialise(&self, device: SwapDeviceId, geometry: Geometry) {
        let id = u128::from_le_bytes(device.to_bytes());
        let halves = [id & u128::from(u64::MAX), id >> 64];
        for (word, half) in self.device_id.iter().zip(halves) {
            word.store(u64::try_from(half).unwrap_or(0), Ordering::Relaxed);
        }
        self.device_pages
            .store(geometry.device_pages, Ordering::Relaxed);
        self.slab_pages
            .store(geometry.slab_pages, Ordering::Relaxed);
        self.sets.store(geometry.sets, Ordering::Relaxed);
        self.pool_pages
            .store(geometry.pool_pages, Ordering::Relaxed);
        self.integrity
            .store(geometry.integrity.code(), Ordering::Relaxed);
        self.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
        // Last: a file that was half made is foreign.
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Checks that the file holds tables of exactly this geometry.
    ///
    /// # Errors
    /// [`TablesError`], naming what differs.
    pub fn check(&self, geometry: Geometry) -> Result<(), TablesError> {
        if self.magic.load(Ordering::Acquire) != MAGIC {
            return Err(TablesError::Foreign);
        }
        let version = self.layout_version.load(Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(TablesError::LayoutVersion(version));
        }
        let same = self.device_pages.load(Ordering::Relaxed) == geometry.device_pages
            && self.slab_pages.load(Ordering::Relaxed) == geometry.slab_pages
            && self.sets.load(Ordering::Relaxed) == geometry.sets
            && self.pool_pages.load(Ordering::Relaxed) == geometry.pool_pages
            && self.integrity.load(Ordering::Relaxed) == geometry.integrity.code();
        if same {
            Ok(())
        } else {
            Err(TablesError::Geometry)
        }
    }

    /// The device whose tables these are.
    #[must_use]
    pub fn device_id(&self) -> SwapDeviceId {
        let [low, high] = [0, 1].map(|i: usize| self.device_id[i].load(Ordering::Relaxed));
        SwapDeviceId::from_bytes((u128::from(low) | (u128::from(high) << 64)).to_le_bytes())
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, by: u64) {
        self.counters[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

/// The life of a memory server's memory in which this device's copies there were granted; zero
/// before the first document that names the server. It stands beside the copies' states and not
/// in the kept document, because the two are not replaced at the same moment.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ServerLife([AtomicU64; 2]);

const _: () = assert!(size_of::<ServerLife>() == 16);

impl ServerLife {
    /// The life, if one is known.
    #[must_use]
    pub fn load(&self) -> Option<IncarnationId> {
        let words = [0, 1].map(|index: usize| self.0[index].load(Ordering::Acquire));
        let value = u128::from(words[0]) | (u128::from(words[1]) << 64);
        (value != 0).then(|| IncarnationId::from_bytes(value.to_le_bytes()))
    }

    /// Notes the life. A process killed between the two stores leaves one that never was: the
    /// next document's differs from it, and the copies are made again.
    pub(crate) fn store(&self, life: IncarnationId) {
        let value = u128::from_le_bytes(life.to_bytes());
        let halves = [value & u128::from(u64::MAX), value >> 64];
        for (word, half) in self.0.iter().zip(halves) {
            word.store(u64::try_from(half).unwrap_or(0), Ordering::Release);
        }
    }
}

/// One slab: the place of its set in the set table plus 1, or 0; and its heat.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SlabEntry {
    set: AtomicU64,
    heat: SlabHeat,
}

const _: () = assert!(size_of::<SlabEntry>() == 32);

impl SlabEntry {
    /// Place of the slab's set in the set table.
    #[must_use]
    pub fn set(&self) -> Option<usize> {
        let word = self.set.load(Ordering::Acquire).checked_sub(1)?;
        usize::try_from(word).ok()
    }

    /// How much it is used.
    #[must_use]
    pub fn heat(&self) -> &SlabHeat {
        &self.heat
    }

    /// Binds the slab to the set at `place`, or unbinds it.
    pub fn bind(&self, place: Option<usize>) {
        let word = place.map_or(0, |place| place as u64 + 1);
        self.set.store(word, Ordering::Release);
    }
}

/// One place of the set table. Words are packed by `sets.rs`; zero means free.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SetEntry {
    /// `SetId`, or 0 while the place is free: written last, cleared first.
    pub(crate) id: AtomicU64,
    /// Number of replicas in the lower byte, released flag in the next.
    pub(crate) shape: AtomicU64,
    /// Per replica: slot in the lower 32 bits, server in the next 16, state in the next 8.
    pub(crate) replicas: [AtomicU64; 3],
    /// Per replica that is not whole: what it holds already.
    pub(crate) progress: [CopyProgress; 3],
}

const _: () = assert!(size_of::<SetEntry>() == 88);

/// The tables of one memory file. The shell maps the file and hands over references into it.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'m> {
    /// First page.
    pub header: &'m Header,
    /// One entry per server index.
    pub lives: &'m [ServerLife],
    /// One entry per slab.
    pub slabs: &'m [SlabEntry],
    /// Places for sets.
    pub sets: &'m [SetEntry],
    /// One entry per page of the device.
    pub pages: &'m [PageEntry],
    /// One per page of the device where tags are kept whole, else none.
    pub tag_rests: &'m [TagRest],
}

impl Tables<'_> {
    /// Checks the header and the lengths against a geometry.
    ///
    /// # Errors
    /// [`TablesError`].
    pub fn check(&self, geometry: Geometry) -> Result<(), TablesError> {
        self.header.check(geometry)?;
        let lengths = self.lives.len() == SERVERS_MAX
            && self.slabs.len() == geometry.slabs as usize
            && self.sets.len() == geometry.sets as usize
            && self.pages.len() as u64 == geometry.device_pages
            && self.tag_rests.len() as u64 == geometry.tag_rests();
        if lengths {
            Ok(())
        } else {
            Err(TablesError::Length)
        }
    }
}

/// Tables in ordinary memory: for tests, the simulation and benchmarks.
#[derive(Debug)]
pub struct OwnedTables {
    header: Box<Header>,
    lives: Vec<ServerLife>,
    slabs: Vec<SlabEntry>,
    sets: Vec<SetEntry>,
    pages: Vec<PageEntry>,
    tag_rests: Vec<TagRest>,
}

impl OwnedTables {
    /// Fresh tables of `device`.
    #[must_use]
    pub fn new(device: SwapDeviceId, geometry: Geometry) -> Self {
        fn table<T: Default>(length: u64) -> Vec<T> {
            (0..length).map(|_| T::default()).collect()
        }
        let header = Box::new(Header::zeroed());
        header.initialise(device, geometry);
        Self {
            header,
            lives: table(SERVERS_MAX as u64),
            slabs: table(u64::from(geometry.slabs)),
            sets: table(u64::from(geometry.sets)),
            pages: table(geometry.device_pages),
            tag_rests: table(geometry.tag_rests()),
        }
    }

    /// References, as a shell would make them from a mapping.
    #[must_use]
    pub fn tables(&self) -> Tables<'_> {
        Tables {
            header: &self.header,
            lives: &self.lives,
            slabs: &self.slabs,
            sets: &self.sets,
            pages: &self.pages,
            tag_rests: &self.tag_rests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry_with(integrity: Integrity) -> Geometry {
        let size = Bytes::from_mib(65);
        Geometry::new(size, SlabSize::DEFAULT, 16, integrity).expect("valid")
    }

    fn geometry() -> Geometry {
        geometry_with(Integrity::Full)
    }

    #[test]
    fn tables_follow_one_another_at_page_edges() {
        let layout = Layout::new(geometry());
        let edges = [
            0,
            layout.lives,
            layout.slabs,
            layout.sets,
            layout.pages,
            layout.tag_rests,
            layout.pool,
            layout.total,
        ];
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(edges.iter().all(|edge| edge % 4096 == 0));
        assert_eq!(layout.total - layout.pool, 16 * 4096);
    }

    #[test]
    fn page_costs_16_bytes_and_24_where_its_tag_is_whole() {
        let bytes = |integrity| {
            let layout = Layout::new(geometry_with(integrity));
            layout.pool - layout.pages
        };
        let pages = 65 << 8;
        assert_eq!(bytes(Integrity::None), pages * 16);
        assert_eq!(bytes(Integrity::Tag64), pages * 16);
        // Each table begins at a page's edge.
        assert_eq!(
            bytes(Integrity::Full),
            (pages * 24_usize).next_multiple_of(4096)
        );
    }

    #[test]
    fn impossible_devices_are_refused() {
        for size in [0, 4095, 64 << 20 | 1, 2 << 40] {
            let size = Bytes::new(size);
            let refused = Geometry::new(size, SlabSize::DEFAULT, 16, Integrity::Tag64);
            assert_eq!(refused, Err(TablesError::DeviceSize(size)));
        }
    }

    #[test]
    fn foreign_and_stale_files_are_recognised() {
        let header = Header::zeroed();
        assert_eq!(header.check(geometry()), Err(TablesError::Foreign));
        let id = SwapDeviceId::from_bytes([7; 16]);
        header.initialise(id, geometry());
        assert_eq!(header.check(geometry()), Ok(()));
        assert_eq!(header.device_id(), id);
        let other = Geometry {
            pool_pages: 17,
            ..geometry()
        };
        assert_eq!(header.check(other), Err(TablesError::Geometry));
        let weaker = header.check(geometry_with(Integrity::Tag64));
        assert_eq!(weaker, Err(TablesError::Geometry));
        header.layout_version.store(9, Ordering::Relaxed);
        assert_eq!(header.check(geometry()), Err(TablesError::LayoutVersion(9)));
    }

    #[test]
    fn life_of_a_server_is_kept() {
        let life = ServerLife::default();
        assert_eq!(life.load(), None);
        let id = IncarnationId::from_bytes(*b"ABCDEFGHIJKLMNOP");
        life.store(id);
        assert_eq!(life.load(), Some(id));
    }
}
