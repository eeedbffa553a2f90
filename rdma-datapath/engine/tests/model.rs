//! The engine against a model: random requests, completions in random order, links that flap,
//! engines that die, servers that lose their memory, documents that move copies. A read returns
//! the last acknowledged bytes or an error; where nothing was ever lost, no read fails.
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests; every number here is small"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_engine::buffer::{BufferRange, Buffers as _};
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::effect::{Effect, SpillOperation};
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::limits::SCRATCH_PAGES;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationError};
use dynamicswap_engine::page_guard::{PageGuard, PageKey, TagLength};
use dynamicswap_engine::request::{Request, RequestError, RequestKind, RequestTag};
use dynamicswap_engine::sets::{Replica, ReplicaState};
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, Generation, IncarnationId, Integrity, MonotonicTime,
    PageIndex, ServerIndex, SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

const SLABS: u64 = 4;
const SLAB_PAGES: u64 = 256;
const SERVERS: u16 = 5;
const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);
const BUFFERS: u32 = 64;
const BUFFER_PAGES: u32 = 8;

/// SplitMix64: enough randomness for a test, reproducible from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next(n) == 0
    }
}

#[derive(Clone, Copy)]
enum Pending {
    Remote(Operation),
    Disk(SpillOperation),
}

/// A request as the front end remembers it, to submit it again to the next engine.
#[derive(Clone)]
struct Sent {
    request: Request,
    version: u64,
    /// Per page: the last acknowledged version when a read was submitted.
    floor: Vec<u64>,
    answered: bool,
}

struct World<'m> {
    random: Random,
    tables: &'m OwnedTables,
    geometry: Geometry,
    engine: Engine<'m>,
    epoch: u64,
    now: MonotonicTime,
    pool: Vec<u8>,
    slots: BTreeMap<(u16, u32), Vec<u8>>,
    disk: Vec<u8>,
    up: Vec<bool>,
    lives: Vec<u8>,
    pending: Vec<Pending>,
    sent: BTreeMap<u64, Sent>,
    free_buffers: Vec<u32>,
    next_tag: u64,
    next_version: u64,
    acked: Vec<u64>,
    /// Pages of which a write has failed since the last acknowledged one: a copy may hold either, and
    /// the kernel, which kept the page in RAM, never reads it. An error is right there.
    doubtful: Vec<bool>,
    /// Whether something happened that may lose pages.
    lossy: bool,
    document: Document,
    next_slot: u32,
    failures: u64,
    reads: u64,
    /// Pages that were looked for in copies which count as whole.
    checked: u64,
}

fn stamp(page: u64, version: u64) -> Vec<u8> {
    let word = page.wrapping_mul(0x1_0000_0001) ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes().repeat(512)
}

fn incarnation(server: u16, life: u8) -> IncarnationId {
    IncarnationId::from_bytes([
        server.to_le_bytes()[0] + 1,
        life,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ])
}

/// Each seed has one of the three.
fn integrity(seed: u64) -> Integrity {
    Integrity::ALL[usize::try_from(seed % 3).expect("small")]
}

fn guard(integrity: Integrity) -> PageGuard {
    let sealed = |kept| PageGuard::sealed(&PageKey::from_bytes([4; 32]), DEVICE, kept);
    match integrity {
        Integrity::None => PageGuard::Checksum,
        Integrity::Tag64 => sealed(TagLength::Half),
        Integrity::Full => sealed(TagLength::Whole),
    }
}

fn config(geometry: Geometry, epoch: u64, spill: bool) -> EngineConfig {
    EngineConfig {
        geometry,
        epoch: Epoch::new(epoch),
        scratch: BufferRange {
            first: BUFFERS * BUFFER_PAGES,
            pages: SCRATCH_PAGES,
        },
        spill,
        operation_timeout: Duration::from_millis(300),
    }
}

impl<'m> World<'m> {
    fn new(seed: u64, tables: &'m OwnedTables, geometry: Geometry, class: Durability) -> Self {
        let spill = class.spill != Spill::None;
        let mut engine = Engine::new(config(geometry, 1, spill), tables.tables()).expect("fresh");
        engine.guard_with(guard(geometry.integrity));
        let pages = usize::try_from(geometry.device_pages).expect("small");
        let servers = (0..SERVERS)
            .map(|server| ServerDescriptor {
                incarnation: Some(incarnation(server, 0)),
                domain: server,
            })
            .collect();
        let document = Document {
            generation: Generation::new(1),
            durability: class,
            write_hold: Duration::from_millis(100),
            read_stall: Duration::from_secs(3600),
            empty_slab_hold: Duration::from_millis(40),
            reserve_sets_max: 3,
            servers,
            sets: Vec::new(),
        };
        let mut world = Self {
            random: Random(seed),
            tables,
            geometry,
            engine,
            epoch: 1,
            now: MonotonicTime::from_nanos(1),
            pool: vec![0; (BUFFERS * BUFFER_PAGES + SCRATCH_PAGES) as usize * 4096],
            slots: BTreeMap::new(),
            disk: vec![0; pages * 4096],
            up: vec![false; usize::from(SERVERS)],
            lives: vec![0; usize::from(SERVERS)],
            pending: Vec::new(),
            sent: BTreeMap::new(),
            free_buffers: (0..BUFFERS).collect(),
            next_tag: 1,
            next_version: 1,
            acked: vec![0; pages],
            doubtful: vec![false; pages],
            lossy: false,
            document,
            next_slot: 0,
            failures: 0,
            reads: 0,
            checked: 0,
        };
        world.grant_sets(7);
        world.apply();
        (0..SERVERS).for_each(|server| world.link(server, true));
        world
    }

    fn grant_sets(&mut self, count: u64) {
        for _ in 0..count {
            let id = self.document.sets.last().map_or(1, |set| set.id.get() + 1);
            let first = self.random.next(u64::from(SERVERS));
            let copies = self.document.durability.copies.get();
            let replicas = (0..copies as u64)
                .map(|copy| self.new_place(((first + copy) % u64::from(SERVERS)) as u16))
                .collect();
            self.document.sets.push(SetGrant {
                id: SetId::new(id),
                replicas,
            });
        }
    }

    fn new_place(&mut self, server: u16) -> ReplicaPlace {
        self.next_slot += 1;
        self.slots.insert(
            (server, self.next_slot),
            vec![0; SLAB_PAGES as usize * 4096],
        );
        ReplicaPlace {
            server: ServerIndex::new(server),
            slot: SlotIndex::new(self.next_slot),
        }
    }

    fn apply(&mut self) {
        self.document.generation = self.document.generation.next();
        let document = self.document.clone();
        self.engine
            .apply(&document, &mut self.pool, self.now)
            .expect("a valid document");
        self.effects();
    }

    fn link(&mut self, server: u16, up: bool) {
        if !up {
            // What is under way may or may not reach the server.
            let (mine, rest): (Vec<_>, Vec<_>) = self
                .pending
                .drain(..)
                .partition(|p| matches!(p, Pending::Remote(op) if op.server.get() == server));
            self.pending = rest;
            for operation in mine {
                let Pending::Remote(operation) = operation else {
                    continue;
                };
                if self.random.one_in(2) && operation.direction == Direction::Write {
                    self.carry(operation);
                }
                let result = Err(OperationError::LinkDown);
                self.engine
                    .complete(operation.id, result, &mut self.pool, self.now);
                self.effects();
            }
        }
        self.up[usize::from(server)] = up;
        let life = self.lives[usize::from(server)];
        let state = if up {
            Link::Up {
                incarnation: incarnation(server, life),
            }
        } else {
            Link::Down
        };
        self.engine
            .link_changed(ServerIndex::new(server), state, &mut self.pool, self.now);
        self.effects();
    }

    /// Moves the bytes of an operation; false if the server does not have the slot.
    fn carry(&mut self, operation: Operation) -> bool {
        let key = (operation.server.get(), operation.slot.get());
        let Some(slot) = self.slots.get_mut(&key) else {
            return false;
        };
        let start = operation.page as usize * 4096;
        let range = start..start + operation.buffer.byte_len();
        match operation.direction {
            Direction::Read => {
                self.pool
                    .bytes_mut(operation.buffer)
                    .copy_from_slice(&slot[range]);
            }
            Direction::Write => slot[range].copy_from_slice(self.pool.bytes(operation.buffer)),
        }
        true
    }

    fn effects(&mut self) {
        while let Some(effect) = self.engine.next_effect() {
            match effect {
                Effect::Post(operation) if self.up[operation.server.as_usize()] => {
                    self.pending.push(Pending::Remote(operation));
                }
                Effect::Post(operation) => {
                    let result = Err(OperationError::LinkDown);
                    self.engine
                        .complete(operation.id, result, &mut self.pool, self.now);
                }
                Effect::Spill(operation) => self.pending.push(Pending::Disk(operation)),
                Effect::Complete { tag, result, data } => self.answered(tag, result, data),
                Effect::Release(tag) => {
                    let sent = self
                        .sent
                        .remove(&tag.0)
                        .expect("released once, after its answer");
                    assert!(sent.answered, "answered before it is released");
                    if let RequestKind::Read { buffer } | RequestKind::Write { buffer } =
                        sent.request.kind
                    {
                        self.free_buffers.push(buffer.first / BUFFER_PAGES);
                    }
                }
                Effect::Reset(server) => self.link(server.get(), false),
                Effect::Event(_) => {}
            }
        }
    }

    fn answered(
        &mut self,
        tag: RequestTag,
        result: Result<(), RequestError>,
        data: Option<BufferRange>,
    ) {
        let sent = self.sent.get_mut(&tag.0).expect("a request of ours");
        assert!(!sent.answered, "answered once");
        sent.answered = true;
        let sent = sent.clone();
        let first = sent.request.page.get();
        for number in 0..u64::from(sent.request.pages) {
            let page = first + number;
            let index = usize::try_from(page).expect("small");
            match (sent.request.kind, result) {
                (RequestKind::Write { .. }, Ok(())) => {
                    self.acked[index] = sent.version;
                    self.doubtful[index] = false;
                }
                (RequestKind::Discard, Ok(())) => {
                    self.acked[index] = 0;
                    self.doubtful[index] = false;
                }
                (RequestKind::Write { .. }, Err(_)) => {
                    self.failures += 1;
                    self.doubtful[index] = true;
                }
                (RequestKind::Read { .. }, Ok(())) => {
                    let data = data
                        .expect("a read has data")
                        .part(u32::try_from(number).expect("small"), 1);
                    let bytes = self.pool.bytes(data);
                    let floor = sent.floor[usize::try_from(number).expect("small")];
                    let zero = vec![0; 4096];
                    let good = (bytes == zero.as_slice() && floor == 0)
                        || bytes == stamp(page, floor).as_slice();
                    assert!(good, "page {page}: not the acknowledged version {floor}");
                    self.reads += 1;
                }
                (RequestKind::Read { .. }, Err(error)) => {
                    let pages = first..first + u64::from(sent.request.pages);
                    let doubtful = pages
                        .map(|page| usize::try_from(page).expect("small"))
                        .any(|page| self.doubtful[page]);
                    assert!(
                        self.lossy || doubtful,
                        "page {page}: {error} although nothing was lost"
                    );
                }
                _ => {}
            }
        }
    }

    /// Submits a request over pages that no other unanswered request touches, so that exactly one
    /// version is right.
    fn submit(&mut self) {
        let Some(buffer) = self.free_buffers.pop() else {
            return;
        };
        let pages = 1 + self.random.next(u64::from(BUFFER_PAGES)) as u32;
        let page = self
            .random
            .next(self.geometry.device_pages - u64::from(pages));
        let busy = self
            .sent
            .values()
            .filter(|sent| !sent.answered)
            .any(|sent| {
                let other = sent.request;
                other.page.get() < page + u64::from(pages)
                    && page < other.page.get() + u64::from(other.pages)
            });
        if busy {
            return self.free_buffers.push(buffer);
        }
        let range = BufferRange {
            first: buffer * BUFFER_PAGES,
            pages,
        };
        let (version, kind) = match self.random.next(10) {
            0..4 => (0, RequestKind::Read { buffer: range }),
            4..9 => {
                self.next_version += 1;
                for number in 0..pages {
                    let content = stamp(page + u64::from(number), self.next_version);
                    self.pool
                        .bytes_mut(range.part(number, 1))
                        .copy_from_slice(&content);
                }
                (self.next_version, RequestKind::Write { buffer: range })
            }
            _ => (0, RequestKind::Discard),
        };
        if matches!(kind, RequestKind::Discard) {
            self.free_buffers.push(buffer);
        }
        let request = Request {
            tag: RequestTag(self.next_tag),
            page: PageIndex::new(page),
            pages,
            kind,
        };
        self.next_tag += 1;
        self.send(request, version);
    }

    fn send(&mut self, request: Request, version: u64) {
        let first = usize::try_from(request.page.get()).expect("small");
        let floor = self.acked[first..first + request.pages as usize].to_vec();
        let sent = Sent {
            request,
            version,
            floor,
            answered: false,
        };
        self.sent.insert(request.tag.0, sent);
        self.engine
            .submit(request, &mut self.pool, self.now)
            .expect("within the limits");
        self.effects();
    }

    fn complete_one(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.random.next(self.pending.len() as u64) as usize;
        match self.pending.swap_remove(index) {
            Pending::Remote(operation) => {
                let carried = self.carry(operation);
                let result = if carried {
                    Ok(())
                } else {
                    Err(OperationError::NotOwner)
                };
                self.engine
                    .complete(operation.id, result, &mut self.pool, self.now);
            }
            Pending::Disk(operation) => {
                let start = usize::try_from(operation.page.get()).expect("small") * 4096;
                let range = start..start + operation.buffer.byte_len();
                if operation.write {
                    self.disk[range].copy_from_slice(self.pool.bytes(operation.buffer));
                } else {
                    self.pool
                        .bytes_mut(operation.buffer)
                        .copy_from_slice(&self.disk[range]);
                }
                self.engine
                    .complete(operation.id, Ok(()), &mut self.pool, self.now);
            }
        }
        self.effects();
    }

    /// kill -9: what is under way may have happened or not; the next engine gets every unanswered
    /// request again.
    fn restart(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            if let Pending::Remote(operation) = pending
                && operation.direction == Direction::Write
                && self.random.one_in(2)
            {
                self.carry(operation);
            }
        }
        self.epoch += 1;
        let spill = self.document.durability.spill != Spill::None;
        self.engine = Engine::new(
            config(self.geometry, self.epoch, spill),
            self.tables.tables(),
        )
        .expect("own tables");
        self.engine.guard_with(guard(self.geometry.integrity));
        let sent = std::mem::take(&mut self.sent);
        self.free_buffers = (0..BUFFERS).collect();
        let document = self.document.clone();
        self.engine
            .apply(&document, &mut self.pool, self.now)
            .expect("the kept document");
        for server in 0..SERVERS {
            let up = self.up[usize::from(server)];
            self.link(server, up);
        }
        for old in sent.into_values().filter(|sent| !sent.answered) {
            let mut request = old.request;
            if let RequestKind::Read { buffer } | RequestKind::Write { buffer } = &mut request.kind
            {
                let place = self
                    .free_buffers
                    .pop()
                    .expect("fewer requests than buffers");
                buffer.first = place * BUFFER_PAGES;
                for number in 0..request.pages {
                    let content = stamp(request.page.get() + u64::from(number), old.version);
                    self.pool
                        .bytes_mut(buffer.part(number, 1))
                        .copy_from_slice(&content);
                }
            }
            self.send(request, old.version);
        }
    }

    /// Moves every copy from a server that is down to another one, as the planner would.
    fn replace_dead(&mut self) {
        let Some(dead) = (0..SERVERS).find(|server| !self.up[usize::from(*server)]) else {
            return;
        };
        for index in 0..self.document.sets.len() {
            let set = self.document.sets[index].clone();
            let Some(copy) = set
                .replicas
                .iter()
                .position(|place| place.server.get() == dead)
            else {
                continue;
            };
            let used: Vec<u16> = set
                .replicas
                .iter()
                .map(|place| place.server.get())
                .collect();
            let target =
                (0..SERVERS).find(|server| self.up[usize::from(*server)] && !used.contains(server));
            // The other copy must be whole, or the only good one would be thrown away.
            let whole = self
                .engine
                .sets()
                .find(|view| view.id == set.id)
                .is_some_and(|view| {
                    view.replicas.iter().flatten().any(|replica| {
                        replica.place.server.get() != dead && replica.state == ReplicaState::Live
                    })
                });
            if let (Some(target), true) = (target, whole) {
                self.document.sets[index].replicas[copy] = self.new_place(target);
            }
        }
        self.apply();
    }

    fn take_back_released(&mut self) {
        let released: Vec<SetId> = self
            .engine
            .sets()
            .filter(|set| set.released)
            .map(|set| set.id)
            .collect();
        if !released.is_empty() {
            self.document.sets.retain(|set| !released.contains(&set.id));
            self.apply();
        }
        let reserve = self.engine.sets().filter(|set| set.slab.is_none()).count() as u64;
        if reserve < 2 {
            self.grant_sets(2 - reserve);
            self.apply();
        }
    }

    fn flip_bit(&mut self) {
        let keys: Vec<_> = self.slots.keys().copied().collect();
        let key = keys[self.random.next(keys.len() as u64) as usize];
        let byte = self.random.next(SLAB_PAGES * 4096) as usize;
        if let Some(slot) = self.slots.get_mut(&key) {
            slot[byte] ^= 1;
        }
    }

    /// A copy that counts as whole holds every acknowledged page, whatever it missed on its way and
    /// however many engines have made it.
    fn check_whole_copies(&mut self) {
        if self.lossy {
            return;
        }
        let mut guard = guard(self.geometry.integrity);
        for set in self.engine.sets() {
            let Some(slab) = set.slab else { continue };
            let live = |replica: &&Replica| replica.state == ReplicaState::Live;
            for replica in set.replicas.iter().flatten().filter(live) {
                let place = replica.place;
                let slot = &self.slots[&(place.server.get(), place.slot.get())];
                for (number, bytes) in (0..).zip(slot.chunks_exact(4096)) {
                    let page = u64::from(slab.get()) * SLAB_PAGES + number;
                    let tables = self.tables.tables();
                    let version = tables.pages[page as usize].load().version;
                    let skipped = version.is_empty() || self.doubtful[page as usize];
                    let (index, tag) = (PageIndex::new(page), tables.tag(page as usize));
                    assert!(
                        skipped || guard.check(bytes, index, version, tag),
                        "page {page} is missing in a whole copy: {replica:?}"
                    );
                    self.checked += u64::from(!skipped);
                }
            }
        }
    }

    fn step(&mut self, corrupt: bool) {
        self.now = self
            .now
            .after(Duration::from_micros(self.random.next(5_000)));
        match self.random.next(100) {
            0..40 => self.submit(),
            40..85 => self.complete_one(),
            85..93 => {
                self.now = self.now.after(Duration::from_millis(25));
                self.engine.tick(&mut self.pool, self.now);
                self.effects();
            }
            93 if self.random.one_in(4) => self.restart(),
            94 => {
                let server = self.random.next(u64::from(SERVERS)) as u16;
                let down = self.up.iter().filter(|up| !**up).count();
                let up = self.up[usize::from(server)];
                if !up || down == 0 {
                    self.link(server, !up);
                }
            }
            95 if self.random.one_in(3) => self.replace_dead(),
            96 => self.take_back_released(),
            97 if corrupt => {
                self.lossy = true;
                self.flip_bit();
            }
            _ => {}
        }
        self.engine.check_invariants();
    }

    /// Everything comes back; all that is under way ends; every page is read.
    fn settle(&mut self) {
        (0..SERVERS)
            .filter(|s| !self.up[usize::from(*s)])
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|s| self.link(s, true));
        for _ in 0..2_000 {
            while !self.pending.is_empty() {
                self.complete_one();
            }
            self.now = self.now.after(Duration::from_millis(25));
            self.engine.tick(&mut self.pool, self.now);
            self.effects();
            if self.sent.is_empty()
                && self.engine.requests_under_way() == 0
                && self.pending.is_empty()
            {
                break;
            }
        }
        assert!(
            self.sent.is_empty(),
            "every request is answered once everything is back"
        );
        assert_eq!(self.engine.requests_under_way(), 0);
        self.check_whole_copies();
        assert_eq!(
            self.free_buffers.len(),
            BUFFERS as usize,
            "no buffer is lost"
        );
        for page in 0..self.geometry.device_pages {
            let range = BufferRange { first: 0, pages: 1 };
            let kind = RequestKind::Read { buffer: range };
            self.free_buffers.retain(|buffer| *buffer != 0);
            let request = Request {
                tag: RequestTag(self.next_tag),
                page: PageIndex::new(page),
                pages: 1,
                kind,
            };
            self.next_tag += 1;
            self.send(request, 0);
            let mut ticks = 0;
            while !self.sent.is_empty() {
                if !self.pending.is_empty() {
                    self.complete_one();
                    continue;
                }
                // A page that no copy has right is read again, a tick apart.
                ticks += 1;
                assert!(ticks < 50, "page {page}: the read waits for nothing");
                self.now = self.now.after(Duration::from_millis(25));
                self.engine.tick(&mut self.pool, self.now);
                self.effects();
            }
        }
        assert_eq!(
            self.engine.pages_used(),
            self.acked.iter().filter(|v| **v != 0).count() as u64
        );
    }
}

fn run(seed: u64, class: Durability, corrupt: bool) -> (u64, u64, u64) {
    let size = Bytes::from_mib(u32::try_from(SLABS).expect("small"));
    let slab = SlabSize::try_from(SlabSize::MIN).expect("the least");
    let pool = BUFFERS * BUFFER_PAGES + SCRATCH_PAGES;
    let geometry = Geometry::new(size, slab, pool, integrity(seed)).expect("valid");
    let tables = OwnedTables::new(DEVICE, geometry);
    let mut world = World::new(seed, &tables, geometry, class);
    for _ in 0..1_500 {
        world.step(corrupt);
    }
    world.settle();
    (world.reads, world.failures, world.checked)
}

fn runs(class: Durability, corrupt: bool) {
    let mut totals = (0, 0, 0);
    for seed in 0..40 {
        eprintln!("seed {seed} of class {class}, corruption {corrupt}");
        let (reads, failures, checked) = run(seed, class, corrupt);
        totals = (totals.0 + reads, totals.1 + failures, totals.2 + checked);
    }
    assert!(totals.0 > 10_000, "the model has really read: {totals:?}");
    let remote = !corrupt && class.remote_copies() > 0;
    assert!(
        !remote || totals.2 > 1_000,
        "and looked at copies: {totals:?}"
    );
}

fn class(copies: u32, spill: Spill) -> Durability {
    Durability {
        copies: Copies::try_from(copies).expect("1 to 3"),
        spill,
    }
}

#[test]
fn two_copies_survive_flaps_restarts_and_moves() {
    runs(class(2, Spill::None), false);
}

#[test]
fn three_copies_survive_flaps_restarts_and_moves() {
    runs(class(3, Spill::None), false);
}

#[test]
fn one_copy_with_disk_behind_survives_flaps_and_restarts() {
    runs(class(1, Spill::Async), false);
}

#[test]
fn two_copies_with_disk_behind_survive() {
    runs(class(2, Spill::Async), false);
}

#[test]
fn the_disk_alone_serves() {
    runs(class(1, Spill::Only), false);
}

#[test]
fn a_flipped_bit_is_never_returned() {
    runs(class(2, Spill::None), true);
}
