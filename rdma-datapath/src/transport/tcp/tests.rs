//! The link's rules against a small blocking server on a real socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::link::Link as LinkState;
use dynamicswap_engine::operation::{Direction, OperationResult};
use dynamicswap_engine::slots::SlotPages;
use dynamicswap_engine::wire::{
    Accepted, HANDSHAKE_BYTES, REQUEST_BYTES, Refusal, Request, RequestKind, Response, Status,
    decode_hello, encode_accepted, encode_refusal,
};
use dynamicswap_types::{Bytes, Epoch, IncarnationId, SessionId, SetId, SlotIndex, SwapDeviceId};
use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::daemon::clock::monotonic_now;
use crate::transport::LinkError;

const SLOT_PAGES: usize = 256;
const SERVER: ServerIndex = ServerIndex::new(3);

fn options() -> TcpOptions {
    TcpOptions {
        hello: Hello {
            device: SwapDeviceId::from_bytes([1; 16]),
            epoch: Epoch::new(1),
            session: SessionId::new(7),
            queue: 0,
        },
        slot_size: SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size"),
    }
}

fn greet(peer: &mut TcpStream, reply: Result<(), Refusal>) {
    let mut hello = [0; HANDSHAKE_BYTES];
    peer.read_exact(&mut hello).expect("a hello");
    let (hello, version) = decode_hello(&hello).expect("a valid one");
    assert_eq!(hello, options().hello);
    let reply = match reply {
        Ok(()) => encode_accepted(&Accepted {
            version,
            incarnation: IncarnationId::from_bytes([2; 16]),
            slot_size: options().slot_size,
            slots: 1,
        }),
        Err(refusal) => encode_refusal(refusal),
    };
    peer.write_all(&reply).expect("sent");
}

fn byte_range(range: SlotPages) -> std::ops::Range<usize> {
    let start = range.page as usize * 4096;
    start..start + range.pages as usize * 4096
}

/// Answers requests on one slot; slot 9 belongs to somebody else. Ends with the connection.
fn serve(peer: &mut TcpStream, memory: &mut [u8]) {
    let mut header = [0; REQUEST_BYTES];
    while peer.read_exact(&mut header).is_ok() {
        let request = Request::decode(&header).expect("valid");
        let mut payload = vec![0; request.payload_len() as usize];
        peer.read_exact(&mut payload).expect("the payload");
        let tag = request.tag;
        let answer = |status, payload_len| {
            Response {
                tag,
                status,
                payload_len,
            }
            .encode()
        };
        let foreign = Status::Refused(OperationError::NotOwner);
        match request.kind {
            RequestKind::Read(range) | RequestKind::Write(range) if range.slot.get() == 9 => {
                peer.write_all(&answer(foreign, 0)).expect("sent");
            }
            RequestKind::Read(range) => {
                let bytes = &memory[byte_range(range)];
                peer.write_all(&answer(Status::Done, range.pages * 4096))
                    .expect("sent");
                peer.write_all(bytes).expect("sent");
            }
            RequestKind::Write(range) => {
                memory[byte_range(range)].copy_from_slice(&payload);
                peer.write_all(&answer(Status::Done, 0)).expect("sent");
            }
            RequestKind::Ping => peer.write_all(&answer(Status::Done, 0)).expect("sent"),
        }
    }
}

/// A transport with its pool and what it told.
struct Client {
    transport: TcpTransport,
    pool: Vec<u8>,
    events: Vec<TransportEvent>,
}

impl Client {
    fn to(address: SocketAddr) -> Self {
        let mut transport = TcpTransport::new(options()).expect("epoll");
        transport.set_server(SERVER, Some(address));
        Self {
            transport,
            pool: vec![0; 512 * 4096],
            events: Vec::new(),
        }
    }

    fn post(&mut self, id: u64, direction: Direction, slot: u32, range: BufferRange) {
        let operation = Operation {
            id: OperationId(id),
            server: SERVER,
            direction,
            set: SetId::new(1),
            slot: SlotIndex::new(slot),
            page: 0,
            buffer: range,
        };
        let now = monotonic_now();
        assert!(self.transport.post(&operation, &mut self.pool, now));
    }

    /// Polls, sleeping on the descriptor in between, until there are `count` events.
    fn wait(&mut self, count: usize) -> Vec<TransportEvent> {
        let start = monotonic_now();
        loop {
            let now = monotonic_now();
            assert!(
                now.since(start) < Duration::from_secs(10),
                "{:?}",
                self.events
            );
            self.transport.flush(&mut self.pool, now);
            let events = &mut self.events;
            self.transport
                .poll(&mut self.pool, now, &mut |event| events.push(event));
            if self.events.len() >= count {
                return std::mem::take(&mut self.events);
            }
            if !self.transport.arm() {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        let wait = self
            .transport
            .next_deadline()
            .map(|due| due.since(monotonic_now()));
        let wait = wait.unwrap_or(Duration::from_secs(1));
        let wait = Timespec::try_from(wait).expect("short");
        let fd = self.transport.event_fd().expect("epoll");
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)).expect("polled");
    }
}

fn ended(id: u64, result: OperationResult) -> TransportEvent {
    TransportEvent::Completed(OperationId(id), result)
}

const UP: TransportEvent = TransportEvent::Link(
    SERVER,
    LinkState::Up {
        incarnation: IncarnationId::from_bytes([2; 16]),
    },
);
const DOWN: TransportEvent = TransportEvent::Link(SERVER, LinkState::Down);

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[test]
fn pages_come_back_as_they_were_written_whatever_their_number() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        serve(&mut peer, &mut vec![0; SLOT_PAGES * 4096]);
    });
    let mut client = Client::to(address);
    assert_eq!(client.wait(1), [UP]);
    for pages in [1, 2, 7, 64, 256] {
        let (source, target) = (
            BufferRange { first: 0, pages },
            BufferRange { first: 256, pages },
        );
        for (place, byte) in client.pool.bytes_mut(source).iter_mut().enumerate() {
            *byte = u8::try_from((place * 7 + pages as usize) % 251).expect("small");
        }
        client.post(1, Direction::Write, 0, source);
        assert_eq!(client.wait(1), [ended(1, Ok(()))]);
        client.post(2, Direction::Read, 0, target);
        assert_eq!(client.wait(1), [ended(2, Ok(()))]);
        assert!(
            client.pool.bytes(source) == client.pool.bytes(target),
            "{pages} pages"
        );
    }
    let stats = client.transport.link_stats(SERVER).expect("used");
    assert_eq!(
        (stats.bytes_read, stats.bytes_written),
        (330 * 4096, 330 * 4096)
    );
    drop(client);
    server.join().expect("no panic");
}

#[test]
fn many_operations_are_pipelined_and_a_refused_one_hurts_no_other() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        serve(&mut peer, &mut vec![5; SLOT_PAGES * 4096]);
    });
    let mut client = Client::to(address);
    client.wait(1);
    let page = |first| BufferRange { first, pages: 1 };
    for id in 0..200 {
        let slot = if id % 10 == 3 { 9 } else { 0 };
        let direction = if id % 20 == 13 {
            Direction::Write
        } else {
            Direction::Read
        };
        client.post(u64::from(id), direction, slot, page(id));
    }
    let mut events = client.wait(200);
    // Reads go ahead of writes.
    events.sort_by_key(|event| match event {
        TransportEvent::Completed(id, _) => id.0,
        TransportEvent::Link(..) => u64::MAX,
    });
    for (id, event) in (0..).zip(events) {
        let expected = if id % 10 == 3 {
            Err(OperationError::NotOwner)
        } else {
            Ok(())
        };
        assert_eq!(event, ended(id, expected));
    }
    assert!(client.pool.bytes(page(0)).iter().all(|byte| *byte == 5));
    drop(client);
    server.join().expect("no panic");
}

#[test]
fn lost_connection_completes_everything_then_says_down_then_reconnects() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        peer.read_exact(&mut [0; REQUEST_BYTES]).expect("a request");
        drop(peer);
        let (mut peer, _) = listener.accept().expect("it comes again");
        greet(&mut peer, Ok(()));
    });
    let mut client = Client::to(address);
    assert_eq!(client.wait(1), [UP]);
    for id in 0..3 {
        client.post(id, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    }
    let down = Err(OperationError::LinkDown);
    let expected = [ended(0, down), ended(1, down), ended(2, down), DOWN, UP];
    assert_eq!(client.wait(5), expected);
    server.join().expect("no panic");
}

#[test]
fn link_that_moves_is_not_reset_and_one_that_stands_is() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        let mut header = [0; REQUEST_BYTES];
        peer.read_exact(&mut header).expect("a request");
        let tag = Request::decode(&header).expect("valid").tag;
        let answer = Response {
            tag,
            status: Status::Refused(OperationError::NotOwner),
            payload_len: 0,
        };
        peer.write_all(&answer.encode()).expect("sent");
        // The second request is never answered.
        let (mut peer, _) = listener.accept().expect("it comes again");
        greet(&mut peer, Ok(()));
    });
    let mut client = Client::to(address);
    assert_eq!(client.wait(1), [UP]);
    for id in 0..2 {
        client.post(id, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    }
    assert_eq!(client.wait(1), [ended(0, Err(OperationError::NotOwner))]);
    let answered = monotonic_now();
    client.transport.reset(SERVER, answered);
    let stats = client.transport.link_stats(SERVER).expect("used");
    assert_eq!(stats.last_error, None, "it has just answered");
    let later = answered.after(Duration::from_millis(401));
    client.transport.reset(SERVER, later);
    let down = Err(OperationError::LinkDown);
    assert_eq!(client.wait(3), [ended(1, down), DOWN, UP]);
    server.join().expect("no panic");
}

#[test]
fn silent_peer_is_noticed_within_a_second_even_when_idle() {
    let (listener, address) = listener();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        // Keeps the connection open and says nothing until the test is over.
        let _ = finished.recv();
    });
    let mut client = Client::to(address);
    assert_eq!(client.wait(1), [UP]);
    let idle_since = monotonic_now();
    assert_eq!(client.wait(1), [DOWN]);
    let noticed = monotonic_now().since(idle_since);
    assert!(noticed < Duration::from_millis(1100), "{noticed:?}");
    let stats = client.transport.link_stats(SERVER).expect("used");
    assert_eq!(stats.last_error, Some(LinkError::Silent));
    drop(done);
    server.join().expect("no panic");
}

#[test]
fn fenced_epoch_is_told_once_and_not_tried_again() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        let known = Some(Epoch::new(2));
        greet(&mut peer, Err(Refusal::OldEpoch { known }));
    });
    let mut client = Client::to(address);
    let refused = TransportEvent::Link(SERVER, LinkState::Refused);
    assert_eq!(client.wait(1), [refused]);
    server.join().expect("no panic");
    assert_eq!(client.transport.next_deadline(), None);
}

#[test]
fn unreachable_server_is_down_and_its_operations_end_at_once() {
    let (listener, address) = listener();
    drop(listener);
    let mut client = Client::to(address);
    client.post(1, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    let down = Err(OperationError::LinkDown);
    assert_eq!(client.wait(2), [ended(1, down), DOWN]);
    client.post(2, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    assert_eq!(client.wait(1), [ended(2, down)], "down is told once");
}

#[test]
fn operation_for_an_unknown_or_removed_server_ends_with_link_down() {
    let (_listener, address) = listener();
    let mut client = Client::to(address);
    client.transport.set_server(SERVER, None);
    client.post(1, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    let down = Err(OperationError::LinkDown);
    assert_eq!(client.wait(1), [ended(1, down)]);
    client.post(2, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    assert_eq!(client.wait(1), [ended(2, down)]);
    assert_eq!(client.transport.link_stats(SERVER), None);
}

#[test]
fn answer_out_of_step_closes_the_link() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        greet(&mut peer, Ok(()));
        let mut header = [0; REQUEST_BYTES];
        peer.read_exact(&mut header).expect("a request");
        let tag = Request::decode(&header).expect("valid").tag + 1;
        let status = Status::Done;
        let wrong = Response {
            tag,
            status,
            payload_len: 4096,
        };
        peer.write_all(&wrong.encode()).expect("sent");
        // Until the client closes.
        assert_eq!(peer.read(&mut header).unwrap_or(0), 0);
    });
    let mut client = Client::to(address);
    client.wait(1);
    client.post(1, Direction::Read, 0, BufferRange { first: 0, pages: 1 });
    assert_eq!(
        client.wait(2),
        [ended(1, Err(OperationError::LinkDown)), DOWN]
    );
    let stats = client.transport.link_stats(SERVER).expect("used");
    assert_eq!(stats.last_error, Some(LinkError::OutOfStep));
    server.join().expect("no panic");
}
