//! The in-flight tables: requests, their parts and the operations under way for them.
//!
//! Owns places and their reuse; all of them are made at start. The rules stand in `write.rs`,
//! `read.rs` and `copy.rs`.

use dynamicswap_types::{MonotonicTime, PageIndex};

use crate::buffer::BufferRange;
use crate::document::ReplicaPlace;
use crate::limits::{PARTS_MAX, REQUEST_PAGES_MAX, TICK};
use crate::operation::OperationId;
use crate::page_set::PageSet;
use crate::request::RequestTag;
use crate::tables::PageTag;

/// Place of a request in its table.
pub(crate) type RequestPlace = usize;

/// What a request does, with its own kinds of copy jobs beside the front end's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Fill the buffer.
    Read,
    /// Store the buffer.
    Write,
    /// Forget the pages.
    Discard,
    /// Wait for earlier writes.
    Flush,
    /// Read from any good copy, then write to the target.
    Copy(CopyTarget),
}

/// Where a copy job writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyTarget {
    /// A copy that is being rebuilt.
    Replica(ReplicaPlace),
    /// The spill file.
    Disk,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits until an overlapping request is done.
    Waiting,
    /// Operations are under way, or it waits for a copy to come back.
    Active,
    /// Answered; operations that use its buffer are still under way.
    Answered,
}

/// The disk's part in a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskStage {
    /// Not asked.
    Idle,
    /// Under way.
    Posted,
    /// On disk.
    Done,
    /// Refused by the disk.
    Failed,
}

/// Bit of the spill file beside the replicas' bits in [`Part::tried`].
pub(crate) const DISK_BIT: u8 = 1 << 3;

/// The share of a request that lies in one slab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// The slab.
    pub(crate) slab: u32,
    /// First page within the slab.
    pub(crate) first: u32,
    /// Number of pages.
    pub(crate) pages: u32,
    /// Pages of the buffer before this part's.
    pub(crate) skip: u32,
    /// Operations under way.
    pub(crate) outstanding: u32,
    /// Write: replicas that have it, by position. Copy: unused.
    pub(crate) acked: u8,
    /// Replicas with an operation under way, by position.
    pub(crate) posted: u8,
    /// The disk's part in a write.
    pub(crate) disk: DiskStage,
    /// Write: it was answered before the disk was asked.
    pub(crate) behind: bool,
    /// Read: pages that are still wanted.
    pub(crate) need: PageSet,
    /// Read: next page to look at with this source.
    pub(crate) cursor: u32,
    /// Read: sources used up in this round, by position, [`DISK_BIT`] for the disk.
    pub(crate) tried: u8,
    /// Read: the source in use.
    pub(crate) source: Option<u8>,
    /// Read: rounds through all sources.
    pub(crate) rounds: u8,
    /// Read: when the next round begins.
    pub(crate) again_at: Option<MonotonicTime>,
    /// Read: the disk could not be asked in this round.
    pub(crate) unreached: bool,
    /// Read: replicas that gave a wrong page.
    pub(crate) bad: u8,
    /// Read: pages of which every copy is lost.
    pub(crate) lost: bool,
    /// Nothing is left to do for it.
    pub(crate) done: bool,
}

impl Part {
    pub(crate) const EMPTY: Self = Self {
        slab: 0,
        first: 0,
        pages: 0,
        skip: 0,
        outstanding: 0,
        acked: 0,
        posted: 0,
        disk: DiskStage::Idle,
        behind: false,
        need: PageSet::EMPTY,
        cursor: 0,
        tried: 0,
        source: None,
        rounds: 0,
        again_at: None,
        unreached: false,
        bad: 0,
        lost: false,
        done: false,
    };
}

impl Part {
    /// Whether a read may begin its next round: a tick after it was first asked.
    pub(crate) fn may_go_on(&mut self, now: MonotonicTime) -> bool {
        let over = now >= *self.again_at.get_or_insert(now.after(TICK));
        if over {
            self.again_at = None;
        }
        over
    }
}

/// One request's state.
#[derive(Debug)]
pub(crate) struct RequestState {
    pub(crate) tag: RequestTag,
    pub(crate) work: Work,
    pub(crate) stage: Stage,
    pub(crate) first: PageIndex,
    pub(crate) pages: u64,
    pub(crate) buffer: BufferRange,
    /// Order of submission.
    pub(crate) sequence: u64,
    pub(crate) submitted: MonotonicTime,
    /// Whether it waits for copies; told once.
    pub(crate) held: bool,
    /// Read: answered, and a copy that gave a wrong page is to be overwritten.
    pub(crate) repair_due: bool,
    pub(crate) parts: [Part; PARTS_MAX],
    pub(crate) part_count: usize,
    /// Operations under way over all parts.
    pub(crate) outstanding: u32,
    /// Write: the version to publish.
    pub(crate) version: u64,
    /// Write: tags to publish, made from the buffer at submission.
    pub(crate) tags: [PageTag; REQUEST_PAGES_MAX as usize],
    /// Whether the place is taken.
    pub(crate) taken: bool,
}

impl RequestState {
    pub(crate) fn empty() -> Self {
        Self {
            tag: RequestTag(0),
            work: Work::Flush,
            stage: Stage::Waiting,
            first: PageIndex::new(0),
            pages: 0,
            buffer: BufferRange { first: 0, pages: 0 },
            sequence: 0,
            submitted: MonotonicTime::ZERO,
            held: false,
            repair_due: false,
            parts: [Part::EMPTY; PARTS_MAX],
            part_count: 0,
            outstanding: 0,
            version: 0,
            tags: [PageTag::half(0); REQUEST_PAGES_MAX as usize],
            taken: false,
        }
    }

    /// One past the last page.
    pub(crate) fn end(&self) -> u64 {
        self.first.get() + self.pages
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.first.get() < other.end() && other.first.get() < self.end()
    }

    /// Whether this one must wait for `earlier`, which was submitted before.
    pub(crate) fn waits_for(&self, earlier: &Self) -> bool {
        match (self.work, earlier.work) {
            (Work::Flush, Work::Write) => earlier.stage != Stage::Answered,
            (Work::Flush, _) | (_, Work::Flush) => false,
            (Work::Read | Work::Copy(_), Work::Read) => false,
            (Work::Read, Work::Copy(_)) => false,
            // A write whose disk copy is still under way has published: it may be read.
            (Work::Read, Work::Write) => earlier.stage != Stage::Answered && self.overlaps(earlier),
            _ => self.overlaps(earlier),
        }
    }
}

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A read from a replica.
    ReadReplica(ReplicaPlace),
    /// A read from the spill file.
    ReadDisk,
    /// A write's or a copy job's write to a replica.
    WriteReplica(ReplicaPlace),
    /// A write's or a copy job's write to the spill file.
    WriteDisk,
    /// Overwriting a bad copy with good pages.
    Repair(ReplicaPlace),
}

/// One operation under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OperationState {
    pub(crate) taken: bool,
    /// Raised at each reuse of the place, so that a late answer is recognised.
    pub(crate) generation: u32,
    pub(crate) request: RequestPlace,
    pub(crate) part: usize,
    pub(crate) purpose: Purpose,
    /// First page and number of pages, within the part.
    pub(crate) run: (u32, u32),
    /// When its link is reset because of it.
    pub(crate) due: MonotonicTime,
    /// A reset of the link was asked for because of it.
    pub(crate) overdue: bool,
    /// Its copy is no longer the one that it was posted for: another place, or another life of
    /// the server's memory. What it says counts as unknown.
    pub(crate) disowned: bool,
}

impl OperationState {
    pub(crate) const EMPTY: Self = Self {
        taken: false,
        generation: 0,
        request: 0,
        part: 0,
        purpose: Purpose::ReadDisk,
        run: (0, 0),
        due: MonotonicTime::ZERO,
        overdue: false,
        disowned: false,
    };

    /// The copy that it is on; none for the spill file.
    pub(crate) fn target(&self) -> Option<ReplicaPlace> {
        match self.purpose {
            Purpose::ReadReplica(place) | Purpose::WriteReplica(place) | Purpose::Repair(place) => {
                Some(place)
            }
            Purpose::ReadDisk | Purpose::WriteDisk => None,
        }
    }

    pub(crate) fn id(&self, place: usize) -> OperationId {
        OperationId((u64::from(self.generation) << 32) | place as u64)
    }

    /// The place that an id names, with the generation that it must have.
    pub(crate) fn place_of(id: OperationId) -> (usize, u32) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves are cut out by design"
        )]
        let (place, generation) = (id.0 as u32 as usize, (id.0 >> 32) as u32);
        (place, generation)
    }
}
