//! The memory file: slots behind a header that keeps who owns them, across kill -9.
//!
//! Layout, in 64-bit words: fixed words (magic, sizes, incarnation, node, checksum), the
//! generation and the port, the table of devices, the table of slots; then, at the next page,
//! the slots. Each table entry is 4 words of which the first, its state, is written last: a
//! process that dies in between leaves the entry as it was or as "dirty", never as a lie.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use dynamicswap_engine::limits::DEVICES_MAX;
use dynamicswap_engine::slots::{DeviceEpoch, Kept, Owner, SlotGeometry, SlotRecord};
use dynamicswap_types::{
    Bytes, Epoch, Generation, IncarnationId, NodeName, PAGE_SIZE, SetId, SlotIndex, SwapDeviceId,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::daemon::mapped_file::{MappedBytes, MappedFile, MappedWords, MemoryFileError};

/// "DSSLOTS" and the layout's version; a new layout gets a new number.
const MAGIC: u64 = u64::from_le_bytes(*b"DSSLOTS1");
const SLOT_BYTES: usize = 1;
const SLOTS: usize = 2;
const INCARNATION: usize = 3;
const NODE: usize = 5;
const NODE_WORDS: usize = 32;
const CHECKSUM: usize = NODE + NODE_WORDS;
const GENERATION: usize = CHECKSUM + 1;
const PORT: usize = CHECKSUM + 2;
const DEVICES: usize = 64;
const ENTRY: usize = 4;
const SLOT_TABLE: usize = DEVICES + DEVICES_MAX * ENTRY;

const _: () = assert!(PORT < DEVICES);

/// States of a table entry. A device's entry knows only the first two.
const FREE: u64 = 0;
const TAKEN: u64 = 1;
const DIRTY: u64 = 2;
const DIRTY_WITH_NEXT: u64 = 3;

/// Why a memory file cannot be used.
#[derive(Debug, Error)]
pub enum KeptFileError {
    /// Not ours, or of another version.
    #[error(
        "'{}' is no memory file of this version: if it may go, run \
         `dynamicswap-memory-server` with --discard, then start again", .0.display()
    )]
    Foreign(PathBuf),
    /// Of another node.
    #[error(
        "'{}' belongs to node '{kept}' and not to '{wanted}': choose another --state-dir",
        path.display()
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Its node.
        kept: String,
        /// This node.
        wanted: NodeName,
    },
    /// Of another size.
    #[error(
        "'{}' was made with --slab {kept_slab} and --capacity {kept_capacity}: start with these, \
         or throw its memory away with --discard first", path.display()
    )]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its slab size.
        kept_slab: Bytes,
        /// Its capacity.
        kept_capacity: Bytes,
    },
    /// The host refused.
    #[error(transparent)]
    File(#[from] MemoryFileError),
    /// The host refused.
    #[error("keep memory file '{}': {source}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

/// What a memory file must be made for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// This node.
    pub node: NodeName,
    /// Its slots.
    pub geometry: SlotGeometry,
}

/// An opened memory file.
#[derive(Debug)]
pub struct MemoryFile {
    /// For the zeroing thread.
    pub file: OwnedFd,
    /// The header.
    pub records: Records,
    /// The slots.
    pub slots: MappedBytes,
    /// What an earlier process left, or a fresh start.
    pub kept: Kept,
    /// Where the slots begin in the file.
    pub slots_offset: u64,
}

impl MemoryFile {
    /// Locks header and slots in memory, which makes all of it present.
    ///
    /// # Errors
    /// The host's.
    pub fn lock(&self) -> Result<(), Errno> {
        self.slots.lock_mapping()
    }
}

/// The header, as the I/O thread writes it.
#[derive(Debug)]
pub struct Records {
    words: MappedWords,
}

fn header_bytes(slots: u32) -> usize {
    let words = SLOT_TABLE + SlotIndex::new(slots).as_usize() * ENTRY;
    (words * size_of::<u64>()).next_multiple_of(PAGE_SIZE.as_usize())
}

/// Bytes that a memory file needs.
#[must_use]
pub fn file_bytes(geometry: SlotGeometry) -> Bytes {
    let header = u64::try_from(header_bytes(geometry.slots)).unwrap_or(u64::MAX);
    Bytes::new(geometry.bytes().saturating_add(header))
}

/// The port that the server which keeps the file listened on; 0 if there is no such file.
#[must_use]
pub fn kept_port(path: &Path) -> u16 {
    let Ok(file) = fs::File::open(path) else {
        return 0;
    };
    let mut word = [0; 8];
    let offset = u64::try_from(PORT * size_of::<u64>()).unwrap_or_default();
    match rustix::io::pread(&file, &mut word, offset) {
        Ok(8) => u16::try_from(u64::from_le_bytes(word)).unwrap_or_default(),
        _ => 0,
    }
}

impl MemoryFile {
    /// Opens the file at `path` if there is one, else makes it with a new `incarnation`.
    ///
    /// # Errors
    /// See [`KeptFileError`].
    pub fn open(
        path: &Path,
        wanted: &Wanted,
        incarnation: IncarnationId,
    ) -> Result<Self, KeptFileError> {
        let header = header_bytes(wanted.geometry.slots);
        let mapped = if path.exists() {
            let mapped = MappedFile::open(path)?;
            check(&mapped, path, wanted)?;
            mapped
        } else {
            create(path, wanted, incarnation)?
        };
        let (file, words, slots) = mapped.split(header)?;
        let records = Records { words };
        Ok(Self {
            file,
            kept: records.kept(wanted.geometry.slots),
            records,
            slots,
            slots_offset: u64::try_from(header).unwrap_or(u64::MAX),
        })
    }
}

/// Makes the file under another name first, so that a half-made one is never taken for real.
fn create(
    path: &Path,
    wanted: &Wanted,
    incarnation: IncarnationId,
) -> Result<MappedFile, KeptFileError> {
    let new = path.with_extension("new");
    let host = |source| KeptFileError::Host {
        path: new.clone(),
        source,
    };
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(host(error)),
        _ => {}
    }
    let mapped = MappedFile::create(&new, file_bytes(wanted.geometry).as_usize())?;
    mapped.with_words(SLOT_TABLE, |words| {
        for (word, value) in words.iter().zip(fixed_words(wanted, incarnation)) {
            word.store(value, Ordering::Relaxed);
        }
    })?;
    fs::rename(&new, path).map_err(host)?;
    Ok(mapped)
}

fn fixed_words(wanted: &Wanted, incarnation: IncarnationId) -> [u64; CHECKSUM + 1] {
    let mut words = [0; CHECKSUM + 1];
    words[0] = MAGIC;
    words[SLOT_BYTES] = wanted.geometry.slot_size.bytes().get();
    words[SLOTS] = u64::from(wanted.geometry.slots);
    [words[INCARNATION], words[INCARNATION + 1]] = halves(incarnation.to_bytes());
    let name = wanted.node.as_str().as_bytes();
    for (word, bytes) in words[NODE..].iter_mut().zip(name.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    words[CHECKSUM] = checksum(&words[..CHECKSUM]);
    words
}

/// FNV-1a over the words: against foreign and half-written files, not against attackers.
fn checksum(words: &[u64]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Refuses a file that is not what is wanted.
fn check(mapped: &MappedFile, path: &Path, wanted: &Wanted) -> Result<(), KeptFileError> {
    let path = path.to_owned();
    if mapped.byte_len() < header_bytes(1) {
        return Err(KeptFileError::Foreign(path));
    }
    let mut fixed = [0; CHECKSUM + 1];
    mapped.with_words(SLOT_TABLE, |words| {
        for (value, word) in fixed.iter_mut().zip(words) {
            *value = word.load(Ordering::Relaxed);
        }
    })?;
    if fixed[0] != MAGIC || fixed[CHECKSUM] != checksum(&fixed[..CHECKSUM]) {
        return Err(KeptFileError::Foreign(path));
    }
    let name: Vec<u8> = fixed[NODE..CHECKSUM]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    let kept = String::from_utf8_lossy(&name)
        .trim_end_matches('\0')
        .to_owned();
    if kept != wanted.node.as_str() {
        let wanted = wanted.node.clone();
        return Err(KeptFileError::OtherNode { path, kept, wanted });
    }
    let geometry = wanted.geometry;
    let (slab, slots) = (Bytes::new(fixed[SLOT_BYTES]), fixed[SLOTS]);
    if slab != geometry.slot_size.bytes() || slots != u64::from(geometry.slots) {
        return Err(KeptFileError::OtherSize {
            path,
            kept_slab: slab,
            kept_capacity: Bytes::new(slab.get().saturating_mul(slots)),
        });
    }
    if mapped.byte_len() != file_bytes(geometry).as_usize() {
        return Err(KeptFileError::Foreign(path));
    }
    Ok(())
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let value = u128::from_le_bytes(bytes);
    let low = u64::try_from(value & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(value >> 64).unwrap_or_default();
    [low, high]
}

fn whole(low: u64, high: u64) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

impl Records {
    fn load(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }

    /// Writes an entry so that it is `before`, then `state`, at any moment in between.
    fn store_entry(&self, entry: usize, states: (u64, u64), id: [u8; 16], number: u64) {
        let (before, state) = states;
        self.store(entry, before);
        let [low, high] = halves(id);
        self.store(entry + 1, low);
        self.store(entry + 2, high);
        self.store(entry + 3, number);
        self.store(entry, state);
    }

    fn kept(&self, slots: u32) -> Kept {
        let incarnation = whole(self.load(INCARNATION), self.load(INCARNATION + 1));
        let devices = (0_u16..).zip(0..DEVICES_MAX).filter_map(|(place, index)| {
            let entry = DEVICES + index * ENTRY;
            (self.load(entry) == TAKEN).then(|| DeviceEpoch {
                place,
                device: SwapDeviceId::from_bytes(whole(self.load(entry + 1), self.load(entry + 2))),
                epoch: Epoch::new(self.load(entry + 3)),
            })
        });
        Kept {
            incarnation: IncarnationId::from_bytes(incarnation),
            generation: Generation::new(self.load(GENERATION)),
            slots: (0..slots)
                .map(|slot| self.slot(SlotIndex::new(slot)))
                .collect(),
            devices: devices.collect(),
        }
    }

    fn slot(&self, slot: SlotIndex) -> SlotRecord {
        let entry = SLOT_TABLE + slot.as_usize() * ENTRY;
        let owner = || Owner {
            device: SwapDeviceId::from_bytes(whole(self.load(entry + 1), self.load(entry + 2))),
            set: SetId::new(self.load(entry + 3)),
        };
        match self.load(entry) {
            FREE => SlotRecord::Ready,
            TAKEN => SlotRecord::Granted(owner()),
            DIRTY_WITH_NEXT => SlotRecord::Dirty {
                next: Some(owner()),
            },
            // An unknown state has an unknown content: zero it.
            _ => SlotRecord::Dirty { next: None },
        }
    }

    /// Keeps a slot's record.
    pub fn record_slot(&self, slot: SlotIndex, record: SlotRecord) {
        let entry = SLOT_TABLE + slot.as_usize() * ENTRY;
        let owned = |states, owner: Owner| {
            self.store_entry(entry, states, owner.device.to_bytes(), owner.set.get());
        };
        match record {
            SlotRecord::Ready => self.store(entry, FREE),
            SlotRecord::Granted(owner) => owned((FREE, TAKEN), owner),
            SlotRecord::Dirty { next: None } => self.store(entry, DIRTY),
            SlotRecord::Dirty { next: Some(owner) } => owned((DIRTY, DIRTY_WITH_NEXT), owner),
        }
    }

    /// Keeps a device's epoch.
    pub fn record_epoch(&self, known: DeviceEpoch) {
        let entry = DEVICES + usize::from(known.place) * ENTRY;
        let id = known.device.to_bytes();
        let same =
            self.load(entry) == TAKEN && whole(self.load(entry + 1), self.load(entry + 2)) == id;
        if same {
            self.store(entry + 3, known.epoch.get());
        } else {
            self.store_entry(entry, (FREE, TAKEN), id, known.epoch.get());
        }
    }

    /// Keeps the generation of the last document.
    pub fn record_generation(&self, generation: Generation) {
        self.store(GENERATION, generation.get());
    }

    /// Keeps the port, for the next start with `--listen IP:0`.
    pub fn record_port(&self, port: u16) {
        self.store(PORT, u64::from(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::SlabSize;

    const MEMORY: IncarnationId = IncarnationId::from_bytes([5; 16]);

    fn wanted(node: &str, slots: u32, slab_mib: u32) -> Wanted {
        Wanted {
            node: node.parse().expect("a name"),
            geometry: SlotGeometry {
                slot_size: SlabSize::try_from(Bytes::from_mib(slab_mib)).expect("a slab size"),
                slots,
            },
        }
    }

    fn owner(device: u8, set: u64) -> Owner {
        Owner {
            device: SwapDeviceId::from_bytes([device; 16]),
            set: SetId::new(set),
        }
    }

    #[test]
    fn everything_recorded_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("slots");
        let wanted = wanted("donor-1", 5, 1);
        let mut made = MemoryFile::open(&path, &wanted, MEMORY).expect("made");
        assert_eq!(made.kept.incarnation, MEMORY);
        assert!(
            made.kept
                .slots
                .iter()
                .all(|slot| *slot == SlotRecord::Ready)
        );
        let records = [
            SlotRecord::Granted(owner(1, 10)),
            SlotRecord::Dirty { next: None },
            SlotRecord::Dirty {
                next: Some(owner(2, 11)),
            },
            SlotRecord::Ready,
            SlotRecord::Granted(owner(3, 12)),
        ];
        for (slot, record) in (0..).zip(records) {
            made.records.record_slot(SlotIndex::new(slot), record);
        }
        let mut epoch = DeviceEpoch {
            place: 2,
            device: SwapDeviceId::from_bytes([1; 16]),
            epoch: Epoch::new(1),
        };
        made.records.record_epoch(epoch);
        epoch.epoch = Epoch::new(4);
        made.records.record_epoch(epoch);
        made.records.record_generation(Generation::new(8));
        made.records.record_port(7701);
        made.slots.as_mut_slice()[0] = 42;
        drop(made);

        let other = IncarnationId::from_bytes([6; 16]);
        let again = MemoryFile::open(&path, &wanted, other).expect("kept");
        assert_eq!(again.kept.incarnation, MEMORY);
        assert_eq!(again.kept.slots, records);
        assert_eq!(again.kept.devices, [epoch]);
        assert_eq!(again.kept.generation, Generation::new(8));
        assert_eq!(again.slots.as_slice()[0], 42);
        assert_eq!(kept_port(&path), 7701);
    }

    #[test]
    fn foreign_files_and_other_sizes_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("slots");
        let ours = wanted("donor-1", 2, 1);
        drop(MemoryFile::open(&path, &ours, MEMORY).expect("made"));
        let open = |wanted: &Wanted| MemoryFile::open(&path, wanted, MEMORY).expect_err("refused");
        assert!(matches!(
            open(&wanted("donor-2", 2, 1)),
            KeptFileError::OtherNode { .. }
        ));
        assert!(matches!(
            open(&wanted("donor-1", 3, 1)),
            KeptFileError::OtherSize { .. }
        ));
        assert!(matches!(
            open(&wanted("donor-1", 1, 2)),
            KeptFileError::OtherSize { .. }
        ));
        let mut bytes = fs::read(&path).expect("readable");
        bytes[9] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert!(matches!(open(&ours), KeptFileError::Foreign(_)));
        fs::write(&path, vec![0; 4096]).expect("written");
        assert!(matches!(open(&ours), KeptFileError::Foreign(_)));
        fs::write(&path, b"short").expect("written");
        assert!(matches!(open(&ours), KeptFileError::File(_)));
    }

    #[test]
    fn half_made_file_is_not_taken_for_a_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("slots");
        fs::write(path.with_extension("new"), b"rest of a killed process").expect("written");
        let made = MemoryFile::open(&path, &wanted("donor-1", 1, 1), MEMORY).expect("made");
        assert_eq!(made.kept.slots, [SlotRecord::Ready]);
        assert!(!path.with_extension("new").exists());
    }
}
