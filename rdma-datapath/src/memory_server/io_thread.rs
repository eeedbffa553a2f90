//! The I/O thread: epoll over all connections, spinning a short time before it sleeps.
//!
//! Owns the slot table, the slots and the connections, and shares no lock with anybody: commands
//! come through the mailbox, results go out as snapshots.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use dynamicswap_engine::slots::{
    ConnectionIndex, Hello, MemoryServerCore, SessionEffect, SlotEffect,
};
use dynamicswap_engine::wire::{
    Accepted, HANDSHAKE_BYTES, Refusal, WireError, decode_hello, decode_rdma_hello,
    encode_accepted, encode_refusal,
};
use dynamicswap_types::{MonotonicTime, SlotIndex};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, acceptfrom_with, send, sockopt};

use super::connection::{Connection, Progress, Service};
use super::mailbox::{Command, Mailbox};
use super::memory_file::Records;
use super::rdma::{self, RdmaEvent, RdmaServer, Request};
use super::shared::{CloseReason, ServerEvent, Shared, Snapshot};
use super::zeroing::Work;
use crate::daemon::clock::monotonic_now;
use crate::daemon::mapped_file::MappedBytes;
use crate::daemon::spin::AdaptiveSpin;

/// Places beyond the limit, in which a borrower can at least be told that there is no room.
pub(super) const SPARE_PLACES: u16 = 4;
/// Events taken at once.
const EVENTS_MAX: usize = 64;
/// How often late connections are looked for.
const TICK: Duration = Duration::from_millis(500);
/// Connections taken in one round.
const ACCEPTS_MAX: usize = 16;
/// Unacknowledged answers for this long mean that the borrower's node is gone.
const USER_TIMEOUT_MS: u32 = 10_000;

const LISTENER: u64 = u64::MAX;
const MAILBOX: u64 = u64::MAX - 1;

/// What the thread is made of.
pub(super) struct IoThread {
    // Before the slots: its regions end first.
    pub(super) rdma: Option<RdmaServer>,
    pub(super) core: MemoryServerCore,
    pub(super) records: Records,
    pub(super) slots: MappedBytes,
    pub(super) listener: TcpListener,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) zeroing: Sender<Work>,
    pub(super) spin: AdaptiveSpin,
    pub(super) connections: Vec<Connection>,
    pub(super) sessions_max: usize,
}

/// The connection table for `sessions_max` borrowers.
pub(super) fn connections(sessions_max: u16) -> Vec<Connection> {
    (0..sessions_max + SPARE_PLACES)
        .map(|place| Connection::new(ConnectionIndex::new(place)))
        .collect()
}

impl IoThread {
    /// Serves until told to stop.
    ///
    /// # Errors
    /// The host's, if epoll fails.
    pub(super) fn run(mut self) -> Result<(), Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let input = EventFlags::IN;
        epoll::add(&epoll, &self.listener, EventData::new_u64(LISTENER), input)?;
        epoll::add(
            &epoll,
            self.mailbox.as_fd(),
            EventData::new_u64(MAILBOX),
            input,
        )?;
        if let Some(rdma) = &self.rdma {
            rdma.watch(&epoll)?;
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut last_tick = monotonic_now();
        self.spin.found(last_tick);
        loop {
            let rdma = self.rdma.as_mut();
            let worked = rdma.is_some_and(|rdma| rdma.work(monotonic_now()));
            let found = wait(&epoll, &mut events, self.spin.is_asleep() && !worked)? || worked;
            let now = monotonic_now();
            if found {
                self.spin.found(now);
                for event in &events {
                    if !self.handle(&epoll, event, now) {
                        return Ok(());
                    }
                }
                self.count_refusals();
            } else {
                // Never sched_yield here: on a busy machine it gives the whole slice away, and the
                // next request waits 16 ms (p99, measured). The spin is short; then it sleeps.
                self.spin.found_nothing(now);
            }
            if now.since(last_tick) >= TICK {
                last_tick = now;
                self.close_late(now);
            }
        }
    }

    /// One event; false to stop.
    fn handle(&mut self, epoll: &OwnedFd, event: &epoll::Event, now: MonotonicTime) -> bool {
        match event.data.u64() {
            LISTENER => self.accept_all(epoll, now),
            MAILBOX => return self.take_commands(),
            rdma::TOKEN => self.rdma_events(),
            index => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                self.serve(epoll, index, now);
            }
        }
        true
    }

    fn serve(&mut self, epoll: &OwnedFd, index: usize, now: MonotonicTime) {
        let mut service = Service {
            core: &mut self.core,
            slots: self.slots.as_mut_slice(),
            counters: &self.shared.counters,
            now,
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.serve(&mut service) {
            Ok(Progress::Waiting) => update_interest(epoll, connection, index),
            Ok(Progress::Hello) => {
                self.greet(index);
                if self.connections[index].hello.is_some() {
                    // Requests may stand behind the hello.
                    self.serve(epoll, index, now);
                }
            }
            Ok(Progress::Malformed(error)) => {
                self.tell_malformed(index, error);
                self.close(index, CloseReason::Malformed);
            }
            Err(reason) => self.close(index, reason),
        }
    }

    /// Answers a handshake: older sessions are closed and the epoch is recorded before the yes.
    fn greet(&mut self, index: usize) {
        let Some(bytes) = self.connections[index].take_hello() else {
            return;
        };
        let peer = self.connections[index].peer;
        let (hello, version) = match decode_hello(&bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.tell_malformed(index, error);
                return self.refuse(index, error.into());
            }
        };
        let place = self.connections[index].index;
        if let Err(refusal) = self.open_session(place, hello, peer) {
            return self.refuse(index, refusal);
        }
        self.connections[index].hello = Some(hello);
        self.tell_opened(hello, peer);
        let accepted = self.accepted(version);
        if !self.reply(index, &encode_accepted(&accepted)) {
            self.close(index, CloseReason::ByPeer);
        }
    }

    /// Decides about a handshake: a yes closes every older session, and records the epoch, before
    /// it is told.
    fn open_session(
        &mut self,
        place: ConnectionIndex,
        hello: Hello,
        peer: SocketAddr,
    ) -> Result<(), Refusal> {
        // A session that this one closes takes no place from it.
        let stays = |open: &Hello| {
            let superseded = open.epoch < hello.epoch || open.queue == hello.queue;
            open.device != hello.device || !superseded
        };
        let open = self.connections.iter();
        let open = open.filter(|c| c.hello.as_ref().is_some_and(stays)).count();
        let by_rdma = self.rdma.as_ref().map(|rdma| rdma.hellos().filter(stays));
        let open = open + by_rdma.map_or(0, Iterator::count);
        if open >= self.sessions_max {
            self.shared.tell(ServerEvent::TooManyConnections { peer });
            return Err(Refusal::Busy);
        }
        let mut effects = Vec::new();
        if let Err(refusal) = self.core.open(place, hello, &mut effects) {
            self.shared
                .tell(ServerEvent::SessionRefused { peer, refusal });
            return Err(refusal.into());
        }
        for effect in effects {
            match effect {
                SessionEffect::Close(older) => {
                    self.close_socket(older.as_usize(), CloseReason::Superseded);
                }
                SessionEffect::RecordEpoch(known) => self.records.record_epoch(known),
            }
        }
        Ok(())
    }

    fn accepted(&self, version: u16) -> Accepted {
        let geometry = self.core.geometry();
        Accepted {
            version,
            incarnation: self.core.incarnation(),
            slot_size: geometry.slot_size,
            slots: geometry.slots,
        }
    }

    fn tell_opened(&self, hello: Hello, peer: SocketAddr) {
        let (device, epoch) = (hello.device, hello.epoch);
        self.shared.tell(ServerEvent::SessionOpened {
            peer,
            device,
            epoch,
        });
        self.shared
            .counters
            .connections
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Connections, handshakes and broken sessions of the RDMA half.
    fn rdma_events(&mut self) {
        while let Some(event) = self.rdma.as_mut().and_then(RdmaServer::next_event) {
            match event {
                RdmaEvent::Requested(request) => self.rdma_greet(*request),
                RdmaEvent::Ended(index, reason) => {
                    if reason == CloseReason::ForeignKey {
                        let refused = &self.shared.counters.refused_key;
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    self.close(index.as_usize(), reason);
                }
            }
        }
    }

    /// As [`Self::greet`], for a handshake that came with a connection's request.
    fn rdma_greet(&mut self, request: Request) {
        let peer = request.connection.peer();
        let (hello, version) = match decode_rdma_hello(request.data.as_slice()) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.malformed(peer, error);
                return RdmaServer::refuse(request, error.into());
            }
        };
        let Some(place) = self.rdma.as_ref().and_then(RdmaServer::free) else {
            self.shared.tell(ServerEvent::TooManyConnections { peer });
            return RdmaServer::refuse(request, Refusal::Busy);
        };
        if let Err(refusal) = self.open_session(place, hello, peer) {
            return RdmaServer::refuse(request, refusal);
        }
        let accepted = self.accepted(version);
        let Some(rdma) = self.rdma.as_mut() else {
            return;
        };
        let session = (place, hello);
        match rdma.accept(session, request, &accepted, self.core.grants()) {
            Ok(()) => self.tell_opened(hello, peer),
            Err(error) => {
                tracing::warn!("an RDMA session from {peer} could not be made: {error}");
                self.core.close(place);
            }
        }
    }

    /// Sends a handshake's answer. The socket is fresh: it takes all of it, or is broken.
    fn reply(&self, index: usize, bytes: &[u8; HANDSHAKE_BYTES]) -> bool {
        let Some(socket) = self.connections[index].socket() else {
            return false;
        };
        send(socket, bytes, SendFlags::NOSIGNAL) == Ok(bytes.len())
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        self.reply(index, &encode_refusal(refusal));
        self.close(index, CloseReason::ByPeer);
    }

    fn tell_malformed(&self, index: usize, error: WireError) {
        self.malformed(self.connections[index].peer, error);
    }

    fn malformed(&self, peer: SocketAddr, error: WireError) {
        self.shared.tell(ServerEvent::Malformed { peer, error });
        self.shared
            .counters
            .refused_malformed
            .fetch_add(1, Ordering::Relaxed);
    }

    fn close(&mut self, index: usize, reason: CloseReason) {
        self.core.close(ConnectionIndex::new(
            u16::try_from(index).unwrap_or(u16::MAX),
        ));
        self.close_socket(index, reason);
    }

    /// Closes a connection of which the core knows already. Afterwards nothing of it reaches a
    /// slot.
    fn close_socket(&mut self, index: usize, reason: CloseReason) {
        let ended = match self.connections.get_mut(index) {
            Some(connection) => connection.close().map(|hello| (hello, connection.peer)),
            None => self.rdma.as_mut().and_then(|rdma| rdma.close(index)),
        };
        if let Some((hello, peer)) = ended {
            self.shared
                .counters
                .connections
                .fetch_sub(1, Ordering::Relaxed);
            self.shared.tell(ServerEvent::SessionClosed {
                peer,
                device: hello.device,
                reason,
            });
        }
    }

    fn close_late(&mut self, now: MonotonicTime) {
        let ended = self.rdma.as_mut().map(|rdma| rdma.tick(now));
        for (index, reason) in ended.unwrap_or_default() {
            self.close(index.as_usize(), reason);
        }
        for index in 0..self.connections.len() {
            if self.connections[index].is_late(now) {
                self.close(index, CloseReason::Idle);
            }
        }
    }

    fn accept_all(&mut self, epoll: &OwnedFd, now: MonotonicTime) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for _ in 0..ACCEPTS_MAX {
            let Ok((socket, address)) = acceptfrom_with(&self.listener, flags) else {
                return;
            };
            let peer = address.and_then(|address| address.try_into().ok());
            let free = self.connections.iter().position(|c| !c.is_open());
            // Without a place or an address the socket closes right here.
            let (Some(index), Some(peer)) = (free, peer) else {
                continue;
            };
            let prepared = sockopt::set_tcp_nodelay(&socket, true)
                .and_then(|()| sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS))
                .and_then(|()| {
                    let token = u64::try_from(index).unwrap_or(MAILBOX);
                    epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)
                });
            if prepared.is_ok() {
                self.connections[index].accept(socket, peer, now);
            }
        }
    }

    /// Carries out commands; false to stop.
    fn take_commands(&mut self) -> bool {
        self.mailbox.clear();
        while let Some(command) = self.mailbox.take() {
            let mut effects = Vec::new();
            match command {
                Command::Stop => return false,
                Command::Apply(document, answer) => {
                    let applied = self.core.apply(&document, &mut effects);
                    self.carry_out(effects);
                    self.shared.publish(Snapshot::of(&self.core));
                    // The asker may have given up.
                    let _ = answer.try_send(applied);
                }
                Command::Hold(slots_max) => {
                    self.core.hold(slots_max, &mut effects);
                    self.carry_out(effects);
                    self.shared.publish(Snapshot::of(&self.core));
                }
                Command::Zeroed(slot) => {
                    self.core.zeroed(slot, &mut effects);
                    self.carry_out(effects);
                    self.shared.publish(Snapshot::of(&self.core));
                }
            }
        }
        true
    }

    /// Does what the slot table wants, then tells the RDMA sessions of it.
    fn carry_out(&mut self, effects: Vec<SlotEffect>) {
        // Before the records: a slot that is recorded as one to be zeroed is in no device's reach,
        // also for a process that starts after this one was killed in between.
        for effect in &effects {
            if let SlotEffect::Zero(slot) = effect {
                self.revoke(*slot);
            }
        }
        for effect in effects {
            match effect {
                SlotEffect::Record(slot, record) => self.records.record_slot(slot, record),
                SlotEffect::Generation(generation) => self.records.record_generation(generation),
                // Fails only while the process ends; the record says "dirty", so the next does it.
                SlotEffect::Zero(slot) => {
                    let _ = self.zeroing.send(Work::Zero(slot));
                }
                SlotEffect::GiveBack(slot) => {
                    let _ = self.zeroing.send(Work::GiveBack(slot));
                }
            }
        }
        if let Some(rdma) = &mut self.rdma {
            let grants: Vec<_> = self.core.grants().collect();
            rdma.refresh(grants.into_iter());
        }
    }

    /// Takes a slot out of every device's reach: its keys end, or else the queue pairs that have
    /// them. Only then may it be zeroed.
    fn revoke(&mut self, slot: SlotIndex) {
        let stubborn = self.rdma.as_mut().map(|rdma| rdma.revoke(slot));
        for index in stubborn.unwrap_or_default() {
            self.close(index.as_usize(), CloseReason::SlotTakenBack);
        }
    }

    fn count_refusals(&self) {
        let (counters, refused) = (&self.shared.counters, self.core.counters());
        counters
            .refused_epoch
            .store(refused.refused_epoch, Ordering::Relaxed);
        counters
            .refused_owner
            .store(refused.refused_owner, Ordering::Relaxed);
    }
}

/// Asks epoll; sleeps at most a tick if `asleep`. Tells whether there is anything.
fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, asleep: bool) -> Result<bool, Errno> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: if asleep { 500_000_000 } else { 0 },
    };
    events.clear();
    match epoll::wait(epoll, spare_capacity(events), Some(&timeout)) {
        Ok(_) => Ok(!events.is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn update_interest(epoll: &OwnedFd, connection: &mut Connection, index: usize) {
    let wanted = connection.wanted();
    if wanted == connection.interest {
        return;
    }
    if let Some(socket) = connection.socket() {
        let token = u64::try_from(index).unwrap_or(MAILBOX);
        // Cannot fail for a socket that epoll knows; if it did, the borrower finds out and
        // connects again.
        let _ = epoll::modify(epoll, socket, EventData::new_u64(token), wanted);
    }
    connection.interest = wanted;
}
