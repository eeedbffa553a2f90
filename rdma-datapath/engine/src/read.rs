//! Reads: from one copy, verified page by page, from the next copy where a page is wrong or a
//! server does not answer; bad copies are repaired with the good pages.

use dynamicswap_types::{MonotonicTime, PageIndex};

use crate::buffer::Buffers;
use crate::document::ReplicaPlace;
use crate::effect::EngineEvent;
use crate::engine::{Engine, LinkState};
use crate::in_flight::{
    CopyTarget, DISK_BIT, DiskStage, OperationState, Part, Purpose, RequestPlace, Stage, Work,
};
use crate::limits::{READ_ROUNDS_AT_ONCE, READ_ROUNDS_MAX, READ_STALL_UNTIL_DOCUMENT};
use crate::operation::{OperationError, OperationResult};
use crate::request::RequestError;
use crate::sets::{Replica, ReplicaState};
use crate::tables::Counter;

/// What a part of a read can do next.
enum Next {
    /// Read from this source.
    Source(u8),
    /// A copy that is not reachable may still have it.
    Wait,
    /// Every copy was tried often enough.
    Exhausted,
}

impl Engine<'_> {
    pub(crate) fn start_read(&mut self, place: RequestPlace, buffers: &mut dyn Buffers) {
        self.split(place);
        let slab_pages = self.config.geometry.slab_pages as usize;
        let state = &mut self.requests[place];
        let buffer = state.buffer;
        for share in &mut state.parts[..state.part_count] {
            let first = share.slab as usize * slab_pages + share.first as usize;
            for page in 0..share.pages {
                if self.tables.pages[first + page as usize].is_empty() {
                    // Never written: zeroes, without asking anybody.
                    buffers.bytes_mut(buffer.part(share.skip + page, 1)).fill(0);
                } else {
                    share.need.insert(page);
                }
            }
            share.done = share.need.is_empty();
        }
    }

    pub(crate) fn drive_read(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        if !self.drive_read_parts(place, now) {
            return;
        }
        let state = &self.requests[place];
        if state.outstanding > 0 {
            return;
        }
        let lost = state.parts[..state.part_count]
            .iter()
            .any(|share| share.lost);
        let result = if lost {
            Err(RequestError::Lost)
        } else {
            Ok(())
        };
        let bad = state.parts[..state.part_count].iter().any(|p| p.bad != 0);
        self.requests[place].repair_due = bad && result.is_ok();
        self.answer(place, result, (buffers, now));
    }

    /// Drives each part; true once all of them are done.
    pub(crate) fn drive_read_parts(&mut self, place: RequestPlace, now: MonotonicTime) -> bool {
        let mut done = true;
        for part in 0..self.requests[place].part_count {
            let share = &self.requests[place].parts[part];
            if !share.done && share.outstanding == 0 {
                self.drive_read_part(place, part, now);
            }
            done &= self.requests[place].parts[part].done;
        }
        done
    }

    fn drive_read_part(&mut self, place: RequestPlace, part: usize, now: MonotonicTime) {
        loop {
            let share = &mut self.requests[place].parts[part];
            if share.need.is_empty() {
                share.done = true;
                return;
            }
            let source = match (share.source, share.need.next_run(share.cursor)) {
                (Some(source), Some(run)) => {
                    share.cursor = run.0 + run.1;
                    return self.read_run(place, part, (source, run), now);
                }
                (Some(source), None) => {
                    // This source has been asked for all it could give.
                    share.tried |= source;
                    share.source = None;
                    continue;
                }
                (None, _) => self.next_source(place, part),
            };
            let patient = self.is_patient(place, now);
            let share = &mut self.requests[place].parts[part];
            let again = share.rounds + 1 < READ_ROUNDS_MAX && share.tried != 0;
            match source {
                Next::Source(source) => {
                    share.source = Some(source);
                    share.cursor = 0;
                }
                Next::Wait if patient => {
                    if !share.unreached || !share.may_go_on(now) {
                        return;
                    }
                    share.tried &= !DISK_BIT;
                    share.unreached = false;
                }
                Next::Exhausted if share.unreached && patient => {
                    if !share.may_go_on(now) {
                        return;
                    }
                    (share.tried, share.unreached) = (0, false);
                }
                Next::Exhausted if again && !share.unreached => {
                    if share.rounds + 1 >= READ_ROUNDS_AT_ONCE && !share.may_go_on(now) {
                        return;
                    }
                    share.rounds += 1;
                    share.tried = 0;
                }
                Next::Wait => return self.give_up((place, part), false, now),
                Next::Exhausted => {
                    let proven = !share.unreached;
                    return self.give_up((place, part), proven, now);
                }
            }
        }
    }

    /// Whether a request still waits for what is out of reach. A copy job never does: writes to
    /// its pages would wait with it.
    fn is_patient(&self, place: RequestPlace, now: MonotonicTime) -> bool {
        let state = &self.requests[place];
        let stall = self
            .desired
            .map_or(READ_STALL_UNTIL_DOCUMENT, |desired| desired.read_stall);
        let over = now.since(state.submitted) >= stall;
        !over && !matches!(state.work, Work::Copy(_))
    }

    /// The best source that was not tried in this round.
    fn next_source(&self, place: RequestPlace, part: usize) -> Next {
        let state = &self.requests[place];
        let share = &state.parts[part];
        let target = match state.work {
            Work::Copy(CopyTarget::Replica(target)) => Some(target),
            _ => None,
        };
        let mut best: Option<((ReplicaState, u32, usize), u8)> = None;
        let mut wait = self.desired.is_none();
        if let Some(set) = self.tables.slabs[share.slab as usize].set() {
            for (index, replica) in self.tables.sets[set].replicas() {
                let bit = 1 << index;
                if share.tried & bit != 0 || Some(replica.place) == target {
                    continue;
                }
                if !self.is_usable(replica) {
                    wait |= self.may_come_back(replica);
                    continue;
                }
                let load = self.servers[replica.place.server.as_usize()].in_flight;
                let rank = (replica.state, load, index);
                if best.is_none_or(|(other, _)| rank < other) {
                    best = Some((rank, bit));
                }
            }
        }
        let from_disk = state.work != Work::Copy(CopyTarget::Disk);
        let disk = self.config.spill && from_disk && share.tried & DISK_BIT == 0;
        let on_disk = disk && self.disk_has(place, part);
        // Its bytes are on their way to the disk: what is there now is older.
        wait |= best.is_none() && from_disk && self.disk_gets(place, part);
        match best {
            Some((_, bit)) => Next::Source(bit),
            None if on_disk => Next::Source(DISK_BIT),
            None if wait => Next::Wait,
            // An engine that died before the disk's answer has left no note of what is there.
            None if disk => Next::Source(DISK_BIT),
            None => Next::Exhausted,
        }
    }

    /// Whether the spill file holds any page that is still wanted.
    fn disk_has(&self, place: RequestPlace, part: usize) -> bool {
        let share = &self.requests[place].parts[part];
        (0..share.pages)
            .filter(|page| share.need.contains(*page))
            .any(|page| {
                self.tables.pages[self.page_of(share.slab, share.first + page)]
                    .load()
                    .disk
            })
    }

    /// Whether a write of pages that are still wanted was answered, and its bytes have not reached the spill
    /// file yet.
    fn disk_gets(&self, place: RequestPlace, part: usize) -> bool {
        let share = &self.requests[place].parts[part];
        let posted = |other: &Part| {
            let from = other.first.max(share.first);
            let to = (other.first + other.pages).min(share.first + share.pages);
            let mut overlap = from..to;
            other.slab == share.slab
                && other.disk == DiskStage::Posted
                && overlap.any(|page| share.need.contains(page - share.first))
        };
        self.active.iter().any(|at| {
            let other = &self.requests[*at];
            let answered = other.work == Work::Write && other.stage == Stage::Answered;
            answered && other.parts[..other.part_count].iter().any(posted)
        })
    }

    /// Whether an unreachable copy is not proven lost.
    pub(crate) fn may_come_back(&self, replica: Replica) -> bool {
        let link = self.servers[replica.place.server.as_usize()].link;
        replica.state != ReplicaState::Lost
            && matches!(link, LinkState::Down | LinkState::Connecting)
    }

    fn read_run(
        &mut self,
        place: RequestPlace,
        part: usize,
        (source, run): (u8, (u32, u32)),
        now: MonotonicTime,
    ) {
        let purpose = if source == DISK_BIT {
            Purpose::ReadDisk
        } else {
            let share = &mut self.requests[place].parts[part];
            let set = self.tables.slabs[share.slab as usize].set();
            let index = source.trailing_zeros() as usize;
            let replica = set.map(|set| self.tables.sets[set].replica(index));
            let Some(replica) = replica.filter(|replica| self.is_usable(*replica)) else {
                // The copy has gone since it was chosen: choose again.
                self.requests[place].parts[part].source = None;
                return self.drive_read_part(place, part, now);
            };
            Purpose::ReadReplica(replica.place)
        };
        self.post((place, part), purpose, run, now);
    }

    /// Ends a part without the pages that it still needs. For a request of the kernel, a copy that
    /// was out of reach for as long as the policy allows is as good as lost. A copy job has no
    /// policy to keep: without a proof that the page is gone it fails, or its target would count
    /// as whole without the page.
    fn give_up(&mut self, (place, part): (RequestPlace, usize), proven: bool, now: MonotonicTime) {
        let is_copy = matches!(self.requests[place].work, Work::Copy(_));
        let share = &mut self.requests[place].parts[part];
        share.done = true;
        if is_copy && !proven {
            share.posted = 2;
            return self.rest_copies(now);
        }
        share.lost = true;
        let (slab, first) = (share.slab, share.first);
        let missing: u32 = (0..share.pages)
            .map(|page| u32::from(share.need.contains(page)))
            .sum();
        let page = share.need.next_run(0).map_or(0, |(page, _)| page);
        self.tables
            .header
            .count(Counter::PagesLost, u64::from(missing));
        let page = PageIndex::new(self.page_of(slab, first + page) as u64);
        self.event(EngineEvent::PageLost(page));
    }

    /// A read for a request or a copy job ended: keeps the pages that are right.
    pub(crate) fn read_done(
        &mut self,
        operation: &OperationState,
        result: OperationResult,
        buffers: &mut dyn Buffers,
    ) {
        let (place, part) = (operation.request, operation.part);
        match result {
            Ok(()) => self.verify(operation, buffers),
            Err(_) if operation.purpose == Purpose::ReadDisk => {
                // A disk has no link that comes up again: it is asked again a tick later.
                let share = &mut self.requests[place].parts[part];
                share.tried |= DISK_BIT;
                share.unreached = true;
                share.source = None;
            }
            Err(OperationError::LinkDown) => {
                // Not proven wrong: it may be asked again once the link is up.
                self.requests[place].parts[part].source = None;
            }
            Err(_) => {
                let share = &mut self.requests[place].parts[part];
                share.tried |= share.source.unwrap_or(0);
                share.source = None;
            }
        }
    }

    fn verify(&mut self, operation: &OperationState, buffers: &mut dyn Buffers) {
        let (place, part) = (operation.request, operation.part);
        let share = self.requests[place].parts[part];
        let buffer = self.requests[place].buffer;
        // What a copy job moves stays as it is.
        let is_copy = matches!(self.requests[place].work, Work::Copy(_));
        let mut wrong = None;
        for page in operation.run.0..operation.run.0 + operation.run.1 {
            let index = self.page_of(share.slab, share.first + page);
            let version = self.tables.pages[index].load().version;
            let tag = self.tables.tag(index);
            let bytes = buffers.bytes_mut(buffer.part(share.skip + page, 1));
            let page_index = PageIndex::new(index as u64);
            let right = if is_copy {
                self.guard.check(bytes, page_index, version, tag)
            } else {
                self.guard.reveal(bytes, page_index, version, tag)
            };
            if right {
                self.requests[place].parts[part].need.remove(page);
            } else {
                wrong.get_or_insert(page_index);
            }
        }
        if let (Some(page), Purpose::ReadReplica(replica)) = (wrong, operation.purpose) {
            self.note_wrong_page(operation, page, replica);
        }
    }

    /// A page from a copy was wrong. Only from a LIVE copy is that a failure to report: others are
    /// known to miss pages.
    fn note_wrong_page(
        &mut self,
        operation: &OperationState,
        page: PageIndex,
        replica: ReplicaPlace,
    ) {
        let share = &mut self.requests[operation.request].parts[operation.part];
        let set = self.tables.slabs[share.slab as usize].set();
        let entry = set.map(|set| &self.tables.sets[set]);
        let Some((entry, index)) = entry.and_then(|e| e.find(replica).map(|index| (e, index)))
        else {
            return;
        };
        if entry.replica(index).state == ReplicaState::Live {
            share.bad |= 1 << index;
            self.tables.header.count(Counter::IntegrityFailures, 1);
            self.event(EngineEvent::IntegrityFailure(page, replica.server));
        }
    }
}
