//! The borrower's side of one link, without an engine: a transport that is polled without a pause.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_datapath::daemon::clock::monotonic_now;
use dynamicswap_datapath::transport::rdma::{RdmaOptions, RdmaTransport};
use dynamicswap_datapath::transport::tcp::{TcpOptions, TcpTransport};
use dynamicswap_datapath::transport::{Transport, TransportEvent};
use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationId};
use dynamicswap_engine::slots::Hello;
use dynamicswap_types::{Epoch, ServerIndex, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId};

/// The device that measures.
pub const DEVICE: SwapDeviceId = SwapDeviceId::from_bytes([1; 16]);
/// The set that its slot is a copy of.
pub const SET: SetId = SetId::new(1);
/// Bytes of one large operation.
pub const OPERATION_BYTES: usize = 128 << 10;
/// The same in pages.
const OPERATION_PAGES: u32 = 32;
/// Large operations under way.
const DEPTH: u32 = 32;
const SERVER: ServerIndex = ServerIndex::new(0);
/// Longest wait for the link.
const START_WAIT: Duration = Duration::from_secs(20);

/// Which way the link goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// Frames over a socket.
    Tcp,
    /// One-sided verbs.
    Rdma,
}

/// A link and the pool behind it.
pub struct Borrower {
    transport: Box<dyn Transport>,
    pool: Vec<u8>,
    slot_pages: u32,
}

impl Borrower {
    /// Connects, and waits until the link is up.
    pub fn connect(network: Network, address: &str, slot_size: SlabSize) -> Result<Self> {
        let hello = Hello {
            device: DEVICE,
            // Above that of every earlier measurement with the same server.
            epoch: Epoch::new(1 + monotonic_now().as_nanos() / 1_000_000_000),
            session: SessionId::new(u64::from(std::process::id())),
            queue: 0,
        };
        let mut transport: Box<dyn Transport> = match network {
            Network::Tcp => Box::new(TcpTransport::new(TcpOptions { hello, slot_size })?),
            Network::Rdma => Box::new(RdmaTransport::new(RdmaOptions { hello, slot_size })?),
        };
        let mut pool = vec![7; DEPTH as usize * OPERATION_BYTES];
        transport
            .register(&mut pool)
            .context("cannot register the pool")?;
        transport.set_server(SERVER, Some(address.parse()?));
        let mut borrower = Self {
            transport,
            pool,
            slot_pages: u32::try_from(slot_size.pages().get())?,
        };
        let deadline = Instant::now() + START_WAIT;
        loop {
            let events = borrower.poll();
            if events
                .iter()
                .any(|e| matches!(e, TransportEvent::Link(_, Link::Up { .. })))
            {
                return Ok(borrower);
            }
            ensure!(
                Instant::now() < deadline,
                "the memory server does not answer"
            );
        }
    }

    fn poll(&mut self) -> Vec<TransportEvent> {
        let now = monotonic_now();
        let mut events = Vec::new();
        self.transport.flush(&mut self.pool, now);
        self.transport
            .poll(&mut self.pool, now, &mut |event| events.push(event));
        events
    }

    /// MB/s in one direction, in large operations, many under way.
    pub fn stream(&mut self, direction: Direction, time: Duration) -> Result<f64> {
        let mut free: VecDeque<u32> = (0..DEPTH).collect();
        let (mut page, mut done) = (0, 0_u64);
        let began = Instant::now();
        while began.elapsed() < time || free.len() < DEPTH as usize {
            while began.elapsed() < time {
                let Some(place) = free.pop_front() else { break };
                let operation = operation(
                    u64::from(place),
                    direction,
                    page,
                    (place * OPERATION_PAGES, OPERATION_PAGES),
                );
                if !self
                    .transport
                    .post(&operation, &mut self.pool, monotonic_now())
                {
                    free.push_front(place);
                    break;
                }
                page = (page + OPERATION_PAGES) % self.slot_pages;
            }
            for event in self.poll() {
                let TransportEvent::Completed(id, result) = event else {
                    bail!("the link changed during the measurement");
                };
                result.context("an operation failed")?;
                free.push_back(u32::try_from(id.0)?);
                done += OPERATION_BYTES as u64;
            }
        }
        Ok(done as f64 / 1e6 / began.elapsed().as_secs_f64())
    }

    /// Microseconds from the post of a page's operation to its completion, alone on the link: the
    /// median and the 99th percentile of `count`.
    pub fn round_trips(&mut self, direction: Direction, count: usize) -> Result<(f64, f64)> {
        let mut taken = Vec::with_capacity(count);
        for id in 0..count as u64 {
            let page = u32::try_from(id * 7919 % u64::from(self.slot_pages))?;
            let operation = operation(id, direction, page, (0, 1));
            let began = Instant::now();
            ensure!(
                self.transport
                    .post(&operation, &mut self.pool, monotonic_now())
            );
            let events = loop {
                let events = self.poll();
                if !events.is_empty() {
                    break events;
                }
            };
            taken.push(began.elapsed().as_nanos() as f64);
            for event in events {
                let TransportEvent::Completed(_, result) = event else {
                    bail!("the link changed during the measurement");
                };
                result.context("an operation failed")?;
            }
        }
        taken.sort_by(f64::total_cmp);
        Ok((taken[count / 2] / 1e3, taken[count * 99 / 100] / 1e3))
    }
}

fn operation(id: u64, direction: Direction, page: u32, buffer: (u32, u32)) -> Operation {
    let (first, pages) = buffer;
    Operation {
        id: OperationId(id),
        server: SERVER,
        direction,
        set: SET,
        slot: SlotIndex::new(0),
        page,
        buffer: BufferRange { first, pages },
    }
}
