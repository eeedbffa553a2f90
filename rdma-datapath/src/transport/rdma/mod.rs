//! The `rdma` transport: one queue pair per memory server and queue, one-sided operations.
//!
//! Owns the host's RDMA devices as this process uses them, the registered pool and the links. A
//! READ or WRITE goes from the pool into the server's slot, or back, without the server's
//! processor; the slot's key comes out of the server's directory, which is read the same way.
//! A queue pair takes its work in order, so writes are posted a little at a time and reads go ahead
//! of those that wait.
//! Links that are busy are polled in user space; an idle engine sleeps on one descriptor.

mod flights;
mod link;
mod outbox;
mod windows;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::{LINK_OPERATIONS_MAX, SERVERS_MAX};
use dynamicswap_engine::operation::{Operation, OperationError, OperationId};
use dynamicswap_engine::slots::Hello;
use dynamicswap_types::{MonotonicTime, ServerIndex, SlabSize};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{LinkError, Transport, TransportEvent};
use crate::verbs::{
    Access, CompletionChannel, Device, EventChannel, MemoryRegion, ProtectionDomain, Verbs,
    VerbsError,
};
use link::Link;

/// Events of connections are looked for this often while nothing sleeps: each look is a system
/// call, completions need none.
const SCAN_EVERY: Duration = Duration::from_millis(1);
/// Events of connections taken in one poll.
const EVENTS_MAX: usize = 64;

/// What every link needs to know.
#[derive(Debug, Clone, Copy)]
pub struct RdmaOptions {
    /// How this process presents itself: device, epoch, session, queue.
    pub hello: Hello,
    /// Size of a slab: a server with slots of another size is refused.
    pub slot_size: SlabSize,
}

/// A device of the host as this transport uses it.
struct Port {
    device: Device,
    domain: ProtectionDomain,
    channel: CompletionChannel,
    pool: Option<MemoryRegion>,
}

/// What links share.
struct Fabric {
    verbs: &'static Verbs,
    options: RdmaOptions,
    events: EventChannel,
    ports: Vec<Port>,
    /// Address of the pool's first byte.
    pool: u64,
}

impl Fabric {
    fn port(&self, device: Device) -> Option<&Port> {
        self.ports.iter().find(|port| port.device == device)
    }
}

/// What a step on a link works with.
struct Step<'a> {
    fabric: &'a Fabric,
    now: MonotonicTime,
    sink: &'a mut dyn FnMut(TransportEvent),
}

/// The transport.
pub struct RdmaTransport {
    // Before the fabric: queue pairs end before the regions that they use.
    links: Vec<Option<Box<Link>>>,
    fabric: Fabric,
    epoll: OwnedFd,
    /// Servers with a link.
    used: Vec<ServerIndex>,
    /// Operations for servers without a link, to be completed by the next poll.
    orphans: VecDeque<OperationId>,
    scanned: MonotonicTime,
    armed: bool,
}

impl RdmaTransport {
    /// A transport without any server yet.
    ///
    /// # Errors
    /// [`VerbsError`]: this host has no RDMA, and why.
    pub fn new(options: RdmaOptions) -> Result<Self, VerbsError> {
        let verbs = Verbs::load()?;
        let fabric = Fabric {
            verbs,
            options,
            events: EventChannel::new(verbs)?,
            ports: Device::all(verbs)
                .map(|device| Port::open(verbs, device))
                .collect::<Result<_, _>>()?,
            pool: 0,
        };
        let epoll = watch(&fabric).map_err(|errno| VerbsError::Call {
            call: "epoll",
            errno,
        })?;
        let mut links = Vec::with_capacity(SERVERS_MAX);
        links.resize_with(SERVERS_MAX, || None);
        Ok(Self {
            links,
            fabric,
            epoll,
            used: Vec::with_capacity(SERVERS_MAX),
            orphans: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            scanned: MonotonicTime::ZERO,
            armed: false,
        })
    }

    /// Names of the devices in use.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let names = self.fabric.ports.iter();
        names
            .map(|port| port.device.name(self.fabric.verbs))
            .collect()
    }

    /// Why the link to a server last went down, or cannot come up.
    #[must_use]
    pub fn last_error(&self, server: ServerIndex) -> Option<LinkError> {
        self.links.get(server.as_usize())?.as_deref()?.last_error()
    }

    /// Attempts since the link was last up that have failed one after another.
    #[must_use]
    pub fn failures(&self, server: ServerIndex) -> u32 {
        let link = self.links.get(server.as_usize());
        let link = link.and_then(Option::as_deref);
        link.map_or(0, Link::failures)
    }

    fn link_mut(&mut self, server: ServerIndex) -> Option<&mut Link> {
        self.links.get_mut(server.as_usize())?.as_deref_mut()
    }

    /// Takes what the devices and the connection manager have announced.
    fn scan(links: &mut [Option<Box<Link>>], clear: bool, step: &mut Step<'_>) {
        if clear {
            for port in &step.fabric.ports {
                port.channel.clear();
            }
        }
        for _ in 0..EVENTS_MAX {
            let Some(news) = step.fabric.events.next() else {
                return;
            };
            let mut links = links.iter_mut().filter_map(Option::as_deref_mut);
            if let Some(link) = links.find(|link| link.is_named(news.key)) {
                link.connection_event(&news, step);
            }
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

impl Port {
    fn open(verbs: &'static Verbs, device: Device) -> Result<Self, VerbsError> {
        Ok(Self {
            device,
            domain: ProtectionDomain::new(verbs, device)?,
            channel: CompletionChannel::new(verbs, device)?,
            pool: None,
        })
    }
}

/// One descriptor for everything that may wake the engine.
fn watch(fabric: &Fabric) -> Result<OwnedFd, rustix::io::Errno> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let any = EventData::new_u64(0);
    epoll::add(&epoll, &fabric.events, any, EventFlags::IN)?;
    for port in &fabric.ports {
        epoll::add(&epoll, &port.channel, any, EventFlags::IN)?;
    }
    Ok(epoll)
}

impl Transport for RdmaTransport {
    fn register(&mut self, pool: &mut [u8]) -> io::Result<()> {
        let len = pool.len();
        let memory = NonNull::from(&mut *pool).cast::<u8>();
        self.fabric.pool = memory.as_ptr().addr() as u64;
        for port in &mut self.fabric.ports {
            // SAFETY: by the trait's contract the pool neither moves nor shrinks as long as this
            // transport lives, and a buffer in it belongs to the transport from the post to the
            // completion, which is told only after the device has let go of it.
            let region =
                unsafe { MemoryRegion::register(&port.domain, memory, len, Access::Local) };
            port.pool = Some(region.map_err(|error| match error {
                VerbsError::Call { errno, .. } => io::Error::from(errno),
                other => io::Error::other(other),
            })?);
        }
        Ok(())
    }

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
        let place = self.links.get_mut(operation.server.as_usize());
        if let Some(link) = place.and_then(Option::as_deref_mut) {
            return link.post(operation, &self.fabric, now);
        }
        let room = self.orphans.len() < LINK_OPERATIONS_MAX;
        if room {
            self.orphans.push_back(operation.id);
        }
        room
    }

    fn flush(&mut self, _buffers: &mut dyn Buffers, now: MonotonicTime) {
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                link.send(now);
            }
        }
    }

    fn poll(
        &mut self,
        _buffers: &mut dyn Buffers,
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
            fabric: &self.fabric,
            now,
            sink: &mut counting,
        };
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                link.drain(&mut step);
            }
        }
        if self.armed || now >= self.scanned.after(SCAN_EVERY) {
            Self::scan(&mut self.links, self.armed, &mut step);
            self.scanned = now;
            self.armed = false;
        }
        let mut removed = false;
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                link.settle(&mut step);
                removed |= link.is_removed();
            }
        }
        if removed {
            self.forget_removed();
        }
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
        let mut news = !self.orphans.is_empty();
        for server in &self.used {
            if let Some(link) = self.links[server.as_usize()].as_deref_mut() {
                news |= link.arm();
            }
        }
        news
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        let links = self.used.iter();
        let links = links.filter_map(|server| self.links[server.as_usize()].as_deref());
        links.filter_map(Link::deadline).min()
    }
}
