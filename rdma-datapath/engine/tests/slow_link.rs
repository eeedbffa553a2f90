//! A link that is alive and slower than the engine expects: it gets more time, and is used.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use dynamicswap_engine::effect::Effect;
use dynamicswap_engine::engine::Engine;
use dynamicswap_engine::limits::TICK;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{OperationError, OperationId};
use dynamicswap_engine::tables::OwnedTables;
use dynamicswap_types::MonotonicTime;
use support::{LIFE, SERVER, TIMEOUT};

/// An engine and a link on which everything takes as long as it is told.
struct World<'m> {
    engine: Engine<'m>,
    pool: Vec<u8>,
    now: MonotonicTime,
    takes: Duration,
    under_way: VecDeque<(MonotonicTime, OperationId)>,
    resets: u32,
    answers: u32,
}

impl<'m> World<'m> {
    fn new(tables: &'m OwnedTables, takes: Duration) -> Self {
        let (engine, pool) = support::engine(tables);
        let mut world = Self {
            engine,
            pool,
            now: MonotonicTime::from_nanos(1),
            takes,
            under_way: VecDeque::new(),
            resets: 0,
            answers: 0,
        };
        let document = support::document(1, 1, Duration::from_secs(20), Duration::from_secs(30));
        let applied = world.engine.apply(&document, &mut world.pool, world.now);
        applied.expect("a legal document");
        world.link(Link::Up { incarnation: LIFE });
        world
    }

    fn link(&mut self, link: Link) {
        self.engine
            .link_changed(SERVER, link, &mut self.pool, self.now);
        self.effects();
    }

    fn effects(&mut self) {
        while let Some(effect) = self.engine.next_effect() {
            match effect {
                Effect::Post(operation) => {
                    let ends = self.now.after(self.takes);
                    self.under_way.push_back((ends, operation.id));
                }
                Effect::Complete { result, .. } => {
                    result.expect("the link is alive");
                    self.answers += 1;
                }
                Effect::Reset(_) => self.reset(),
                _ => {}
            }
        }
    }

    /// As a transport does it: everything under way ends, the link is down, and soon up again.
    fn reset(&mut self) {
        self.resets += 1;
        let down = Err(OperationError::LinkDown);
        while let Some((_, id)) = self.under_way.pop_front() {
            self.engine.complete(id, down, &mut self.pool, self.now);
        }
        self.link(Link::Down);
        self.link(Link::Up { incarnation: LIFE });
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(TICK);
            while let Some((ends, id)) = self.under_way.front().copied()
                && ends <= self.now
            {
                self.under_way.pop_front();
                self.engine.complete(id, Ok(()), &mut self.pool, self.now);
                self.effects();
            }
            self.engine.tick(&mut self.pool, self.now);
            self.effects();
        }
    }

    fn write(&mut self) {
        support::write(&mut self.engine, 0, &mut self.pool, self.now);
        self.effects();
    }
}

#[test]
fn link_that_takes_three_times_as_long_as_expected_is_reset_twice_and_then_used() {
    let tables = support::tables();
    let mut world = World::new(&tables, TIMEOUT * 3);
    world.write();
    world.pass(Duration::from_secs(4));
    assert_eq!((world.resets, world.answers), (2, 1));
    world.write();
    world.pass(Duration::from_secs(2));
    assert_eq!((world.resets, world.answers), (2, 2), "it is known by now");
}

#[test]
fn link_that_has_kept_up_for_a_while_is_expected_to() {
    let tables = support::tables();
    let mut world = World::new(&tables, TIMEOUT * 3);
    world.write();
    world.pass(Duration::from_secs(4));
    world.takes = Duration::from_millis(1);
    world.pass(Duration::from_secs(30));
    world.takes = Duration::from_secs(60);
    world.write();
    let before = world.resets;
    world.pass(TIMEOUT + TICK * 3);
    assert_eq!(world.resets, before + 1, "as soon as with a new link");
}
