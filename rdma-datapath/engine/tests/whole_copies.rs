//! A copy that counts as whole is whole: one test for each way in which it might not be.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::effect::{Effect, SpillOperation};
use dynamicswap_engine::engine::{Engine, EngineConfig, LinkState};
use dynamicswap_engine::limits::SCRATCH_PAGES;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationError};
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_engine::reserve::ApplyError;
use dynamicswap_engine::sets::ReplicaState::{self, Live, Rebuilding, Stale};
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, Generation, IncarnationId, Integrity, MonotonicTime,
    PageIndex, ServerIndex, SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

const SERVERS: u16 = 3;

fn life(server: u16, number: u8) -> IncarnationId {
    let mut bytes = [number; 16];
    bytes[0] = u8::try_from(server).expect("small") + 1;
    IncarnationId::from_bytes(bytes)
}

fn place(server: u16) -> ReplicaPlace {
    ReplicaPlace {
        server: ServerIndex::new(server),
        slot: SlotIndex::new(0),
    }
}

fn geometry() -> Geometry {
    let slab = SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size");
    Geometry::new(Bytes::from_mib(1), slab, 0, Integrity::Tag64).expect("a geometry")
}

fn tables() -> OwnedTables {
    OwnedTables::new(SwapDeviceId::from_bytes([1; 16]), geometry())
}

struct World<'m> {
    engine: Engine<'m>,
    document: Document,
    pool: Vec<u8>,
    now: MonotonicTime,
    posted: Vec<Operation>,
    /// Operations under way on the spill file.
    spilled: Vec<SpillOperation>,
    answered: usize,
    /// Requests that may still fail.
    failures: usize,
}

impl<'m> World<'m> {
    fn new(tables: &'m OwnedTables, epoch: u64, copies: Copies, servers: &[u16]) -> Self {
        let spill = Spill::None;
        Self::of_class(tables, epoch, Durability { copies, spill }, servers)
    }

    /// An engine of one slab, every link up, a set with copies on these servers.
    fn of_class(
        tables: &'m OwnedTables,
        epoch: u64,
        durability: Durability,
        servers: &[u16],
    ) -> Self {
        let config = EngineConfig {
            geometry: geometry(),
            epoch: Epoch::new(epoch),
            scratch: BufferRange {
                first: 4,
                pages: SCRATCH_PAGES,
            },
            spill: durability.spill != Spill::None,
            operation_timeout: Duration::from_millis(300),
        };
        let descriptor = |server| ServerDescriptor {
            incarnation: Some(life(server, 0)),
            domain: server,
        };
        let replicas = servers.iter().map(|server| place(*server)).collect();
        let set = SetGrant {
            id: SetId::new(1),
            replicas,
        };
        Self {
            engine: Engine::new(config, tables.tables()).expect("its tables"),
            document: Document {
                generation: Generation::new(1),
                durability,
                write_hold: Duration::from_secs(1),
                read_stall: Duration::from_secs(2),
                empty_slab_hold: Duration::from_secs(9),
                reserve_sets_max: 4,
                servers: (0..SERVERS).map(descriptor).collect(),
                sets: vec![set],
            },
            pool: vec![0; (4 + SCRATCH_PAGES as usize) * 4096],
            now: MonotonicTime::from_nanos(1),
            posted: Vec::new(),
            spilled: Vec::new(),
            answered: 0,
            failures: 0,
        }
    }

    fn serving(tables: &'m OwnedTables, copies: Copies, servers: &[u16]) -> Self {
        Self::new(tables, 1, copies, servers).connected()
    }

    fn connected(mut self) -> Self {
        self.apply();
        (0..SERVERS).for_each(|server| self.up(server, 0));
        self
    }

    fn apply(&mut self) {
        self.document.generation = self.document.generation.next();
        self.engine
            .apply(&self.document, &mut self.pool, self.now)
            .expect("a legal document");
        self.effects();
    }

    fn name_copies(&mut self, servers: &[u16]) {
        self.document.sets[0].replicas = servers.iter().map(|server| place(*server)).collect();
        self.apply();
    }

    fn link(&mut self, server: u16, link: Link) {
        let server = ServerIndex::new(server);
        self.engine
            .link_changed(server, link, &mut self.pool, self.now);
        self.effects();
    }

    fn up(&mut self, server: u16, number: u8) {
        let incarnation = life(server, number);
        self.link(server, Link::Up { incarnation });
    }

    fn down(&mut self, server: u16) {
        while let Some(operation) = self.take(server) {
            self.end(operation, Err(OperationError::LinkDown));
        }
        self.link(server, Link::Down);
    }

    fn effects(&mut self) {
        while let Some(effect) = self.engine.next_effect() {
            match effect {
                Effect::Post(operation) => self.posted.push(operation),
                Effect::Spill(operation) => self.spilled.push(operation),
                Effect::Complete { result: Ok(()), .. } => self.answered += 1,
                Effect::Complete { result, .. } => {
                    assert!(self.failures > 0, "nothing fails here: {result:?}");
                    self.failures -= 1;
                }
                _ => {}
            }
        }
        self.engine.check_invariants();
    }

    /// The oldest operation under way on a server.
    fn take(&mut self, server: u16) -> Option<Operation> {
        let mut posted = self.posted.iter();
        let index = posted.position(|operation| operation.server.get() == server)?;
        Some(self.posted.remove(index))
    }

    fn end(&mut self, operation: Operation, result: Result<(), OperationError>) {
        self.engine
            .complete(operation.id, result, &mut self.pool, self.now);
        self.effects();
    }

    /// Everything that is under way on a server goes well. The page is all zeroes everywhere.
    fn serve(&mut self, server: u16) {
        while let Some(operation) = self.take(server) {
            self.end(operation, Ok(()));
        }
    }

    /// The disk ends what it was asked for.
    fn spill(&mut self) {
        while let Some(operation) = self.spilled.pop() {
            self.engine
                .complete(operation.id, Ok(()), &mut self.pool, self.now);
            self.effects();
        }
    }

    fn write(&mut self, page: u64) {
        let buffer = BufferRange { first: 0, pages: 1 };
        self.submit(page, RequestKind::Write { buffer });
    }

    fn read(&mut self, page: u64) {
        let buffer = BufferRange { first: 1, pages: 1 };
        self.submit(page, RequestKind::Read { buffer });
    }

    fn discard(&mut self, page: u64) {
        self.submit(page, RequestKind::Discard);
    }

    fn submit(&mut self, page: u64, kind: RequestKind) {
        let request = Request {
            tag: RequestTag(page),
            page: PageIndex::new(page),
            pages: 1,
            kind,
        };
        self.engine
            .submit(request, &mut self.pool, self.now)
            .expect("room");
        self.effects();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.engine.tick(&mut self.pool, self.now);
        self.effects();
    }

    /// Writes pages that every one of these servers takes.
    fn fill(&mut self, pages: impl Iterator<Item = u64>, servers: &[u16]) {
        for page in pages {
            self.write(page);
            servers.iter().for_each(|server| self.serve(*server));
        }
    }

    /// A new process on the same memory file, which takes the document of the one before.
    fn successor(&self, tables: &'m OwnedTables, epoch: u64) -> Self {
        let copies = self.document.durability.copies;
        let mut next = Self::new(tables, epoch, copies, &[]);
        next.document = self.document.clone();
        next.apply();
        (0..SERVERS).for_each(|server| next.up(server, 0));
        next
    }

    /// Pages that are being read from a server.
    fn reads(&self, server: u16) -> Vec<(u32, u32)> {
        let here = |operation: &&Operation| {
            operation.server.get() == server && operation.direction == Direction::Read
        };
        let runs = self.posted.iter().filter(here);
        runs.map(|operation| (operation.page, operation.buffer.pages))
            .collect()
    }

    fn state(&self, server: u16) -> Option<ReplicaState> {
        let sets: Vec<_> = self.engine.sets().collect();
        let mut replicas = sets[0].replicas.iter().flatten();
        let found = replicas.find(|replica| replica.place == place(server));
        found.map(|replica| replica.state)
    }
}

#[test]
fn copy_beyond_the_class_that_missed_a_write_is_stale() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.write(2);
    world.serve(0);
    world.serve(1);
    world.down(1);
    world.write(3);
    world.serve(0);
    assert_eq!(world.answered, 2, "the class asks for one copy");
    assert_eq!((world.state(0), world.state(1)), (Some(Live), Some(Stale)));
}

#[test]
fn every_copy_within_reach_has_a_write_before_it_is_acknowledged() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.write(3);
    world.serve(0);
    assert_eq!(world.answered, 0);
    world.serve(1);
    assert_eq!(world.answered, 1);
    world.write(4);
    world.serve(0);
    world.down(1);
    assert_eq!((world.answered, world.state(1)), (2, Some(Stale)));
}

#[test]
fn copy_that_was_lost_after_its_acknowledgement_does_not_count() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    world.write(3);
    world.serve(0);
    world.down(0);
    world.up(0, 1);
    world.serve(1);
    assert_eq!(
        world.answered, 0,
        "one copy is gone, the class asks for two"
    );
    world.document.servers[0].incarnation = Some(life(0, 1));
    world.apply();
    world.serve(0);
    assert_eq!(world.answered, 1, "written again, to the new memory");
}

#[test]
fn late_answer_of_a_copy_that_left_and_came_back_does_not_count() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    world.write(3);
    world.serve(0);
    let late = world.take(1).expect("posted");
    world.name_copies(&[0, 2]);
    world.name_copies(&[0, 1]);
    world.end(late, Ok(()));
    assert_eq!(world.answered, 0, "its slot was zeroed in between");
    world.serve(1);
    assert_eq!(world.answered, 1);
}

#[test]
fn document_is_settled_once_nothing_is_under_way_to_what_it_drops() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    let settled = |world: &World<'_>| world.engine.settled_generation();
    let before = world.document.generation;
    assert_eq!(settled(&world), before);
    world.write(3);
    world.serve(0);
    world.name_copies(&[0, 2]);
    let dropping = world.document.generation;
    assert_eq!(world.engine.generation(), dropping);
    assert_eq!(
        settled(&world),
        before,
        "a write to the dropped copy is under way"
    );
    world.apply();
    assert_eq!(
        settled(&world),
        before,
        "and a newer document changes nothing"
    );
    world.serve(2);
    assert_eq!(settled(&world), before);
    world.serve(1);
    assert_eq!(settled(&world), world.document.generation);
}

#[test]
fn document_is_settled_when_the_link_to_what_it_drops_falls() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    world.write(3);
    world.name_copies(&[0, 2]);
    assert!(world.engine.settled_generation() < world.document.generation);
    world.down(1);
    assert_eq!(world.engine.settled_generation(), world.document.generation);
}

#[test]
fn copy_is_not_whole_while_its_source_is_out_of_reach() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.write(3);
    world.serve(0);
    world.down(0);
    world.name_copies(&[0, 1]);
    assert_eq!(world.state(1), Some(Rebuilding));
    for _ in 0..10 {
        world.wait(Duration::from_secs(3));
        world.serve(1);
    }
    assert_eq!(world.state(1), Some(Rebuilding));
    world.up(0, 0);
    world.serve(0);
    world.serve(1);
    assert_eq!(world.state(1), Some(Live));
}

#[test]
fn rebuild_writes_nothing_to_a_slot_that_has_left_the_set() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.write(3);
    world.serve(0);
    world.name_copies(&[0, 1]);
    let read = world.take(0).expect("the rebuild reads");
    assert_eq!(read.direction, Direction::Read);
    world.name_copies(&[0]);
    world.end(read, Ok(()));
    assert_eq!(world.take(1), None);
}

#[test]
fn rebuild_of_a_target_that_lost_its_memory_begins_anew() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    for page in [3, 200] {
        world.write(page);
        world.serve(0);
    }
    world.name_copies(&[0, 1]);
    let first = world.take(0).expect("the first page is read");
    world.end(first, Ok(()));
    world.serve(1);
    // The second page is being read while the target loses its memory and comes back.
    let second = world.take(0).expect("the second page is read");
    world.down(1);
    world.document.servers[1].incarnation = Some(life(1, 1));
    world.apply();
    world.up(1, 1);
    world.end(second, Ok(()));
    world.serve(1);
    assert_eq!(
        world.state(1),
        Some(Rebuilding),
        "the first page is missing"
    );
    for _ in 0..3 {
        world.serve(0);
        world.serve(1);
    }
    assert_eq!(world.state(1), Some(Live));
}

#[test]
fn document_kept_but_not_put_in_force_still_tells_the_next_engine_what_was_lost() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    world.write(3);
    world.serve(0);
    world.serve(1);
    let mut next = World::new(&tables, 2, Copies::TWO, &[0, 1]);
    next.document.generation = world.document.generation;
    next.document.servers[1].incarnation = Some(life(1, 1));
    next.apply();
    assert_eq!(
        (next.state(0), next.state(1)),
        (Some(Live), Some(Rebuilding))
    );
}

#[test]
fn copy_that_missed_writes_is_given_those_pages_and_no_others() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.fill(0..200, &[0, 1]);
    world.down(1);
    world.fill([7, 90].into_iter(), &[0]);
    assert_eq!(world.state(1), Some(Stale));
    world.up(1, 0);
    assert_eq!(world.reads(0), [(7, 1), (90, 1)]);
    world.serve(0);
    world.serve(1);
    assert_eq!(world.state(1), Some(Live));
}

#[test]
fn write_that_began_earlier_and_was_missed_later_is_copied_too() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.fill(0..10, &[0, 1]);
    world.write(3);
    let early = world.take(0).expect("posted");
    world.down(1);
    world.fill([5].into_iter(), &[0]);
    assert_eq!(world.state(1), Some(Stale), "it missed page 5");
    world.end(early, Ok(()));
    world.up(1, 0);
    assert_eq!(world.reads(0), [(3, 1), (5, 1)]);
}

#[test]
fn next_engine_goes_on_where_the_dead_one_was() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill(0..256, &[0]);
    world.name_copies(&[0, 1]);
    assert_eq!(world.reads(0), [(0, 64), (64, 64)]);
    let (first, second) = (world.take(0), world.take(0));
    // The second run arrives before the first: nothing is known to be there without a gap.
    world.end(second.expect("the second run"), Ok(()));
    world.serve(1);
    let beside = world.successor(&tables, 2);
    assert_eq!(beside.reads(0)[0], (0, 64));
    drop(beside);
    world.end(first.expect("the first run"), Ok(()));
    world.serve(1);
    let mut next = world.successor(&tables, 3);
    assert_eq!(next.reads(0)[0].0, 128, "two runs are there");
    next.serve(0);
    next.serve(1);
    next.serve(0);
    next.serve(1);
    assert_eq!(next.state(1), Some(Live));
}

#[test]
fn next_engine_copies_what_the_copy_missed_while_it_was_made() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill(0..256, &[0]);
    world.name_copies(&[0, 1]);
    for _ in 0..2 {
        world.serve(0);
        let write = world.take(1).expect("the first run is written");
        world.end(write, Ok(()));
    }
    world.down(1);
    world.fill([2].into_iter(), &[0]);
    let mut next = world.successor(&tables, 2);
    let reads = next.reads(0);
    assert_eq!(reads[0], (2, 1), "missed: {reads:?}");
    assert!(reads[1].0 >= 64, "the others of the first run are there");
    for _ in 0..6 {
        next.serve(0);
        next.serve(1);
    }
    assert_eq!(next.state(1), Some(Live));
}

#[test]
fn copies_keep_to_their_bandwidth() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill(0..256, &[0]);
    let per_second = Bytes::from_mib(1);
    world.engine.limit_copies(Some(per_second), world.now);
    let begin = world.now;
    world.name_copies(&[0, 1]);
    assert_eq!(world.reads(0), [], "nothing has been saved up");
    while world.state(1) != Some(Live) {
        world.wait(Duration::from_millis(20));
        world.serve(0);
        world.serve(1);
        assert!(
            world.now.since(begin) < Duration::from_secs(2),
            "stands still"
        );
    }
    let took = world.now.since(begin);
    assert!(took >= Duration::from_millis(980), "1 MiB in {took:?}");
    assert!(took <= Duration::from_millis(1_100), "1 MiB in {took:?}");
}

#[test]
fn kernel_has_one_short_copy_before_it_at_the_most() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill(0..250, &[0]);
    world.write(255);
    world.name_copies(&[0, 1]);
    assert_eq!(world.reads(0), [(0, 16)]);
    let (write, read) = (world.take(0), world.take(0));
    world.end(read.expect("the run"), Ok(()));
    assert_eq!(world.reads(0), [], "one job: it writes now");
    world.end(write.expect("the write"), Ok(()));
    world.serve(1);
    assert_eq!(world.reads(0).len(), 2, "nobody waits any more");
}

#[test]
fn last_whole_copy_stays_as_long_as_it_can_be_copied_from() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.fill(0..4, &[0, 1]);
    world.down(1);
    // The planner has seen two whole copies; by now one has missed a write.
    world.fill([1].into_iter(), &[0]);
    world.document.generation = world.document.generation.next();
    let mut moved = world.document.clone();
    moved.sets[0].replicas = vec![place(1)];
    let refused = world.engine.apply(&moved, &mut world.pool, world.now);
    assert_eq!(refused, Err(ApplyError::LastWhole(SetId::new(1))));
    world.down(0);
    let refused = world.engine.apply(&moved, &mut world.pool, world.now);
    assert!(refused.is_err(), "it may come back");
    world.up(0, 0);
    world.up(1, 0);
    world.serve(0);
    world.serve(1);
    assert_eq!(world.state(1), Some(Live));
    let taken = world.engine.apply(&moved, &mut world.pool, world.now);
    assert_eq!(taken, Ok(()));
}

/// A donor that holds nothing for a device is not in its documents: by its link, which ends then, nobody
/// may judge it.
#[test]
fn link_that_nobody_wanted_was_not_down() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    let named = world.document.servers[1].incarnation.take();
    world.apply();
    world.down(1);
    let state = |world: &World<'_>| world.engine.server(ServerIndex::new(1)).expect("known");
    assert!(!state(&world).named);
    world.wait(Duration::from_secs(60));
    world.document.servers[1].incarnation = named;
    world.apply();
    let server = state(&world);
    assert!(server.named);
    assert_eq!(
        (server.link, server.since),
        (LinkState::Connecting, world.now)
    );
    world.up(1, 0);
    assert_eq!(state(&world).link, LinkState::Up);
}

/// A storm writes pages of a set whose last whole copy a document wants gone: at no moment would
/// the disk, which comes behind, have every page.
#[test]
fn disk_has_each_write_of_a_set_that_is_left_to_it_before_it_is_answered() {
    let tables = tables();
    let durability = Durability {
        copies: Copies::ONE,
        spill: Spill::Async,
    };
    let mut world = World::of_class(&tables, 1, durability, &[0]).connected();
    world.engine.limit_copies(Some(Bytes::new(1)), world.now);
    world.write(3);
    world.serve(0);
    assert_eq!(world.answered, 1, "the disk comes behind");
    world.name_copies(&[0, 1]);
    world.document.generation = world.document.generation.next();
    let mut moved = world.document.clone();
    moved.sets[0].replicas = vec![place(1)];
    let refused = world.engine.apply(&moved, &mut world.pool, world.now);
    assert_eq!(refused, Err(ApplyError::LastWhole(SetId::new(1))));
    world.spill();
    world.write(4);
    world.serve(0);
    world.serve(1);
    assert_eq!(world.answered, 1, "the disk does not have it yet");
    world.spill();
    assert_eq!(world.answered, 2);
    world.write(5);
    world.serve(0);
    let taken = world.engine.apply(&moved, &mut world.pool, world.now);
    assert_eq!(taken, Ok(()), "the disk has what was answered");
    assert_eq!(world.state(0), None);
}

#[test]
fn copy_that_is_out_of_reach_for_longer_than_a_read_stalls_holds_up_no_document() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0, 1]);
    world.fill(0..4, &[0, 1]);
    world.down(1);
    world.fill([1].into_iter(), &[0]);
    world.down(0);
    world.wait(Duration::from_secs(3));
    world.name_copies(&[1]);
    assert_eq!(world.state(0), None);
}

#[test]
fn heat_outlives_the_engine() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill(0..100, &[0]);
    let next = world.successor(&tables, 2);
    let heat = next.engine.tables().slabs[0].heat().load(world.now);
    assert!(heat.writes_milli > 2_000, "{heat:?}");
    assert_eq!(heat.reads_milli, 0);
}

/// What was answered is only in a buffer yet when its one copy is lost: a read must not take what the disk
/// had before for the truth, nor the page for lost.
#[test]
fn read_waits_for_what_is_on_its_way_to_the_disk() {
    let tables = tables();
    let durability = Durability {
        copies: Copies::ONE,
        spill: Spill::Async,
    };
    let mut world = World::of_class(&tables, 1, durability, &[0]).connected();
    world.write(3);
    world.serve(0);
    assert_eq!((world.answered, world.spilled.len()), (1, 1));
    world.up(0, 1);
    world.read(3);
    world.wait(Duration::from_millis(500));
    assert_eq!(world.spilled.len(), 1, "nothing is read from the disk yet");
    world.spill();
    world.wait(Duration::from_millis(500));
    let read = world.spilled.first().expect("the disk has it now");
    assert!(!read.write, "{read:?}");
    world.spill();
    assert_eq!(world.answered, 2);
}

#[test]
fn slab_that_an_engine_left_without_pages_goes_back() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::ONE, &[0]);
    world.fill([3].into_iter(), &[0]);
    world.discard(3);
    let mut next = world.successor(&tables, 2);
    let bound = |world: &World<'_>| world.engine.sets().filter(|set| set.slab.is_some()).count();
    assert_eq!(bound(&next), 1);
    next.wait(Duration::from_secs(10));
    assert_eq!(bound(&next), 0, "its hold is over");
}

/// The memory file says who the newest engine is. A donor that claims another one is out; one that is right
/// ends this engine.
#[test]
fn donor_that_claims_a_newer_engine_takes_its_own_copies_with_it_and_no_others() {
    let tables = tables();
    let mut world = World::serving(&tables, Copies::TWO, &[0, 1]);
    world.fill(0..2, &[0, 1]);
    tables.tables().header.epoch.store(1, Ordering::Release);
    world.write(0);
    let write = world.take(0).expect("posted");
    world.end(write, Err(OperationError::OldEpoch));
    world.link(0, Link::Refused);
    assert!(!world.engine.is_fenced());
    world.serve(1);
    world.read(1);
    assert_eq!(world.reads(1).len(), 1);
    tables.tables().header.epoch.store(2, Ordering::Release);
    world.link(1, Link::Refused);
    assert!(world.engine.is_fenced());
}

/// A disk that hangs holds up neither what comes after the writes that wait for it, nor a write to a page
/// whose bytes it still has to take.
#[test]
fn disk_that_hangs_keeps_some_buffers_and_fails_writes_behind_it_early() {
    let tables = tables();
    let durability = Durability {
        copies: Copies::TWO,
        spill: Spill::Async,
    };
    let mut world = World::of_class(&tables, 1, durability, &[0, 1]).connected();
    world.fill(0..200, &[0, 1]);
    assert_eq!(world.answered, 200);
    let of_requests = |operation: &&SpillOperation| operation.write && operation.buffer.first < 4;
    let behind = world.spilled.iter().filter(of_requests).count();
    assert_eq!(behind, 64, "the others are copied later");
    world.failures = 1;
    world.write(0);
    let mut posted = world.posted.iter();
    let is_write = |operation: &Operation| operation.direction == Direction::Write;
    assert!(!posted.any(is_write), "it waits for the disk's answer");
    world.wait(Duration::from_millis(1_100));
    assert_eq!(world.failures, 0, "the kernel keeps the page");
    world.read(3);
    world.serve(0);
    world.serve(1);
    assert_eq!(world.answered, 201);
}

/// With one copy the disk behind is half of the promise: a write for which it has no room is not answered.
#[test]
fn disk_that_hangs_stops_writes_with_one_copy_and_no_reads() {
    let tables = tables();
    let durability = Durability {
        copies: Copies::ONE,
        spill: Spill::Async,
    };
    let mut world = World::of_class(&tables, 1, durability, &[0]).connected();
    world.fill(0..64, &[0]);
    assert_eq!(world.answered, 64);
    world.failures = 1;
    world.fill([100].into_iter(), &[0]);
    assert_eq!((world.answered, world.failures), (64, 1), "it is held");
    world.wait(Duration::from_millis(1_100));
    assert_eq!(world.failures, 0, "the kernel keeps the page");
    world.read(3);
    world.serve(0);
    assert_eq!(world.answered, 65);
    world.spill();
    world.fill([100].into_iter(), &[0]);
    assert_eq!(world.answered, 66);
}
