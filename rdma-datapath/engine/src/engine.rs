//! The engine: takes requests, link changes, completions and documents; gives effects.
//!
//! Owns the state and the order of things. The rules stand beside it: `write.rs`, `read.rs`,
//! `repair.rs`, `copy.rs` (rebuild, moves and disk behind), `reserve.rs` (documents, binding,
//! return), `report.rs`, `invariants.rs`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_types::{
    Durability, Epoch, Generation, IncarnationId, MonotonicTime, PageIndex, PageVersion,
    ServerIndex, SetId,
};

use crate::buffer::{BufferRange, Buffers};
use crate::copy::CopyState;
use crate::document::ReplicaPlace;
use crate::effect::{Effect, EngineEvent, SpillOperation};
use crate::heat::Touch;
use crate::in_flight::{OperationState, Part, Purpose, RequestPlace, RequestState, Stage, Work};
use crate::limits::{
    COPY_JOBS_MAX, EFFECTS_MAX, OPERATIONS_MAX, REQUEST_PAGES_MAX, REQUESTS_MAX, SCRATCH_PAGES,
    SERVERS_MAX,
};
use crate::link::Link;
use crate::operation::{Direction, Operation, OperationError, OperationId, OperationResult};
use crate::page_guard::PageGuard;
use crate::patience::Patience;
use crate::request::{Request, RequestError, RequestKind, RequestTag, SubmitError};
use crate::sets::{Replica, ReplicaState};
use crate::tables::{Counter, EngineState, Geometry, Tables, TablesError};

/// What an engine is made with.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Sizes of the tables.
    pub geometry: Geometry,
    /// This engine's epoch: above that of every engine of the device before it.
    pub epoch: Epoch,
    /// [`SCRATCH_PAGES`] pages of the buffer pool for the engine's own copies.
    pub scratch: BufferRange,
    /// Whether there is a spill file.
    pub spill: bool,
    /// An operation of a page on a quiet link that takes longer makes the engine reset the link; one
    /// behind others gets the time that their bytes need, see `patience.rs`. 300 ms by default: under
    /// a third of the second that a read may stall, with room for a busy host.
    pub operation_timeout: Duration,
}

/// What the engine knows of one memory server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerState {
    /// Whether the document in force names it. One that it does not name has no link.
    pub named: bool,
    /// Life of its memory that a document has named last.
    pub incarnation: Option<IncarnationId>,
    /// Life of its memory that answered last.
    pub answered: Option<IncarnationId>,
    /// Failure domain.
    pub domain: u16,
    /// The link.
    pub link: LinkState,
    /// Since when the link is in this state.
    pub since: MonotonicTime,
    /// Operations under way.
    pub in_flight: u32,
    /// Pages that they move.
    pub pages_in_flight: u32,
    /// How long they may take.
    pub patience: Patience,
    /// Pages read over the engine's life.
    pub pages_read: u64,
    /// Pages written over the engine's life.
    pub pages_written: u64,
}

/// State of a link, as the engine judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No handshake yet.
    Connecting,
    /// Serves this device's slots.
    Up,
    /// Not reachable.
    Down,
    /// Answers with another incarnation: what it held is gone.
    Lost,
    /// Knows a newer epoch.
    Refused,
}

impl ServerState {
    const UNKNOWN: Self = Self {
        named: false,
        incarnation: None,
        answered: None,
        domain: 0,
        link: LinkState::Connecting,
        since: MonotonicTime::ZERO,
        in_flight: 0,
        pages_in_flight: 0,
        patience: Patience::NEW,
        pages_read: 0,
        pages_written: 0,
    };
}

/// The desired state that is not per set or per server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desired {
    pub(crate) generation: Generation,
    pub(crate) durability: Durability,
    pub(crate) write_hold: Duration,
    pub(crate) read_stall: Duration,
    pub(crate) empty_slab_hold: Duration,
    pub(crate) reserve_sets_max: u32,
}

/// The engine of one device. See the module's header.
#[derive(Debug)]
pub struct Engine<'m> {
    pub(crate) tables: Tables<'m>,
    pub(crate) config: EngineConfig,
    pub(crate) desired: Option<Desired>,
    /// What was settled when the document in force came.
    pub(crate) settled: Generation,
    pub(crate) servers: Vec<ServerState>,
    pub(crate) requests: Vec<RequestState>,
    pub(crate) free_requests: Vec<RequestPlace>,
    /// Places in use, oldest first.
    pub(crate) active: Vec<RequestPlace>,
    pub(crate) waiting: usize,
    pub(crate) operations: Vec<OperationState>,
    pub(crate) free_operations: Vec<usize>,
    effects: VecDeque<Effect>,
    sequence: u64,
    counter: u64,
    pub(crate) slab_used: Vec<u32>,
    /// Since when the slab is bound and empty.
    pub(crate) slab_empty_since: Vec<Option<MonotonicTime>>,
    /// How many of them are.
    pub(crate) empty_slabs: usize,
    /// Slab of each set in the set table.
    pub(crate) set_slab: Vec<Option<u32>>,
    pub(crate) copy: CopyState,
    /// Encrypts pages, or checks them only.
    pub(crate) guard: PageGuard,
    /// Since when no set could be had for a write, and when a write last met that.
    pub(crate) reserve_empty: Option<(MonotonicTime, MonotonicTime)>,
    /// When it was last told that writes are held.
    pub(crate) held_told: Option<MonotonicTime>,
    pub(crate) next_tick: MonotonicTime,
    /// When the first document came.
    pub(crate) began: Option<MonotonicTime>,
    /// Answered writes on their way to the disk, and their pages.
    pub(crate) behind: (u32, u32),
    /// Operations on the disk that take longer than they should.
    pub(crate) disk_late: u32,
    /// By place in the set table: since when documents are refused because of its last whole copy.
    pub(crate) refused: Vec<Option<MonotonicTime>>,
    /// By place in the set table: the refused document would leave the set to the disk, so writes are
    /// answered once the disk has them too. Else a storm never lets it have every page at once.
    pub(crate) goes_to_disk: Vec<bool>,
    pub(crate) fenced: bool,
}

impl<'m> Engine<'m> {
    /// Takes over the tables: bindings, states of copies and used counts are recovered from them.
    /// Nothing is posted before a document is applied.
    ///
    /// # Errors
    /// [`TablesError`] if the tables are not of this geometry.
    ///
    /// # Panics
    /// If `config.scratch` is shorter than [`SCRATCH_PAGES`] or the epoch does not fit a version:
    /// a mistake of the shell.
    pub fn new(config: EngineConfig, tables: Tables<'m>) -> Result<Self, TablesError> {
        tables.check(config.geometry)?;
        assert!(config.scratch.pages >= SCRATCH_PAGES);
        assert!(config.epoch > Epoch::ZERO && config.epoch <= PageVersion::EPOCH_MAX);
        let places = REQUESTS_MAX + COPY_JOBS_MAX;
        let mut set_slab = vec![None; tables.sets.len()];
        let goes_to_disk = vec![false; tables.sets.len()];
        let mut slab_used = vec![0; tables.slabs.len()];
        for (number, slab) in (0_u32..).zip(tables.slabs) {
            if let Some(place) = slab.set() {
                set_slab[place] = Some(number);
            }
        }
        for (page, entry) in tables.pages.iter().enumerate() {
            slab_used[page / config.geometry.slab_pages as usize] += u32::from(!entry.is_empty());
        }
        Ok(Self {
            config,
            desired: None,
            settled: Generation::ZERO,
            guard: PageGuard::Checksum,
            servers: vec![ServerState::UNKNOWN; SERVERS_MAX],
            requests: (0..places).map(|_| RequestState::empty()).collect(),
            free_requests: (0..places).rev().collect(),
            active: Vec::with_capacity(places),
            waiting: 0,
            operations: vec![OperationState::EMPTY; OPERATIONS_MAX],
            free_operations: (0..OPERATIONS_MAX).rev().collect(),
            effects: VecDeque::with_capacity(EFFECTS_MAX),
            sequence: 0,
            counter: 0,
            slab_empty_since: vec![None; tables.slabs.len()],
            empty_slabs: 0,
            slab_used,
            set_slab,
            copy: CopyState::new(tables.slabs.len()),
            reserve_empty: None,
            held_told: None,
            next_tick: MonotonicTime::ZERO,
            began: None,
            behind: (0, 0),
            disk_late: 0,
            refused: vec![None; tables.sets.len()],
            goes_to_disk,
            fenced: false,
            tables,
        })
    }

    /// Encrypts every page from now on. To be called before the first request, and for every
    /// engine of a device alike: the tables do not say how a page left.
    ///
    /// # Panics
    /// If the guard keeps whole tags and the tables have no place for them: no page would be read
    /// again.
    pub fn guard_with(&mut self, guard: PageGuard) {
        assert!(!guard.keeps_whole_tags() || self.config.geometry.tag_rests() > 0);
        self.guard = guard;
    }

    /// Takes a request of the front end. `buffers` holds a write's bytes.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing has happened then.
    pub fn submit(
        &mut self,
        request: Request,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> Result<(), SubmitError> {
        let (work, buffer) = self.check_request(&request)?;
        if self.free_requests.len() <= COPY_JOBS_MAX {
            return Err(SubmitError::Full);
        }
        let place = self.take_request(work, (request.page, u64::from(request.pages)), now);
        let state = &mut self.requests[place];
        state.tag = request.tag;
        state.buffer = buffer;
        self.begin(place, buffers, now);
        Ok(())
    }

    fn check_request(&self, request: &Request) -> Result<(Work, BufferRange), SubmitError> {
        let none = BufferRange { first: 0, pages: 0 };
        let (work, buffer) = match request.kind {
            RequestKind::Read { buffer } => (Work::Read, buffer),
            RequestKind::Write { buffer } => (Work::Write, buffer),
            RequestKind::Discard => (Work::Discard, none),
            RequestKind::Flush => (Work::Flush, none),
        };
        let end = request.page.get().checked_add(u64::from(request.pages));
        let inside = end.is_some_and(|end| end <= self.config.geometry.device_pages);
        let with_data = matches!(work, Work::Read | Work::Write);
        let length = match work {
            Work::Flush => request.pages == 0,
            Work::Discard => request.pages > 0,
            _ => (1..=REQUEST_PAGES_MAX).contains(&request.pages),
        };
        if inside && length && (!with_data || buffer.pages == request.pages) {
            Ok((work, buffer))
        } else {
            Err(SubmitError::Invalid)
        }
    }

    /// Takes a place for a request over `range` and orders it behind those it overlaps.
    pub(crate) fn take_request(
        &mut self,
        work: Work,
        range: (PageIndex, u64),
        now: MonotonicTime,
    ) -> RequestPlace {
        #[expect(
            clippy::expect_used,
            reason = "callers have looked that a place is free"
        )]
        let place = self.free_requests.pop().expect("a free request place");
        self.sequence += 1;
        let state = &mut self.requests[place];
        state.work = work;
        state.stage = Stage::Active;
        (state.first, state.pages) = range;
        state.sequence = self.sequence;
        state.submitted = now;
        state.held = false;
        state.repair_due = false;
        state.part_count = 0;
        state.outstanding = 0;
        state.taken = true;
        place
    }

    /// Starts a request, or lets it wait for those it overlaps.
    pub(crate) fn begin(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        let state = &self.requests[place];
        let blocked = self
            .active
            .iter()
            .any(|other| state.waits_for(&self.requests[*other]));
        self.active.push(place);
        if blocked {
            self.requests[place].stage = Stage::Waiting;
            self.waiting += 1;
        } else {
            self.start(place, buffers, now);
        }
    }

    fn start(&mut self, place: RequestPlace, buffers: &mut dyn Buffers, now: MonotonicTime) {
        self.requests[place].stage = Stage::Active;
        match self.requests[place].work {
            Work::Read => self.start_read(place, buffers),
            Work::Write => self.start_write(place, buffers),
            Work::Copy(target) => self.start_copy(place, target),
            Work::Discard => {
                self.discard(place, now);
                return self.answer(place, Ok(()), (buffers, now));
            }
            Work::Flush => return self.answer(place, Ok(()), (buffers, now)),
        }
        self.drive(place, buffers, now);
    }

    /// Splits a request at slab edges.
    pub(crate) fn split(&mut self, place: RequestPlace) {
        let slab_pages = u64::from(self.config.geometry.slab_pages);
        let state = &mut self.requests[place];
        let (mut page, end, mut skip) = (state.first.get(), state.end(), 0);
        state.part_count = 0;
        while page < end {
            let slab = page / slab_pages;
            let pages = end.min((slab + 1) * slab_pages) - page;
            let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            let part = Part {
                slab: small(slab),
                first: small(page % slab_pages),
                pages: small(pages),
                skip,
                ..Part::EMPTY
            };
            state.parts[state.part_count] = part;
            state.part_count += 1;
            skip += part.pages;
            page += pages;
        }
    }

    /// Does whatever can be done now for a request that has been started.
    pub(crate) fn drive(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        if self.fenced || self.requests[place].stage != Stage::Active {
            return;
        }
        match self.requests[place].work {
            Work::Read => self.drive_read(place, buffers, now),
            Work::Write => self.drive_write(place, buffers, now),
            Work::Copy(_) => self.drive_copy(place, buffers, now),
            Work::Discard | Work::Flush => {}
        }
    }

    /// A link changed.
    pub fn link_changed(
        &mut self,
        server: ServerIndex,
        link: Link,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        let Some(known) = self.servers.get_mut(server.as_usize()) else {
            return;
        };
        if let Link::Up { incarnation } = link {
            known.answered = Some(incarnation);
        }
        let state = match link {
            Link::Up { incarnation } if known.incarnation == Some(incarnation) => LinkState::Up,
            Link::Up { .. } => LinkState::Lost,
            Link::Down => LinkState::Down,
            Link::Refused => LinkState::Refused,
        };
        self.set_link(server, state, now);
        match state {
            LinkState::Lost => self.server_lost(server),
            LinkState::Refused => self.fence_if_superseded(server),
            LinkState::Up => self.copy.wake(),
            LinkState::Down | LinkState::Connecting => {}
        }
        self.drive_all(buffers, now);
    }

    pub(crate) fn set_link(&mut self, server: ServerIndex, link: LinkState, now: MonotonicTime) {
        let known = &mut self.servers[server.as_usize()];
        if known.link != link {
            known.link = link;
            known.since = now;
        }
    }

    /// A server says that it knows a newer engine of this device. One there is has taken its epoch from the
    /// memory file; if none has, the server lies, or somebody has told it a lie, and is no reason to give up
    /// what other servers hold: it is as good as gone.
    fn fence_if_superseded(&mut self, server: ServerIndex) {
        let newest = self.tables.header.epoch.load(Ordering::Acquire);
        if !self.fenced && newest > self.config.epoch.get() {
            self.fenced = true;
            self.tables
                .header
                .engine_state
                .store(EngineState::Fenced as u32, Ordering::Release);
            self.event(EngineEvent::Fenced(server));
        }
    }

    /// Whether a newer writer of this device exists. Nothing is acknowledged any more.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Drives every request that has been started, after something outside of it changed.
    pub(crate) fn drive_all(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        let mut index = 0;
        while let Some(place) = self.active.get(index).copied() {
            self.drive(place, buffers, now);
            // A request that ended has left the list; the next one took its position.
            if self.active.get(index) == Some(&place) {
                index += 1;
            }
        }
        self.drive_copies(buffers, now);
    }

    /// An operation ended.
    pub fn complete(
        &mut self,
        id: OperationId,
        result: OperationResult,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        let (place, generation) = OperationState::place_of(id);
        let Some(state) = self.operations.get(place).copied() else {
            return;
        };
        if !state.taken || state.generation != generation {
            return;
        }
        self.operations[place].taken = false;
        self.free_operations.push(place);
        if state.overdue && matches!(state.purpose, Purpose::ReadDisk | Purpose::WriteDisk) {
            self.disk_late -= 1;
            self.copy.stir();
        }
        let request = &mut self.requests[state.request];
        request.outstanding -= 1;
        request.parts[state.part].outstanding -= 1;
        // A copy that is no longer what it was has neither got a write nor refused one.
        let over = state.disowned && !matches!(result, Err(OperationError::OldEpoch));
        self.note_result(&state, result, now);
        let result = if over {
            Err(OperationError::LinkDown)
        } else {
            result
        };
        match state.purpose {
            Purpose::ReadReplica(_) | Purpose::ReadDisk => self.read_done(&state, result, buffers),
            Purpose::WriteReplica(place) => self.write_done(&state, place, result),
            Purpose::WriteDisk => self.disk_write_done(&state, result),
            Purpose::Repair(place) => self.repair_done(&state, place, result),
        }
        match self.requests[state.request].stage {
            Stage::Active => self.drive(state.request, buffers, now),
            Stage::Answered => self.release_if_idle(state.request, buffers, now),
            Stage::Waiting => {}
        }
        if self.copy.is_busy() {
            self.drive_copies(buffers, now);
        }
    }

    /// What an operation's end says about its server.
    fn note_result(&mut self, state: &OperationState, result: OperationResult, now: MonotonicTime) {
        let (Purpose::ReadReplica(place) | Purpose::WriteReplica(place) | Purpose::Repair(place)) =
            state.purpose
        else {
            return;
        };
        let server = &mut self.servers[place.server.as_usize()];
        server.in_flight -= 1;
        server.pages_in_flight -= state.run.1;
        match result {
            Ok(()) if matches!(state.purpose, Purpose::ReadReplica(_)) => {
                server.pages_read += u64::from(state.run.1);
            }
            Ok(()) => server.pages_written += u64::from(state.run.1),
            Err(OperationError::LinkDown) if server.link == LinkState::Up => {
                self.set_link(place.server, LinkState::Down, now);
            }
            Err(OperationError::LinkDown) => {}
            Err(OperationError::OldEpoch) => {
                self.set_link(place.server, LinkState::Refused, now);
                self.fence_if_superseded(place.server);
            }
            Err(OperationError::NotOwner | OperationError::OutOfRange) if state.disowned => {}
            Err(OperationError::NotOwner | OperationError::OutOfRange) => {
                self.replica_refused(self.requests[state.request].parts[state.part].slab, place);
            }
        }
    }

    /// Answers to operations on copies that are no longer what they were say nothing from now on.
    /// `is_over` gets the slab and the copy.
    pub(crate) fn disown(&mut self, is_over: impl Fn(&Self, u32, ReplicaPlace) -> bool) {
        for index in 0..self.operations.len() {
            let state = self.operations[index];
            let Some(target) = state.target().filter(|_| state.taken) else {
                continue;
            };
            let slab = self.requests[state.request].parts[state.part].slab;
            if is_over(self, slab, target) {
                self.operations[index].disowned = true;
            }
        }
    }

    /// Posts an operation on a server for a run of pages of a part.
    pub(crate) fn post(
        &mut self,
        (request, part): (RequestPlace, usize),
        purpose: Purpose,
        run: (u32, u32),
        now: MonotonicTime,
    ) {
        #[expect(
            clippy::expect_used,
            reason = "OPERATIONS_RESERVED covers all parts and copies"
        )]
        let place = self.free_operations.pop().expect("a free operation place");
        let generation = self.operations[place].generation.wrapping_add(1);
        let state = OperationState {
            taken: true,
            generation,
            request,
            part,
            purpose,
            run,
            due: now,
            overdue: false,
            disowned: false,
        };
        self.operations[place] = state;
        let id = state.id(place);
        let owner = &mut self.requests[request];
        owner.outstanding += 1;
        let share = &mut owner.parts[part];
        share.outstanding += 1;
        let buffer = owner.buffer.part(share.skip + run.0, run.1);
        let page = share.first + run.0;
        let slab = share.slab as usize;
        let first = owner.first.get() + u64::from(share.skip + run.0);
        let (target, direction) = match purpose {
            Purpose::ReadReplica(place) => (place, Direction::Read),
            Purpose::WriteReplica(place) | Purpose::Repair(place) => (place, Direction::Write),
            Purpose::ReadDisk | Purpose::WriteDisk => {
                let write = purpose == Purpose::WriteDisk;
                let page = PageIndex::new(first);
                return self.effect(Effect::Spill(SpillOperation {
                    id,
                    page,
                    write,
                    buffer,
                }));
            }
        };
        let load = &mut self.servers[target.server.as_usize()];
        load.in_flight += 1;
        load.pages_in_flight += run.1;
        let least = self.config.operation_timeout;
        let time = load.patience.time_max(least, load.pages_in_flight, now);
        self.operations[place].due = now.after(time);
        let set = self.tables.slabs[slab].set();
        let set = set.and_then(|set| self.tables.sets[set].id());
        let (server, slot) = (target.server, target.slot);
        self.effect(Effect::Post(Operation {
            id,
            server,
            direction,
            set: set.unwrap_or(SetId::new(0)),
            slot,
            page,
            buffer,
        }));
    }

    /// Answers a request and lets go of it as soon as nothing uses its buffer.
    pub(crate) fn answer(
        &mut self,
        place: RequestPlace,
        result: Result<(), RequestError>,
        (buffers, now): (&mut dyn Buffers, MonotonicTime),
    ) {
        let state = &mut self.requests[place];
        state.stage = Stage::Answered;
        let (tag, buffer, pages) = (state.tag, state.buffer, state.pages);
        let header = self.tables.header;
        let touch = match state.work {
            Work::Read => Some(Touch::Read),
            Work::Write => Some(Touch::Write),
            Work::Copy(_) | Work::Discard | Work::Flush => None,
        };
        if let (Some(touch), Ok(())) = (touch, result) {
            for share in &state.parts[..state.part_count] {
                let heat = self.tables.slabs[share.slab as usize].heat();
                heat.touch(touch, u64::from(share.pages), now);
            }
        }
        match (state.work, result) {
            (Work::Read, Ok(())) => {
                header.count(Counter::Reads, 1);
                header.count(Counter::PagesRead, pages);
            }
            (Work::Write, Ok(())) => {
                header.count(Counter::Writes, 1);
                header.count(Counter::PagesWritten, pages);
            }
            (Work::Read, Err(_)) => header.count(Counter::ReadFailures, 1),
            (Work::Write, Err(_)) => header.count(Counter::WriteFailures, 1),
            _ => {}
        }
        if !matches!(state.work, Work::Copy(_)) {
            let data = (state.work == Work::Read && result.is_ok()).then_some(buffer);
            self.effect(Effect::Complete { tag, result, data });
        }
        self.release_if_idle(place, buffers, now);
    }

    pub(crate) fn release_if_idle(
        &mut self,
        place: RequestPlace,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        let state = &mut self.requests[place];
        if state.stage != Stage::Answered || state.outstanding > 0 || state.repair_due {
            // A read that has just been answered may be waited for by nobody, but those that
            // waited for a write's answer may go on now.
            return self.wake(buffers, now);
        }
        state.taken = false;
        if !matches!(state.work, Work::Copy(_)) {
            let tag = state.tag;
            self.effect(Effect::Release(tag));
        }
        self.active.retain(|other| *other != place);
        self.free_requests.push(place);
        self.wake(buffers, now);
    }

    /// Starts requests whose obstacles are gone, in order.
    fn wake(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        if self.waiting == 0 {
            return;
        }
        let ready = |engine: &Self, index: usize| {
            let state = &engine.requests[engine.active[index]];
            let earlier = engine.active[..index]
                .iter()
                .map(|place| &engine.requests[*place]);
            state.stage == Stage::Waiting && !earlier.into_iter().any(|e| state.waits_for(e))
        };
        while let Some(index) = (0..self.active.len()).find(|index| ready(self, *index)) {
            self.waiting -= 1;
            let place = self.active[index];
            // Starting may end it and wake others in turn.
            self.start(place, buffers, now);
        }
    }

    /// Whether the shell has something left to do.
    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// The next thing for the shell to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        debug_assert!(self.effects.len() < EFFECTS_MAX);
        self.effects.push_back(effect);
    }

    pub(crate) fn event(&mut self, event: EngineEvent) {
        self.effect(Effect::Event(event));
    }

    /// The version for the next write.
    pub(crate) fn next_version(&mut self) -> PageVersion {
        self.counter += 1;
        #[expect(
            clippy::expect_used,
            reason = "2^40 writes in one epoch: see PageVersion"
        )]
        PageVersion::new(self.config.epoch, self.counter).expect("write counter of this epoch")
    }

    pub(crate) fn free_request_places(&self) -> usize {
        self.free_requests.len()
    }

    /// Position in the page table of a page of a slab.
    pub(crate) fn page_of(&self, slab: u32, page: u32) -> usize {
        slab as usize * self.config.geometry.slab_pages as usize + page as usize
    }

    /// Whether operations may go to this copy now.
    pub(crate) fn is_usable(&self, replica: Replica) -> bool {
        let up = self.servers[replica.place.server.as_usize()].link == LinkState::Up;
        up && replica.state != ReplicaState::Lost
    }

    /// Requests that have been taken and not let go of, copy jobs included.
    #[must_use]
    pub fn requests_under_way(&self) -> usize {
        self.active.len()
    }
}

/// A tag that no front end uses: copy jobs have it.
pub(crate) const COPY_TAG: RequestTag = RequestTag(u64::MAX);
