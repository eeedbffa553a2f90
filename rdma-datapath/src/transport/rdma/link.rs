//! One link: resolve, connect, handshake, operations, keep-alive, back-off.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_engine::limits::LINK_OPERATIONS_MAX;
use dynamicswap_engine::link::Link as LinkState;
use dynamicswap_engine::operation::{Direction, Operation, OperationError};
use dynamicswap_engine::wire::{
    Directory, ENTRY_BYTES, ENTRY_WORDS, Refusal, VersionRange, decode_rdma_reply,
    encode_rdma_hello,
};
use dynamicswap_types::{Backoff, MonotonicTime, PAGE_SIZE, ServerIndex, SlotIndex};
use rustix::io::Errno;

use super::super::liveness::Liveness;
use super::super::segments::Segment;
use super::super::{LinkError, TransportEvent};
use super::flights::{Flight, Flights, RING};
use super::outbox::{Outbox, SEGMENT_PAGES};
use super::windows::{BUFFER_WORDS, Found, PING_PLACE, WISH_WORDS, Window, Windows};
use super::{Fabric, Step};
use crate::verbs::{
    Batch, CmEventKind, CmKey, CmNews, CompletionQueue, Connection, Posting, SharedWords,
    VerbsError, WorkCompletion,
};

/// Longest time to make a connection, from the address to the handshake. The server may have to
/// end an older session and to make keys before it answers.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// First wait before a new attempt; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Longest wait: a server that comes back is used again within it.
const RETRY_MAX: Duration = Duration::from_millis(320);
/// Completions taken at once.
const COMPLETIONS_MAX: usize = 32;
/// One operation of so many in a batch has a completion of its own, and so has the last: fewer
/// completions to poll, and no operation of a long batch waits long for its end to be told.
const SIGNAL_EVERY: u64 = 4;
/// One that moves as much has its own always: completions are what tells a slow link from a dead one,
/// and what makes room for the next.
const SIGNAL_PAGES: u32 = SEGMENT_PAGES;

/// `IBV_WC_REM_ACCESS_ERR`.
const STATUS_REMOTE_ACCESS: u32 = 10;
/// `IBV_WC_RETRY_EXC_ERR`.
const STATUS_RETRIES: u32 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No connection; waits for the time of the next attempt.
    Waiting { until: MonotonicTime },
    /// Waits for the address, the way and the server's answer, at most until `deadline`.
    Connecting { deadline: MonotonicTime },
    /// Carries operations.
    Up { directory: Directory },
    /// Refused for good; waits for a reset or another address.
    Refused,
}

/// What the engine was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Down,
    Refused,
}

pub(super) struct Link {
    server: ServerIndex,
    /// `None`: remove the link once everything under way is completed.
    address: Option<SocketAddr>,
    state: State,
    told: Told,
    // Before the buffer that its operations read into.
    connection: Option<Connection>,
    buffer: Option<SharedWords>,
    flights: Flights,
    batch: Batch,
    windows: Windows,
    /// Writes that the link has no room for yet; a read goes ahead of them.
    outbox: Outbox,
    /// Operations whose slot's key is not known yet.
    waiting: VecDeque<Operation>,
    /// Completions that arming has found.
    stash: [WorkCompletion; COMPLETIONS_MAX],
    stashed: usize,
    retry: Backoff,
    failures: u32,
    liveness: Liveness,
    /// The engine must hear that the link is not up: at the next poll.
    fell: bool,
    last_error: Option<LinkError>,
    pool_key: u32,
}

impl Link {
    pub(super) fn new(server: ServerIndex, address: SocketAddr) -> Self {
        Self {
            server,
            address: Some(address),
            state: State::Waiting {
                until: MonotonicTime::ZERO,
            },
            told: Told::Nothing,
            connection: None,
            buffer: None,
            flights: Flights::new(),
            batch: Batch::new(RING),
            windows: Windows::new(),
            outbox: Outbox::new(),
            waiting: VecDeque::with_capacity(LINK_OPERATIONS_MAX),
            stash: [WorkCompletion::default(); COMPLETIONS_MAX],
            stashed: 0,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            failures: 0,
            liveness: Liveness::NEW,
            fell: false,
            last_error: None,
            pool_key: 0,
        }
    }

    pub(super) const fn last_error(&self) -> Option<LinkError> {
        self.last_error
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the link may be forgotten.
    pub(super) const fn is_removed(&self) -> bool {
        self.address.is_none() && !self.fell
    }

    pub(super) fn is_named(&self, key: CmKey) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.key() == key)
    }

    pub(super) fn set_address(&mut self, address: Option<SocketAddr>) {
        if self.address == address {
            return;
        }
        self.address = address;
        self.retry.reset();
        self.failures = 0;
        self.last_error = None;
        self.fall(State::Waiting {
            until: MonotonicTime::ZERO,
        });
    }

    /// An operation is overdue. A link that moves is slow and not dead: what is under way would only
    /// have to be sent once more.
    pub(super) fn reset(&mut self, now: MonotonicTime) {
        let is_busy = !self.flights.is_empty() && matches!(self.state, State::Up { .. });
        if is_busy && self.liveness.moves(now) {
            return;
        }
        self.last_error = Some(LinkError::Reset);
        self.fall(State::Waiting {
            until: MonotonicTime::ZERO,
        });
    }

    /// What every way down has in common. The queue pair ends here, before any operation is told
    /// to have ended: afterwards the device touches no buffer.
    fn fall(&mut self, state: State) {
        self.state = state;
        self.connection = None;
        self.buffer = None;
        self.batch.clear();
        self.stashed = 0;
        self.fell = true;
    }

    fn fail(&mut self, error: LinkError, now: MonotonicTime) {
        self.last_error = Some(error);
        self.failures = self.failures.saturating_add(1);
        let pause = self.retry.pause();
        let refused = matches!(
            error,
            LinkError::Refused(Refusal::OldEpoch { .. } | Refusal::EpochTaken)
        );
        self.fall(if refused {
            State::Refused
        } else {
            State::Waiting {
                until: now.after(pause),
            }
        });
    }

    fn fail_call(&mut self, error: &VerbsError, now: MonotonicTime) {
        self.fail(call_error(error), now);
    }

    /// Takes an operation; false if the link has as many as it can.
    pub(super) fn post(
        &mut self,
        operation: &Operation,
        fabric: &Fabric,
        now: MonotonicTime,
    ) -> bool {
        let taken = self.flights.operations() + self.outbox.len() + self.waiting.len();
        if taken >= LINK_OPERATIONS_MAX {
            return false;
        }
        if !matches!(self.state, State::Up { .. }) {
            // The next poll completes it with LinkDown.
            self.waiting.push_back(*operation);
            self.fell = true;
            return true;
        }
        if self.flights.is_empty() {
            self.liveness.begins(now);
        }
        if !self.launch(operation, fabric) {
            self.waiting.push_back(*operation);
            self.look_up(operation.slot);
        }
        true
    }

    /// Puts a read into the batch, or a write into the queue for it, if its slot's key is known.
    fn launch(&mut self, operation: &Operation, fabric: &Fabric) -> bool {
        let Some(window) = self.windows.get(operation.slot, operation.set) else {
            return false;
        };
        let slot_pages = fabric.options.slot_size.pages().get();
        let end = u64::from(operation.page) + u64::from(operation.buffer.pages);
        if end > slot_pages {
            // Left to the settling of what waits, which refuses it.
            return false;
        }
        if operation.direction == Direction::Write {
            self.outbox.push(*operation);
            self.post_segments(fabric);
        } else {
            self.batch_segment(Segment::whole(*operation), window, fabric);
        }
        true
    }

    /// Puts as much of the writes into the batch as the link has room for.
    fn post_segments(&mut self, fabric: &Fabric) {
        while let Some(segment) = self.outbox.next() {
            let Operation { slot, set, .. } = segment.operation;
            let Some(window) = self.windows.get(slot, set) else {
                // Another set's key was read meanwhile. What is posted of it may have faulted; it
                // begins anew.
                self.waiting.extend(self.outbox.take_first());
                self.look_up(slot);
                continue;
            };
            self.batch_segment(segment, window, fabric);
            self.outbox.posted(&segment);
        }
    }

    fn batch_segment(&mut self, segment: Segment, window: Window, fabric: &Fabric) {
        let number = self.flights.push(Flight::Segment(segment));
        let buffer = segment.buffer();
        self.batch.push(Posting {
            id: number,
            read: segment.operation.direction == Direction::Read,
            local: fabric.pool + buffer.byte_offset() as u64,
            len: u32::try_from(buffer.byte_len()).unwrap_or(u32::MAX),
            lkey: self.pool_key,
            remote: window.address + u64::from(segment.page()) * PAGE_SIZE.get(),
            rkey: window.key,
            signalled: number.is_multiple_of(SIGNAL_EVERY) || segment.pages >= SIGNAL_PAGES,
        });
    }

    /// Reads a slot's entry of the directory, unless that is under way or must wait for its turn.
    fn look_up(&mut self, slot: SlotIndex) {
        if self.windows.exists(slot)
            && !self.windows.is_looked_up(slot)
            && let Some(place) = self.windows.begin_lookup(slot)
        {
            self.read_entry(place, slot, Flight::Lookup(place));
        }
    }

    fn read_entry(&mut self, place: usize, slot: SlotIndex, flight: Flight) {
        let (State::Up { directory }, Some(buffer)) = (self.state, &self.buffer) else {
            return;
        };
        let number = self.flights.push(flight);
        self.batch.push(Posting {
            id: number,
            read: true,
            local: buffer.address(place * ENTRY_WORDS),
            len: u32::try_from(ENTRY_BYTES).unwrap_or_default(),
            lkey: buffer.region().lkey(),
            remote: directory.address + u64::from(slot.get()) * ENTRY_BYTES as u64,
            rkey: directory.key,
            signalled: true,
        });
    }

    /// Tells the server which key is waited for.
    fn wish(&mut self, place: usize, slot: SlotIndex) {
        let (State::Up { directory }, Some(buffer)) = (self.state, &self.buffer) else {
            return;
        };
        let word = WISH_WORDS + place;
        buffer.words()[word].store(u64::from(slot.get()) + 1, Ordering::Release);
        let behind = self.windows.slots() * ENTRY_BYTES + place * size_of::<u64>();
        let number = self.flights.push(Flight::Aside);
        self.batch.push(Posting {
            id: number,
            read: false,
            local: buffer.address(word),
            len: u32::try_from(size_of::<u64>()).unwrap_or_default(),
            lkey: buffer.region().lkey(),
            remote: directory.address + behind as u64,
            rkey: directory.key,
            signalled: false,
        });
    }

    /// Rings the doorbell.
    pub(super) fn send(&mut self, now: MonotonicTime) {
        if self.batch.is_empty() {
            return;
        }
        self.batch.signal_last();
        let Some(connection) = &mut self.connection else {
            self.batch.clear();
            return;
        };
        if let Err(errno) = connection.post(&mut self.batch) {
            self.fail(LinkError::Network(errno), now);
        }
    }

    /// Takes completions, as far as there are any.
    pub(super) fn drain(&mut self, step: &mut Step<'_>) {
        let stashed = std::mem::take(&mut self.stashed);
        if stashed > 0 {
            let found = self.stash;
            self.take_completions(&found[..stashed], step);
        }
        loop {
            let mut found = [WorkCompletion::default(); COMPLETIONS_MAX];
            let connection = self.connection.as_mut();
            let Some(queue) = connection.and_then(Connection::completions) else {
                return;
            };
            let found = queue.poll(&mut found);
            if found.is_empty() {
                return;
            }
            self.take_completions(found, step);
        }
    }

    fn take_completions(&mut self, found: &[WorkCompletion], step: &mut Step<'_>) {
        for completion in found {
            if completion.status != 0 {
                return self.fail(status_error(completion.status), step.now);
            }
            self.liveness.hears(step.now);
            while let Some(flight) = self.flights.next_done(completion.wr_id) {
                self.ended(flight, step);
            }
        }
        self.post_segments(step.fabric);
    }

    fn ended(&mut self, flight: Flight, step: &mut Step<'_>) {
        if let Some(operation) = flight.operation() {
            (step.sink)(TransportEvent::Completed(operation.id, Ok(())));
        }
        match flight {
            Flight::Segment(segment) if segment.operation.direction == Direction::Write => {
                self.outbox.ended(&segment);
            }
            Flight::Lookup(place) => {
                let buffer = self.buffer.as_ref();
                let found = buffer.and_then(|buffer| self.windows.read(place, buffer, step.now));
                match found {
                    Some(Found::Settled(slot)) => self.release(slot, step),
                    Some(Found::Wait(slot)) => self.wish(place, slot),
                    None => {}
                }
            }
            Flight::Segment(_) | Flight::Aside => {}
        }
    }

    /// The slot's entry is known: what waited for it goes, or is refused.
    fn release(&mut self, slot: SlotIndex, step: &mut Step<'_>) {
        for _ in 0..self.waiting.len() {
            let Some(operation) = self.waiting.pop_front() else {
                return;
            };
            if operation.slot != slot {
                self.waiting.push_back(operation);
            } else if !self.launch(&operation, step.fabric) {
                let owned = self.windows.get(slot, operation.set).is_some();
                let error = if owned {
                    OperationError::OutOfRange
                } else {
                    OperationError::NotOwner
                };
                (step.sink)(TransportEvent::Completed(operation.id, Err(error)));
            }
        }
    }

    /// An event of the connection manager.
    pub(super) fn connection_event(&mut self, news: &CmNews, step: &mut Step<'_>) {
        let connecting = matches!(self.state, State::Connecting { .. });
        match news.kind {
            CmEventKind::AddressResolved if connecting => {
                let connection = self.connection.as_ref();
                let next = connection.map(|it| it.resolve_route(CONNECT_TIME_MAX));
                if let Some(Err(error)) = next {
                    self.fail_call(&error, step.now);
                }
            }
            CmEventKind::RouteResolved if connecting => {
                if let Err(error) = self.ask(step.fabric) {
                    self.fail(error, step.now);
                }
            }
            CmEventKind::Established if connecting => self.established(news, step),
            CmEventKind::Rejected => {
                let error = match decode_rdma_reply(news.data.as_slice()) {
                    Ok(Err(refusal)) => LinkError::Refused(refusal),
                    Ok(Ok(_)) | Err(_) => LinkError::NotListening,
                };
                self.fail(error, step.now);
            }
            CmEventKind::Failed => self.fail(LinkError::Network(news.errno), step.now),
            CmEventKind::Disconnected => self.fail(LinkError::Closed, step.now),
            _ => {}
        }
    }

    /// The way is known: makes the queue pair and asks the server.
    fn ask(&mut self, fabric: &Fabric) -> Result<(), LinkError> {
        let connection = self.connection.as_mut().ok_or(LinkError::Closed)?;
        let port = connection.device().and_then(|device| fabric.port(device));
        let port = port.ok_or(LinkError::NoDevice)?;
        self.pool_key = port.pool.as_ref().map_or(0, |region| region.lkey());
        let call = |error: VerbsError| call_error(&error);
        let queue = CompletionQueue::new(fabric.verbs, port.device, Some(&port.channel), RING);
        connection
            .make_queue_pair(&port.domain, queue.map_err(call)?, RING)
            .map_err(call)?;
        self.buffer = Some(SharedWords::new(&port.domain, BUFFER_WORDS, None).map_err(call)?);
        let hello = encode_rdma_hello(&fabric.options.hello, VersionRange::OURS);
        connection.connect(&hello).map_err(call)
    }

    fn established(&mut self, news: &CmNews, step: &mut Step<'_>) {
        let (accepted, directory) = match decode_rdma_reply(news.data.as_slice()) {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(refusal)) => return self.fail(LinkError::Refused(refusal), step.now),
            Err(error) => return self.fail(LinkError::Wire(error), step.now),
        };
        if accepted.slot_size != step.fabric.options.slot_size {
            let error = LinkError::SlotSize(accepted.slot_size.bytes());
            return self.fail(error, step.now);
        }
        // What was posted before belongs to no connection: it ends first, as LinkDown.
        self.abandon(step);
        self.windows.begin(accepted.slots);
        self.outbox.begin();
        self.state = State::Up { directory };
        self.retry.reset();
        self.failures = 0;
        self.liveness.begins(step.now);
        self.told = Told::Up;
        self.fell = false;
        let incarnation = accepted.incarnation;
        (step.sink)(TransportEvent::Link(
            self.server,
            LinkState::Up { incarnation },
        ));
    }

    /// Everything that time and earlier calls ask for.
    pub(super) fn settle(&mut self, step: &mut Step<'_>) {
        self.liveness.looks(step.now);
        self.give_up_if_late(step.now);
        if self.fell {
            self.tell_fall(step);
        }
        match self.state {
            State::Waiting { until } if until <= step.now => self.connect(step),
            State::Up { .. } => {
                self.look_up_what_waits(step);
                if self.flights.is_empty() && self.liveness.ping_at() <= step.now {
                    self.read_entry(PING_PLACE, SlotIndex::new(0), Flight::Aside);
                    self.liveness.begins(step.now);
                }
                self.send(step.now);
            }
            State::Waiting { .. } | State::Connecting { .. } | State::Refused => {}
        }
    }

    fn look_up_what_waits(&mut self, step: &mut Step<'_>) {
        while let Some((place, slot)) = self.windows.due(step.now) {
            self.read_entry(place, slot, Flight::Lookup(place));
        }
        for _ in 0..self.waiting.len() {
            let Some(operation) = self.waiting.pop_front() else {
                return;
            };
            if self.windows.exists(operation.slot) {
                self.look_up(operation.slot);
                self.waiting.push_back(operation);
            } else {
                let refused = Err(OperationError::OutOfRange);
                (step.sink)(TransportEvent::Completed(operation.id, refused));
            }
        }
    }

    fn give_up_if_late(&mut self, now: MonotonicTime) {
        match self.state {
            State::Connecting { deadline } if deadline <= now => {
                self.fail(LinkError::ConnectTime, now);
            }
            State::Up { .. } if !self.flights.is_empty() && self.liveness.is_silent(now) => {
                self.liveness.was_silent(now);
                self.fail(LinkError::Silent, now);
            }
            _ => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<MonotonicTime> {
        match self.state {
            State::Waiting { until } => self.address.map(|_| until),
            State::Connecting { deadline } => Some(deadline),
            State::Up { .. } => {
                let own = if self.flights.is_empty() {
                    self.liveness.ping_at()
                } else {
                    self.liveness.look_at()
                };
                Some(self.windows.deadline().map_or(own, |at| at.min(own)))
            }
            State::Refused => None,
        }
    }

    fn abandon(&mut self, step: &mut Step<'_>) {
        let down = Err(OperationError::LinkDown);
        while let Some(flight) = self.flights.abandon() {
            if let Some(operation) = flight.operation() {
                (step.sink)(TransportEvent::Completed(operation.id, down));
            }
        }
        while let Some(operation) = self.outbox.take_first() {
            (step.sink)(TransportEvent::Completed(operation.id, down));
        }
        while let Some(operation) = self.waiting.pop_front() {
            (step.sink)(TransportEvent::Completed(operation.id, down));
        }
    }

    /// Completes everything under way, then says that the link is not up, once.
    fn tell_fall(&mut self, step: &mut Step<'_>) {
        self.fell = false;
        self.abandon(step);
        let (now_told, state) = match self.state {
            State::Refused => (Told::Refused, LinkState::Refused),
            _ => (Told::Down, LinkState::Down),
        };
        // A link that was just set and has not failed yet is no news.
        let tried = self.last_error.is_some() || self.told != Told::Nothing;
        if self.told != now_told && tried {
            self.told = now_told;
            (step.sink)(TransportEvent::Link(self.server, state));
        }
    }

    fn connect(&mut self, step: &Step<'_>) {
        let Some(address) = self.address else {
            return;
        };
        let connection = Connection::new(&step.fabric.events)
            .and_then(|it| it.resolve_address(address, CONNECT_TIME_MAX).map(|()| it));
        match connection {
            Ok(connection) => {
                self.connection = Some(connection);
                let deadline = step.now.after(CONNECT_TIME_MAX);
                self.state = State::Connecting { deadline };
            }
            Err(error) => self.fail_call(&error, step.now),
        }
    }

    /// Asks for an announcement; true if there is something to poll already.
    pub(super) fn arm(&mut self) -> bool {
        let connection = self.connection.as_mut();
        if let Some(queue) = connection.and_then(Connection::completions) {
            queue.arm();
            // What has come before the arming is not announced.
            if self.stashed == 0 {
                self.stashed = queue.poll(&mut self.stash).len();
            }
        }
        self.fell || self.stashed > 0
    }
}

fn call_error(error: &VerbsError) -> LinkError {
    match error {
        VerbsError::Call { call, errno } if *errno == Errno::NODEV => {
            tracing::debug!("{call}: {errno}");
            LinkError::NoDevice
        }
        VerbsError::Call { call, errno } => LinkError::Verbs {
            call,
            errno: *errno,
        },
        VerbsError::Library(_) | VerbsError::Static | VerbsError::NoDevice => LinkError::NoDevice,
    }
}

const fn status_error(status: u32) -> LinkError {
    match status {
        STATUS_REMOTE_ACCESS => LinkError::KeyRefused,
        STATUS_RETRIES => LinkError::Unacknowledged,
        other => LinkError::Status(other),
    }
}
