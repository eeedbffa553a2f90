//! A pool that is full: the first writes hope for a set, later ones fail at once, and a set that
//! comes is used at once. And an engine that no document has reached holds nothing for ever.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use dynamicswap_engine::effect::{Effect, EngineEvent};
use dynamicswap_engine::engine::Engine;
use dynamicswap_engine::limits::WRITE_HOLD_UNTIL_DOCUMENT;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::request::RequestError;
use dynamicswap_engine::tables::OwnedTables;
use dynamicswap_types::MonotonicTime;
use support::{LIFE, SERVER};

const HOLD: Duration = Duration::from_secs(1);

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
        world.engine.link_changed(SERVER, up, pool, now);
        world.effects();
        world
    }

    fn without_document(tables: &'m OwnedTables) -> Self {
        let (engine, pool) = support::engine(tables);
        Self {
            engine,
            pool,
            now: MonotonicTime::from_nanos(1),
            seen: Seen::default(),
        }
    }

    fn apply(&mut self, generation: u64, sets: u32) {
        let document = support::document(generation, sets, HOLD, Duration::from_secs(2));
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
        support::write(&mut self.engine, page, &mut self.pool, self.now);
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
    let tables = support::tables();
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
    let tables = support::tables();
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
    let tables = support::tables();
    let mut world = World::without_document(&tables);
    world.write(0);
    world.wait(WRITE_HOLD_UNTIL_DOCUMENT / 2);
    assert_eq!(world.seen.answers, []);
    world.wait(WRITE_HOLD_UNTIL_DOCUMENT / 2);
    assert_eq!(world.seen.answers, [Err(RequestError::NotDurable)]);
}
