//! Writes: posted to every copy, published and answered once the class is satisfied, held while
//! it cannot be, failed early when that lasts too long.

use dynamicswap_types::{MonotonicTime, PageIndex, PageVersion, SlabIndex, Spill};

use crate::buffer::Buffers;
use crate::document::ReplicaPlace;
use crate::effect::EngineEvent;
use crate::engine::{Desired, Engine};
use crate::in_flight::{DiskStage, OperationState, Part, Purpose, RequestPlace, Stage, Work};
use crate::limits::{
    HELD_TOLD_EVERY, PAGES_BEHIND_MAX, PARTS_MAX, WRITE_HOLD_UNTIL_DOCUMENT, WRITES_BEHIND_MAX,
};
use crate::operation::OperationResult;
use crate::request::RequestError;
use crate::sets::ReplicaState;
use crate::tables::{Counter, PageRecord};

/// How far a part of a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The class is satisfied.
    Durable,
    /// Operations are under way.
    UnderWay,
    /// Nothing can be posted now.
    Stuck,
}

impl Engine<'_> {
    pub(crate) fn start_write(&mut self, place: RequestPlace, buffers: &mut dyn Buffers) {
        let version = self.next_version();
        self.split(place);
        let state = &mut self.requests[place];
        state.version = version.to_bits();
        let bytes = buffers.bytes_mut(state.buffer);
        for (number, page) in (0_u64..).zip(bytes.chunks_exact_mut(4096)) {
            let index = PageIndex::new(state.first.get() + number);
            #[expect(clippy::cast_possible_truncation, reason = "at most 256 pages")]
            let tag = &mut state.tags[number as usize];
            *tag = self.guard.protect(page, index, version);
        }
    }

    pub(crate) fn drive_write(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        let Some(desired) = self.desired else {
            self.hold(place, now);
            let since = self.requests[place].submitted;
            if now.since(since) >= WRITE_HOLD_UNTIL_DOCUMENT {
                self.answer(place, Err(RequestError::NotDurable), (buffers, now));
            }
            return;
        };
        let mut all_durable = true;
        let mut stuck = false;
        for part in 0..self.requests[place].part_count {
            match self.drive_write_part(place, part, desired, now) {
                Progress::Durable => {}
                Progress::UnderWay => all_durable = false,
                Progress::Stuck => (all_durable, stuck) = (false, true),
            }
        }
        if all_durable {
            self.mark_missed(place);
            self.publish(place);
            if desired.durability.spill == Spill::Async {
                self.write_behind(place, now);
            }
            return self.answer(place, Ok(()), (buffers, now));
        }
        if !stuck {
            return;
        }
        self.hold(place, now);
        let since = self.stuck_since(place, desired, now);
        let over = now.since(since) >= desired.write_hold;
        if over && self.requests[place].outstanding == 0 {
            for part in 0..self.requests[place].part_count {
                let slab = self.requests[place].parts[part].slab;
                self.stamp_if_empty(slab as usize, now);
            }
            self.answer(place, Err(RequestError::NotDurable), (buffers, now));
        }
    }

    /// Counts a write that waits for its copies, once, and tells of it unless one was told of lately:
    /// a storm that meets a server's death holds hundreds, all for the same reason.
    fn hold(&mut self, place: RequestPlace, now: MonotonicTime) {
        let state = &mut self.requests[place];
        if std::mem::replace(&mut state.held, true) {
            return;
        }
        let slab = SlabIndex::new(state.parts[0].slab);
        self.tables.header.count(Counter::WritesHeld, 1);
        let told_lately = self
            .held_told
            .is_some_and(|at| now.since(at) < HELD_TOLD_EVERY);
        if self.tables.slabs[slab.as_usize()].set().is_some() && !told_lately {
            self.held_told = Some(now);
            self.event(EngineEvent::WritesHeld(slab));
        }
    }

    /// Since when a write that is stuck could have hoped. One that waits for its copies hopes from
    /// its beginning. One for which there is no set hopes since the reserve ran dry, however new it
    /// is: with a pool that is full, the hold would else be paid by every write of a storm, and the
    /// workload would stand still although nothing is lost by telling the kernel to keep the page.
    fn stuck_since(
        &mut self,
        place: RequestPlace,
        desired: Desired,
        now: MonotonicTime,
    ) -> MonotonicTime {
        let state = &self.requests[place];
        let unbound = |share: &&Part| self.tables.slabs[share.slab as usize].set().is_none();
        let share = state.parts[..state.part_count].iter().find(unbound);
        let Some(share) = share.filter(|_| desired.durability.remote_copies() > 0) else {
            return state.submitted;
        };
        let slab = SlabIndex::new(share.slab);
        // An emptiness that nobody met for as long as the hold is over: another one has begun.
        let met = |(_, met): &(MonotonicTime, MonotonicTime)| now.since(*met) <= desired.write_hold;
        let known = self.reserve_empty.filter(met);
        if known.is_none() {
            self.event(EngineEvent::ReserveEmpty(slab));
        }
        let since = known.map_or(now, |(since, _)| since);
        self.reserve_empty = Some((since, now));
        since
    }

    fn drive_write_part(
        &mut self,
        place: RequestPlace,
        part: usize,
        desired: Desired,
        now: MonotonicTime,
    ) -> Progress {
        let share = self.requests[place].parts[part];
        let required = desired.durability.remote_copies();
        let disk_helps = desired.durability.spill != Spill::None && self.config.spill;
        let set = if required == 0 {
            None
        } else {
            self.bind(share.slab)
        };
        let usable = set.map_or(0, |set| self.post_write(place, part, set, now));
        let acked = share.acked.count_ones() as usize;
        // Every copy that can be reached answers first, also those beyond what the class asks
        // for: a set may have more copies than that while it grows, shrinks or moves. A copy
        // without this write must be on record as such before the write is acknowledged, or it
        // would count as whole, and the next step of the move could drop the last one that is.
        if required > 0 && acked >= required && acked == usable {
            // A disk that refuses, or takes too long, holds up nothing that the class does not ask for.
            let submitted = self.requests[place].submitted;
            let disk_next = disk_helps
                && set.is_some_and(|set| self.goes_to_disk[set])
                && now.since(submitted) < desired.write_hold;
            match share.disk {
                DiskStage::Idle if disk_next => {
                    self.post_to_disk((place, part), now);
                    return Progress::UnderWay;
                }
                DiskStage::Posted if disk_next => return Progress::UnderWay,
                // The disk behind is half of what this class promises, and it does not keep up: rather let
                // the kernel keep the page.
                DiskStage::Idle
                    if disk_helps && acked < 2 && !self.has_room_behind(share.pages) =>
                {
                    return Progress::Stuck;
                }
                _ => return Progress::Durable,
            }
        }
        // The disk stands in for copies that cannot be reached: they have missed this write.
        if disk_helps && usable < required.max(1) {
            if share.disk == DiskStage::Idle {
                self.post_to_disk((place, part), now);
            }
            if share.disk == DiskStage::Done && acked == usable {
                return Progress::Durable;
            }
        }
        if self.requests[place].parts[part].outstanding > 0 {
            Progress::UnderWay
        } else {
            Progress::Stuck
        }
    }

    /// Posts a part to each copy that can be reached and has not got it yet. Gives the number of
    /// copies that have it or may get it.
    fn post_write(
        &mut self,
        place: RequestPlace,
        part: usize,
        set: usize,
        now: MonotonicTime,
    ) -> usize {
        let share = self.requests[place].parts[part];
        let mut usable = 0;
        for index in 0..self.tables.sets[set].len() {
            let bit = 1 << index;
            let replica = self.tables.sets[set].replica(index);
            let reachable = self.is_usable(replica) && replica.state != ReplicaState::Stale;
            if share.acked & bit == 0 && !reachable {
                continue;
            }
            usable += 1;
            if (share.acked | share.posted) & bit == 0 {
                self.requests[place].parts[part].posted |= bit;
                let purpose = Purpose::WriteReplica(replica.place);
                self.post((place, part), purpose, (0, share.pages), now);
            }
        }
        usable
    }

    /// Notes that every copy without this write has missed it.
    fn mark_missed(&mut self, place: RequestPlace) {
        for part in 0..self.requests[place].part_count {
            let share = self.requests[place].parts[part];
            let version = PageVersion::from_bits(self.requests[place].version);
            let Some(set) = self.tables.slabs[share.slab as usize].set() else {
                continue;
            };
            for index in 0..self.tables.sets[set].len() {
                let replica = self.tables.sets[set].replica(index);
                let good = replica.state != ReplicaState::Lost;
                if share.acked & (1 << index) == 0 && good {
                    self.miss(set, index, version);
                }
            }
        }
    }

    /// Makes the write what reads return from now on.
    fn publish(&mut self, place: RequestPlace) {
        let state = &self.requests[place];
        let version = PageVersion::from_bits(state.version);
        let mut filled = [usize::MAX; PARTS_MAX];
        for (part, share) in state.parts[..state.part_count].iter().enumerate() {
            let (remote, disk) = (share.acked != 0, share.disk == DiskStage::Done);
            let first = share.slab as usize * self.config.geometry.slab_pages as usize;
            let mut fresh = 0;
            for page in 0..share.pages {
                let index = first + (share.first + page) as usize;
                fresh += u32::from(self.tables.pages[index].is_empty());
                let record = PageRecord {
                    version,
                    remote,
                    disk,
                };
                let tag = state.tags[(share.skip + page) as usize];
                self.tables.publish(index, record, tag);
            }
            self.slab_used[share.slab as usize] += fresh;
            filled[part] = share.slab as usize;
        }
        for slab in filled.into_iter().filter(|slab| *slab != usize::MAX) {
            self.note_empty(slab, None);
        }
    }

    /// Sends what was acknowledged to the disk as well; the buffer stays until it is there. Beyond what may
    /// be under way at once, a copy brings it there later, of a page that two donors have meanwhile.
    fn write_behind(&mut self, place: RequestPlace, now: MonotonicTime) {
        for part in 0..self.requests[place].part_count {
            let share = self.requests[place].parts[part];
            if share.disk != DiskStage::Idle || !self.config.spill {
                continue;
            }
            if share.acked.count_ones() >= 2 && !self.has_room_behind(share.pages) {
                self.retry_disk_copy(share.slab);
                continue;
            }
            self.behind = (self.behind.0 + 1, self.behind.1 + share.pages);
            self.requests[place].parts[part].behind = true;
            self.post_to_disk((place, part), now);
        }
    }

    /// Whether so many pages more may be on their way to the disk behind answered writes.
    const fn has_room_behind(&self, pages: u32) -> bool {
        let (writes, behind) = self.behind;
        writes < WRITES_BEHIND_MAX && behind + pages <= PAGES_BEHIND_MAX
    }

    fn post_to_disk(&mut self, (place, part): (RequestPlace, usize), now: MonotonicTime) {
        let share = &mut self.requests[place].parts[part];
        share.disk = DiskStage::Posted;
        let run = (0, share.pages);
        self.post((place, part), Purpose::WriteDisk, run, now);
    }

    /// A write to a replica ended, of a request or of a copy job.
    pub(crate) fn write_done(
        &mut self,
        operation: &OperationState,
        target: ReplicaPlace,
        result: OperationResult,
    ) {
        if matches!(self.requests[operation.request].work, Work::Copy(_)) {
            return self.copy_write_done(operation, result);
        }
        let share = &mut self.requests[operation.request].parts[operation.part];
        let set = self.tables.slabs[share.slab as usize].set();
        // A copy that the document has moved elsewhere meanwhile no longer counts.
        if let Some(index) = set.and_then(|set| self.tables.sets[set].find(target)) {
            share.posted &= !(1 << index);
            if result.is_ok() {
                share.acked |= 1 << index;
            }
        }
    }

    /// A write to the spill file ended.
    pub(crate) fn disk_write_done(&mut self, operation: &OperationState, result: OperationResult) {
        if matches!(self.requests[operation.request].work, Work::Copy(_)) {
            return self.copy_write_done(operation, result);
        }
        let state = &mut self.requests[operation.request];
        let version = PageVersion::from_bits(state.version);
        let answered = state.stage == Stage::Answered;
        let share = &mut state.parts[operation.part];
        share.disk = if result.is_ok() {
            DiskStage::Done
        } else {
            DiskStage::Failed
        };
        let (slab, first, pages) = (share.slab, share.first, share.pages);
        if std::mem::take(&mut share.behind) {
            self.behind = (self.behind.0 - 1, self.behind.1 - pages);
        }
        if result.is_err() {
            self.retry_disk_copy(slab);
            return self.event(EngineEvent::SpillFailed(PageIndex::new(
                self.page_of(slab, first) as u64,
            )));
        }
        if answered {
            for page in 0..pages {
                self.tables.pages[self.page_of(slab, first + page)].note_disk(version);
            }
        }
    }
}
