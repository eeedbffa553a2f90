//! The `loopback` transport: memory servers in this process, for tests, benches and the simulation.
//!
//! Deterministic: it knows no clock but `now`, and the order of servers is that of their use. A
//! [`LoopbackServer`] follows the rules of the real one, because it is the same core.

mod server;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::{LINK_OPERATIONS_MAX, SERVERS_MAX};
use dynamicswap_engine::link::Link as LinkState;
use dynamicswap_engine::operation::{Operation, OperationError, OperationId};
use dynamicswap_engine::slots::{Hello, SessionRefusal};
use dynamicswap_types::{MonotonicTime, ServerIndex};

use super::{Transport, TransportEvent};

use server::Connection;
pub use server::LoopbackServer;

/// Wait between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The servers that there are, by address. Clones share them.
#[derive(Clone, Default)]
pub struct LoopbackNetwork {
    servers: Rc<RefCell<BTreeMap<SocketAddr, Rc<RefCell<LoopbackServer>>>>>,
}

impl LoopbackNetwork {
    /// Adds a server, or replaces the one at the address; gives a handle to it.
    pub fn add(&self, address: SocketAddr, server: LoopbackServer) -> Rc<RefCell<LoopbackServer>> {
        let server = Rc::new(RefCell::new(server));
        let mut servers = self.servers.borrow_mut();
        servers.insert(address, Rc::clone(&server));
        server
    }

    /// The server at the address.
    #[must_use]
    pub fn get(&self, address: SocketAddr) -> Option<Rc<RefCell<LoopbackServer>>> {
        self.servers.borrow().get(&address).cloned()
    }
}

/// What the engine was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Down,
    Refused,
}

struct Link {
    server: ServerIndex,
    address: Option<SocketAddr>,
    peer: Option<(Rc<RefCell<LoopbackServer>>, Connection)>,
    told: Told,
    retry_at: MonotonicTime,
    under_way: VecDeque<(MonotonicTime, Operation)>,
    reset: bool,
}

/// The transport.
pub struct LoopbackTransport {
    network: LoopbackNetwork,
    hello: Hello,
    latency: Duration,
    links: Vec<Option<Link>>,
    orphans: VecDeque<OperationId>,
}

impl LoopbackTransport {
    /// A transport of one engine process; each operation takes `latency`.
    #[must_use]
    pub fn new(network: &LoopbackNetwork, hello: Hello, latency: Duration) -> Self {
        Self {
            network: network.clone(),
            hello,
            latency,
            links: Vec::with_capacity(SERVERS_MAX),
            orphans: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
        }
    }
}

impl Drop for LoopbackTransport {
    /// The process is gone: its connections close, as the kernel would close them.
    fn drop(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.disconnect();
        }
    }
}

impl Link {
    fn disconnect(&mut self) {
        if let Some((server, connection)) = self.peer.take() {
            server.borrow_mut().disconnect(connection);
        }
    }

    /// Whether the connection that was made is still there.
    fn alive(&self) -> bool {
        let peer = self.peer.as_ref();
        peer.is_some_and(|(server, connection)| server.borrow().is_open(*connection))
    }

    fn fall(&mut self, now: MonotonicTime, sink: &mut dyn FnMut(TransportEvent)) {
        self.disconnect();
        self.reset = false;
        self.retry_at = now.after(RETRY_AFTER);
        while let Some((_, operation)) = self.under_way.pop_front() {
            let down = Err(OperationError::LinkDown);
            sink(TransportEvent::Completed(operation.id, down));
        }
        if self.told == Told::Up {
            self.told = Told::Down;
            sink(TransportEvent::Link(self.server, LinkState::Down));
        }
    }

    fn connect(
        &mut self,
        network: &LoopbackNetwork,
        hello: Hello,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) {
        self.retry_at = now.after(RETRY_AFTER);
        let server = self.address.and_then(|address| network.get(address));
        let answer = server.as_ref().and_then(|s| s.borrow_mut().connect(hello));
        let (told, state) = match (server, answer) {
            (Some(server), Some(Ok(connection))) => {
                let incarnation = server.borrow().incarnation();
                self.peer = Some((server, connection));
                (Told::Up, LinkState::Up { incarnation })
            }
            (_, Some(Err(SessionRefusal::OldEpoch { .. } | SessionRefusal::EpochTaken { .. }))) => {
                (Told::Refused, LinkState::Refused)
            }
            _ => (Told::Down, LinkState::Down),
        };
        if self.told != told {
            self.told = told;
            sink(TransportEvent::Link(self.server, state));
        }
    }

    /// Carries out what is due.
    fn serve(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) {
        let Some((server, connection)) = &self.peer else {
            return;
        };
        while let Some((due, operation)) = self.under_way.front().copied() {
            if due > now {
                return;
            }
            self.under_way.pop_front();
            let mut server = server.borrow_mut();
            let result = server.carry_out(*connection, &operation, buffers);
            drop(server);
            sink(TransportEvent::Completed(operation.id, result));
        }
    }
}

impl Transport for LoopbackTransport {
    fn set_server(&mut self, server: ServerIndex, address: Option<SocketAddr>) {
        if server.as_usize() >= SERVERS_MAX {
            return;
        }
        if server.as_usize() >= self.links.len() {
            self.links.resize_with(server.as_usize() + 1, || None);
        }
        let place = &mut self.links[server.as_usize()];
        match place {
            Some(link) if link.address != address => {
                link.address = address;
                link.reset = true;
                if link.told == Told::Refused {
                    link.told = Told::Nothing;
                }
            }
            Some(_) => {}
            None => {
                *place = address.map(|address| Link {
                    server,
                    address: Some(address),
                    peer: None,
                    told: Told::Nothing,
                    retry_at: MonotonicTime::ZERO,
                    under_way: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
                    reset: false,
                });
            }
        }
    }

    fn post(&mut self, operation: &Operation, _: &mut dyn Buffers, now: MonotonicTime) -> bool {
        let link = self.links.get_mut(operation.server.as_usize());
        match link.and_then(Option::as_mut) {
            Some(link) if link.peer.is_some() => {
                let room = link.under_way.len() < LINK_OPERATIONS_MAX;
                if room {
                    let due = now.after(self.latency);
                    link.under_way.push_back((due, *operation));
                }
                room
            }
            _ => {
                let room = self.orphans.len() < LINK_OPERATIONS_MAX;
                if room {
                    self.orphans.push_back(operation.id);
                }
                room
            }
        }
    }

    fn flush(&mut self, _: &mut dyn Buffers, _: MonotonicTime) {}

    fn poll(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) -> usize {
        let mut count = 0;
        let mut sink = |event| {
            count += 1;
            sink(event);
        };
        while let Some(id) = self.orphans.pop_front() {
            let down = Err(OperationError::LinkDown);
            sink(TransportEvent::Completed(id, down));
        }
        for link in self.links.iter_mut().flatten() {
            if link.reset || (link.peer.is_some() && !link.alive()) {
                link.fall(now, &mut sink);
            }
            if link.peer.is_some() {
                link.serve(buffers, now, &mut sink);
            } else if link.address.is_some() && link.told != Told::Refused && link.retry_at <= now {
                link.connect(&self.network, self.hello, now, &mut sink);
            }
        }
        count
    }

    fn reset(&mut self, server: ServerIndex, _: MonotonicTime) {
        let link = self.links.get_mut(server.as_usize());
        if let Some(link) = link.and_then(Option::as_mut) {
            link.reset = true;
            if link.told == Told::Refused {
                link.told = Told::Down;
            }
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn arm(&mut self) -> bool {
        let resets = self.links.iter().flatten().any(|link| link.reset);
        resets || !self.orphans.is_empty()
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        let links = self.links.iter().flatten();
        let due = links.filter_map(|link| match link.under_way.front() {
            Some((due, _)) => Some(*due),
            None if link.peer.is_some() || link.told == Told::Refused => None,
            None => link.address.map(|_| link.retry_at),
        });
        due.min()
    }
}
