//! The memory file: one page of the holder's, the engine's tables, the buffer pool.
//!
//! It outlives every engine process. One of the few files with unsafe code: the tables' types are
//! laid over the mapping here. Each word has one writer, named beside it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::limits::{SCRATCH_PAGES, SERVERS_MAX};
use dynamicswap_engine::page_guard::PageKey;
use dynamicswap_engine::tables::{
    AttachState, Geometry, Header, Layout, PageEntry, ServerLife, SetEntry, SlabEntry, Tables,
    TablesError, TagRest,
};
use dynamicswap_types::{Bytes, Epoch, Integrity, PAGE_SIZE, SlabSize, SwapDeviceId};
use thiserror::Error;

use crate::daemon::mapped_file::{MappedBytes, MappedFile, MappedWords, MemoryFileError};
use crate::front_end::pool::POOL_PAGES;

/// Bytes of the holder's page; the tables begin behind it.
const PAGE_BYTES: usize = PAGE_SIZE.as_usize();
/// Magic and version of the page's layout in one word.
const MAGIC: u64 = u64::from_le_bytes(*b"DSWAPHD1");
/// Bytes of the sentence that says why attaching or detaching failed.
pub const SENTENCE_BYTES_MAX: usize = 512;

/// Places of the words in the holder's page. All but two are the holder's.
mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const SIZE: usize = 1;
    pub(super) const SLAB: usize = 2;
    pub(super) const SWAPPABLE: usize = 3;
    pub(super) const SPILL_BYTES: usize = 4;
    pub(super) const STOPPING: usize = 5;
    pub(super) const STATE_CREATED: usize = 144;
    pub(super) const SENTENCE_VERSION: usize = 6;
    pub(super) const SENTENCE_LEN: usize = 7;
    pub(super) const SENTENCE: usize = 8;
    /// The engine's: numbers of its inherited descriptors, for a holder that takes over.
    pub(super) const DESCRIPTORS: usize = 128;
    /// The engine's: when it began to serve, on the monotonic clock.
    pub(super) const SERVING_SINCE: usize = 136;
    /// The holder's: 1 where pages are encrypted, and the key in four words.
    pub(super) const SEALED: usize = 152;
    /// The holder's: one more than the ublk device's number; 0 for a fuse-loop device.
    pub(super) const UBLK: usize = 160;
    pub(super) const PAGE_KEY: usize = 153;
    /// The holder's: [`dynamicswap_types::Integrity`] by its code.
    pub(super) const INTEGRITY: usize = 161;
}

const _: () = assert!(word::SENTENCE + SENTENCE_BYTES_MAX / 8 <= word::DESCRIPTORS);

/// Why a memory file is not taken.
#[derive(Debug, Error)]
pub enum SwapdMemoryError {
    /// Of something else, or of another version of this program.
    #[error(
        "the memory file is not one of this swapd's: use the engine that belongs to the holder"
    )]
    Foreign,
    /// The tables in it do not fit.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] MemoryFileError),
}

/// What the device is; never changes in the file's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The device's life.
    pub device_id: SwapDeviceId,
    /// Its size.
    pub size: Bytes,
    /// Its slabs' size.
    pub slab: SlabSize,
    /// Size of the spill file; zero without one.
    pub spill: Bytes,
    /// Whether the file can never be swapped out.
    pub noswap: bool,
    /// What protects its pages.
    pub integrity: Integrity,
}

/// Numbers of the descriptors in the engine process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineDescriptors {
    /// The FUSE connection, of a fuse-loop device.
    pub fuse: Option<RawFd>,
    /// The listening control socket.
    pub control: RawFd,
    /// The state directory's lock.
    pub lock: RawFd,
    /// The spill file.
    pub spill: Option<RawFd>,
}

/// Sizes of a device's tables and pool.
///
/// # Errors
/// [`TablesError::DeviceSize`] for a size that no device can have.
pub fn geometry(
    size: Bytes,
    slab: SlabSize,
    integrity: Integrity,
) -> Result<Geometry, TablesError> {
    Geometry::new(size, slab, POOL_PAGES + SCRATCH_PAGES, integrity)
}

/// Bytes of the memory file for these sizes.
#[must_use]
pub fn file_bytes(geometry: Geometry) -> usize {
    PAGE_BYTES + Layout::new(geometry).total
}

/// The engine's own part of the pool, behind the front end's buffers.
#[must_use]
pub const fn scratch() -> BufferRange {
    BufferRange {
        first: POOL_PAGES,
        pages: SCRATCH_PAGES,
    }
}

/// The words of the memory file, typed.
#[derive(Debug, Clone)]
pub struct SwapdMemory {
    words: MappedWords,
    layout: Layout,
}

impl SwapdMemory {
    /// Marks a new file of [`file_bytes`] as this device's. Gives the pool's bytes too.
    ///
    /// # Errors
    /// [`SwapdMemoryError`].
    pub fn create(
        file: MappedFile,
        identity: &Identity,
    ) -> Result<(Self, MappedBytes), SwapdMemoryError> {
        let geometry = geometry(identity.size, identity.slab, identity.integrity)?;
        let (memory, pool) = Self::map(file, geometry)?;
        memory.set(word::SIZE, identity.size.get());
        memory.set(word::SLAB, identity.slab.bytes().get());
        memory.set(word::SPILL_BYTES, identity.spill.get());
        memory.set(word::SWAPPABLE, u64::from(!identity.noswap));
        memory.set(word::INTEGRITY, identity.integrity.code().into());
        memory.header().initialise(identity.device_id, geometry);
        memory.set(word::MAGIC, MAGIC);
        Ok((memory, pool))
    }

    /// Takes a file that a holder has made. `again` is the same file once more: the first look
    /// finds the sizes.
    ///
    /// # Errors
    /// [`SwapdMemoryError`].
    pub fn open(
        file: MappedFile,
        again: MappedFile,
    ) -> Result<(Self, MappedBytes), SwapdMemoryError> {
        let (_, page, _) = again.split(PAGE_BYTES)?;
        let get = |at: usize| page[at].load(Ordering::Acquire);
        let slab = SlabSize::try_from(Bytes::new(get(word::SLAB)));
        let integrity = integrity_of(get(word::INTEGRITY));
        let (MAGIC, Ok(slab), Some(integrity)) = (get(word::MAGIC), slab, integrity) else {
            return Err(SwapdMemoryError::Foreign);
        };
        let geometry = geometry(Bytes::new(get(word::SIZE)), slab, integrity)?;
        let (memory, pool) = Self::map(file, geometry)?;
        memory.tables().check(geometry)?;
        Ok((memory, pool))
    }

    fn map(file: MappedFile, geometry: Geometry) -> Result<(Self, MappedBytes), SwapdMemoryError> {
        if file.byte_len() != file_bytes(geometry) {
            return Err(SwapdMemoryError::Foreign);
        }
        let layout = Layout::new(geometry);
        let (_, words, pool) = file.split(PAGE_BYTES + layout.tables_bytes())?;
        Ok((Self { words, layout }, pool))
    }

    /// What the device is.
    ///
    /// # Errors
    /// [`SwapdMemoryError::Foreign`] if the slab size or the integrity is none.
    pub fn identity(&self) -> Result<Identity, SwapdMemoryError> {
        let slab = SlabSize::try_from(Bytes::new(self.get(word::SLAB)));
        Ok(Identity {
            device_id: self.header().device_id(),
            size: Bytes::new(self.get(word::SIZE)),
            slab: slab.map_err(|_| SwapdMemoryError::Foreign)?,
            spill: Bytes::new(self.get(word::SPILL_BYTES)),
            noswap: self.get(word::SWAPPABLE) == 0,
            integrity: integrity_of(self.get(word::INTEGRITY)).ok_or(SwapdMemoryError::Foreign)?,
        })
    }

    /// Encrypts the device's pages from its first request on. The key lives in this file only, which
    /// is on a tmpfs that is never swapped out, and goes with it.
    pub fn set_page_key(&self, key: &PageKey) {
        for (at, word) in (word::PAGE_KEY..).zip(key.to_bytes().chunks_exact(8)) {
            self.set(at, word.try_into().map_or(0, u64::from_le_bytes));
        }
        self.set(word::SEALED, 1);
    }

    /// The key of a device whose pages are encrypted.
    #[must_use]
    pub fn page_key(&self) -> Option<PageKey> {
        let mut key = [0; 32];
        for (at, word) in (word::PAGE_KEY..).zip(key.chunks_exact_mut(8)) {
            word.copy_from_slice(&self.get(at).to_le_bytes());
        }
        (self.get(word::SEALED) == 1).then(|| PageKey::from_bytes(key))
    }

    /// Sizes of the tables.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.layout.geometry
    }

    /// The header of the engine's tables, with the words that holder and engine share.
    #[must_use]
    pub fn header(&self) -> &Header {
        let header: &[Header] = self.table(0, 1);
        &header[0]
    }

    /// The engine's tables.
    #[must_use]
    pub fn tables(&self) -> Tables<'_> {
        let Geometry { slabs, sets, .. } = self.layout.geometry;
        let pages = Bytes::new(self.layout.geometry.device_pages).as_usize();
        let tag_rests = Bytes::new(self.layout.geometry.tag_rests()).as_usize();
        Tables {
            header: self.header(),
            lives: self.table::<ServerLife>(self.layout.lives, SERVERS_MAX),
            slabs: self.table::<SlabEntry>(self.layout.slabs, slabs as usize),
            sets: self.table::<SetEntry>(self.layout.sets, sets as usize),
            pages: self.table::<PageEntry>(self.layout.pages, pages),
            tag_rests: self.table::<TagRest>(self.layout.tag_rests, tag_rests),
        }
    }

    fn table<T: TableType>(&self, offset: usize, len: usize) -> &[T] {
        let bytes = PAGE_BYTES + offset..PAGE_BYTES + offset + len * size_of::<T>();
        assert!(bytes.end <= self.words.len() * size_of::<AtomicU64>());
        let base = self.words.as_ptr().cast::<u8>();
        // SAFETY: the range lies inside the mapping (asserted) and lives as long as `self`; its
        // begin is a page edge, which aligns every `TableType`; these consist of atomics alone, so
        // any bytes are valid and shared references may be written through; and the ranges of the
        // layout do not overlap, so nothing else is laid over it.
        unsafe { std::slice::from_raw_parts(base.add(bytes.start).cast::<T>(), len) }
    }

    /// The next epoch: each engine process takes one before it serves.
    #[must_use]
    pub fn take_epoch(&self) -> Epoch {
        Epoch::new(self.header().epoch.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// What the block device is doing, and its number if there is one.
    #[must_use]
    pub fn device(&self) -> (AttachState, Option<u32>) {
        let header = self.header();
        let number = header.loop_device.load(Ordering::Acquire).checked_sub(1);
        let state = header.attach_state.load(Ordering::Acquire);
        (AttachState::from_word(state), number)
    }

    /// The holder says what the block device is doing.
    pub fn set_device(&self, state: AttachState, number: Option<u32>) {
        let header = self.header();
        let number = number.map_or(0, |number| number + 1);
        header.loop_device.store(number, Ordering::Release);
        header.attach_state.store(state as u32, Ordering::Release);
    }

    /// Whether the document wants the device attached, and enough is granted for it.
    #[must_use]
    pub fn attach_wanted(&self) -> bool {
        let header = self.header();
        is_set(&header.desired_attached) && is_set(&header.ready_to_attach)
    }

    /// Whether the document still wants the device attached.
    #[must_use]
    pub fn attach_desired(&self) -> bool {
        is_set(&self.header().desired_attached)
    }

    /// Why the last attach or detach failed; empty if it did not.
    #[must_use]
    pub fn failure(&self) -> String {
        let len = usize::try_from(self.get(word::SENTENCE_LEN)).unwrap_or_default();
        let words = (0..SENTENCE_BYTES_MAX / 8).map(|n| self.get(word::SENTENCE + n));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(len);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Counts the changes of [`Self::failure`].
    #[must_use]
    pub fn failure_version(&self) -> u64 {
        self.get(word::SENTENCE_VERSION)
    }

    /// The holder says why; an empty sentence takes it back.
    pub fn set_failure(&self, sentence: &str) {
        let bytes = &sentence.as_bytes()[..sentence.len().min(SENTENCE_BYTES_MAX)];
        for (n, part) in bytes.chunks(8).enumerate() {
            let mut padded = [0; 8];
            padded[..part.len()].copy_from_slice(part);
            self.set(word::SENTENCE + n, u64::from_le_bytes(padded));
        }
        self.set(word::SENTENCE_LEN, bytes.len() as u64);
        let version = self.get(word::SENTENCE_VERSION);
        self.set(word::SENTENCE_VERSION, version + 1);
    }

    /// Whether the holder was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.get(word::STOPPING) != 0
    }

    /// The holder was told to stop.
    pub fn set_stopping(&self) {
        self.set(word::STOPPING, 1);
    }

    /// Whether the holder made the state directory, and so removes it.
    #[must_use]
    pub fn is_state_created(&self) -> bool {
        self.get(word::STATE_CREATED) != 0
    }

    /// The holder says whether it made the state directory.
    pub fn set_state_created(&self, created: bool) {
        self.set(word::STATE_CREATED, u64::from(created));
    }

    /// Where the engine has the descriptors that it inherited.
    #[must_use]
    pub fn engine_descriptors(&self) -> EngineDescriptors {
        let number = |at| RawFd::try_from(self.get(word::DESCRIPTORS + at)).unwrap_or(-1);
        EngineDescriptors {
            fuse: Some(number(0)).filter(|number| *number > 0),
            control: number(1),
            lock: number(2),
            spill: Some(number(3)).filter(|number| *number > 0),
        }
    }

    /// The engine says where it has them.
    pub fn set_engine_descriptors(&self, numbers: EngineDescriptors) {
        let EngineDescriptors {
            fuse,
            control,
            lock,
            spill,
        } = numbers;
        for (at, number) in [fuse.unwrap_or(0), control, lock, spill.unwrap_or(0)]
            .into_iter()
            .enumerate()
        {
            self.set(word::DESCRIPTORS + at, u64::try_from(number).unwrap_or(0));
        }
    }

    /// Number of the ublk device, of a device that is one.
    #[must_use]
    pub fn ublk(&self) -> Option<u32> {
        u32::try_from(self.get(word::UBLK)).ok()?.checked_sub(1)
    }

    /// The holder says which ublk device it made.
    pub fn set_ublk(&self, number: Option<u32>) {
        self.set(word::UBLK, number.map_or(0, |number| u64::from(number) + 1));
    }

    /// Since when the present engine serves, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn serving_since(&self) -> u64 {
        self.get(word::SERVING_SINCE)
    }

    /// The engine begins to serve.
    pub fn set_serving_since(&self, nanos: u64) {
        self.set(word::SERVING_SINCE, nanos);
    }

    fn get(&self, at: usize) -> u64 {
        self.words[at].load(Ordering::Acquire)
    }

    fn set(&self, at: usize, value: u64) {
        self.words[at].store(value, Ordering::Release);
    }
}

/// Types of the engine's tables: nothing but atomics, aligned to a page at most.
trait TableType {}
impl TableType for Header {}
impl TableType for ServerLife {}
impl TableType for SlabEntry {}
impl TableType for SetEntry {}
impl TableType for PageEntry {}
impl TableType for TagRest {}

fn integrity_of(word: u64) -> Option<Integrity> {
    u32::try_from(word).ok().and_then(Integrity::from_code)
}

fn is_set(word: &AtomicU32) -> bool {
    word.load(Ordering::Acquire) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_engine::tables::{Counter, PageRecord, PageTag};
    use dynamicswap_types::PageVersion;
    use std::path::PathBuf;

    fn identity() -> Identity {
        Identity {
            device_id: SwapDeviceId::from_bytes([7; 16]),
            size: Bytes::from_mib(100),
            slab: SlabSize::DEFAULT,
            spill: Bytes::ZERO,
            noswap: true,
            integrity: Integrity::Full,
        }
    }

    fn create(directory: &tempfile::TempDir) -> (SwapdMemory, PathBuf) {
        create_with(directory, &identity())
    }

    fn create_with(directory: &tempfile::TempDir, identity: &Identity) -> (SwapdMemory, PathBuf) {
        let path = directory.path().join("memory");
        let Identity {
            size,
            slab,
            integrity,
            ..
        } = *identity;
        let geometry = geometry(size, slab, integrity).expect("possible");
        let file = MappedFile::create(&path, file_bytes(geometry)).expect("room");
        let (memory, pool) = SwapdMemory::create(file, identity).expect("fits");
        let end = scratch().byte_offset() + scratch().byte_len();
        assert_eq!(pool.as_slice().len(), end);
        (memory, path)
    }

    fn open(path: &std::path::Path) -> Result<SwapdMemory, SwapdMemoryError> {
        let file = || MappedFile::open(path).expect("there");
        SwapdMemory::open(file(), file()).map(|(memory, _)| memory)
    }

    #[test]
    fn next_engine_finds_what_the_last_one_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let (memory, path) = create(&directory);
        assert_eq!(memory.take_epoch(), Epoch::new(1));
        memory.header().count(Counter::SlabsReturned, 5);
        memory.tables().slabs[1].bind(Some(3));
        memory.set_device(AttachState::Attached, Some(0));
        memory.set_failure("no");
        drop(memory);
        let next = open(&path).expect("valid");
        assert_eq!(next.identity().expect("sound"), identity());
        assert_eq!(next.take_epoch(), Epoch::new(2));
        assert_eq!(next.header().counter(Counter::SlabsReturned), 5);
        assert_eq!(next.tables().slabs[1].set(), Some(3));
        assert_eq!(next.tables().slabs[0].set(), None);
        assert_eq!(next.tables().pages.len(), 25600);
        assert_eq!(next.device(), (AttachState::Attached, Some(0)));
        assert_eq!(next.failure(), "no");
    }

    #[test]
    fn rest_of_a_tag_is_found_again_and_there_is_none_where_tags_are_cut() {
        for integrity in Integrity::ALL {
            let directory = tempfile::tempdir().expect("a directory");
            let wanted = Identity {
                integrity,
                ..identity()
            };
            let (memory, path) = create_with(&directory, &wanted);
            let record = PageRecord {
                version: PageVersion::new(Epoch::new(1), 7).expect("fits"),
                remote: true,
                disk: false,
            };
            let last = memory.tables().pages.len() - 1;
            let tag = PageTag::whole([9; 16]);
            memory.tables().publish(last, record, tag);
            drop(memory);
            let next = open(&path).expect("valid");
            assert_eq!(next.identity().expect("sound"), wanted);
            assert_eq!(next.tables().pages[last].load(), record);
            let kept = next.tables().tag(last) == tag;
            assert_eq!(kept, integrity == Integrity::Full, "{integrity}");
        }
    }

    #[test]
    fn file_whose_integrity_was_changed_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let (memory, path) = create(&directory);
        memory.set(word::INTEGRITY, 9);
        assert!(matches!(open(&path), Err(SwapdMemoryError::Foreign)));
        memory.set(word::INTEGRITY, Integrity::Tag64.code().into());
        assert!(open(&path).is_err(), "the file is longer than that");
    }

    #[test]
    fn device_is_attached_only_when_wanted_and_possible() {
        let directory = tempfile::tempdir().expect("a directory");
        let (memory, _) = create(&directory);
        let header = memory.header();
        header.desired_attached.store(1, Ordering::Release);
        assert!(!memory.attach_wanted() && memory.attach_desired());
        header.ready_to_attach.store(1, Ordering::Release);
        assert!(memory.attach_wanted());
    }

    #[test]
    fn foreign_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("other");
        drop(MappedFile::create(&path, 8192).expect("room"));
        assert!(matches!(open(&path), Err(SwapdMemoryError::Foreign)));
        let (memory, path) = create(&directory);
        memory.set(word::SIZE, Bytes::from_mib(1000).get());
        assert!(matches!(open(&path), Err(SwapdMemoryError::Foreign)));
    }

    #[test]
    fn long_sentence_is_cut_and_a_shorter_one_leaves_nothing_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (memory, _) = create(&directory);
        memory.set_failure(&"x".repeat(1000));
        assert_eq!(memory.failure().len(), SENTENCE_BYTES_MAX);
        memory.set_failure("short");
        assert_eq!(
            (memory.failure().as_str(), memory.failure_version()),
            ("short", 2)
        );
    }
}
