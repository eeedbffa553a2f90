//! What each fault does, over the loopback transport.

use std::cell::RefCell;
use std::rc::Rc;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::operation::Direction;
use dynamicswap_engine::slots::{Grant, GrantDocument, Hello, Owner, SlotGeometry};
use dynamicswap_types::{
    Bytes, Epoch, Generation, IncarnationId, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId,
};

use super::*;
use crate::transport::loopback::{LoopbackNetwork, LoopbackServer, LoopbackTransport};

const SERVER: ServerIndex = ServerIndex::new(0);
const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);
const MEMORY: IncarnationId = IncarnationId::from_bytes([2; 16]);
const SLOT: SlotIndex = SlotIndex::new(0);
const UP: TransportEvent = TransportEvent::Link(
    SERVER,
    LinkState::Up {
        incarnation: MEMORY,
    },
);
const DOWN: TransportEvent = TransportEvent::Link(SERVER, LinkState::Down);

struct World {
    transport: FaultTransport<LoopbackTransport>,
    server: Rc<RefCell<LoopbackServer>>,
    pool: Vec<u8>,
    events: Vec<TransportEvent>,
}

impl World {
    fn new(seed: u64) -> Self {
        let network = LoopbackNetwork::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let geometry = SlotGeometry {
            slot_size: SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size"),
            slots: 1,
        };
        let server = network.add(address, LoopbackServer::new(geometry, MEMORY));
        let owner = Owner {
            device: DEVICE,
            set: SetId::new(1),
        };
        let document = GrantDocument {
            generation: Generation::new(1),
            incarnation: MEMORY,
            grants: vec![Grant { slot: SLOT, owner }],
            emptied: false,
        };
        server.borrow_mut().apply(&document).expect("valid");
        let hello = Hello {
            device: DEVICE,
            epoch: Epoch::new(1),
            session: SessionId::new(1),
            queue: 0,
        };
        let inner = LoopbackTransport::new(&network, hello, Duration::ZERO);
        let mut transport = FaultTransport::new(inner, SeededRandom::new(seed));
        transport.set_server(SERVER, Some(address));
        let mut world = Self {
            transport,
            server,
            pool: vec![7; 2 * 4096],
            events: Vec::new(),
        };
        assert_eq!(world.poll(0), [UP]);
        world
    }

    fn poll(&mut self, ms: u64) -> Vec<TransportEvent> {
        let now = MonotonicTime::from_nanos(ms * 1_000_000);
        let events = &mut self.events;
        self.transport
            .poll(&mut self.pool, now, &mut |event| events.push(event));
        std::mem::take(&mut self.events)
    }

    /// Page 0 of the pool is written from, page 1 read into.
    fn post(&mut self, id: u64, direction: Direction, ms: u64) {
        let first = u32::from(direction == Direction::Read);
        let operation = Operation {
            id: OperationId(id),
            server: SERVER,
            direction,
            set: SetId::new(1),
            slot: SLOT,
            page: 0,
            buffer: BufferRange { first, pages: 1 },
        };
        let now = MonotonicTime::from_nanos(ms * 1_000_000);
        assert!(self.transport.post(&operation, &mut self.pool, now));
        self.transport.flush(&mut self.pool, now);
    }

    fn set(&mut self, change: impl Fn(&mut Faults)) {
        let mut faults = self.transport.faults(SERVER);
        change(&mut faults);
        self.transport.set_faults(SERVER, faults);
    }

    fn stored(&self) -> u8 {
        let mut server = self.server.borrow_mut();
        server.slot_mut(SLOT).expect("one slot")[0]
    }
}

fn ended(id: u64, result: Result<(), OperationError>) -> TransportEvent {
    TransportEvent::Completed(OperationId(id), result)
}

const LOST: Result<(), OperationError> = Err(OperationError::LinkDown);

#[test]
fn without_faults_nothing_changes() {
    let mut world = World::new(1);
    world.pool[4096..].fill(0);
    world.post(1, Direction::Write, 1);
    world.post(2, Direction::Read, 1);
    assert_eq!(world.poll(1), [ended(1, Ok(())), ended(2, Ok(()))]);
    assert!(world.pool.iter().all(|byte| *byte == 7));
}

#[test]
fn delay_holds_requests_and_answers_back() {
    let mut world = World::new(1);
    let delay = Duration::from_millis(10);
    world.set(|faults| faults.delay = (delay, delay));
    world.post(1, Direction::Write, 0);
    assert_eq!(world.poll(9), []);
    assert_eq!(world.stored(), 0);
    assert_eq!(world.poll(10), []);
    assert_eq!(world.stored(), 7);
    assert_eq!(
        world.transport.next_deadline(),
        Some(MonotonicTime::from_nanos(20_000_000))
    );
    assert_eq!(world.poll(20), [ended(1, Ok(()))]);
}

#[test]
fn corruption_flips_one_bit_of_the_payload_and_spares_the_engines_buffer() {
    let mut world = World::new(3);
    world.set(|faults| faults.corruption_per_mille = 1000);
    world.post(1, Direction::Write, 0);
    assert_eq!(world.poll(0), [ended(1, Ok(()))]);
    assert!(
        world.pool.iter().all(|byte| *byte == 7),
        "the engine's copy is whole"
    );
    world.set(|faults| faults.corruption_per_mille = 0);
    world.post(2, Direction::Read, 1);
    world.poll(1);
    let wrong: u32 = world.pool[4096..]
        .iter()
        .map(|byte| (byte ^ 7).count_ones())
        .sum();
    assert_eq!(wrong, 1);
    assert_eq!(world.transport.counters().corrupted, 1);
}

#[test]
fn lost_operation_ends_with_the_link() {
    let mut world = World::new(1);
    world.set(|faults| faults.loss_per_mille = 1000);
    world.post(1, Direction::Write, 0);
    for ms in [1, 100, 10_000] {
        assert_eq!(world.poll(ms), []);
    }
    world.transport.reset(SERVER, MonotonicTime::ZERO);
    assert_eq!(world.poll(10_001), [ended(1, LOST), DOWN]);
    let mut events = Vec::new();
    for ms in 10_002..10_100 {
        events.extend(world.poll(ms));
    }
    assert_eq!(events, [UP]);
}

#[test]
fn cut_is_noticed_after_its_time_and_healed_by_a_new_connection() {
    let mut world = World::new(1);
    world.set(|faults| faults.cut = Cut::Both);
    assert_eq!(world.poll(0), []);
    world.post(1, Direction::Write, 0);
    assert_eq!(world.poll(899), []);
    assert_eq!(world.poll(900), [ended(1, LOST), DOWN]);
    world.post(2, Direction::Write, 901);
    assert_eq!(world.poll(901), [ended(2, LOST)]);
    assert_eq!(world.poll(5000), []);
    assert_eq!(world.stored(), 0);
    world.set(|faults| faults.cut = Cut::None);
    let mut events = Vec::new();
    for ms in 5000..5100 {
        events.extend(world.poll(ms));
    }
    assert_eq!(events, [UP]);
    world.post(3, Direction::Write, 5100);
    assert_eq!(world.poll(5100), [ended(3, Ok(()))]);
}

#[test]
fn one_way_cut_lets_the_other_way_through() {
    for (cut, stored) in [(Cut::ToServer, 0), (Cut::FromServer, 7)] {
        let mut world = World::new(1);
        world.set(|faults| faults.cut = cut);
        world.post(1, Direction::Write, 0);
        assert_eq!(world.poll(1), []);
        assert_eq!(world.stored(), stored, "{cut:?}");
        assert_eq!(world.poll(1000), [ended(1, LOST), DOWN]);
    }
}

#[test]
fn write_of_a_dead_link_may_arrive_late_but_never_after_the_next_handshake() {
    let (mut late, mut never) = (0, 0);
    for seed in 0..64 {
        let mut world = World::new(seed);
        let delay = Duration::from_millis(5);
        world.set(|faults| faults.delay = (delay, delay));
        world.post(1, Direction::Write, 0);
        world.transport.reset(SERVER, MonotonicTime::ZERO);
        assert_eq!(world.poll(0), [ended(1, LOST), DOWN]);
        let mut ms = 0;
        while world.poll(ms) != [UP] {
            ms += 1;
            assert!(ms < 100);
        }
        let at_handshake = world.stored();
        for after in ms..ms + 50 {
            world.poll(after);
        }
        assert_eq!(world.stored(), at_handshake);
        if at_handshake == 7 {
            late += 1
        } else {
            never += 1
        }
    }
    assert!(late > 10 && never > 10, "{late} {never}");
}

#[test]
fn same_seed_tells_the_same_story() {
    let story = |seed| {
        let mut world = World::new(seed);
        world.set(|faults| {
            faults.loss_per_mille = 100;
            faults.corruption_per_mille = 200;
            faults.delay = (Duration::ZERO, Duration::from_millis(3));
        });
        let mut events = Vec::new();
        for ms in 0..300 {
            world.pool[0] = u8::try_from(ms % 256).expect("small");
            let direction = if ms % 3 == 0 {
                Direction::Read
            } else {
                Direction::Write
            };
            world.post(ms, direction, ms);
            if ms % 50 == 0 {
                world.transport.reset(SERVER, MonotonicTime::ZERO);
            }
            events.extend(world.poll(ms));
        }
        (
            format!("{events:?}"),
            world.pool,
            world.transport.counters(),
        )
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5).0, story(6).0);
}
