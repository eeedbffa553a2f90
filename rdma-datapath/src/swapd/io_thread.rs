//! The I/O thread: requests in, engine, transport and spill file, answers out.
//!
//! Owns the front end, the engine, the transport, the spill file and the pool; shares nothing but
//! the memory file's words. After the start a request costs no allocation, no lock and no log.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dynamicswap_engine::document::Document;
use dynamicswap_engine::effect::{Effect, EngineEvent};
use dynamicswap_engine::engine::Engine;
use dynamicswap_engine::limits::{OPERATIONS_MAX, REQUEST_PAGES_MAX, SERVERS_MAX};
use dynamicswap_engine::operation::OperationError;
use dynamicswap_engine::request::{Request, SubmitError};
use dynamicswap_engine::tables::Counter;
use dynamicswap_types::{Bytes, MonotonicTime, ServerIndex, Spill};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use thiserror::Error;

use super::carrier::Carrier;
use super::latencies::Latencies;
use super::mailbox::{Answer, Command, Inbox, IoEvent, Snapshot};
use super::memory::SwapdMemory;
use super::spill::{SpillEvent, SpillFile};
use crate::daemon::clock::monotonic_now;
use crate::daemon::spin::AdaptiveSpin;
use crate::front_end::{Completion, FrontEnd, FrontEndError, Pool};
use crate::transport::TransportEvent;
use crate::transport::remote::Endpoint;

/// Requests taken before the engine's effects are carried out: enough to share a doorbell, few
/// enough that the first does not wait for the last.
const REQUESTS_PER_ROUND: usize = 16;
/// Pages of these requests after which no more are taken: one request of the largest kind. A round
/// copies and seals each page of a write, with one look at the clock; sixteen requests of 1 MiB
/// kept a slow host from its links and its heartbeat for over a second, and what they posted was
/// overdue when it was sent.
const PAGES_PER_ROUND: u32 = REQUEST_PAGES_MAX;
/// The heartbeat's longest pause; the holder's shortest timeout is 200 ms.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// Why the engine process ends by itself.
#[derive(Debug, Error)]
pub enum IoError {
    /// The device is gone, or cannot be served.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// A newer engine of this device exists.
    #[error("a memory server knows a newer engine of this device: this one ends")]
    Fenced,
    /// Waiting for events failed.
    #[error("waiting for events failed")]
    Wait(#[source] std::io::Error),
}

/// What the thread is made of.
pub struct Parts<'m, F> {
    /// The engine, over the memory file's tables.
    pub engine: Engine<'m>,
    /// The device's requests.
    pub front_end: F,
    /// The way to the memory servers.
    pub carrier: Carrier,
    /// The spill file, if there is one.
    pub spill: Option<SpillFile>,
    /// The buffers.
    pub pool: Pool<'m>,
    /// The memory file's words.
    pub memory: &'m SwapdMemory,
    /// Commands and events.
    pub inbox: Inbox,
    /// Latencies for the report.
    pub latencies: Arc<Latencies>,
    /// How long to spin before sleeping.
    pub spin: AdaptiveSpin,
}

/// The thread's state.
pub struct IoThread<'m, F> {
    parts: Parts<'m, F>,
    /// An effect for which there was no room.
    stalled: Option<Effect>,
    /// A request for which the engine had no place.
    refused: Option<Request>,
    links: Vec<TransportEvent>,
    spilled: Vec<SpillEvent>,
    resent: u64,
    /// The document puts every page on the disk.
    disk_only: bool,
}

impl<'m, F: FrontEnd> IoThread<'m, F> {
    /// Puts the parts together. Everything is allocated here.
    #[must_use]
    pub fn new(parts: Parts<'m, F>) -> Self {
        Self {
            parts,
            stalled: None,
            refused: None,
            links: Vec::with_capacity(OPERATIONS_MAX + SERVERS_MAX),
            spilled: Vec::with_capacity(OPERATIONS_MAX),
            resent: 0,
            disk_only: false,
        }
    }

    /// Asks for the requests that an engine before this one had taken.
    ///
    /// # Errors
    /// The front end's.
    pub fn recover(&mut self) -> Result<(), FrontEndError> {
        self.parts.front_end.recover()
    }

    /// Serves until the device is gone.
    ///
    /// # Errors
    /// [`IoError`]: why it ended.
    pub fn run(&mut self) -> Result<(), IoError> {
        self.parts.spin.found(monotonic_now());
        loop {
            let now = monotonic_now();
            let header = self.parts.memory.header();
            header.heartbeat.store(now.as_nanos(), Ordering::Release);
            if self.round(now)? {
                self.parts.spin.found(now);
            } else if self.parts.spin.found_nothing(now) {
                self.sleep(now)?;
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// One round over everything that may have something to do. Returns whether anything had.
    ///
    /// # Errors
    /// [`IoError`].
    pub fn round(&mut self, now: MonotonicTime) -> Result<bool, IoError> {
        let mut progress = self.take_commands(now);
        progress |= self.take_requests(now)?;
        progress |= self.poll_transport(now);
        progress |= self.poll_spill(now);
        let parts = &mut self.parts;
        if parts.engine.next_deadline().is_some_and(|at| at <= now) {
            parts.engine.tick(&mut parts.pool, now);
        }
        progress |= self.carry_out(now)?;
        if self.parts.engine.is_fenced() {
            return Err(IoError::Fenced);
        }
        Ok(progress)
    }

    fn take_requests(&mut self, now: MonotonicTime) -> Result<bool, IoError> {
        let (mut taken, mut pages) = (0, 0);
        while taken < REQUESTS_PER_ROUND && pages < PAGES_PER_ROUND {
            let parts = &mut self.parts;
            let request = match self.refused.take() {
                Some(request) => request,
                None => match parts.front_end.take(&mut parts.pool, now)? {
                    Some(request) => request,
                    None => break,
                },
            };
            taken += 1;
            pages += request.pages;
            match parts.engine.submit(request, &mut parts.pool, now) {
                Ok(()) => {}
                Err(SubmitError::Full) => {
                    self.refused = Some(request);
                    break;
                }
                Err(SubmitError::Invalid) => parts.front_end.refuse(request.tag)?,
            }
        }
        if taken > 0 {
            self.count_resent();
        }
        Ok(taken > 0)
    }

    fn count_resent(&mut self) {
        let resent = self.parts.front_end.counters().resent;
        if resent != self.resent {
            let header = self.parts.memory.header();
            header.count(Counter::RequestsResent, resent - self.resent);
            self.resent = resent;
        }
    }

    fn poll_transport(&mut self, now: MonotonicTime) -> bool {
        let parts = &mut self.parts;
        let links = &mut self.links;
        let transport = parts.carrier.transport();
        transport.poll(&mut parts.pool, now, &mut |event| links.push(event));
        let any = !links.is_empty();
        let mut changed = false;
        for event in links.drain(..) {
            match event {
                TransportEvent::Completed(id, result) => {
                    parts.engine.complete(id, result, &mut parts.pool, now);
                }
                TransportEvent::Link(server, link) => {
                    parts
                        .engine
                        .link_changed(server, link, &mut parts.pool, now);
                    let error = parts.carrier.last_error(server);
                    let way = parts.carrier.way(server);
                    parts.inbox.tell(IoEvent::Link(server, link, way, error));
                    changed = true;
                }
            }
        }
        if changed {
            self.note_readiness();
        }
        any
    }

    fn poll_spill(&mut self, now: MonotonicTime) -> bool {
        let Some(spill) = &mut self.parts.spill else {
            return false;
        };
        let spilled = &mut self.spilled;
        spill.poll(&mut |event| spilled.push(event));
        let any = !spilled.is_empty();
        let parts = &mut self.parts;
        for event in spilled.drain(..) {
            let result = if event.ok {
                Ok(())
            } else {
                Err(OperationError::LinkDown)
            };
            parts
                .engine
                .complete(event.id, result, &mut parts.pool, now);
        }
        any
    }

    /// Carries out what the engine wants, as far as there is room, and rings the doorbells.
    fn carry_out(&mut self, now: MonotonicTime) -> Result<bool, IoError> {
        let mut any = false;
        while let Some(effect) = self.next_effect() {
            if self.perform(effect, now)?.is_break() {
                self.stalled = Some(effect);
                break;
            }
            any = true;
        }
        let parts = &mut self.parts;
        parts.carrier.transport().flush(&mut parts.pool, now);
        if let Some(spill) = &mut parts.spill {
            spill.flush(&mut parts.pool);
        }
        let sent = parts.front_end.flush()?;
        Ok(any || !sent)
    }

    fn next_effect(&mut self) -> Option<Effect> {
        let stalled = self.stalled.take();
        stalled.or_else(|| self.parts.engine.next_effect())
    }

    /// Breaks if there is no room for the effect now.
    fn perform(&mut self, effect: Effect, now: MonotonicTime) -> Result<ControlFlow<()>, IoError> {
        let parts = &mut self.parts;
        let done = match effect {
            Effect::Post(operation) => {
                let transport = parts.carrier.transport();
                transport.post(&operation, &mut parts.pool, now)
            }
            Effect::Spill(operation) => match &mut parts.spill {
                Some(spill) => {
                    spill.post(&operation);
                    true
                }
                None => {
                    let failed = Err(OperationError::LinkDown);
                    let id = operation.id;
                    parts.engine.complete(id, failed, &mut parts.pool, now);
                    true
                }
            },
            Effect::Complete { tag, result, data } => {
                let completion = Completion { tag, result, data };
                let done = parts.front_end.complete(completion, &parts.pool, now)?;
                if let Some(done) = done {
                    parts.latencies.record(&done);
                }
                true
            }
            Effect::Release(tag) => {
                parts.front_end.release(tag);
                true
            }
            Effect::Reset(server) => {
                parts.carrier.transport().reset(server, now);
                true
            }
            Effect::Event(event) => {
                parts.inbox.tell(IoEvent::Engine(event));
                if let EngineEvent::Fenced(_) = event {
                    return Err(IoError::Fenced);
                }
                true
            }
        };
        Ok(if done {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    }

    fn take_commands(&mut self, now: MonotonicTime) -> bool {
        let Some(command) = self.parts.inbox.take() else {
            return false;
        };
        let answer = match command {
            Command::Apply(document, endpoints, bandwidth) => {
                let applied = self.apply(&document, &endpoints, now);
                if applied.is_ok() {
                    self.limit_copies(bandwidth, now);
                }
                Answer::Applied(applied)
            }
            Command::Report(mut snapshot, servers) => {
                self.fill(&mut snapshot, servers);
                Answer::Report(snapshot)
            }
        };
        self.parts.inbox.answer(answer);
        true
    }

    /// Puts a document in force.
    ///
    /// # Errors
    /// The engine's sentence; nothing has changed then.
    pub fn apply(
        &mut self,
        document: &Document,
        endpoints: &[Option<Endpoint>],
        now: MonotonicTime,
    ) -> Result<(), String> {
        let parts = &mut self.parts;
        let applied = parts.engine.apply(document, &mut parts.pool, now);
        applied.map_err(|error| error.to_string())?;
        for (index, endpoint) in (0..).zip(endpoints) {
            let server = ServerIndex::new(index);
            parts.carrier.set_endpoint(server, *endpoint);
        }
        self.disk_only = document.durability.spill == Spill::Only;
        self.note_readiness();
        Ok(())
    }

    /// Bytes a second that copies may move from now on.
    pub fn limit_copies(&mut self, bandwidth: Option<Bytes>, now: MonotonicTime) {
        self.parts.engine.limit_copies(bandwidth, now);
    }

    fn fill(&self, snapshot: &mut Snapshot, servers: usize) {
        let parts = &self.parts;
        snapshot.generation = parts.engine.settled_generation();
        snapshot.pages_used = parts.engine.pages_used();
        snapshot.pages_degraded = parts.engine.pages_degraded();
        let known = (0..).take(servers).map(ServerIndex::new);
        snapshot.servers.clear();
        snapshot.servers.extend(
            known
                .clone()
                .filter_map(|server| parts.engine.server(server)),
        );
        snapshot.ways.clear();
        snapshot
            .ways
            .extend(known.map(|server| parts.carrier.way(server)));
        snapshot.sets.clear();
        snapshot.sets.extend(parts.engine.sets());
        snapshot.front_end = parts.front_end.counters();
        snapshot.events_dropped = parts.inbox.dropped();
    }

    /// Tells the holder whether the first slab can be written, which the attach helper does.
    fn note_readiness(&self) {
        let parts = &self.parts;
        let bound = parts.memory.tables().slabs.first();
        let bound = bound.is_some_and(|slab| slab.set().is_some());
        let ready = bound || parts.engine.sets_in_reserve() > 0 || self.disk_only;
        let header = parts.memory.header();
        header
            .ready_to_attach
            .store(u32::from(ready), Ordering::Release);
    }

    /// Sleeps until something may have something to do.
    fn sleep(&mut self, now: MonotonicTime) -> Result<(), IoError> {
        let parts = &mut self.parts;
        let news = parts.carrier.transport().arm();
        let spilled = parts.spill.as_mut().is_some_and(SpillFile::arm);
        if news || spilled {
            return Ok(());
        }
        let transport = parts.carrier.as_transport();
        let deadlines = [parts.engine.next_deadline(), transport.next_deadline()];
        let latest = now.after(HEARTBEAT_INTERVAL);
        let deadline = deadlines.into_iter().flatten().fold(latest, Ord::min);
        let timeout = Timespec::try_from(deadline.since(now)).unwrap_or_default();
        let control = parts.inbox.event_fd();
        let requests = parts.front_end.wants_requests() && self.refused.is_none();
        let watched = [
            Some(control),
            requests.then(|| parts.front_end.event_fd()),
            transport.event_fd(),
            parts.spill.as_ref().map(SpillFile::event_fd),
        ];
        // A place without a descriptor watches the first one once more.
        let mut watched =
            watched.map(|fd| PollFd::from_borrowed_fd(fd.unwrap_or(control), PollFlags::IN));
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(IoError::Wait(errno.into())),
        }
        if !watched[0].revents().is_empty() {
            parts.inbox.disarm();
        }
        Ok(())
    }
}
