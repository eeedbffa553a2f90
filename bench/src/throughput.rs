//! Sequential throughput of the data path at depth 32, against a raw TCP stream on loopback.
//!
//! Ours: the `tcp` transport against a real memory server process, 128 KiB operations, 32 under
//! way, every byte through the frames and into or out of the slot. Theirs: one socket, one writer,
//! one reader, 128 KiB per call, nothing framed, checked or kept.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dynamicswap_datapath::daemon::clock::monotonic_now;
use dynamicswap_datapath::transport::tcp::{TcpOptions, TcpTransport};
use dynamicswap_datapath::transport::{Transport as _, TransportEvent};
use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationId};
use dynamicswap_engine::slots::Hello;
use dynamicswap_proto::common::v1::{MemoryServerDocument, MemoryServerReport, SlotGrant};
use dynamicswap_proto::daemon::v1::response::Kind;
use dynamicswap_proto::daemon::v1::{ReportRequest, Request, Response, report, request};
use dynamicswap_proto::frame;
use dynamicswap_types::{Epoch, ServerIndex, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId};

use crate::Args;
use crate::report::{Bar, Report};
use crate::workload::beside;

/// Bytes of one operation and of one raw write.
const OPERATION_BYTES: usize = 128 << 10;
/// The same in pages.
const OPERATION_PAGES: u32 = 32;
/// Operations under way.
const DEPTH: u32 = 32;
/// Time of one measurement.
const DURATION: Duration = Duration::from_secs(3);
/// The slot that is written and read.
const SLOT_PAGES: u32 = 16384;
/// Reads of one page whose time is taken.
const ROUND_TRIPS: usize = 20_000;
/// Longest wait for the server.
const START_WAIT: Duration = Duration::from_secs(20);

/// MB/s of a raw TCP stream over loopback.
fn raw_tcp() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let reader = std::thread::spawn(move || -> Result<u64> {
        let (mut socket, _) = listener.accept()?;
        let mut buffer = vec![0; OPERATION_BYTES];
        let mut bytes = 0_u64;
        loop {
            match socket.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    });
    let mut socket = TcpStream::connect(address).context("cannot connect to 127.0.0.1")?;
    socket.set_nodelay(true)?;
    let buffer = vec![7; OPERATION_BYTES];
    let began = Instant::now();
    while began.elapsed() < DURATION {
        socket.write_all(&buffer)?;
    }
    drop(socket);
    let bytes = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader thread died"))??;
    Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
}

/// A memory server of this run, with one granted slot.
struct Server {
    child: Child,
    state: tempfile::TempDir,
    address: String,
}

impl Server {
    fn start() -> Result<Self> {
        let state = tempfile::tempdir().context("cannot make a directory")?;
        let child = Self::command(&state)?
            .spawn()
            .context("cannot start the memory server")?;
        let mut server = Self {
            child,
            state,
            address: String::new(),
        };
        let deadline = Instant::now() + START_WAIT;
        let report = loop {
            match server.report() {
                Ok(report) if report.slots_ready > 0 => break report,
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => std::thread::park_timeout(Duration::from_millis(10)),
            }
        };
        let grant = SlotGrant {
            slot: 0,
            device_id: vec![1; 16],
            set_id: 1,
        };
        let document = MemoryServerDocument {
            generation: 1,
            incarnation: report.incarnation,
            grants: vec![grant],
            emptied: false,
        };
        match server.ask(request::Kind::ApplyMemoryServer(document))? {
            Kind::Applied(_) => {}
            other => bail!("the memory server refused the grant: {other:?}"),
        }
        server.address = report.tcp_address;
        Ok(server)
    }

    fn command(state: &tempfile::TempDir) -> Result<Command> {
        let mut command = Command::new(beside("dynamicswap-memory-server")?);
        command.args([
            "--node=bench",
            "--listen=127.0.0.1:0",
            "--capacity=64Mi",
            "--slab=64Mi",
        ]);
        command.arg(format!("--state-dir={}", state.path().display()));
        command.arg(format!(
            "--control-socket={}",
            state.path().join("control.sock").display()
        ));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    fn ask(&self, kind: request::Kind) -> Result<Kind> {
        let mut stream = UnixStream::connect(self.state.path().join("control.sock"))?;
        stream.write_all(&frame::encode(&Request { kind: Some(kind) })?)?;
        let mut header = [0; frame::HEADER_BYTES];
        stream.read_exact(&mut header)?;
        let mut body = vec![0; frame::body_len(header)?];
        stream.read_exact(&mut body)?;
        let response: Response = frame::decode(&body)?;
        response.kind.context("an empty answer")
    }

    fn report(&self) -> Result<MemoryServerReport> {
        let wanted = ReportRequest {
            known_change: 0,
            wait_ms: 0,
        };
        let Kind::Report(answer) = self.ask(request::Kind::Report(wanted))? else {
            bail!("no report");
        };
        match answer.kind {
            Some(report::Kind::MemoryServer(server)) => Ok(server),
            _ => bail!("another daemon's report"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let discard = Self::command(&self.state).and_then(|mut command| {
            command
                .arg("--discard")
                .status()
                .context("cannot discard the server's memory")
        });
        if let Err(error) = discard {
            eprintln!("bench: {error:#}");
        }
    }
}

/// The borrower's side: a transport that is polled without a pause.
struct Borrower {
    transport: TcpTransport,
    pool: Vec<u8>,
}

impl Borrower {
    fn connect(address: &str) -> Result<Self> {
        let hello = Hello {
            device: SwapDeviceId::from_bytes([1; 16]),
            epoch: Epoch::new(1),
            session: SessionId::new(1),
            queue: 0,
        };
        let mut transport = TcpTransport::new(TcpOptions {
            hello,
            slot_size: SlabSize::DEFAULT,
        })?;
        transport.set_server(ServerIndex::new(0), Some(address.parse()?));
        let mut borrower = Self {
            transport,
            pool: vec![7; DEPTH as usize * OPERATION_BYTES],
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

    /// MB/s in one direction.
    fn run(&mut self, direction: Direction) -> Result<f64> {
        let mut free: VecDeque<u32> = (0..DEPTH).collect();
        let (mut page, mut done) = (0, 0_u64);
        let began = Instant::now();
        while began.elapsed() < DURATION || free.len() < DEPTH as usize {
            while began.elapsed() < DURATION {
                let Some(place) = free.pop_front() else { break };
                let operation = Operation {
                    id: OperationId(u64::from(place)),
                    server: ServerIndex::new(0),
                    direction,
                    set: SetId::new(1),
                    slot: SlotIndex::new(0),
                    page,
                    buffer: BufferRange {
                        first: place * OPERATION_PAGES,
                        pages: OPERATION_PAGES,
                    },
                };
                if !self
                    .transport
                    .post(&operation, &mut self.pool, monotonic_now())
                {
                    free.push_front(place);
                    break;
                }
                page = (page + OPERATION_PAGES) % SLOT_PAGES;
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

    /// Microseconds from the post of a page's read to its completion, alone on the link: the
    /// median and the 99th percentile.
    fn round_trip(&mut self) -> Result<(f64, f64)> {
        let mut nanos = Vec::with_capacity(ROUND_TRIPS);
        for id in 0..ROUND_TRIPS as u64 {
            let operation = Operation {
                id: OperationId(id),
                server: ServerIndex::new(0),
                direction: Direction::Read,
                set: SetId::new(1),
                slot: SlotIndex::new(0),
                page: u32::try_from(id * 7919 % u64::from(SLOT_PAGES))?,
                buffer: BufferRange { first: 0, pages: 1 },
            };
            let began = Instant::now();
            ensure!(
                self.transport
                    .post(&operation, &mut self.pool, monotonic_now())
            );
            while self.poll().is_empty() {}
            nanos.push(began.elapsed().as_nanos() as f64);
        }
        nanos.sort_by(f64::total_cmp);
        Ok((
            nanos[ROUND_TRIPS / 2] / 1e3,
            nanos[ROUND_TRIPS * 99 / 100] / 1e3,
        ))
    }
}

/// Measures both directions between two raw runs, whose better one counts.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    let raw = raw_tcp()?;
    let server = Server::start()?;
    let mut borrower = Borrower::connect(&server.address)?;
    let write = borrower.run(Direction::Write)?;
    let read = borrower.run(Direction::Read)?;
    let (p50, p99) = borrower.round_trip()?;
    drop(borrower);
    drop(server);
    let raw = raw.max(raw_tcp()?);
    let peer = ("raw TCP over loopback", raw);
    report.against(
        "data path, sequential write, depth 32 [MB/s]",
        write,
        peer,
        Bar::AtLeast(0.7),
    );
    report.against(
        "data path, sequential read, depth 32 [MB/s]",
        read,
        peer,
        Bar::AtLeast(0.7),
    );
    report.absolute("one page read over TCP, median [us]", p50, Bar::None);
    report.absolute(
        "one page read over TCP, 99th percentile [us]",
        p99,
        Bar::None,
    );
    Ok(())
}
