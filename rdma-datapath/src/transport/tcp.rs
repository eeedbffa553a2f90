//! The `tcp` transport: one connection per memory server and queue, pipelined, no runtime.
//!
//! Owns the epoll descriptor and the links. While few links are busy it reads their sockets
//! directly: one system call less for each completion than asking epoll first. Allocates in
//! [`TcpTransport::new`] and [`Transport::set_server`] only.

mod flights;
mod input;
mod link;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::{LINK_OPERATIONS_MAX, SERVERS_MAX};
use dynamicswap_engine::operation::{Operation, OperationError, OperationId};
use dynamicswap_engine::slots::Hello;
use dynamicswap_types::{MonotonicTime, ServerIndex, SlabSize};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{Transport, TransportEvent};
use link::Link;

pub use link::LinkStats;

/// Busy links up to which each is read without asking epoll. Above it one epoll call is cheaper
/// than reads in vain.
const DIRECT_LINKS_MAX: usize = 2;
/// Even then, idle links are looked at this often.
const SCAN_EVERY: Duration = Duration::from_millis(1);
/// Events taken from epoll at once; what is left comes with the next poll.
const EVENTS_MAX: usize = 64;

/// What every link needs to know.
#[derive(Debug, Clone, Copy)]
pub struct TcpOptions {
    /// How this process presents itself: device, epoch, session, queue.
    pub hello: Hello,
    /// Size of a slab: a server with slots of another size is refused.
    pub slot_size: SlabSize,
}

/// What a step on a link works with.
struct Step<'a> {
    buffers: &'a mut dyn Buffers,
    now: MonotonicTime,
    sink: &'a mut dyn FnMut(TransportEvent),
}

/// What a link asks of its transport.
#[derive(Clone, Copy)]
struct Context<'a> {
    epoll: BorrowedFd<'a>,
    options: &'a TcpOptions,
}

/// The transport.
pub struct TcpTransport {
    epoll: OwnedFd,
    options: TcpOptions,
    links: Vec<Option<Box<Link>>>,
    /// Servers with a link.
    used: Vec<ServerIndex>,
    events: Vec<epoll::Event>,
    /// Operations for servers without a link, to be completed by the next poll.
    orphans: VecDeque<OperationId>,
    scanned: MonotonicTime,
    armed: bool,
}

impl TcpTransport {
    /// A transport without any server yet.
    ///
    /// # Errors
    /// The host's, if it gives no epoll descriptor.
    pub fn new(options: TcpOptions) -> io::Result<Self> {
        let mut links = Vec::with_capacity(SERVERS_MAX);
        links.resize_with(SERVERS_MAX, || None);
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            options,
            links,
            used: Vec::with_capacity(SERVERS_MAX),
            events: Vec::with_capacity(EVENTS_MAX),
            orphans: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            scanned: MonotonicTime::ZERO,
            armed: false,
        })
    }

    /// Traffic and the last trouble of a link; `None` for a server that is not used.
    #[must_use]
    pub fn link_stats(&self, server: ServerIndex) -> Option<LinkStats> {
        let link = self.links.get(server.as_usize())?.as_deref()?;
        Some(link.stats())
    }

    /// Whether a poll would find nothing: there is no link.
    pub(super) fn is_idle(&self) -> bool {
        self.used.is_empty() && self.orphans.is_empty()
    }

    fn link_mut(&mut self, server: ServerIndex) -> Option<&mut Link> {
        self.links.get_mut(server.as_usize())?.as_deref_mut()
    }

    /// Reads each busy link's socket without asking epoll.
    fn read_busy(&mut self, step: &mut Step<'_>) {
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut()
                && link.is_busy()
            {
                link.read(step);
            }
        }
    }

    /// Asks epoll, without waiting, and serves the links that it names.
    fn scan(&mut self, step: &mut Step<'_>) {
        self.scanned = step.now;
        self.armed = false;
        self.events.clear();
        let no_time = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let events = spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, events, Some(&no_time)).is_err() {
            // Interrupted: the next poll asks again.
            return;
        }
        let context = Context {
            epoll: self.epoll.as_fd(),
            options: &self.options,
        };
        for event in &self.events {
            let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if let Some(link) = self.links.get_mut(index).and_then(Option::as_deref_mut) {
                link.ready(event.flags, context, step);
            }
        }
    }

    /// Sends, reconnects, pings, gives up, and tells of what ended: every link, after its socket
    /// was read, so that a deadline is judged on what has arrived.
    fn settle(&mut self, step: &mut Step<'_>) {
        let mut removed = false;
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                link.settle(self.epoll.as_fd(), step);
                removed |= link.is_removed();
            }
        }
        if removed {
            self.forget_removed();
        }
    }

    fn forget_removed(&mut self) {
        let links = &mut self.links;
        self.used.retain(|server| {
            let link = &mut links[server.as_usize()];
            let removed = link.as_deref().is_some_and(Link::is_removed);
            if removed {
                *link = None;
            }
            !removed
        });
    }
}

impl Transport for TcpTransport {
    fn set_server(&mut self, server: ServerIndex, address: Option<SocketAddr>) {
        let Some(place) = self.links.get_mut(server.as_usize()) else {
            return;
        };
        match (place.as_deref_mut(), address) {
            (Some(link), address) => link.set_address(address),
            (None, Some(address)) => {
                *place = Some(Box::new(Link::new(server, address)));
                self.used.push(server);
            }
            (None, None) => {}
        }
    }

    fn post(
        &mut self,
        operation: &Operation,
        _buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> bool {
        if let Some(link) = self.link_mut(operation.server) {
            return link.post(operation, now);
        }
        let room = self.orphans.len() < LINK_OPERATIONS_MAX;
        if room {
            self.orphans.push_back(operation.id);
        }
        room
    }

    fn flush(&mut self, buffers: &mut dyn Buffers, _now: MonotonicTime) {
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                link.send(self.epoll.as_fd(), buffers);
            }
        }
    }

    fn poll(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) -> usize {
        let mut count = 0;
        let mut counting = |event| {
            count += 1;
            sink(event);
        };
        while let Some(id) = self.orphans.pop_front() {
            counting(TransportEvent::Completed(id, Err(OperationError::LinkDown)));
        }
        let mut step = Step {
            buffers,
            now,
            sink: &mut counting,
        };
        let links = self.used.iter();
        let links = links.filter_map(|server| self.links[server.as_usize()].as_deref());
        let (busy, blocked) = links.fold((0, false), |(busy, blocked), link| {
            (
                busy + usize::from(link.is_busy()),
                blocked || link.is_blocked(),
            )
        });
        let direct = (1..=DIRECT_LINKS_MAX).contains(&busy) && !blocked && !self.armed;
        if direct && now < self.scanned.after(SCAN_EVERY) {
            self.read_busy(&mut step);
        } else {
            self.scan(&mut step);
        }
        self.settle(&mut step);
        count
    }

    fn reset(&mut self, server: ServerIndex, now: MonotonicTime) {
        if let Some(link) = self.link_mut(server) {
            link.reset(now);
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn arm(&mut self) -> bool {
        self.armed = true;
        let links = self.used.iter();
        let mut links = links.filter_map(|server| self.links[server.as_usize()].as_deref());
        !self.orphans.is_empty() || links.any(Link::has_news)
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        let links = self.used.iter();
        let links = links.filter_map(|server| self.links[server.as_usize()].as_deref());
        links.filter_map(Link::deadline).min()
    }
}
