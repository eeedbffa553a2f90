//! Copies made in the background: a replica that is rebuilt, and pages that the disk shall have
//! as well. One target at a time, a few jobs of at most 64 pages, in order of the slab's pages;
//! the request ordering keeps each job apart from writes to the same pages.
//!
//! A move is a rebuild whose source stays until the target is whole. Only pages that hold something
//! are copied, and of those only what the target lacks (`progress.rs`). Writes go to both
//! meanwhile, so there is nothing to copy twice unless the target missed a write.

use dynamicswap_types::{Bytes, MonotonicTime, PageIndex, Spill};

use crate::budget::CopyBudget;
use crate::buffer::Buffers;
use crate::document::ReplicaPlace;
use crate::effect::EngineEvent;
use crate::engine::{COPY_TAG, Engine};
use crate::in_flight::{CopyTarget, OperationState, Purpose, RequestPlace, Stage, Work};
use crate::limits::{COPY_JOBS_MAX, COPY_PAGES_BUSY_MAX, COPY_PAGES_MAX, COPY_REST};
use crate::operation::OperationResult;
use crate::progress::Progress;
use crate::sets::ReplicaState;
use crate::tables::{Counter, PageRecord};

/// Whether a target lacks a page: a copy by what it holds, the spill file by the page's own flag.
fn is_lacking(record: PageRecord, page: u32, held: Option<Progress>) -> bool {
    match held {
        Some(held) => held.lacks(page, record.version),
        None => !record.disk,
    }
}

/// The copy that is being made now.
#[derive(Debug)]
pub(crate) struct CopyState {
    current: Option<Current>,
    /// Scratch parts in use, by request place.
    jobs: [Option<RequestPlace>; COPY_JOBS_MAX],
    /// Something may have to be copied that nobody has looked for yet.
    stirred: bool,
    /// How much may be moved.
    budget: CopyBudget,
    /// Until when nothing new is begun, after a job that could not reach a source.
    rest_until: Option<MonotonicTime>,
    /// Where the search for work goes on, so that no set starves.
    next_set: usize,
    /// What the disk may lack.
    disk: DiskWanted,
}

/// Slabs of which the disk may lack pages: all of them after start and after a change of the class, and
/// then those of which writes did not go there by themselves. They are taken in turn, so that a storm on
/// one slab keeps no other waiting.
#[derive(Debug, Clone)]
struct DiskWanted {
    slabs: Vec<bool>,
    count: usize,
    next: usize,
}

impl DiskWanted {
    fn all(slabs: usize) -> Self {
        Self {
            slabs: vec![true; slabs],
            count: slabs,
            next: 0,
        }
    }

    fn want(&mut self, slab: usize) {
        let before = std::mem::replace(&mut self.slabs[slab], true);
        self.count += usize::from(!before);
    }

    fn take(&mut self) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let (before, after) = self.slabs.split_at(self.next);
        let wanted = |slabs: &[bool]| slabs.iter().position(|wanted| *wanted);
        let slab = wanted(after)
            .map(|at| self.next + at)
            .or_else(|| wanted(before))?;
        self.slabs[slab] = false;
        self.count -= 1;
        self.next = (slab + 1) % self.slabs.len();
        Some(slab)
    }
}

impl CopyState {
    pub(crate) fn new(slabs: usize) -> Self {
        Self {
            current: None,
            jobs: [None; COPY_JOBS_MAX],
            stirred: false,
            budget: CopyBudget::default(),
            rest_until: None,
            next_set: 0,
            disk: DiskWanted::all(slabs),
        }
    }

    /// Whether a copy is being made.
    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Whether one shall be made at the next tick or later.
    pub(crate) fn is_due(&self) -> bool {
        self.stirred || self.rest_until.is_some()
    }

    /// A copy is no longer whole. Nothing else may happen on a device after that, so this asks for
    /// a tick.
    pub(crate) fn stir(&mut self) {
        self.stirred = true;
    }

    /// A link came up: what could not be reached may be there.
    pub(crate) fn wake(&mut self) {
        self.rest_until = None;
    }
}

#[derive(Debug, Clone, Copy)]
struct Current {
    slab: u32,
    target: CopyTarget,
    /// Next page of the slab to look at. Not what outlives the process: see `progress.rs`.
    cursor: u32,
    /// A job failed: the target is not whole, start again later.
    failed: bool,
}

impl Engine<'_> {
    /// Starts jobs while there is something to copy and a place for it.
    pub(crate) fn drive_copies(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        if self.is_fenced() {
            return;
        }
        loop {
            if self.copy.current.is_none() {
                if self.copy.rest_until.is_some_and(|until| now < until) {
                    return;
                }
                self.copy.rest_until = None;
                self.copy.current = self.find_copy();
                self.copy.stirred = false;
            }
            let Some(current) = self.copy.current else {
                return;
            };
            let idle = self.copy.jobs.iter().all(Option::is_none);
            if !self.is_still_wanted(current) {
                if !idle {
                    return;
                }
                self.copy.current = None;
                continue;
            }
            let run = if current.failed {
                None
            } else {
                self.next_copy_run(current)
            };
            let Some(run) = run else {
                if !idle {
                    return;
                }
                self.finish_copy(current, now);
                continue;
            };
            let job = self.place_for_job(run.1, now);
            // Behind what is begun, or to what shall be: nobody looks at the empty pages twice.
            let begun = job.map_or(0, |_| run.1);
            self.copy.current = Some(Current {
                cursor: run.0 + begun,
                ..current
            });
            let Some(job) = job else {
                return;
            };
            self.start_job(current, run, job, (buffers, now));
        }
    }

    /// Bytes that copies may move in a second from now on; none for as fast as it goes. The
    /// kernel's requests do not count, and are never held up by it.
    pub fn limit_copies(&mut self, per_second: Option<Bytes>, now: MonotonicTime) {
        self.copy.budget.set(per_second, now);
    }

    /// A scratch part for a job of so many pages, if it may begin now. While the kernel waits for
    /// something, one job at a time is enough.
    fn place_for_job(&mut self, pages: u32, now: MonotonicTime) -> Option<usize> {
        let free = self.copy.jobs.iter().filter(|job| job.is_none()).count();
        let may = free == COPY_JOBS_MAX || (free > 0 && !self.is_kernel_waiting());
        if !may || self.free_request_places() == 0 || !self.copy.budget.take(pages, now) {
            return None;
        }
        self.copy.jobs.iter().position(Option::is_none)
    }

    /// Whether a request of the kernel is under way.
    fn is_kernel_waiting(&self) -> bool {
        let jobs = self.copy.jobs.iter().filter(|job| job.is_some()).count();
        self.requests_under_way() > jobs
    }

    /// The next replica to rebuild or slab to bring to disk.
    fn find_copy(&mut self) -> Option<Current> {
        let sets = self.tables.sets.len();
        for step in 0..sets {
            let set = (self.copy.next_set + step) % sets;
            let Some(slab) = self.set_slab[set] else {
                continue;
            };
            for (index, replica) in self.tables.sets[set].replicas() {
                let wanted = matches!(
                    replica.state,
                    ReplicaState::Rebuilding | ReplicaState::Stale
                );
                if wanted && self.is_usable(replica) && self.has_source(slab, index) {
                    self.copy.next_set = (set + 1) % sets;
                    let entry = &self.tables.sets[set];
                    entry.set_state(index, ReplicaState::Rebuilding);
                    if let Some(id) = entry.id() {
                        self.event(EngineEvent::RebuildStarted(id, replica.place.server));
                    }
                    let target = CopyTarget::Replica(replica.place);
                    return Some(Current {
                        slab,
                        target,
                        cursor: 0,
                        failed: false,
                    });
                }
            }
        }
        self.find_disk_copy()
    }

    /// Whether a copy can be made again now: from another one, from the disk, or, if every other
    /// one is proven lost, from nothing.
    fn has_source(&self, slab: u32, target: usize) -> bool {
        let set = self.tables.slabs[slab as usize].set();
        let others = || {
            let replicas = set
                .into_iter()
                .flat_map(|set| self.tables.sets[set].replicas());
            replicas.filter(|(index, _)| *index != target)
        };
        let reachable = others().any(|(_, replica)| self.is_usable(replica));
        let awaited = others().any(|(_, replica)| self.may_come_back(replica));
        reachable || self.config.spill || !awaited || self.slab_used[slab as usize] == 0
    }

    /// Begins no further copy for a while.
    pub(crate) fn rest_copies(&mut self, now: MonotonicTime) {
        self.copy.rest_until = Some(now.after(COPY_REST));
    }

    /// With spill Async: a slab with pages that the disk does not have.
    fn find_disk_copy(&mut self) -> Option<Current> {
        let wanted = self.config.spill
            && self
                .desired
                .is_some_and(|desired| desired.durability.spill == Spill::Async);
        // One copy is made at a time: one to a disk that hangs would keep copies of dead donors waiting.
        if !wanted || self.disk_late > 0 {
            return None;
        }
        let slab = u32::try_from(self.copy.disk.take()?).ok()?;
        let target = CopyTarget::Disk;
        Some(Current {
            slab,
            target,
            cursor: 0,
            failed: false,
        })
    }

    /// The disk has missed pages of this slab.
    pub(crate) fn retry_disk_copy(&mut self, slab: u32) {
        self.copy.disk.want(slab as usize);
        self.copy.stir();
    }

    /// The disk may have missed pages of any slab.
    pub(crate) fn restart_disk_copies(&mut self) {
        self.copy.disk = DiskWanted::all(self.slab_used.len());
    }

    /// Copies made so far for a target are worth nothing: it is another one now, or has missed a
    /// write. The target may be as before by the time that the last job ends, which is why this
    /// is noted and not asked then.
    pub(crate) fn spoil_copy(&mut self, slab: u32, is_over: impl Fn(&Self, ReplicaPlace) -> bool) {
        let Some(current) = self.copy.current.filter(|current| current.slab == slab) else {
            return;
        };
        if let CopyTarget::Replica(target) = current.target
            && is_over(self, target)
        {
            self.copy.current = Some(Current {
                failed: true,
                ..current
            });
        }
    }

    fn is_still_wanted(&self, current: Current) -> bool {
        match current.target {
            CopyTarget::Disk => self.config.spill,
            CopyTarget::Replica(place) => {
                let found = self.replica_of(current.slab, place);
                found.is_some_and(|replica| {
                    replica.state == ReplicaState::Rebuilding && self.is_usable(replica)
                })
            }
        }
    }

    /// The next run of pages to copy: first page and number, within the slab.
    fn next_copy_run(&self, current: Current) -> Option<(u32, u32)> {
        let end = self.slab_end(current.slab);
        let held = self.held_by(current.slab, current.target);
        let wanted = |page: &u32| {
            let record = self.tables.pages[self.page_of(current.slab, *page)].load();
            !record.version.is_empty() && is_lacking(record, *page, held)
        };
        let first = (current.cursor..end).find(wanted)?;
        let most = if self.is_kernel_waiting() {
            COPY_PAGES_BUSY_MAX
        } else {
            COPY_PAGES_MAX
        };
        let limit = end.min(first + most);
        let stop = (first..limit).find(|page| !wanted(page)).unwrap_or(limit);
        Some((first, stop - first))
    }

    /// What a copy holds already; none for the spill file, which is asked page by page.
    fn held_by(&self, slab: u32, target: CopyTarget) -> Option<Progress> {
        let CopyTarget::Replica(place) = target else {
            return None;
        };
        let set = self.tables.slabs[slab as usize].set()?;
        let entry = &self.tables.sets[set];
        // A copy that is no longer there holds nothing, and is not written to.
        let index = entry.find(place);
        Some(index.map_or(Progress::NOTHING, |index| entry.progress(index)))
    }

    /// Notes what the target of the current copy holds by now: everything before the first page of
    /// a job that is still under way. Once a job has failed, that is no longer known.
    fn note_progress(&self) {
        let Some(current) = self.copy.current.filter(|current| !current.failed) else {
            return;
        };
        let CopyTarget::Replica(place) = current.target else {
            return;
        };
        let slab = self.page_of(current.slab, 0) as u64;
        let begun = self.copy.jobs.iter().flatten();
        let first = begun
            .map(|job| self.requests[*job].first.get() - slab)
            .min();
        let held = first.map_or(u64::from(current.cursor), |first| {
            first.min(u64::from(current.cursor))
        });
        let Some(set) = self.tables.slabs[current.slab as usize].set() else {
            return;
        };
        let entry = &self.tables.sets[set];
        if let Some(index) = entry.find(place)
            && entry.replica(index).state == ReplicaState::Rebuilding
        {
            entry.progress[index].advance(held);
        }
    }

    /// One past the slab's last page; the device may end within its last slab.
    pub(crate) fn slab_end(&self, slab: u32) -> u32 {
        let first = self.page_of(slab, 0);
        let left = self.tables.pages.len() - first;
        u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(self.config.geometry.slab_pages)
    }

    fn start_job(
        &mut self,
        current: Current,
        run: (u32, u32),
        job: usize,
        (buffers, now): (&mut dyn Buffers, MonotonicTime),
    ) {
        let first = PageIndex::new(self.page_of(current.slab, run.0) as u64);
        let range = (first, u64::from(run.1));
        let place = self.take_request(Work::Copy(current.target), range, now);
        let job_pages = COPY_PAGES_MAX;
        let skip = u32::try_from(job).unwrap_or(0) * job_pages;
        let state = &mut self.requests[place];
        state.tag = COPY_TAG;
        state.buffer = self.config.scratch.part(skip, run.1);
        self.copy.jobs[job] = Some(place);
        self.begin(place, buffers, now);
    }

    /// The job's turn has come: pages may have been discarded or rewritten while it waited.
    pub(crate) fn start_copy(&mut self, place: RequestPlace, target: CopyTarget) {
        self.split(place);
        let slab_pages = self.config.geometry.slab_pages as usize;
        let share = &mut self.requests[place].parts[0];
        let first = share.slab as usize * slab_pages + share.first as usize;
        for page in 0..share.pages {
            let record = self.tables.pages[first + page as usize].load();
            // Of a copy's pages the run names those that it lacked: each may have changed since, and
            // none has become one that it holds.
            let wanted = !(target == CopyTarget::Disk && record.disk);
            if !record.version.is_empty() && wanted {
                share.need.insert(page);
            }
        }
        // The pages to write later; `need` empties while they are read.
        share.posted = 0;
        self.requests[place].version = 0;
    }

    pub(crate) fn drive_copy(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        // posted: 0 reading, 1 writing, 2 a write failed or a source could not be reached.
        let stage = self.requests[place].parts[0].posted;
        if stage == 0 {
            if !self.drive_read_parts(place, now) || self.requests[place].outstanding > 0 {
                return;
            }
            let share = &mut self.requests[place].parts[0];
            if share.posted == 0 {
                share.posted = 1;
                self.post_copy_writes(place, now);
            }
        }
        if self.requests[place].outstanding > 0 {
            return;
        }
        let share = &self.requests[place].parts[0];
        let failed = share.posted == 2;
        let copied = u64::from(share.pages);
        if let Some(job) = self.copy.jobs.iter_mut().find(|job| **job == Some(place)) {
            *job = None;
        }
        if failed && let Some(current) = &mut self.copy.current {
            current.failed = true;
        } else if !failed {
            self.tables.header.count(Counter::PagesRebuilt, copied);
            self.note_progress();
        }
        debug_assert_eq!(self.requests[place].stage, Stage::Active);
        self.answer(place, Ok(()), (buffers, now));
    }

    /// Writes what was read; pages that are lost stay lost.
    fn post_copy_writes(&mut self, place: RequestPlace, now: MonotonicTime) {
        let state = &self.requests[place];
        let share = state.parts[0];
        let purpose = match state.work {
            Work::Copy(CopyTarget::Replica(target)) => Purpose::WriteReplica(target),
            _ => Purpose::WriteDisk,
        };
        if let Purpose::WriteReplica(target) = purpose {
            // While it was read for, the target may have left the set or lost its memory: its
            // slot may be somebody else's by now.
            let replica = self.replica_of(share.slab, target);
            if !replica.is_some_and(|replica| self.is_usable(replica)) {
                self.requests[place].parts[0].posted = 2;
                return;
            }
        }
        let to_disk = purpose == Purpose::WriteDisk;
        let good = |engine: &Self, page: &u32| {
            let index = engine.page_of(share.slab, share.first + *page);
            let record = engine.tables.pages[index].load();
            // What the disk had before the job began was not read: the buffer does not hold it.
            let was_there = to_disk && record.disk;
            !record.version.is_empty() && !was_there && !share.need.contains(*page)
        };
        let mut page = 0;
        while let Some(first) = (page..share.pages).find(|p| good(self, p)) {
            let end = (first..share.pages)
                .find(|p| !good(self, p))
                .unwrap_or(share.pages);
            self.post((place, 0), purpose, (first, end - first), now);
            page = end;
        }
    }

    pub(crate) fn copy_write_done(&mut self, operation: &OperationState, result: OperationResult) {
        let share = &mut self.requests[operation.request].parts[0];
        if result.is_err() {
            share.posted = 2;
            return;
        }
        if operation.purpose == Purpose::WriteDisk {
            let (slab, first) = (share.slab, share.first);
            for page in operation.run.0..operation.run.0 + operation.run.1 {
                let entry = &self.tables.pages[self.page_of(slab, first + page)];
                entry.note_disk(entry.load().version);
            }
        }
    }

    /// All jobs of the current copy are done.
    fn finish_copy(&mut self, current: Current, now: MonotonicTime) {
        self.copy.current = None;
        let CopyTarget::Replica(place) = current.target else {
            if current.failed {
                self.retry_disk_copy(current.slab);
                self.rest_copies(now);
            }
            return;
        };
        let Some(set) = self.tables.slabs[current.slab as usize].set() else {
            return;
        };
        let entry = &self.tables.sets[set];
        if let (false, Some(index)) = (current.failed, entry.find(place)) {
            entry.complete(index);
            if let Some(id) = entry.id() {
                self.event(EngineEvent::RebuildFinished(id, place.server));
            }
        }
    }
}
