//! Cost of one page in the engine: submit to complete over the loopback transport, checksum and
//! copies of the page included, allocations counted; and the cost of binding a slab to a set.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynamicswap_datapath::transport::loopback::{
    LoopbackNetwork, LoopbackServer, LoopbackTransport,
};
use dynamicswap_datapath::transport::{Transport as _, TransportEvent};
use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::effect::Effect;
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::limits::{OPERATIONS_MAX, SCRATCH_PAGES};
use dynamicswap_engine::page_guard::{PageGuard, PageKey, TagLength};
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_engine::slots::{Grant, GrantDocument, Hello, Owner, SlotGeometry};
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, Generation, IncarnationId, Integrity, MonotonicTime,
    PageIndex, ServerIndex, SessionId, SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

use crate::Args;
use crate::counting_allocator;
use crate::report::{Bar, Report};

const SLABS: u32 = 64;
const ROUNDS: usize = 200_000;
/// Batches of rounds, whose median counts.
const BATCHES: usize = 40;
const COPIES: u16 = 2;
const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);

/// The engine and memory servers in this process, between which nothing takes time.
struct Looped<'m> {
    engine: Engine<'m>,
    transport: LoopbackTransport,
    pool: Vec<u8>,
    events: Vec<TransportEvent>,
    clock: Instant,
}

impl Looped<'_> {
    fn now(&self) -> MonotonicTime {
        let nanos = u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
        MonotonicTime::from_nanos(nanos)
    }

    /// Runs one request to its end; true if it succeeded.
    fn run(&mut self, request: Request) -> bool {
        let now = self.now();
        let submitted = self.engine.submit(request, &mut self.pool, now);
        submitted.is_ok() && self.drive(now)
    }

    /// Carries out what the engine wants until it wants nothing more; true if a request succeeded.
    fn drive(&mut self, now: MonotonicTime) -> bool {
        let mut good = false;
        loop {
            while let Some(effect) = self.engine.next_effect() {
                match effect {
                    Effect::Post(operation) => {
                        good &= self.transport.post(&operation, &mut self.pool, now);
                    }
                    Effect::Complete { result, .. } => good = result.is_ok(),
                    _ => {}
                }
            }
            self.transport.flush(&mut self.pool, now);
            let events = &mut self.events;
            let poll = &mut |event| events.push(event);
            if self.transport.poll(&mut self.pool, now, poll) == 0 {
                return good;
            }
            for event in self.events.drain(..) {
                let pool = &mut self.pool;
                match event {
                    TransportEvent::Completed(id, result) => {
                        self.engine.complete(id, result, pool, now);
                    }
                    TransportEvent::Link(server, link) => {
                        self.engine.link_changed(server, link, pool, now);
                    }
                }
            }
        }
    }
}

fn document() -> Result<Document> {
    let servers = (0..COPIES)
        .map(|domain| ServerDescriptor {
            incarnation: Some(incarnation(domain)),
            domain,
        })
        .collect();
    let place = |server, slot| ReplicaPlace {
        server: ServerIndex::new(server),
        slot: SlotIndex::new(slot),
    };
    let sets = (0..SLABS)
        .map(|slot| SetGrant {
            id: SetId::new(u64::from(slot) + 1),
            replicas: (0..COPIES).map(|server| place(server, slot)).collect(),
        })
        .collect();
    Ok(Document {
        generation: Generation::new(1),
        durability: Durability {
            copies: Copies::try_from(u32::from(COPIES))?,
            spill: Spill::None,
        },
        write_hold: Duration::from_secs(1),
        read_stall: Duration::from_secs(1),
        empty_slab_hold: Duration::from_secs(1),
        reserve_sets_max: SLABS,
        servers,
        sets,
    })
}

fn incarnation(server: u16) -> IncarnationId {
    IncarnationId::from_bytes([u8::try_from(server).unwrap_or(0) + 1; 16])
}

fn address(server: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server + 1))
}

/// Memory servers that have granted every slot, and the transport to them.
fn loopback(slab: SlabSize) -> Result<LoopbackTransport> {
    let network = LoopbackNetwork::default();
    let hello = Hello {
        device: DEVICE,
        epoch: Epoch::new(1),
        session: SessionId::new(1),
        queue: 0,
    };
    let mut transport = LoopbackTransport::new(&network, hello, Duration::ZERO);
    for server in 0..COPIES {
        let geometry = SlotGeometry {
            slot_size: slab,
            slots: SLABS,
        };
        let grant = |slot: u32| Grant {
            slot: SlotIndex::new(slot),
            owner: Owner {
                device: DEVICE,
                set: SetId::new(u64::from(slot) + 1),
            },
        };
        let document = GrantDocument {
            generation: Generation::new(1),
            incarnation: incarnation(server),
            grants: (0..SLABS).map(grant).collect(),
            emptied: false,
        };
        let memory_server = LoopbackServer::new(geometry, incarnation(server));
        let memory_server = network.add(address(server), memory_server);
        let applied = memory_server.borrow_mut().apply(&document);
        applied.context("the benchmark's grants")?;
        transport.set_server(ServerIndex::new(server), Some(address(server)));
    }
    Ok(transport)
}

/// Measures the engine.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    let slab = SlabSize::try_from(SlabSize::MIN)?;
    let size = Bytes::from_mib(SLABS);
    let geometry = Geometry::new(size, slab, 1 + SCRATCH_PAGES, Integrity::Full)?;
    let tables = OwnedTables::new(DEVICE, geometry);
    let config = EngineConfig {
        geometry,
        epoch: Epoch::new(1),
        scratch: BufferRange {
            first: 1,
            pages: SCRATCH_PAGES,
        },
        spill: false,
        operation_timeout: Duration::from_secs(1),
    };
    let engine = Engine::new(config, tables.tables())?;
    let pool = vec![7; (1 + SCRATCH_PAGES) as usize * 4096];
    let mut run = Looped {
        engine,
        transport: loopback(slab)?,
        pool,
        events: Vec::with_capacity(OPERATIONS_MAX),
        clock: Instant::now(),
    };
    let now = run.now();
    run.engine
        .apply(&document()?, &mut run.pool, now)
        .context("the benchmark's document")?;
    // Every link comes up.
    run.drive(now);
    bind_cost(&mut run, geometry, report)?;
    page_cost(&mut run, ("", Bar::AtMost(1.5)), report)?;
    let key = PageKey::from_bytes([5; 32]);
    for (kept, how) in [
        (TagLength::Half, ", encrypted"),
        (TagLength::Whole, ", encrypted, whole tag"),
    ] {
        run.engine.guard_with(PageGuard::sealed(&key, DEVICE, kept));
        page_cost(&mut run, (how, Bar::None), report)?;
    }
    Ok(())
}

const BUFFER: BufferRange = BufferRange { first: 0, pages: 1 };

/// First writes to a slab each bind a set; the second ones do not.
fn bind_cost(run: &mut Looped<'_>, geometry: Geometry, report: &mut Report) -> Result<()> {
    let mut pass = |page: u64| -> Result<Duration> {
        let began = Instant::now();
        for slab in 0..geometry.slabs {
            let page = PageIndex::new(u64::from(slab * geometry.slab_pages) + page);
            let kind = RequestKind::Write { buffer: BUFFER };
            let good = run.run(Request {
                tag: RequestTag(1),
                page,
                pages: 1,
                kind,
            });
            ensure!(good, "a write failed in the engine benchmark");
        }
        Ok(began.elapsed())
    };
    let (first, second) = (pass(0)?, pass(1)?);
    let bind = first.saturating_sub(second).as_secs_f64() * 1e3 / f64::from(geometry.slabs);
    report.absolute(
        "map a slab from the reserve, in the engine [ms]",
        bind,
        Bar::AtMost(5.0),
    );
    Ok(())
}

/// One write and one read of one page, over and over.
fn page_cost(run: &mut Looped<'_>, (how, bar): (&str, Bar), report: &mut Report) -> Result<()> {
    for (name, write) in [("write", true), ("read", false)] {
        let kind = if write {
            RequestKind::Write { buffer: BUFFER }
        } else {
            RequestKind::Read { buffer: BUFFER }
        };
        let page = PageIndex::new(0);
        let request = Request {
            tag: RequestTag(1),
            page,
            pages: 1,
            kind,
        };
        ensure!(run.run(Request {
            kind: RequestKind::Write { buffer: BUFFER },
            ..request
        }));
        let allocations = counting_allocator::count();
        let mut batches = [0.0; BATCHES];
        for micros in &mut batches {
            let began = Instant::now();
            for _ in 0..ROUNDS / BATCHES {
                ensure!(run.run(request), "a {name} failed in the engine benchmark");
            }
            *micros = began.elapsed().as_secs_f64() * 1e6 / (ROUNDS / BATCHES) as f64;
        }
        let allocations = counting_allocator::count() - allocations;
        // Whoever else runs on this host lengthens some batches, and says nothing about the engine.
        batches.sort_by(f64::total_cmp);
        let micros = batches[BATCHES / 2];
        let copies = if write { ", two copies" } else { "" };
        let label = format!("engine, one-page {name}{copies}{how}, submit to complete [us]");
        report.absolute(&label, micros, bar);
        let label = format!("engine, allocations in {ROUNDS} one-page {name}s{how}");
        report.absolute(&label, allocations as f64, Bar::AtMost(0.0));
    }
    Ok(())
}
