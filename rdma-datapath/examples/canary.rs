//! A borrower without an engine, whose pages nobody encrypts: it writes a known pattern into slots, or
//! reads whatever is in them, over the same transports as an engine.
//!
//! `canary grant` has a memory server give its first slots to a device, whoever had them; `canary write`
//! fills them, once or until it is killed; `canary read` scans all of them, and asks for what lies
//! beside. It judges nothing: the lab does.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use dynamicswap_datapath::daemon::clock::monotonic_now;
use dynamicswap_datapath::transport::rdma::{RdmaOptions, RdmaTransport};
use dynamicswap_datapath::transport::tcp::{TcpOptions, TcpTransport};
use dynamicswap_datapath::transport::{Transport, TransportEvent};
use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationError, OperationId};
use dynamicswap_engine::slots::Hello;
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::daemon::v1::request;
use dynamicswap_types::{
    Bytes, Epoch, PAGE_SIZE, ServerIndex, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId,
};
use support::{ask, server_report};

/// No byte of it is zero, so that a slot of zeros holds no byte of it.
const PATTERN: &[u8; 16] = b"canary/of/a/page";
/// Pages of one operation.
const STEP: u32 = 64;
const SERVER: ServerIndex = ServerIndex::new(0);
/// Nothing happens for so long: something is wrong. A machine may be frozen for a part of it.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Between two tries at what was refused.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Give the first slots to a device.
    Grant(Grant),
    /// Fill the slots with the pattern, without end unless told `--once`.
    Write {
        #[command(flatten)]
        reach: Reach,
        /// One pass is enough.
        #[arg(long)]
        once: bool,
    },
    /// Scan the slots, and try what is not ours.
    Read {
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Args)]
struct Grant {
    /// Control socket of the memory server.
    #[arg(long)]
    control: PathBuf,
    /// The device's number.
    #[arg(long)]
    device: u8,
    /// How many slots.
    #[arg(long)]
    slots: u32,
}

#[derive(Args)]
struct Reach {
    /// The memory server's address on that way.
    #[arg(long)]
    server: SocketAddr,
    /// The way.
    #[arg(long, value_enum)]
    over: Over,
    /// The device's number.
    #[arg(long)]
    device: u8,
    /// The engine's number in the device's life: higher than that of any before.
    #[arg(long)]
    epoch: u64,
    /// How many slots are ours: the first ones.
    #[arg(long)]
    slots: u32,
    /// Their size.
    #[arg(long)]
    slab: Bytes,
}

#[derive(Clone, Copy, ValueEnum)]
enum Over {
    Tcp,
    Rdma,
}

/// What was in the slots; printed as it is.
#[derive(Debug, Default)]
struct Found {
    pages: u64,
    /// Pages with the pattern in them, at any place.
    pages_with_pattern: u64,
    /// Bytes that are not zero.
    bytes_not_zero: u64,
    /// What was tried beside the own slots, and how much of that was refused.
    tries_beside: u64,
    refused_beside: u64,
}

/// The set for which a slot is granted. Each device has its own, as sets of the planner are.
fn set_of(device: u8, slot: u32) -> u64 {
    u64::from(device) * 1_000 + u64::from(slot)
}

/// Takes back what others have, then grants: as soon as the memory server says that nobody owns the
/// slots, without any wait for what it does with them.
fn grant(wanted: &Grant) -> Result<()> {
    let apply = |grants: Vec<pb::SlotGrant>| {
        let report = server_report(&wanted.control)?;
        let document = pb::MemoryServerDocument {
            generation: report.generation + 1,
            incarnation: report.incarnation,
            grants,
            emptied: false,
        };
        ask(&wanted.control, request::Kind::ApplyMemoryServer(document))
    };
    let grants = (0..wanted.slots).map(|slot| pb::SlotGrant {
        slot,
        device_id: vec![wanted.device; 16],
        set_id: set_of(wanted.device, slot),
    });
    let grants: Vec<pb::SlotGrant> = grants.collect();
    apply(Vec::new())?;
    apply(grants.clone())?;
    let begun = Instant::now();
    loop {
        let report = server_report(&wanted.control)?;
        let has = |grant: &pb::SlotGrant| {
            let mut there = report.grants.iter();
            there.any(|it| (it.slot, it.set_id) == (grant.slot, grant.set_id))
        };
        if grants.iter().all(has) {
            println!("{} slots granted after {:?}", wanted.slots, begun.elapsed());
            return Ok(());
        }
        ensure!(
            begun.elapsed() < TIME_MAX,
            "not granted: {:?}",
            report.grants
        );
        // A slot that is being zeroed is granted by the next document.
        apply(grants.clone())?;
        std::thread::park_timeout(PAUSE);
    }
}

struct Borrower {
    // Before the pool, which it may have registered.
    transport: Box<dyn Transport>,
    pool: Vec<u8>,
    device: u8,
    slots: u32,
    slot_pages: u32,
    next: u64,
    is_up: bool,
    ended: Option<Result<(), OperationError>>,
}

const POOL: BufferRange = BufferRange {
    first: 0,
    pages: STEP,
};

impl Borrower {
    fn connect(reach: &Reach) -> Result<Self> {
        let slot_size = SlabSize::try_from(reach.slab)?;
        let hello = Hello {
            device: SwapDeviceId::from_bytes([reach.device; 16]),
            epoch: Epoch::new(reach.epoch),
            session: SessionId::new(reach.epoch),
            queue: 0,
        };
        let mut transport: Box<dyn Transport> = match reach.over {
            Over::Tcp => Box::new(TcpTransport::new(TcpOptions { hello, slot_size })?),
            Over::Rdma => Box::new(RdmaTransport::new(RdmaOptions { hello, slot_size })?),
        };
        let mut pool = vec![0; POOL.byte_len()];
        transport.register(&mut pool)?;
        transport.set_server(SERVER, Some(reach.server));
        Ok(Self {
            transport,
            pool,
            device: reach.device,
            slots: reach.slots,
            slot_pages: u32::try_from(reach.slab.get() / PAGE_SIZE.get())?,
            next: 0,
            is_up: false,
            ended: None,
        })
    }

    /// Lets the transport work until `done`.
    fn work_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(self) {
            ensure!(begun.elapsed() < TIME_MAX, "no {what} in {TIME_MAX:?}");
            let now = monotonic_now();
            self.transport.flush(&mut self.pool, now);
            let (is_up, ended) = (&mut self.is_up, &mut self.ended);
            let mut refused = false;
            let seen = self
                .transport
                .poll(&mut self.pool, now, &mut |event| match event {
                    TransportEvent::Completed(_, result) => *ended = Some(result),
                    TransportEvent::Link(_, link) => {
                        *is_up = matches!(link, Link::Up { .. });
                        refused |= link == Link::Refused;
                    }
                });
            ensure!(!refused, "the memory server knows a newer epoch");
            if seen == 0 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// One operation between the pool's first pages and a slot, to its end.
    fn run(&mut self, direction: Direction, slot: u32, page: u32, pages: u32) -> Result<Outcome> {
        self.work_until("link", |it| it.is_up)?;
        let operation = Operation {
            id: OperationId(self.next),
            server: SERVER,
            direction,
            set: SetId::new(set_of(self.device, slot)),
            slot: SlotIndex::new(slot),
            page,
            buffer: POOL.part(0, pages),
        };
        self.next += 1;
        self.ended = None;
        let posted = self
            .transport
            .post(&operation, &mut self.pool, monotonic_now());
        ensure!(posted, "the queue of one operation is full");
        self.work_until("answer", |it| it.ended.is_some())?;
        match self.ended.take() {
            Some(Ok(())) => Ok(Outcome::Done),
            Some(Err(OperationError::LinkDown)) => Ok(Outcome::Again),
            Some(Err(_)) => Ok(Outcome::Refused),
            None => bail!("an operation ended without an end"),
        }
    }

    /// The same, again as often as the link falls.
    fn insist(&mut self, direction: Direction, slot: u32, page: u32, pages: u32) -> Result<bool> {
        let begun = Instant::now();
        loop {
            match self.run(direction, slot, page, pages)? {
                Outcome::Done => return Ok(true),
                Outcome::Refused => return Ok(false),
                Outcome::Again => {
                    ensure!(begun.elapsed() < TIME_MAX, "the link falls all the time");
                }
            }
        }
    }

    /// Fills the own slots; gives how many steps were refused.
    fn fill(&mut self) -> Result<u64> {
        let mut refused = 0;
        for (slot, page) in self.steps() {
            // A read may have put something else there.
            let (words, _) = self.pool.as_chunks_mut::<16>();
            words.fill(*PATTERN);
            if !self.insist(Direction::Write, slot, page, STEP)? {
                refused += 1;
            }
        }
        Ok(refused)
    }

    fn steps(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (slots, pages) = (self.slots, self.slot_pages);
        (0..slots).flat_map(move |slot| {
            let steps = 0..pages / STEP;
            steps.map(move |step| (slot, step * STEP))
        })
    }

    fn scan(&mut self) -> Result<Found> {
        let mut found = Found::default();
        for (slot, page) in self.steps() {
            // Whatever is found is the server's: it is not what this process has written there before.
            self.pool.fill(0);
            let done = self.insist(Direction::Read, slot, page, STEP)?;
            ensure!(done, "slot {slot} is not ours");
            look(&self.pool, &mut found);
        }
        let beside = [
            (self.slots, 0, 1),
            (0, self.slot_pages - 1, 2),
            (0, self.slot_pages, 1),
        ];
        for (slot, page, pages) in beside {
            found.tries_beside += 1;
            self.pool.fill(0);
            if !self.insist(Direction::Read, slot, page, pages)? {
                found.refused_beside += 1;
            }
        }
        Ok(found)
    }
}

enum Outcome {
    Done,
    Again,
    Refused,
}

/// Counts what is in some pages.
fn look(pages: &[u8], found: &mut Found) {
    for page in pages.chunks(PAGE_SIZE.as_usize()) {
        found.pages += 1;
        found.bytes_not_zero += page.iter().map(|byte| u64::from(*byte != 0)).sum::<u64>();
        let has = page.windows(PATTERN.len()).any(|part| part == PATTERN);
        found.pages_with_pattern += u64::from(has);
    }
}

fn main() -> Result<()> {
    match Options::parse().task {
        Task::Grant(wanted) => grant(&wanted),
        Task::Read { reach } => {
            let found = Borrower::connect(&reach)?.scan()?;
            println!("{found:#?}");
            Ok(())
        }
        Task::Write { reach, once } => {
            let mut borrower = Borrower::connect(&reach)?;
            for pass in 1_u64.. {
                let refused = borrower.fill().with_context(|| format!("pass {pass}"))?;
                println!("pass {pass}: {refused} steps refused");
                if once {
                    ensure!(refused == 0, "{refused} steps were refused");
                    break;
                }
            }
            Ok(())
        }
    }
}
