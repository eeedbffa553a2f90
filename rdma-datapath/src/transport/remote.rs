//! The way to each memory server: RDMA where it offers that and this host has it, else TCP.
//!
//! Owns one transport of each kind and the choice between them, with its reason. A server whose
//! RDMA side cannot be reached is served over TCP meanwhile; which way is in use, and why, is in
//! every link event and in the report, so that it is never a silent one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::SERVERS_MAX;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::Operation;
use dynamicswap_types::{MonotonicTime, ServerIndex};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::rdma::RdmaTransport;
use super::tcp::TcpTransport;
use super::{LinkError, Transport, TransportEvent};

/// A server that does not come up by RDMA for this time is tried over TCP: longer than a memory
/// server takes to be started again, so that its restart does not cost its borrowers the faster
/// way. What this host lacks is known at once.
const RDMA_PATIENCE: Duration = Duration::from_secs(3);
/// The same for a server whose RDMA side was not reached the time before.
const RDMA_PATIENCE_AGAIN: Duration = Duration::from_millis(500);
/// A server that does not come up over TCP either for this time is tried by RDMA again.
const TCP_PATIENCE: Duration = Duration::from_secs(3);

/// Where a memory server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its TCP side.
    pub tcp: SocketAddr,
    /// Its RDMA side, if it has one.
    pub rdma: Option<SocketAddr>,
}

/// Which way is in use, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// RDMA: the server offers it and this host has it.
    Rdma,
    /// TCP: the server offers no RDMA.
    TcpOnlyOffered,
    /// TCP: this host has no RDMA.
    TcpOnlyHere,
    /// TCP: the server's RDMA side could not be reached.
    TcpInstead(LinkError),
}

impl Way {
    /// `rdma` or `tcp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::TcpOnlyOffered | Self::TcpOnlyHere | Self::TcpInstead(_) => "tcp",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rdma => f.write_str("the server offers RDMA and this host has it"),
            Self::TcpOnlyOffered => f.write_str("the server offers no RDMA"),
            Self::TcpOnlyHere => f.write_str("the server offers RDMA, this host has none"),
            Self::TcpInstead(error) => write!(f, "RDMA does not reach the server: {error}"),
        }
    }
}

/// What is known of a server.
#[derive(Debug, Clone, Copy)]
struct Place {
    endpoint: Endpoint,
    way: Way,
    is_up: bool,
    /// Its RDMA side was not reached the last time.
    missed: bool,
    /// It was up this way, and fell.
    fell: bool,
    /// Of the last change of way or link.
    since: MonotonicTime,
}

/// The transport.
pub struct RemoteTransport {
    tcp: TcpTransport,
    rdma: Option<RdmaTransport>,
    places: Vec<Option<Place>>,
    epoll: OwnedFd,
    /// Some server is not up that could be reached another way.
    watchful: bool,
    /// Of the last poll.
    now: MonotonicTime,
}

impl RemoteTransport {
    /// Of the two; `rdma` is `None` on a host that has none.
    ///
    /// # Errors
    /// The host's, if it gives no epoll descriptor.
    pub fn new(tcp: TcpTransport, rdma: Option<RdmaTransport>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let inner = [tcp.event_fd(), rdma.as_ref().and_then(Transport::event_fd)];
        for fd in inner.into_iter().flatten() {
            epoll::add(&epoll, fd, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Self {
            tcp,
            rdma,
            places: vec![None; SERVERS_MAX],
            epoll,
            watchful: false,
            now: MonotonicTime::ZERO,
        })
    }

    /// Why the link to a server last went down, or cannot come up.
    #[must_use]
    pub fn last_error(&self, server: ServerIndex) -> Option<LinkError> {
        match self.way(server)? {
            Way::Rdma => self.rdma.as_ref()?.last_error(server),
            _ => self.tcp.link_stats(server)?.last_error,
        }
    }

    /// The way to a server; `None` for one that is not used.
    #[must_use]
    pub fn way(&self, server: ServerIndex) -> Option<Way> {
        let place = self.places.get(server.as_usize()).copied().flatten();
        place.map(|place| place.way)
    }

    /// As [`Transport::set_server`], for a server that may have an RDMA side.
    pub fn set_endpoint(&mut self, server: ServerIndex, endpoint: Option<Endpoint>) {
        let known = self.places.get(server.as_usize()).copied().flatten();
        if known.map(|place| place.endpoint) == endpoint {
            return;
        }
        let Some(endpoint) = endpoint else {
            if let Some(place) = self.places.get_mut(server.as_usize()) {
                *place = None;
            }
            self.tcp.set_server(server, None);
            if let Some(rdma) = &mut self.rdma {
                rdma.set_server(server, None);
            }
            return;
        };
        let way = match (endpoint.rdma, &self.rdma) {
            (None, _) => Way::TcpOnlyOffered,
            (Some(_), None) => Way::TcpOnlyHere,
            (Some(_), Some(_)) => Way::Rdma,
        };
        self.go(server, endpoint, way);
    }

    fn go(&mut self, server: ServerIndex, endpoint: Endpoint, way: Way) {
        let by_rdma = endpoint.rdma.filter(|_| way == Way::Rdma);
        let by_tcp = by_rdma.is_none().then_some(endpoint.tcp);
        self.tcp.set_server(server, by_tcp);
        if let Some(rdma) = &mut self.rdma {
            rdma.set_server(server, by_rdma);
        }
        self.watchful = true;
        if let Some(place) = self.places.get_mut(server.as_usize()) {
            *place = Some(Place {
                endpoint,
                way,
                is_up: false,
                missed: matches!(way, Way::TcpInstead(_)) || place.is_some_and(|it| it.missed),
                fell: false,
                since: self.now,
            });
        }
    }

    /// Sends those servers the other way that should go it.
    fn choose(&mut self) {
        self.watchful = false;
        if self.rdma.is_none() {
            return;
        }
        for index in (0..).take(SERVERS_MAX) {
            let server = ServerIndex::new(index);
            let Some(place) = self.places[server.as_usize()] else {
                continue;
            };
            self.watchful |= !place.is_up;
            let rdma = self.rdma.as_ref();
            let error = rdma.and_then(|rdma| rdma.last_error(server));
            if let Some(way) = other_way(&place, self.now, error) {
                self.go(server, place.endpoint, way);
            }
        }
    }
}

/// The way that a server should be reached from now on, if it is another one. `error` is what the
/// RDMA link to it last failed with.
fn other_way(place: &Place, now: MonotonicTime, error: Option<LinkError>) -> Option<Way> {
    if place.is_up {
        return None;
    }
    let waited = now.since(place.since);
    match place.way {
        Way::Rdma => {
            let error = error?;
            let hopeless = matches!(error, LinkError::NoDevice | LinkError::Verbs { .. });
            let patience = if place.missed {
                RDMA_PATIENCE_AGAIN
            } else {
                RDMA_PATIENCE
            };
            (hopeless || waited >= patience).then_some(Way::TcpInstead(error))
        }
        // A working link is never given up for a faster way; one that fell may come up by it.
        Way::TcpInstead(_) if place.fell || waited >= TCP_PATIENCE => Some(Way::Rdma),
        Way::TcpInstead(_) | Way::TcpOnlyOffered | Way::TcpOnlyHere => None,
    }
}

impl Transport for RemoteTransport {
    fn register(&mut self, pool: &mut [u8]) -> io::Result<()> {
        if let Some(rdma) = &mut self.rdma
            && let Err(error) = rdma.register(pool)
        {
            tracing::warn!("no RDMA, TCP only: the buffers cannot be registered: {error}");
            self.rdma = None;
        }
        Ok(())
    }

    fn set_server(&mut self, server: ServerIndex, address: Option<SocketAddr>) {
        let endpoint = address.map(|tcp| Endpoint { tcp, rdma: None });
        self.set_endpoint(server, endpoint);
    }

    fn post(
        &mut self,
        operation: &Operation,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> bool {
        match (self.way(operation.server), &mut self.rdma) {
            (Some(Way::Rdma), Some(rdma)) => rdma.post(operation, buffers, now),
            _ => self.tcp.post(operation, buffers, now),
        }
    }

    fn flush(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        self.tcp.flush(buffers, now);
        if let Some(rdma) = &mut self.rdma {
            rdma.flush(buffers, now);
        }
    }

    fn poll(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) -> usize {
        self.now = now;
        let places = &mut self.places;
        let mut changed = false;
        // A link that is given up for the other way still tells of its end: only its operations
        // are passed on, and its fall, which the other way's rise follows.
        let mut noting = |event| {
            if let TransportEvent::Link(server, link) = event
                && let Some(Some(place)) = places.get_mut(server.as_usize())
            {
                let was_up = place.is_up;
                place.is_up = matches!(link, Link::Up { .. });
                place.missed &= !(place.is_up && place.way == Way::Rdma);
                place.fell = was_up && !place.is_up;
                place.since = now;
                changed = true;
            }
            sink(event);
        };
        // Without a link its poll is a system call for nothing.
        let mut count = if self.tcp.is_idle() {
            0
        } else {
            self.tcp.poll(buffers, now, &mut noting)
        };
        if let Some(rdma) = &mut self.rdma {
            count += rdma.poll(buffers, now, &mut noting);
        }
        if changed || self.watchful {
            self.choose();
        }
        count
    }

    fn reset(&mut self, server: ServerIndex, now: MonotonicTime) {
        match (self.way(server), &mut self.rdma) {
            (Some(Way::Rdma), Some(rdma)) => rdma.reset(server, now),
            _ => self.tcp.reset(server, now),
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn arm(&mut self) -> bool {
        let by_tcp = self.tcp.arm();
        let by_rdma = self.rdma.as_mut().is_some_and(Transport::arm);
        by_tcp || by_rdma
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        let rdma = self.rdma.as_ref().and_then(Transport::next_deadline);
        let deadlines = [self.tcp.next_deadline(), rdma];
        deadlines.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: MonotonicTime = MonotonicTime::ZERO;
    const CLOSED: Option<LinkError> = Some(LinkError::Closed);

    fn place(way: Way, is_up: bool) -> Place {
        let tcp = SocketAddr::from(([10, 0, 0, 1], 7000));
        let rdma = Some(tcp);
        Place {
            endpoint: Endpoint { tcp, rdma },
            way,
            is_up,
            missed: false,
            fell: false,
            since: SOON,
        }
    }

    #[test]
    fn server_that_is_started_again_keeps_its_rdma() {
        let down = place(Way::Rdma, false);
        let late = SOON.after(RDMA_PATIENCE);
        assert_eq!(
            other_way(&down, SOON.after(RDMA_PATIENCE / 2), CLOSED),
            None
        );
        let instead = Way::TcpInstead(LinkError::Closed);
        assert_eq!(other_way(&down, late, CLOSED), Some(instead));
        assert_eq!(other_way(&down, late, None), None, "nothing has failed yet");
        assert_eq!(other_way(&place(Way::Rdma, true), late, CLOSED), None);
    }

    #[test]
    fn rdma_is_tried_again_shortly_when_tcp_falls() {
        let instead = Way::TcpInstead(LinkError::NotListening);
        let mut fallen = place(instead, false);
        assert_eq!(other_way(&fallen, SOON, CLOSED), None, "it was not up yet");
        fallen.fell = true;
        assert_eq!(other_way(&fallen, SOON, CLOSED), Some(Way::Rdma));
        let mut again = place(Way::Rdma, false);
        again.missed = true;
        let late = SOON.after(RDMA_PATIENCE_AGAIN);
        assert_eq!(other_way(&again, SOON, CLOSED), None);
        let way = other_way(&again, late, CLOSED);
        assert_eq!(way, Some(Way::TcpInstead(LinkError::Closed)));
    }

    #[test]
    fn what_this_host_lacks_is_not_waited_for() {
        let down = place(Way::Rdma, false);
        let way = other_way(&down, SOON, Some(LinkError::NoDevice));
        assert_eq!(way, Some(Way::TcpInstead(LinkError::NoDevice)));
    }

    #[test]
    fn rdma_is_tried_again_where_tcp_does_not_help() {
        let late = SOON.after(TCP_PATIENCE);
        let instead = Way::TcpInstead(LinkError::Closed);
        assert_eq!(other_way(&place(instead, true), late, CLOSED), None);
        assert_eq!(
            other_way(&place(instead, false), late, CLOSED),
            Some(Way::Rdma)
        );
        for only in [Way::TcpOnlyOffered, Way::TcpOnlyHere] {
            assert_eq!(other_way(&place(only, false), late, CLOSED), None);
        }
    }

    #[test]
    fn every_way_gives_its_reason() {
        let ways = [
            (Way::Rdma, "rdma"),
            (Way::TcpOnlyOffered, "tcp"),
            (Way::TcpOnlyHere, "tcp"),
            (Way::TcpInstead(LinkError::NotListening), "tcp"),
        ];
        for (way, name) in ways {
            assert_eq!(way.name(), name);
            assert!(way.to_string().contains("RDMA"), "{way}");
        }
    }
}
