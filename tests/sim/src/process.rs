//! An engine process: engine, transport and buffer pool, as swapd's shell holds them together.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use dynamicswap_datapath::transport::fault::{FaultTransport, Faults, SeededRandom};
use dynamicswap_datapath::transport::loopback::{LoopbackNetwork, LoopbackTransport};
use dynamicswap_datapath::transport::{Transport, TransportEvent};
use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::checksum::page_tag;
use dynamicswap_engine::engine::{Engine, EngineConfig, LinkState};
use dynamicswap_engine::limits::SCRATCH_PAGES;
use dynamicswap_engine::operation::{Direction, Operation, OperationId};
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_engine::slots::Hello;
use dynamicswap_engine::tables::{Geometry, OwnedTables, PageRecord, PageTag, TablesError};
use dynamicswap_types::{
    Epoch, MonotonicTime, PageIndex, ServerIndex, SessionId, SlotIndex, SwapDeviceId,
};
use dynamicswap_workload::page::PAGE_WORDS;

use crate::kernel::{Kernel, Verb};
use crate::mutation::Mutation;
use crate::scenario::Scenario;

/// Longest that an operation may take before its link is reset.
pub const OPERATION_TIMEOUT: Duration = Duration::from_millis(300);

/// The transport under test.
pub type Network = FaultTransport<LoopbackTransport>;

/// What a process is started with.
#[derive(Clone, Copy)]
pub struct Birth<'w, 'm> {
    /// The scenario.
    pub scenario: &'w Scenario,
    /// The memory file's tables.
    pub tables: &'m OwnedTables,
    /// Their sizes.
    pub geometry: Geometry,
    /// The servers that there are.
    pub network: &'w LoopbackNetwork,
    /// The device.
    pub device: SwapDeviceId,
    /// The epoch that its memory file says.
    pub epoch: u64,
    /// Its place in the order of processes.
    pub start: u16,
    /// A broken rule.
    pub mutation: Option<Mutation>,
}

/// A running engine process.
pub struct Process<'m> {
    /// The engine.
    pub engine: Engine<'m>,
    /// Its transport.
    pub transport: Network,
    /// Its buffer pool.
    pub pool: Vec<u8>,
    /// When it was started.
    pub started: MonotonicTime,
    /// Effects until it is killed between two of them.
    pub effects_left: Option<u32>,
    /// Whether it is killed before its next acknowledgement of a write, and for how long every
    /// way is cut then.
    pub last_word: Option<Duration>,
    /// While that is so: the page table as it was before the engine's last step.
    before: Vec<(PageRecord, PageTag)>,
    /// Whether it is stopped (SIGSTOP).
    pub hung: bool,
    /// Operations that a full send queue has refused.
    pub backlog: VecDeque<Operation>,
    tables: &'m OwnedTables,
    geometry: Geometry,
    mutation: Option<Mutation>,
    /// What is under way.
    posted: BTreeMap<u64, Operation>,
    buffers: Vec<u32>,
    buffer_pages: u32,
}

/// The buffers of a process that is gone: what still arrives for them is nobody's.
#[derive(Default)]
pub struct Nowhere {
    bytes: Vec<u8>,
}

impl Buffers for Nowhere {
    fn bytes(&self, _: BufferRange) -> &[u8] {
        &[]
    }

    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8] {
        self.bytes.resize(range.byte_len(), 0);
        &mut self.bytes
    }
}

/// Longest request of a scenario.
const fn request_pages(scenario: &Scenario) -> u32 {
    if scenario.slab_pages < 256 {
        scenario.slab_pages
    } else {
        256
    }
}

impl<'m> Process<'m> {
    /// Starts a process on the memory file, of which the buffer pool is a part as well.
    ///
    /// # Errors
    /// The engine's, for tables that are not its own.
    pub fn start(
        birth: Birth<'_, 'm>,
        mut pool: Vec<u8>,
        now: MonotonicTime,
    ) -> Result<Self, TablesError> {
        let Birth {
            scenario,
            geometry,
            epoch,
            ..
        } = birth;
        let buffer_pages = request_pages(scenario);
        let count = u32::try_from(scenario.depth).unwrap_or(16);
        let scratch = BufferRange {
            first: count * buffer_pages,
            pages: SCRATCH_PAGES,
        };
        let config = EngineConfig {
            geometry,
            epoch: Epoch::new(epoch),
            scratch,
            spill: scenario.has_disk(),
            operation_timeout: OPERATION_TIMEOUT,
        };
        let hello = Hello {
            device: birth.device,
            epoch: Epoch::new(epoch),
            session: SessionId::new(epoch),
            // A server closes an older connection of the same queue by itself. A real process has
            // several queues: with another one each time, it is the epoch alone that fences.
            queue: birth.start,
        };
        let seed = scenario.seed ^ epoch.wrapping_mul(0x5851_f42d_4c95_7f2d);
        // With the epoch kept, two processes must still not share a story.
        let seed = seed ^ now.as_nanos();
        let inner = LoopbackTransport::new(birth.network, hello, scenario.latency);
        pool.resize((scratch.first + scratch.pages) as usize * 4096, 0);
        Ok(Self {
            engine: Engine::new(config, birth.tables.tables())?,
            transport: FaultTransport::new(inner, SeededRandom::new(seed)),
            pool,
            started: now,
            effects_left: None,
            last_word: None,
            before: Vec::new(),
            hung: false,
            backlog: VecDeque::new(),
            tables: birth.tables,
            geometry,
            mutation: birth.mutation,
            posted: BTreeMap::new(),
            buffers: (0..count).rev().collect(),
            buffer_pages,
        })
    }

    /// Lets the transport know the servers, with the trouble on the way to each.
    pub fn connect(&mut self, servers: impl Iterator<Item = (SocketAddr, Faults)>) {
        for (number, (address, faults)) in (0_u16..).zip(servers) {
            self.transport.set_faults(ServerIndex::new(number), faults);
            self.transport
                .set_server(ServerIndex::new(number), Some(address));
        }
    }

    /// Keeps the page table as it is now, if the process is to be killed before its next
    /// acknowledgement.
    pub fn remember(&mut self) {
        if self.last_word.is_some() {
            let tables = self.tables.tables();
            let pages = 0..tables.pages.len();
            self.before.clear();
            self.before
                .extend(pages.map(|page| (tables.pages[page].load(), tables.tag(page))));
        }
    }

    /// Takes back a part of a write's publication: the process is killed inside it, after so many
    /// stores for the page `torn`, and has published those before it alone.
    pub fn tear(&self, pages: impl Iterator<Item = u64>, torn: u64, stores: usize) {
        let tables = self.tables.tables();
        for page in pages.filter(|page| *page >= torn) {
            let index = usize::try_from(page).unwrap_or(usize::MAX);
            let Some((record, tag)) = self.before.get(index).copied() else {
                continue;
            };
            let published = (tables.pages[index].load(), tables.tag(index));
            tables.publish(index, record, tag);
            if page == torn {
                tables.publish_torn(index, published.0, published.1, stores);
            }
        }
    }

    /// A buffer for a request, an empty one for no pages; none if all are in use.
    pub fn take_buffer(&mut self, pages: u32) -> Option<BufferRange> {
        if pages == 0 {
            return Some(BufferRange { first: 0, pages: 0 });
        }
        let number = self.buffers.pop()?;
        Some(BufferRange {
            first: number * self.buffer_pages,
            pages,
        })
    }

    /// Gives a buffer back.
    pub fn give_buffer(&mut self, buffer: BufferRange) {
        if buffer.pages > 0 {
            self.buffers.push(buffer.first / self.buffer_pages);
        }
    }

    /// Hands a request of the kernel to the engine, with the bytes that it wants written.
    ///
    /// # Errors
    /// A sentence, if the engine does not take it.
    pub fn submit(&mut self, kernel: &Kernel, tag: u64, now: MonotonicTime) -> Result<(), String> {
        let Some(sent) = kernel.sent.get(&tag).copied() else {
            return Err(format!("request {tag} is not known"));
        };
        let buffer = sent.buffer;
        let kind = match sent.draft.verb {
            Verb::Read => RequestKind::Read { buffer },
            Verb::Discard => RequestKind::Discard,
            Verb::Flush => RequestKind::Flush,
            Verb::Write(version) => {
                for (number, page) in (0_u32..).zip(sent.draft.range()) {
                    let mut words = [0; PAGE_WORDS];
                    kernel.stamp(page, version).fill(&mut words);
                    let bytes = self.pool.bytes_mut(buffer.part(number, 1));
                    for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
                        bytes.copy_from_slice(&word.to_le_bytes());
                    }
                }
                RequestKind::Write { buffer }
            }
        };
        let request = Request {
            tag: RequestTag(tag),
            page: PageIndex::new(sent.draft.page),
            pages: sent.draft.pages,
            kind,
        };
        let taken = self.engine.submit(request, &mut self.pool, now);
        taken.map_err(|error| format!("request {tag} was not taken: {error}"))
    }

    /// Hands an operation to the transport, or keeps it until there is room.
    pub fn post(&mut self, operation: Operation, now: MonotonicTime) {
        self.posted.insert(operation.id.0, operation);
        let room = self.backlog.is_empty();
        if !(room && self.transport.post(&operation, &mut self.pool, now)) {
            self.backlog.push_back(operation);
        }
        let early = self.mutation == Some(Mutation::EarlyAcknowledge);
        if early && operation.direction == Direction::Write {
            self.engine
                .complete(operation.id, Ok(()), &mut self.pool, now);
        }
    }

    /// Whether anything is under way to a slot, on a link that is up.
    pub fn is_busy_at(&self, server: ServerIndex, slot: SlotIndex) -> bool {
        let link = self.engine.server(server).map(|server| server.link);
        let mut posted = self.posted.values();
        link == Some(LinkState::Up)
            && posted.any(|operation| operation.server == server && operation.slot == slot)
    }

    /// Posts what did not fit before.
    pub fn post_backlog(&mut self, now: MonotonicTime) {
        while let Some(operation) = self.backlog.front().copied() {
            if !self.transport.post(&operation, &mut self.pool, now) {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Hands an event of the transport to the engine.
    pub fn hear(&mut self, event: TransportEvent, now: MonotonicTime) {
        match event {
            TransportEvent::Link(server, link) => {
                self.engine.link_changed(server, link, &mut self.pool, now);
            }
            TransportEvent::Completed(id, result) => {
                let result = match self.mutation {
                    Some(Mutation::NoVerification) if result.is_ok() => {
                        self.believe(id);
                        result
                    }
                    Some(Mutation::FailureAsSuccess) => self.gloss_over(id, result),
                    _ => result,
                };
                self.posted.remove(&id.0);
                self.engine.complete(id, result, &mut self.pool, now);
            }
        }
    }

    fn gloss_over<E>(&self, id: OperationId, result: Result<(), E>) -> Result<(), E> {
        let write = self
            .posted
            .get(&id.0)
            .is_some_and(|it| it.direction == Direction::Write);
        if write { Ok(()) } else { result }
    }

    /// Changes the checksums to those of what has arrived, as if nobody had looked.
    fn believe(&self, id: OperationId) {
        let Some(operation) = self
            .posted
            .get(&id.0)
            .filter(|it| it.direction == Direction::Read)
        else {
            return;
        };
        let here = |set: &dynamicswap_engine::report::SetView| {
            let mut places = set.replicas.iter().flatten().map(|replica| replica.place);
            places.any(|place| place.server == operation.server && place.slot == operation.slot)
        };
        let Some(slab) = self.engine.sets().find(here).and_then(|set| set.slab) else {
            return;
        };
        let slab_pages = self.geometry.slab_pages as usize;
        for number in 0..operation.buffer.pages {
            let page = slab.as_usize() * slab_pages + (operation.page + number) as usize;
            let tables = self.tables.tables();
            let Some(entry) = tables.pages.get(page) else {
                continue;
            };
            let record = entry.load();
            if !record.version.is_empty() {
                let bytes = self.pool.bytes(operation.buffer.part(number, 1));
                let tag = page_tag(bytes, PageIndex::new(page as u64), record.version);
                tables.publish(page, record, PageTag::half(tag));
            }
        }
    }
}
