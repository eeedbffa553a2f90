//! The reserve: documents in, sets bound to slabs at the first write, empty slabs' sets back,
//! surplus sets released.

use std::time::Duration;

use dynamicswap_types::{
    Generation, MonotonicTime, PageVersion, ServerIndex, SetId, SlabIndex, Spill,
};
use thiserror::Error;

use crate::buffer::Buffers;
use crate::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use crate::effect::EngineEvent;
use crate::engine::{Desired, Engine, LinkState};
use crate::in_flight::{RequestPlace, Work};
use crate::limits::SERVERS_MAX;
use crate::sets::{Replica, ReplicaState};
use crate::tables::Counter;

/// Why a document is refused. Nothing of it has been taken then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Older than the one in force.
    #[error("generation {offered} is older than {current}, which is in force")]
    OldGeneration {
        /// The refused document's.
        offered: Generation,
        /// The one in force.
        current: Generation,
    },
    /// More servers than the table holds.
    #[error("{0} memory servers are over the limit of {SERVERS_MAX}")]
    TooManyServers(usize),
    /// Sets out of order, or one twice.
    #[error("set {0} is listed twice or out of order")]
    SetOrder(SetId),
    /// No copy, too many, or two on one server or failure domain, or on an unnamed server.
    #[error("the copies of set {0} are not on 1 to 3 named servers of distinct failure domains")]
    Copies(SetId),
    /// More new sets than free places.
    #[error("the set table has no place for {0} more sets")]
    TableFull(usize),
    /// A set that is bound to a slab is not in the document.
    #[error("set {0} is bound to slab {1} and missing in the document")]
    MissingSet(SetId, SlabIndex),
    /// Every copy of a bound set would move at once.
    #[error("every copy of set {0} would move at once: no copy to rebuild from would be left")]
    NoSurvivor(SetId),
    /// The only whole copy of a bound set would leave, and it can still be copied from.
    #[error(
        "set {0} would lose its only whole copy, and there is no other yet: name that copy again, \
         or send the document again once another one is whole"
    )]
    LastWhole(SetId),
    /// The class wants a disk that this device does not have.
    #[error("the class spills to disk, but the device has no spill file")]
    NoSpillFile,
}

impl Engine<'_> {
    /// Takes a document: all of it or nothing.
    ///
    /// # Errors
    /// [`ApplyError`], naming what is wrong.
    pub fn apply(
        &mut self,
        document: &Document,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> Result<(), ApplyError> {
        if self.began.is_none() {
            self.began = Some(now);
            self.stamp_empty_slabs(now);
        }
        let checked = self.check_document(document, now);
        if let Err(ApplyError::LastWhole(_)) = checked {
            self.note_refused(document, now);
        }
        checked?;
        self.refused.fill(None);
        self.goes_to_disk.fill(false);
        let spilled_before = self
            .desired
            .is_some_and(|desired| desired.durability.spill == Spill::Async);
        self.settled = self.settled_generation();
        self.desired = Some(Desired {
            generation: document.generation,
            durability: document.durability,
            write_hold: document.write_hold,
            read_stall: document.read_stall,
            empty_slab_hold: document.empty_slab_hold,
            reserve_sets_max: document.reserve_sets_max,
        });
        for (index, server) in document.servers.iter().enumerate() {
            self.apply_server(index, server, now);
        }
        for place in 0..self.tables.sets.len() {
            self.apply_known_set(place, &document.sets);
        }
        self.disown(|engine, slab, place| engine.position(slab, place).is_none());
        for grant in &document.sets {
            self.apply_new_set(grant);
        }
        if !spilled_before && document.durability.spill == Spill::Async {
            self.restart_disk_copies();
        }
        self.drive_all(buffers, now);
        Ok(())
    }

    fn check_document(&self, document: &Document, now: MonotonicTime) -> Result<(), ApplyError> {
        let (offered, current) = (document.generation, self.generation());
        if offered < current {
            return Err(ApplyError::OldGeneration { offered, current });
        }
        if document.servers.len() > SERVERS_MAX {
            return Err(ApplyError::TooManyServers(document.servers.len()));
        }
        if document.durability.spill != Spill::None && !self.config.spill {
            return Err(ApplyError::NoSpillFile);
        }
        let mut previous = SetId::new(0);
        for grant in &document.sets {
            if grant.id <= previous {
                return Err(ApplyError::SetOrder(grant.id));
            }
            previous = grant.id;
            check_copies(grant, &document.servers)?;
        }
        let mut known = 0;
        for (place, entry) in self.tables.sets.iter().enumerate() {
            let Some(id) = entry.id() else {
                continue;
            };
            match (find_grant(&document.sets, id), self.set_slab[place]) {
                (Some(grant), _) => {
                    known += 1;
                    self.check_survivor(place, grant, (document.read_stall, now))?;
                }
                (None, Some(slab)) => {
                    return Err(ApplyError::MissingSet(id, SlabIndex::new(slab)));
                }
                (None, None) => {}
            }
        }
        if document.sets.len() > self.tables.sets.len() {
            return Err(ApplyError::TableFull(document.sets.len() - known));
        }
        Ok(())
    }

    /// A set that holds pages keeps one copy that may still be good, and the last whole one as
    /// long as it can be copied from. Whoever made the document knew the copies' states of a moment
    /// ago; this engine knows those of now.
    fn check_survivor(
        &self,
        place: usize,
        grant: &SetGrant,
        (stall, now): (Duration, MonotonicTime),
    ) -> Result<(), ApplyError> {
        let holds = self.set_slab[place].is_some_and(|slab| self.slab_used[slab as usize] > 0);
        let entry = &self.tables.sets[place];
        let kept = entry
            .replicas()
            .any(|(_, replica)| grant.replicas.contains(&replica.place));
        let hopeless = entry
            .replicas()
            .all(|(_, replica)| replica.state == ReplicaState::Lost);
        if holds && !kept && !hopeless && !self.config.spill {
            return Err(ApplyError::NoSurvivor(grant.id));
        }
        let lack = self.last_whole(place, grant, (stall, now));
        // If no other copy can be made, whoever made the document has as long as a read may stall to think
        // again.
        let patient = now.since(self.refused[place].unwrap_or(now)) < stall;
        match lack {
            Some(hopeful) if hopeful || patient => Err(ApplyError::LastWhole(grant.id)),
            _ => Ok(()),
        }
    }

    /// Whether a set would lose its last whole copy that can be copied from, which nothing else has: then,
    /// whether another copy can be made from it, so that the document will do later.
    fn last_whole(
        &self,
        place: usize,
        grant: &SetGrant,
        (stall, now): (Duration, MonotonicTime),
    ) -> Option<bool> {
        let entry = &self.tables.sets[place];
        let holds = self.set_slab[place].is_some_and(|slab| self.slab_used[slab as usize] > 0);
        let replicas = || entry.replicas().map(|(_, replica)| replica);
        let stays = |replica: &Replica| grant.replicas.contains(&replica.place);
        let is_whole = |replica: &Replica| replica.state == ReplicaState::Live;
        if !holds || replicas().any(|replica| stays(&replica) && is_whole(&replica)) {
            return None;
        }
        let within = |replica: &Replica| self.is_within(*replica, stall, now);
        let leaves = replicas().any(|it| !stays(&it) && is_whole(&it) && within(&it));
        let lost = |replica: &Replica| replica.state == ReplicaState::Lost;
        let hopeful = replicas().any(|it| stays(&it) && !lost(&it) && within(&it));
        let on_disk = || self.set_slab[place].is_some_and(|slab| self.is_slab_on_disk(slab));
        (leaves && !on_disk()).then_some(hopeful)
    }

    /// A document would leave these sets without a whole copy: since when each has been so is its own, for
    /// one that is waited for long says nothing of another. Where the class has a disk, it shall have every
    /// page by the time that the document comes again.
    fn note_refused(&mut self, document: &Document, now: MonotonicTime) {
        let to_disk = self.config.spill && document.durability.spill == Spill::Async;
        for place in 0..self.tables.sets.len() {
            let id = self.tables.sets[place].id();
            let grant = id.and_then(|id| find_grant(&document.sets, id));
            let lasts = grant.is_some_and(|grant| {
                let checked = self.check_survivor(place, grant, (document.read_stall, now));
                matches!(checked, Err(ApplyError::LastWhole(_)))
            });
            // Kept when its time is over: else it would begin again while another set's goes on.
            let within = (document.read_stall, now);
            let lacks = grant.is_some_and(|grant| self.last_whole(place, grant, within).is_some());
            let since = self.refused[place].unwrap_or(now);
            self.refused[place] = lacks.then_some(since);
            let before = std::mem::replace(&mut self.goes_to_disk[place], lasts && to_disk);
            if lasts
                && to_disk
                && !before
                && let Some(slab) = self.set_slab[place]
            {
                self.retry_disk_copy(slab);
            }
        }
    }

    /// Whether a copy is reached, or has not been out of reach for as long as a read may stall:
    /// counted from this process's first document at the earliest, for before it nothing was tried.
    fn is_within(&self, replica: Replica, stall: Duration, now: MonotonicTime) -> bool {
        let server = &self.servers[replica.place.server.as_usize()];
        match server.link {
            LinkState::Up => true,
            LinkState::Connecting | LinkState::Down => {
                now.since(server.since.max(self.began.unwrap_or(now))) < stall
            }
            LinkState::Lost | LinkState::Refused => false,
        }
    }

    /// Whether the spill file holds every page of a slab.
    fn is_slab_on_disk(&self, slab: u32) -> bool {
        let pages = (0..self.slab_end(slab)).map(|page| self.page_of(slab, page));
        let mut records = pages.map(|page| self.tables.pages[page].load());
        self.config.spill && records.all(|record| record.version.is_empty() || record.disk)
    }

    fn apply_server(&mut self, index: usize, server: &ServerDescriptor, now: MonotonicTime) {
        let Ok(number) = u16::try_from(index) else {
            return;
        };
        let number = ServerIndex::new(number);
        // The life that the copies in the tables belong to, and not what an earlier document of
        // this process said: the document is kept before it is put in force, so an engine that
        // died in between leaves tables that are older than the first document of the next one.
        let life = &self.tables.lives[index];
        let before = life.load();
        let reborn = before.is_some() && server.incarnation.is_some_and(|now| before != Some(now));
        if reborn {
            self.server_reborn(number);
        }
        if let Some(now) = server.incarnation {
            life.store(now);
        }
        let known = &mut self.servers[index];
        let was_named = std::mem::replace(&mut known.named, server.incarnation.is_some());
        let waits = matches!(known.link, LinkState::Down | LinkState::Connecting);
        if known.named && !was_named && waits {
            // Until now nobody wanted it, which says nothing of the server.
            known.link = LinkState::Connecting;
            known.since = now;
        }
        known.incarnation = server.incarnation.or(known.incarnation);
        known.domain = server.domain;
        let same = known.answered.is_some() && known.answered == known.incarnation;
        match known.link {
            LinkState::Lost | LinkState::Up if same => self.set_link(number, LinkState::Up, now),
            LinkState::Lost | LinkState::Up => {
                self.set_link(number, LinkState::Lost, now);
                // Copies of a new life that has not answered yet are not lost with the old one.
                if !reborn {
                    self.server_lost(number);
                }
            }
            LinkState::Connecting | LinkState::Down | LinkState::Refused => {}
        }
    }

    /// The document names a new life of a server: what the old one held is gone, and slots that
    /// it still lists have been granted anew, empty. What the old life has said, or will still
    /// say, is not true of the new one.
    fn server_reborn(&mut self, server: ServerIndex) {
        for place in 0..self.tables.sets.len() {
            let mut changed = 0_u8;
            for index in 0..self.tables.sets[place].len() {
                if self.tables.sets[place].replica(index).place.server == server {
                    let state = self.state_of_new_copy(place);
                    let place_there = self.tables.sets[place].replica(index).place;
                    let replica = Replica {
                        place: place_there,
                        state,
                    };
                    self.tables.sets[place].begin(index, replica);
                    changed |= 1 << index;
                }
            }
            if let (Some(slab), true) = (self.set_slab[place], changed != 0) {
                self.forget_progress(slab, changed);
            }
        }
        self.disown(|_, _, place| place.server == server);
    }

    /// The copy at a position has missed a write.
    pub(crate) fn miss(&mut self, place: usize, index: usize, version: PageVersion) {
        let entry = &self.tables.sets[place];
        // Also of a copy that is stale already: a write that began earlier may end later.
        entry.progress[index].miss(version);
        if entry.replica(index).state != ReplicaState::Stale {
            self.worsen(place, index, ReplicaState::Stale);
        }
    }

    /// The copy at a position is not what it was.
    fn worsen(&mut self, place: usize, index: usize, state: ReplicaState) {
        let entry = &self.tables.sets[place];
        let target = entry.replica(index).place;
        entry.set_state(index, state);
        if let Some(id) = entry.id() {
            self.event(EngineEvent::ReplicaStale(id, target.server));
        }
        let Some(slab) = self.set_slab[place] else {
            return;
        };
        self.copy.stir();
        if state == ReplicaState::Lost {
            // What it has acknowledged is gone as well.
            self.forget_progress(slab, 1 << index);
        }
        self.spoil_copy(slab, |_, copied| copied == target);
    }

    /// State of a copy whose slot is empty: whole if the set holds nothing either.
    fn state_of_new_copy(&self, place: usize) -> ReplicaState {
        match self.set_slab[place] {
            Some(slab) if self.slab_used[slab as usize] > 0 => ReplicaState::Rebuilding,
            // Writes under way are posted to it as well before they are acknowledged.
            _ => ReplicaState::Live,
        }
    }

    /// Brings one place of the set table to what the document says of its set. A copy that stays
    /// keeps its position where it can, and is written to its new one before the old one goes: a
    /// process that is killed in between must not forget that the copy was whole.
    fn apply_known_set(&mut self, place: usize, grants: &[SetGrant]) {
        let entry = &self.tables.sets[place];
        let Some(id) = entry.id() else {
            return;
        };
        let Some(grant) = find_grant(grants, id) else {
            entry.free();
            return;
        };
        let (wanted, len) = (&grant.replicas, grant.replicas.len());
        let before = [0, 1, 2].map(|index| (index < entry.len()).then(|| entry.replica(index)));
        let held = [0, 1, 2].map(|index| entry.progress(index));
        let is_wanted = |replica: &Replica| wanted.contains(&replica.place);
        let moved = (len..before.len()).filter_map(|index| {
            let replica = before[index].filter(&is_wanted)?;
            // A process that was killed between the two has the copy in both positions.
            let mut kept = before[..len].iter().flatten();
            let is_twin = kept.any(|it| it.place == replica.place);
            (!is_twin).then_some((replica, Some(held[index])))
        });
        let state = self.state_of_new_copy(place);
        let is_new = |wish: &&ReplicaPlace| {
            let mut known = before.iter().flatten();
            known.all(|replica| replica.place != **wish)
        };
        let new = wanted.iter().filter(is_new).map(|place| {
            let place = *place;
            (Replica { place, state }, None)
        });
        let holes = (0..len).filter(|index| !before[*index].is_some_and(|it| is_wanted(&it)));
        let mut changed = 0_u8;
        for (index, (replica, held)) in holes.zip(moved.chain(new)) {
            match held {
                Some(held) => entry.bring(index, replica, held),
                None => entry.begin(index, replica),
            }
            changed |= 1 << index;
        }
        entry.set_len(len);
        let dropped = (len..before.len()).filter(|index| before[*index].is_some());
        changed = dropped.fold(changed, |changed, index| changed | 1 << index);
        if let (Some(slab), true) = (self.set_slab[place], changed != 0) {
            self.forget_progress(slab, changed);
        }
    }

    /// Copies at the positions in `changed` are other ones now, or empty ones: what was sent to the
    /// old ones no longer counts, and what is being copied there begins anew.
    fn forget_progress(&mut self, slab: u32, changed: u8) {
        for place in self.active.iter().copied() {
            let state = &mut self.requests[place];
            for share in &mut state.parts[..state.part_count] {
                if share.slab != slab {
                    continue;
                }
                match state.work {
                    Work::Write => {
                        share.acked &= !changed;
                        share.posted &= !changed;
                    }
                    Work::Read | Work::Copy(_) => {
                        share.tried &= !changed;
                        share.bad &= !changed;
                    }
                    Work::Discard | Work::Flush => {}
                }
            }
        }
        self.spoil_copy(slab, |engine, target| {
            let index = engine.position(slab, target);
            index.is_none_or(|index| changed & (1 << index) != 0)
        });
    }

    fn apply_new_set(&mut self, grant: &SetGrant) {
        let known = self
            .tables
            .sets
            .iter()
            .any(|entry| entry.id() == Some(grant.id));
        if known {
            return;
        }
        if let Some(entry) = self.tables.sets.iter().find(|entry| entry.id().is_none()) {
            entry.take(grant.id, &grant.replicas);
        }
    }

    /// The set of a slab; an unbound slab is given one from the reserve.
    pub(crate) fn bind(&mut self, slab: u32) -> Option<usize> {
        let entry = &self.tables.slabs[slab as usize];
        if let Some(place) = entry.set() {
            return Some(place);
        }
        let free = |place: &usize| {
            let set = &self.tables.sets[*place];
            set.id().is_some()
                && self.set_slab[*place].is_none()
                && !set.is_released()
                && set.replicas().all(|(_, replica)| self.is_usable(replica))
        };
        let place = (0..self.tables.sets.len())
            .filter(free)
            .min_by_key(|p| self.tables.sets[*p].id())?;
        self.set_slab[place] = Some(slab);
        let set = &self.tables.sets[place];
        let state = self.state_of_new_copy(place);
        for (index, replica) in set.replicas() {
            set.begin(index, Replica { state, ..replica });
        }
        // Last: a process that is killed before has bound nothing, and none that is killed after
        // leaves copies that count as whole beside pages that only the disk has.
        entry.bind(Some(place));
        self.reserve_empty = None;
        if state != ReplicaState::Live {
            self.copy.stir();
        }
        self.tables.header.count(Counter::SlabsMapped, 1);
        if let Some(id) = set.id() {
            self.event(EngineEvent::SlabBound(SlabIndex::new(slab), id));
        }
        Some(place)
    }

    /// Forgets the pages of a discard.
    pub(crate) fn discard(&mut self, place: RequestPlace, now: MonotonicTime) {
        let (mut page, end) = (self.requests[place].first.get(), self.requests[place].end());
        let slab_pages = u64::from(self.config.geometry.slab_pages);
        let mut discarded = 0_u64;
        while page < end {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a device has below 2^28 pages"
            )]
            let slab = (page / slab_pages) as usize;
            let stop = end.min((page / slab_pages + 1) * slab_pages);
            if self.slab_used[slab] > 0 {
                let freed = self.clear_pages(page, stop);
                self.slab_used[slab] -= freed;
                discarded += u64::from(freed);
                if self.slab_used[slab] == 0 && self.tables.slabs[slab].set().is_some() {
                    self.note_empty(slab, Some(now));
                }
            }
            page = stop;
        }
        self.tables.header.count(Counter::PagesDiscarded, discarded);
    }

    fn clear_pages(&self, first: u64, end: u64) -> u32 {
        let mut freed = 0;
        for page in first..end {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a device has below 2^28 pages"
            )]
            let entry = &self.tables.pages[page as usize];
            if !entry.is_empty() {
                entry.clear();
                freed += 1;
            }
        }
        freed
    }

    /// Notes which bound slabs an engine that died has left without any page.
    fn stamp_empty_slabs(&mut self, now: MonotonicTime) {
        for slab in 0..self.slab_used.len() {
            self.stamp_if_empty(slab, now);
        }
    }

    /// Notes a bound slab without any page: one whose first write came to nothing, for instance.
    pub(crate) fn stamp_if_empty(&mut self, slab: usize, now: MonotonicTime) {
        let is_bound = self.tables.slabs[slab].set().is_some();
        if is_bound && self.slab_used[slab] == 0 && self.slab_empty_since[slab].is_none() {
            self.note_empty(slab, Some(now));
        }
    }

    /// Notes since when a bound slab is empty, or that it no longer is.
    pub(crate) fn note_empty(&mut self, slab: usize, since: Option<MonotonicTime>) {
        let before = std::mem::replace(&mut self.slab_empty_since[slab], since);
        self.empty_slabs -= usize::from(before.is_some());
        self.empty_slabs += usize::from(since.is_some());
    }

    /// Gives sets of slabs that have been empty for long enough back to the reserve.
    pub(crate) fn return_empty_slabs(&mut self, now: MonotonicTime) {
        let Some(desired) = self.desired.filter(|_| self.empty_slabs > 0) else {
            return;
        };
        for slab in 0..self.slab_empty_since.len() {
            let Some(since) = self.slab_empty_since[slab] else {
                continue;
            };
            if now.since(since) < desired.empty_slab_hold || self.is_slab_busy(slab) {
                continue;
            }
            self.note_empty(slab, None);
            let Some(place) = self.tables.slabs[slab].set() else {
                continue;
            };
            self.tables.slabs[slab].bind(None);
            self.set_slab[place] = None;
            let set = &self.tables.sets[place];
            for (index, replica) in set.replicas() {
                if replica.state != ReplicaState::Lost {
                    set.complete(index);
                }
            }
            self.tables.header.count(Counter::SlabsReturned, 1);
            if let (Some(id), Ok(slab)) = (set.id(), u32::try_from(slab)) {
                self.event(EngineEvent::SlabReturned(SlabIndex::new(slab), id));
            }
        }
    }

    fn is_slab_busy(&self, slab: usize) -> bool {
        self.active.iter().any(|place| {
            let state = &self.requests[*place];
            let slab_pages = u64::from(self.config.geometry.slab_pages);
            let first = slab as u64 * slab_pages;
            state.first.get() < first + slab_pages && first < state.end()
        })
    }

    /// Releases unbound sets above the limit, the newest first.
    pub(crate) fn release_surplus(&mut self) {
        let Some(desired) = self.desired else {
            return;
        };
        let in_reserve = |engine: &Self, place: &usize| {
            let set = &engine.tables.sets[*place];
            set.id().is_some() && !set.is_released() && engine.set_slab[*place].is_none()
        };
        let places = 0..self.tables.sets.len();
        let mut surplus = places
            .clone()
            .filter(|place| in_reserve(self, place))
            .count();
        while surplus > desired.reserve_sets_max as usize {
            surplus -= 1;
            let newest = places.clone().filter(|place| in_reserve(self, place));
            let Some(place) = newest.max_by_key(|place| self.tables.sets[*place].id()) else {
                return;
            };
            self.tables.sets[place].release();
            if let Some(id) = self.tables.sets[place].id() {
                self.event(EngineEvent::SetReleased(id));
            }
        }
    }

    /// Whether an empty slab waits for its return.
    pub(crate) fn has_empty_slabs(&self) -> bool {
        self.empty_slabs > 0
    }

    /// A server answered with another memory: every copy there is gone.
    pub(crate) fn server_lost(&mut self, server: ServerIndex) {
        for place in 0..self.tables.sets.len() {
            for index in 0..self.tables.sets[place].len() {
                if self.tables.sets[place].replica(index).place.server == server {
                    self.lose(place, index);
                }
            }
        }
        self.disown(|_, _, place| place.server == server);
    }

    /// A server refused a slot: that copy is gone.
    pub(crate) fn replica_refused(&mut self, slab: u32, replica: ReplicaPlace) {
        let set = self.tables.slabs[slab as usize].set();
        if let (Some(set), Some(index)) = (set, self.position(slab, replica)) {
            self.lose(set, index);
            self.disown(|_, _, place| place == replica);
        }
    }

    fn lose(&mut self, place: usize, index: usize) {
        if self.tables.sets[place].replica(index).state != ReplicaState::Lost {
            self.worsen(place, index, ReplicaState::Lost);
        }
    }

    /// A copy of the set of a slab, if it is one.
    pub(crate) fn replica_of(&self, slab: u32, place: ReplicaPlace) -> Option<Replica> {
        let set = self.tables.slabs[slab as usize].set()?;
        let index = self.tables.sets[set].find(place)?;
        Some(self.tables.sets[set].replica(index))
    }

    /// Position of a copy in the set of a slab.
    pub(crate) fn position(&self, slab: u32, place: ReplicaPlace) -> Option<usize> {
        let set = self.tables.slabs[slab as usize].set()?;
        self.tables.sets[set].find(place)
    }
}

fn find_grant(grants: &[SetGrant], id: SetId) -> Option<&SetGrant> {
    grants
        .binary_search_by_key(&id, |grant| grant.id)
        .ok()
        .map(|index| &grants[index])
}

fn check_copies(grant: &SetGrant, servers: &[ServerDescriptor]) -> Result<(), ApplyError> {
    let error = ApplyError::Copies(grant.id);
    if grant.replicas.is_empty() || grant.replicas.len() > dynamicswap_types::Copies::MAX {
        return Err(error);
    }
    for (index, replica) in grant.replicas.iter().enumerate() {
        let server = servers.get(replica.server.as_usize());
        let Some(server) = server.filter(|server| server.incarnation.is_some()) else {
            return Err(error);
        };
        let together = grant.replicas[..index].iter().any(|other| {
            other.server == replica.server
                || servers[other.server.as_usize()].domain == server.domain
        });
        if together {
            return Err(error);
        }
    }
    Ok(())
}
