//! A pool that is full: the first writes hope for a set, later ones fail at once, and a set that
//! comes is used at once. And an engine that no document has reached holds nothing for ever.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::effect::{Effect, EngineEvent};
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::limits::{SCRATCH_PAGES, WRITE_HOLD_UNTIL_DOCUMENT};
use dynamicswap_engine::link::Link;
use dynamicswap_engine::request::{Request, RequestError, RequestKind, RequestTag};
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, Generation, IncarnationId, Integrity, MonotonicTime,
    PageIndex, ServerIndex, SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

const HOLD: Duration = Duration::from_secs(1);
const LIFE: IncarnationId = IncarnationId::from_bytes([7; 16]);

fn geometry() -> Geometry {
    let slab = SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size");
    Geometry::new(Bytes::from_mib(4), slab, 0, Integrity::Tag64).expect("a geometry")
}

/// A document of one copy whose reserve is this many sets.
fn document(generation: u64, sets: u32) -> Document {
    let set = |slot| SetGrant {
        id: SetId::new(u64::from(slot) + 1),
        replicas: [ReplicaPlace {
            server: ServerIndex::new(0),
            slot: SlotIndex::new(slot),
        }]
        .into_iter()
        .collect(),
    };
    Document {
        generation: Generation::new(generation),
        durability: Durability {
            copies: Copies::ONE,
            spill: Spill::None,
        },
        write_hold: HOLD,
        read_stall: Duration::from_secs(2),
        empty_slab_hold: Duration::from_secs(9),
        reserve_sets_max: 4,
        servers: vec![ServerDescriptor {
            incarnation: Some(LIFE),
            domain: 0,
        }],
        sets: (0..sets).map(set).collect(),
    }
}

/// What became of writes, in order, and how often the empty reserve was told.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    answers: Vec<Result<(), RequestError>>,
    told: usize,
}

struct World<'m> {
    engine: Engine<'m>,
    pool: Vec<u8>,
    now: MonotonicTime,
    seen: Seen,
}

impl<'m> World<'m> {
    fn new(tables: &'m OwnedTables) -> Self {
        let mut world = Self::without_document(tables);
        world.apply(1, 0);
        let up = Link::Up { incarnation: LIFE };
        let (pool, now) = (&mut world.pool, world.now);
        world
            .engine
            .link_changed(ServerIndex::new(0), up, pool, now);
        world.effects();
        world
    }

    fn without_document(tables: &'m OwnedTables) -> Self {
        let config = EngineConfig {
            geometry: geometry(),
            epoch: Epoch::new(1),
            scratch: BufferRange {
                first: 4,
                pages: SCRATCH_PAGES,
            },
            spill: false,
            operation_timeout: Duration::from_millis(300),
        };
        Self {
            engine: Engine::new(config, tables.tables()).expect("its tables"),
            pool: vec![0; (4 + SCRATCH_PAGES as usize) * 4096],
            now: MonotonicTime::from_nanos(1),
            seen: Seen::default(),
        }
    }

    fn apply(&mut self, generation: u64, sets: u32) {
        let document = document(generation, sets);
        let applied = self.engine.apply(&document, &mut self.pool, self.now);
        applied.expect("a legal document");
        self.effects();
    }

    /// Every operation goes well at once.
    fn effects(&mut self) {
        while let Some(effect) = self.engine.next_effect() {
            match effect {
                Effect::Post(operation) => {
                    self.engine
                        .complete(operation.id, Ok(()), &mut self.pool, self.now);
                }
                Effect::Complete { result, .. } => self.seen.answers.push(result),
                Effect::Event(EngineEvent::ReserveEmpty(_)) => self.seen.told += 1,
                _ => {}
            }
        }
        self.engine.check_invariants();
    }

    fn write(&mut self, page: u64) {
        let request = Request {
            tag: RequestTag(page),
            page: PageIndex::new(page),
            pages: 1,
            kind: RequestKind::Write {
                buffer: BufferRange { first: 0, pages: 1 },
            },
        };
        let submitted = self.engine.submit(request, &mut self.pool, self.now);
        submitted.expect("room");
        self.effects();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.engine.tick(&mut self.pool, self.now);
        self.effects();
    }
}

#[test]
fn writes_fail_at_once_once_the_reserve_has_been_empty_for_the_hold() {
    let tables = OwnedTables::new(SwapDeviceId::from_bytes([1; 16]), geometry());
    let mut world = World::new(&tables);
    world.write(0);
    world.wait(HOLD / 2);
    world.write(1);
    assert_eq!(world.seen.answers, [], "both hope for a set");
    world.wait(HOLD / 2);
    let failed = Err(RequestError::NotDurable);
    assert_eq!(world.seen.answers, [failed, failed]);
    world.write(2);
    assert_eq!(world.seen.answers.len(), 3, "no hope left: told at once");
    assert_eq!(world.seen.told, 1, "the empty reserve is told once");
}

#[test]
fn set_that_comes_is_used_and_hope_begins_anew() {
    let tables = OwnedTables::new(SwapDeviceId::from_bytes([1; 16]), geometry());
    let mut world = World::new(&tables);
    world.write(0);
    world.wait(HOLD);
    world.apply(2, 1);
    world.write(0);
    assert_eq!(world.seen.answers, [Err(RequestError::NotDurable), Ok(())]);
    world.write(300);
    world.wait(HOLD / 2);
    assert_eq!(
        world.seen.answers.len(),
        2,
        "another slab's write hopes again"
    );
    world.wait(HOLD / 2);
    assert_eq!(world.seen.answers[2], Err(RequestError::NotDurable));
    assert_eq!(world.seen.told, 2);
}

#[test]
fn write_without_a_document_fails_after_the_usual_hold() {
    let tables = OwnedTables::new(SwapDeviceId::from_bytes([1; 16]), geometry());
    let mut world = World::without_document(&tables);
    world.write(0);
    world.wait(WRITE_HOLD_UNTIL_DOCUMENT / 2);
    assert_eq!(world.seen.answers, []);
    world.wait(WRITE_HOLD_UNTIL_DOCUMENT / 2);
    assert_eq!(world.seen.answers, [Err(RequestError::NotDurable)]);
}
