//! RDMA sessions of the memory server: a protection domain for each, a region for each grant.
//!
//! Owns the listener, the sessions and their keys. The borrower's device reads and writes the
//! slots by itself; this side only hands out keys, and takes them back: before a slot is zeroed,
//! and, by ending the queue pair, before a newer session is accepted. A borrower learns keys from
//! its session's directory, which only its own queue pair can read.

mod session;

use std::net::SocketAddr;
use std::os::fd::AsFd;

use dynamicswap_engine::slots::{ConnectionIndex, Grant, Hello, SlotGeometry};
use dynamicswap_engine::wire::{Accepted, encode_refusal};
use dynamicswap_types::{MonotonicTime, SlotIndex, SwapDeviceId};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::shared::CloseReason;
use crate::daemon::mapped_file::{KeptMapping, MappedBytes};
use crate::verbs::{CmEventKind, Connection, Device, EventChannel, PrivateData, Verbs, VerbsError};
use session::Session;

/// Tokens of the connection manager and of the devices at epoll.
pub(super) const TOKEN: u64 = u64::MAX - 2;

/// A peer that wants to connect.
pub(super) struct Request {
    pub(super) connection: Connection,
    pub(super) data: PrivateData,
}

/// What the I/O thread must do.
pub(super) enum RdmaEvent {
    /// Decide about a handshake.
    Requested(Box<Request>),
    /// Close a session.
    Ended(ConnectionIndex, CloseReason),
}

/// The RDMA half of a memory server.
pub(super) struct RdmaServer {
    verbs: &'static Verbs,
    // Sessions before the listener's channel, regions before the slots that they keep mapped.
    sessions: Vec<Option<Session>>,
    listener: Connection,
    events: EventChannel,
    devices: Vec<Device>,
    /// The connection table's index of the first session.
    first: u16,
    geometry: SlotGeometry,
    slots: KeptMapping,
    /// Where the listener is.
    pub(super) address: SocketAddr,
}

impl RdmaServer {
    /// Listens at `address`, for so many sessions, whose indices begin at `first`.
    ///
    /// # Errors
    /// [`VerbsError`]: the host has no RDMA, or no device with the address.
    pub(super) fn listen(
        address: SocketAddr,
        (first, sessions): (u16, u16),
        geometry: SlotGeometry,
        slots: &MappedBytes,
    ) -> Result<Self, VerbsError> {
        let verbs = Verbs::load()?;
        let events = EventChannel::new(verbs)?;
        let (listener, port) = Connection::listen(&events, address)?;
        let devices: Vec<Device> = Device::all(verbs).collect();
        for device in &devices {
            device
                .make_non_blocking()
                .map_err(|errno| VerbsError::Call {
                    call: "fcntl",
                    errno,
                })?;
        }
        Ok(Self {
            verbs,
            sessions: (0..sessions).map(|_| None).collect(),
            listener,
            events,
            devices,
            first,
            geometry,
            slots: slots.keep(),
            address: SocketAddr::new(address.ip(), port),
        })
    }

    /// Makes epoll tell of everything that happens here.
    pub(super) fn watch(&self, epoll: impl AsFd) -> Result<(), Errno> {
        let token = EventData::new_u64(TOKEN);
        epoll::add(epoll.as_fd(), &self.events, token, EventFlags::IN)?;
        for device in &self.devices {
            epoll::add(epoll.as_fd(), device.async_fd(), token, EventFlags::IN)?;
        }
        Ok(())
    }

    fn index(&self, place: usize) -> ConnectionIndex {
        ConnectionIndex::new(self.first + u16::try_from(place).unwrap_or_default())
    }

    fn place(&self, index: usize) -> Option<usize> {
        let place = index.checked_sub(usize::from(self.first))?;
        (place < self.sessions.len()).then_some(place)
    }

    /// The next thing that has happened.
    pub(super) fn next_event(&mut self) -> Option<RdmaEvent> {
        self.foreign_key().or_else(|| self.connection_event())
    }

    /// A session that used a key which is not its own: its queue pair is broken already.
    fn foreign_key(&self) -> Option<RdmaEvent> {
        for device in &self.devices {
            while let Some(event) = device.next_event(self.verbs) {
                let Some(queue_pair) = event else {
                    continue;
                };
                let place = self.sessions.iter().position(|session| {
                    let own = session.as_ref().and_then(Session::queue_pair);
                    own == Some(queue_pair)
                });
                if let Some(place) = place {
                    return Some(RdmaEvent::Ended(self.index(place), CloseReason::ForeignKey));
                }
            }
        }
        None
    }

    fn connection_event(&mut self) -> Option<RdmaEvent> {
        while let Some(news) = self.events.next() {
            if let Some(connection) = news.request {
                debug_assert_eq!(news.key, self.listener.key());
                let data = news.data;
                let request = Box::new(Request { connection, data });
                return Some(RdmaEvent::Requested(request));
            }
            let place = self.sessions.iter().position(|session| {
                let session = session.as_ref();
                session.is_some_and(|session| session.is_named(news.key))
            });
            let Some(place) = place else {
                continue;
            };
            let reason = match news.kind {
                CmEventKind::Disconnected => self.reason_of_end(place),
                // It waited too long for the answer. Its number is a reason of the protocol, no error.
                CmEventKind::Rejected => CloseReason::ByPeer,
                CmEventKind::Failed => CloseReason::Network(news.errno),
                CmEventKind::Established => {
                    if let Some(session) = &mut self.sessions[place] {
                        session.established();
                    }
                    continue;
                }
                _ => continue,
            };
            return Some(RdmaEvent::Ended(self.index(place), reason));
        }
        None
    }

    /// Why a borrower has ended its connection. Not every device announces a refused key, but all
    /// break the queue pair.
    fn reason_of_end(&self, place: usize) -> CloseReason {
        match &self.sessions[place] {
            Some(session) if session.is_broken() => CloseReason::ForeignKey,
            _ => CloseReason::ByPeer,
        }
    }

    /// A free place for a session.
    pub(super) fn free(&self) -> Option<ConnectionIndex> {
        let place = self.sessions.iter().position(Option::is_none)?;
        Some(self.index(place))
    }

    /// The borrowers of the open sessions.
    pub(super) fn hellos(&self) -> impl Iterator<Item = Hello> + '_ {
        self.sessions.iter().flatten().map(Session::hello)
    }

    /// Says no.
    pub(super) fn refuse(request: Request, refusal: dynamicswap_engine::wire::Refusal) {
        request.connection.reject(&encode_refusal(refusal));
    }

    /// Says yes: the handshake is decided, and every older session is closed.
    ///
    /// # Errors
    /// The device's; the place is free again.
    pub(super) fn accept(
        &mut self,
        (index, hello): (ConnectionIndex, Hello),
        request: Request,
        accepted: &Accepted,
        grants: impl Iterator<Item = Grant>,
    ) -> Result<(), VerbsError> {
        let place = self.place(index.as_usize());
        let place = place.and_then(|place| self.sessions.get_mut(place));
        let Some(place) = place else {
            return Ok(());
        };
        let mut session = Session::new(self.verbs, request.connection, hello, self.geometry)?;
        session.refresh(grants);
        session.accept(accepted)?;
        *place = Some(session);
        Ok(())
    }

    /// Ends a session: its queue pair first, then its keys. Afterwards nothing of it touches any
    /// slot. Gives who it was.
    pub(super) fn close(&mut self, index: usize) -> Option<(Hello, SocketAddr)> {
        let place = self.place(index)?;
        let session = self.sessions.get_mut(place)?.take()?;
        Some((session.hello(), session.peer()))
    }

    /// Takes a slot's keys back, in every session. Afterwards, and not before, the slot may be
    /// zeroed. A session whose key cannot be taken back is named: it must be closed, which ends
    /// its queue pair, before the slot may be.
    pub(super) fn revoke(&mut self, slot: SlotIndex) -> Vec<ConnectionIndex> {
        let stubborn = self.sessions.iter_mut().enumerate();
        let stubborn = stubborn.filter_map(|(place, session)| {
            let ended = session.as_mut()?.revoke(slot);
            ended.is_err().then_some(place)
        });
        let places: Vec<usize> = stubborn.collect();
        places.into_iter().map(|place| self.index(place)).collect()
    }

    /// The grants have changed: the directories of the device's sessions say so at once, and keys
    /// are made by [`Self::work`].
    pub(super) fn refresh(&mut self, grants: impl Iterator<Item = Grant> + Clone) {
        for session in self.sessions.iter_mut().flatten() {
            session.refresh(grants.clone());
        }
    }

    /// Makes one key, of those that are wanted; a key takes long for a large slot, and TCP
    /// borrowers wait meanwhile. Returns whether there was one to make.
    pub(super) fn work(&mut self, now: MonotonicTime) -> bool {
        let mut sessions = self.sessions.iter_mut().flatten();
        let Some(session) = sessions.find(|session| session.wants_keys(now)) else {
            return false;
        };
        if let Err(error) = session.make_key(self.geometry, &self.slots, now) {
            tracing::error!(
                "a slot of device {} stays out of its reach by RDMA: {error}",
                device(session.hello())
            );
        }
        true
    }

    /// Looks at sessions that are silent: gives those that have ended.
    pub(super) fn tick(&mut self, now: MonotonicTime) -> Vec<(ConnectionIndex, CloseReason)> {
        let mut ended = Vec::new();
        for place in 0..self.sessions.len() {
            let session = self.sessions[place].as_mut();
            if let Some(Err(reason)) = session.map(|session| session.tick(now)) {
                ended.push((self.index(place), reason));
            }
        }
        ended
    }
}

const fn device(hello: Hello) -> SwapDeviceId {
    hello.device
}
