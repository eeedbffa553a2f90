//! The loopback transport's own rules; those of the core are tested with the core.

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::operation::{Direction, OperationResult};
use dynamicswap_engine::slots::{Grant, GrantDocument, Owner, SlotGeometry};
use dynamicswap_types::{
    Bytes, Epoch, Generation, IncarnationId, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId,
};

use super::*;

const SERVER: ServerIndex = ServerIndex::new(0);
const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);
const MEMORY: IncarnationId = IncarnationId::from_bytes([2; 16]);

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

fn hello(epoch: u64) -> Hello {
    Hello {
        device: DEVICE,
        epoch: Epoch::new(epoch),
        session: SessionId::new(epoch),
        queue: 0,
    }
}

fn network() -> (LoopbackNetwork, Rc<RefCell<LoopbackServer>>) {
    let network = LoopbackNetwork::default();
    let geometry = SlotGeometry {
        slot_size: SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size"),
        slots: 2,
    };
    let server = network.add(address(), LoopbackServer::new(geometry, MEMORY));
    let owner = Owner {
        device: DEVICE,
        set: SetId::new(1),
    };
    let document = GrantDocument {
        generation: Generation::new(1),
        incarnation: MEMORY,
        grants: vec![Grant {
            slot: SlotIndex::new(0),
            owner,
        }],
        emptied: false,
    };
    server.borrow_mut().apply(&document).expect("valid");
    (network, server)
}

fn client(network: &LoopbackNetwork, epoch: u64) -> LoopbackTransport {
    let mut transport = LoopbackTransport::new(network, hello(epoch), Duration::from_micros(5));
    transport.set_server(SERVER, Some(address()));
    transport
}

fn poll(transport: &mut LoopbackTransport, pool: &mut Vec<u8>, micros: u64) -> Vec<TransportEvent> {
    let mut events = Vec::new();
    let now = MonotonicTime::from_nanos(micros * 1000);
    let count = transport.poll(pool, now, &mut |event| events.push(event));
    assert_eq!(count, events.len());
    events
}

fn post(transport: &mut LoopbackTransport, pool: &mut Vec<u8>, id: u64, direction: Direction) {
    let first = if direction == Direction::Write { 0 } else { 1 };
    let operation = Operation {
        id: OperationId(id),
        server: SERVER,
        direction,
        set: SetId::new(1),
        slot: SlotIndex::new(0),
        page: 5,
        buffer: BufferRange { first, pages: 1 },
    };
    assert!(transport.post(&operation, pool, MonotonicTime::ZERO));
}

fn ended(id: u64, result: OperationResult) -> TransportEvent {
    TransportEvent::Completed(OperationId(id), result)
}

const UP: TransportEvent = TransportEvent::Link(
    SERVER,
    LinkState::Up {
        incarnation: MEMORY,
    },
);
const DOWN: TransportEvent = TransportEvent::Link(SERVER, LinkState::Down);

#[test]
fn operations_take_their_time_and_keep_their_order() {
    let (network, _server) = network();
    let (mut transport, mut pool) = (client(&network, 1), vec![3; 2 * 4096]);
    pool[4096..].fill(0);
    assert_eq!(poll(&mut transport, &mut pool, 0), [UP]);
    post(&mut transport, &mut pool, 1, Direction::Write);
    post(&mut transport, &mut pool, 2, Direction::Read);
    assert_eq!(poll(&mut transport, &mut pool, 4), []);
    assert_eq!(
        transport.next_deadline(),
        Some(MonotonicTime::from_nanos(5000))
    );
    let both = [ended(1, Ok(())), ended(2, Ok(()))];
    assert_eq!(poll(&mut transport, &mut pool, 5), both);
    assert!(pool[4096..].iter().all(|byte| *byte == 3));
}

#[test]
fn stopped_server_takes_its_operations_down_and_keeps_its_memory() {
    let (network, server) = network();
    let (mut transport, mut pool) = (client(&network, 1), vec![3; 2 * 4096]);
    poll(&mut transport, &mut pool, 0);
    post(&mut transport, &mut pool, 1, Direction::Write);
    poll(&mut transport, &mut pool, 10);
    post(&mut transport, &mut pool, 2, Direction::Read);
    server.borrow_mut().stop();
    let down = [ended(2, Err(OperationError::LinkDown)), DOWN];
    assert_eq!(poll(&mut transport, &mut pool, 20), down);
    server.borrow_mut().start();
    assert_eq!(poll(&mut transport, &mut pool, 20_000), [UP]);
    pool[4096..].fill(0);
    post(&mut transport, &mut pool, 3, Direction::Read);
    assert_eq!(poll(&mut transport, &mut pool, 20_010), [ended(3, Ok(()))]);
    assert_eq!(pool[4096], 3, "memory and grant were kept");
    let other = IncarnationId::from_bytes([9; 16]);
    server.borrow_mut().lose_memory(other);
    server.borrow_mut().start();
    assert_eq!(poll(&mut transport, &mut pool, 30_000), [DOWN]);
    let up = LinkState::Up { incarnation: other };
    assert_eq!(
        poll(&mut transport, &mut pool, 50_000),
        [TransportEvent::Link(SERVER, up)]
    );
    post(&mut transport, &mut pool, 4, Direction::Read);
    let refused = [ended(4, Err(OperationError::NotOwner))];
    assert_eq!(poll(&mut transport, &mut pool, 50_010), refused);
}

#[test]
fn newer_engine_fences_the_older_one() {
    let (network, _server) = network();
    let mut pool = vec![0; 2 * 4096];
    let mut older = client(&network, 1);
    assert_eq!(poll(&mut older, &mut pool, 0), [UP]);
    let mut newer = client(&network, 2);
    assert_eq!(poll(&mut newer, &mut pool, 0), [UP]);
    assert_eq!(poll(&mut older, &mut pool, 1), [DOWN]);
    let refused = TransportEvent::Link(SERVER, LinkState::Refused);
    assert_eq!(poll(&mut older, &mut pool, 20_000), [refused]);
    assert_eq!(poll(&mut older, &mut pool, 90_000), []);
    assert_eq!(older.next_deadline(), None);
}
