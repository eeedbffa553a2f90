//! The `fault` transport: wraps any other and makes it unreliable, by seed.
//!
//! Each payload travels through a pool of its own, so that a corrupted one never touches the
//! engine's buffers, and an operation that the engine was told to be down may still arrive late,
//! as bytes in a socket do, until the next handshake fences it. Knows no clock but `now`.

mod flight;
mod random;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::link::Link as LinkState;
use dynamicswap_engine::operation::{Operation, OperationError, OperationId};
use dynamicswap_types::{MonotonicTime, ServerIndex};

use super::{Transport, TransportEvent};
use flight::{Flights, Stage};

pub use random::SeededRandom;

/// Wait between the end of a cut and the new connection.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);

/// Which way nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cut {
    /// Everything gets through.
    #[default]
    None,
    /// Nothing does.
    Both,
    /// Requests do not arrive.
    ToServer,
    /// Requests are carried out; their answers do not arrive.
    FromServer,
}

impl Cut {
    const fn stops_requests(self) -> bool {
        matches!(self, Self::Both | Self::ToServer)
    }

    const fn stops_answers(self) -> bool {
        matches!(self, Self::Both | Self::FromServer)
    }
}

/// How bad the way to one server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// What is cut now.
    pub cut: Cut,
    /// Operations of 1000 whose request or answer is never seen again.
    pub loss_per_mille: u16,
    /// Payloads of 1000 of which one bit is flipped.
    pub corruption_per_mille: u16,
    /// Shortest and longest delay of each direction.
    pub delay: (Duration, Duration),
    /// How long a cut lasts before the link goes down; the `tcp` transport needs up to a second.
    pub notice_after: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            cut: Cut::None,
            loss_per_mille: 0,
            corruption_per_mille: 0,
            delay: (Duration::ZERO, Duration::ZERO),
            notice_after: Duration::from_millis(900),
        }
    }
}

/// The life of a link, as the engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The inner transport's word counts.
    Whole,
    /// Down for the engine; waits for the end of the cut, then for `reconnect_at`.
    Severed { reconnect_at: Option<MonotonicTime> },
    /// The inner link was reset; waits for it to come up.
    Rejoining,
}

struct Link {
    server: ServerIndex,
    faults: Faults,
    life: Life,
    up: bool,
    cut_since: Option<MonotonicTime>,
    reset: bool,
    /// Operations of one link keep their order, whatever their delays.
    last_release: MonotonicTime,
    last_delivery: MonotonicTime,
}

impl Link {
    fn new(server: ServerIndex) -> Self {
        Self {
            server,
            faults: Faults::default(),
            life: Life::Whole,
            up: false,
            cut_since: None,
            reset: false,
            last_release: MonotonicTime::ZERO,
            last_delivery: MonotonicTime::ZERO,
        }
    }

    /// When the link's life changes by time alone; at once if a change of faults was not seen yet.
    fn next_time(&self) -> Option<MonotonicTime> {
        let cut = self.faults.cut != Cut::None;
        match (self.life, self.cut_since) {
            (Life::Severed { .. }, _) if cut => None,
            (Life::Severed { reconnect_at }, _) => Some(reconnect_at.unwrap_or_default()),
            (Life::Whole | Life::Rejoining, Some(since)) if cut => {
                Some(since.after(self.faults.notice_after))
            }
            (Life::Whole | Life::Rejoining, None) if cut => Some(MonotonicTime::ZERO),
            (Life::Whole | Life::Rejoining, _) => None,
        }
    }

    /// Whether the engine may have operations under way.
    fn carries(&self) -> bool {
        self.up && self.life == Life::Whole
    }
}

/// What faults have done, for the seed's story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Operations lost.
    pub lost: u64,
    /// Payloads corrupted.
    pub corrupted: u64,
    /// Operations carried out after the engine was told that the link was down.
    pub late: u64,
    /// Links cut or reset.
    pub severed: u64,
}

/// The wrapper.
pub struct FaultTransport<T> {
    inner: T,
    random: SeededRandom,
    links: Vec<Link>,
    flights: Flights,
    orphans: VecDeque<OperationId>,
    counters: FaultCounters,
}

impl<T: Transport> FaultTransport<T> {
    /// Wraps `inner`; without [`Self::set_faults`] it changes nothing.
    #[must_use]
    pub fn new(inner: T, random: SeededRandom) -> Self {
        Self {
            inner,
            random,
            links: Vec::new(),
            flights: Flights::default(),
            orphans: VecDeque::new(),
            counters: FaultCounters::default(),
        }
    }

    /// The wrapped transport.
    pub const fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Changes the way to a server from now on.
    pub fn set_faults(&mut self, server: ServerIndex, faults: Faults) {
        self.link(server).faults = faults;
    }

    /// The way to a server.
    pub fn faults(&mut self, server: ServerIndex) -> Faults {
        self.link(server).faults
    }

    /// What faults have done.
    #[must_use]
    pub const fn counters(&self) -> FaultCounters {
        self.counters
    }

    fn link(&mut self, server: ServerIndex) -> &mut Link {
        let known = self.links.iter().position(|link| link.server == server);
        let place = known.unwrap_or_else(|| {
            self.links.push(Link::new(server));
            self.links.len() - 1
        });
        &mut self.links[place]
    }

    fn delay(&mut self, faults: Faults) -> Duration {
        let (shortest, longest) = faults.delay;
        let spread = longest.saturating_sub(shortest).as_nanos();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        shortest + Duration::from_nanos(self.random.below(spread.saturating_add(1)))
    }

    /// Hears the inner transport out.
    fn hear_inner(&mut self, now: MonotonicTime, sink: &mut dyn FnMut(TransportEvent)) {
        let mut heard = Vec::new();
        let pool = &mut self.flights;
        self.inner.poll(pool, now, &mut |event| heard.push(event));
        for event in heard {
            match event {
                TransportEvent::Completed(id, result) => self.answered(id, result, now),
                TransportEvent::Link(server, state) => self.link_changed(server, state, sink),
            }
        }
    }

    fn answered(
        &mut self,
        id: OperationId,
        result: Result<(), OperationError>,
        now: MonotonicTime,
    ) {
        let Some(flight) = self.flights.by_inner(id) else {
            return;
        };
        let (stage, server) = (flight.stage, flight.operation.server);
        match stage {
            Stage::Posted => {}
            Stage::Late => self.counters.late += u64::from(result.is_ok()),
            Stage::Held { .. } | Stage::Answered { .. } | Stage::Lost => return,
        }
        if stage == Stage::Late {
            return self.flights.remove(id);
        }
        let faults = self.link(server).faults;
        let delay = self.delay(faults);
        let lost = result.is_ok() && self.random.per_mille(faults.loss_per_mille / 2);
        let corrupt = self.random.per_mille(faults.corruption_per_mille);
        let link = self.link(server);
        let at = now.after(delay).max(link.last_delivery);
        link.last_delivery = at;
        self.counters.lost += u64::from(lost);
        let corrupt = corrupt && self.flights.is_read(id);
        if corrupt {
            self.counters.corrupted += 1;
            self.flights.flip_bit(id, &mut self.random);
        }
        let stage = if lost {
            Stage::Lost
        } else {
            Stage::Answered { result, at }
        };
        self.flights.set_stage(id, stage);
    }

    fn link_changed(
        &mut self,
        server: ServerIndex,
        state: LinkState,
        sink: &mut dyn FnMut(TransportEvent),
    ) {
        if matches!(state, LinkState::Up { .. }) {
            // The handshake closed the old connection: what is late now never arrives.
            self.flights.forget_late(server);
        }
        let link = self.link(server);
        match (link.life, state) {
            (_, LinkState::Up { .. }) if link.faults.cut != Cut::None => {
                // No handshake gets through a cut: the link is made again after it.
                link.life = Life::Severed { reconnect_at: None };
                return;
            }
            (Life::Severed { .. }, LinkState::Up { .. } | LinkState::Down)
            | (Life::Rejoining, LinkState::Down) => return,
            (_, LinkState::Up { .. }) => {
                link.life = Life::Whole;
                link.up = true;
            }
            (_, LinkState::Down | LinkState::Refused) => {
                link.life = Life::Whole;
                link.up = false;
                self.abandon(server, sink);
            }
        }
        sink(TransportEvent::Link(server, state));
    }

    /// Ends everything of the server for the engine. What was not released yet may arrive late.
    fn abandon(&mut self, server: ServerIndex, sink: &mut dyn FnMut(TransportEvent)) {
        let down = Err(OperationError::LinkDown);
        for id in self.flights.abandon(server, &mut self.random) {
            sink(TransportEvent::Completed(id, down));
        }
    }

    fn sever(&mut self, server: ServerIndex, sink: &mut dyn FnMut(TransportEvent)) {
        self.counters.severed += 1;
        self.abandon(server, sink);
        let link = self.link(server);
        let was_up = std::mem::replace(&mut link.up, false);
        link.life = Life::Severed { reconnect_at: None };
        link.reset = false;
        if was_up {
            sink(TransportEvent::Link(server, LinkState::Down));
        }
    }

    /// Cuts that are noticed, resets, and the way back.
    fn live(&mut self, now: MonotonicTime, sink: &mut dyn FnMut(TransportEvent)) {
        for place in 0..self.links.len() {
            let link = &mut self.links[place];
            let server = link.server;
            let cut = link.faults.cut != Cut::None;
            let since = *link.cut_since.get_or_insert(now);
            if !cut {
                link.cut_since = None;
            }
            let noticed = cut && since.after(link.faults.notice_after) <= now;
            match link.life {
                Life::Whole | Life::Rejoining if link.reset || noticed => self.sever(server, sink),
                Life::Severed { reconnect_at: None } if !cut => {
                    let reconnect_at = Some(now.after(RECONNECT_AFTER));
                    link.life = Life::Severed { reconnect_at };
                }
                Life::Severed {
                    reconnect_at: Some(at),
                } if at <= now && !cut => {
                    link.life = Life::Rejoining;
                    self.inner.reset(server, now);
                }
                Life::Severed { .. } if cut => link.life = Life::Severed { reconnect_at: None },
                Life::Whole | Life::Rejoining | Life::Severed { .. } => {}
            }
        }
    }

    /// Hands requests to the inner transport when their delay is over and nothing stops them.
    fn release(&mut self, now: MonotonicTime) {
        for id in self.flights.due_requests(now) {
            let Some(flight) = self.flights.by_inner(id) else {
                continue;
            };
            let (operation, late) = (flight.inner_operation(), flight.is_abandoned());
            if self.link(operation.server).faults.cut.stops_requests() {
                continue;
            }
            if !self.inner.post(&operation, &mut self.flights, now) {
                break;
            }
            let stage = if late { Stage::Late } else { Stage::Posted };
            self.flights.set_stage(id, stage);
        }
        self.inner.flush(&mut self.flights, now);
    }

    /// Hands answers to the engine when their delay is over and nothing stops them.
    fn deliver(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) {
        for (id, result) in self.flights.due_answers(now) {
            let Some(flight) = self.flights.by_inner(id) else {
                continue;
            };
            let operation = flight.operation;
            if self.link(operation.server).faults.cut.stops_answers() {
                continue;
            }
            if let Some(flight) = self.flights.by_inner(id).filter(|_| result.is_ok()) {
                flight.copy_out(buffers);
            }
            self.flights.remove(id);
            sink(TransportEvent::Completed(operation.id, result));
        }
    }
}

impl<T: Transport> Transport for FaultTransport<T> {
    fn register(&mut self, pool: &mut [u8]) -> std::io::Result<()> {
        self.inner.register(pool)
    }

    fn set_server(&mut self, server: ServerIndex, address: Option<SocketAddr>) {
        let _ = self.link(server);
        self.inner.set_server(server, address);
    }

    fn post(
        &mut self,
        operation: &Operation,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> bool {
        let server = operation.server;
        if !self.link(server).carries() {
            self.orphans.push_back(operation.id);
            return true;
        }
        if self.flights.count(server) >= LINK_OPERATIONS_MAX {
            return false;
        }
        let faults = self.link(server).faults;
        let delay = self.delay(faults);
        let lost = self.random.per_mille(faults.loss_per_mille.div_ceil(2));
        let link = self.link(server);
        let at = now.after(delay).max(link.last_release);
        link.last_release = at;
        let stage = if lost {
            Stage::Lost
        } else {
            Stage::Held { at }
        };
        self.counters.lost += u64::from(lost);
        let id = self.flights.insert(operation, stage, buffers);
        let corrupt = self.random.per_mille(faults.corruption_per_mille);
        if corrupt && !self.flights.is_read(id) {
            self.counters.corrupted += 1;
            self.flights.flip_bit(id, &mut self.random);
        }
        true
    }

    fn flush(&mut self, _: &mut dyn Buffers, now: MonotonicTime) {
        self.release(now);
    }

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
        self.live(now, &mut sink);
        self.release(now);
        self.hear_inner(now, &mut sink);
        self.deliver(buffers, now, &mut sink);
        count
    }

    fn reset(&mut self, server: ServerIndex, now: MonotonicTime) {
        let link = self.link(server);
        if link.carries() {
            link.reset = true;
        } else if link.life == Life::Whole {
            self.inner.reset(server, now);
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }

    fn arm(&mut self) -> bool {
        let resets = self.links.iter().any(|link| link.reset);
        self.inner.arm() || resets || !self.orphans.is_empty()
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        let link_times = self.links.iter().filter_map(Link::next_time);
        let open = |server, answer: bool| {
            let link = self.links.iter().find(|link| link.server == server);
            link.is_none_or(|link| {
                let cut = link.faults.cut;
                if answer {
                    !cut.stops_answers()
                } else {
                    !cut.stops_requests()
                }
            })
        };
        let flights = self.flights.next_time(open);
        link_times
            .chain(flights)
            .chain(self.inner.next_deadline())
            .min()
    }
}
