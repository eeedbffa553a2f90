//! A memory server process and a borrower, for the tests beside.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dynamicswap_datapath::daemon::clock::monotonic_now;
use dynamicswap_datapath::transport::rdma::{RdmaOptions, RdmaTransport};
use dynamicswap_datapath::transport::tcp::{TcpOptions, TcpTransport};
use dynamicswap_datapath::transport::{Transport, TransportEvent};
use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationId, OperationResult};
use dynamicswap_engine::slots::Hello;
use dynamicswap_proto::common::v1::{MemoryServerDocument, MemoryServerReport, SlotGrant};
use dynamicswap_proto::daemon::v1::{ReportRequest, report, request, response::Kind};
use dynamicswap_proto::exchange::exchange;
use dynamicswap_types::{
    Bytes, Epoch, ServerIndex, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId,
};
use dynamicswap_workload::layer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_dynamicswap-memory-server");

/// The binary under test, which lies elsewhere in a guest of the lab.
fn program() -> String {
    std::env::var("DYNAMICSWAP_MEMORY_SERVER").unwrap_or_else(|_| PROGRAM.to_owned())
}
const SERVER: ServerIndex = ServerIndex::new(0);
const TIME_MAX: Duration = Duration::from_secs(20);

/// A state directory of its own, discarded at the end.
pub struct Setup {
    state: tempfile::TempDir,
}

/// Says why a test cannot run here, past the capture of the test's output; a failure where the
/// layer is required.
pub fn skipped(why: &str) {
    assert!(!layer::is_required("native"), "required, but {why}");
    let _said = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

impl Setup {
    /// `None`, and a word on stderr, where mounting is not permitted.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("it needs root to mount a noswap tmpfs");
            return None;
        }
        let state = tempfile::tempdir().expect("a directory");
        Some(Self { state })
    }

    pub fn socket(&self) -> PathBuf {
        self.state.path().join("control.sock")
    }

    pub fn memory_dir(&self) -> PathBuf {
        self.state.path().join("memory")
    }

    pub fn arguments(&self) -> Vec<String> {
        vec![
            "--node=donor-1".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--state-dir={}", self.state.path().display()),
            "--capacity=4Mi".to_owned(),
            "--slab=1Mi".to_owned(),
            format!("--control-socket={}", self.socket().display()),
        ]
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let mut discard = Command::new(program());
        discard.args(self.arguments()).arg("--discard");
        let _ = discard.stderr(Stdio::null()).status();
    }
}

/// A running server; killed when dropped.
pub struct MemoryServer {
    child: Child,
    socket: PathBuf,
}

impl MemoryServer {
    pub fn start(setup: &Setup) -> Self {
        Self::start_with(setup, &[])
    }

    pub fn start_with(setup: &Setup, more: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(setup.arguments())
            .args(more)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = log.lines();
        let started = lines.by_ref().find(|line| {
            let line = line.as_deref().unwrap_or_default();
            line.contains("lends")
        });
        assert!(started.is_some(), "the server ended: {:?}", child.wait());
        // Drained to the end, or the server would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            socket: setup.socket(),
        }
    }

    fn ask(&self, kind: request::Kind) -> Kind {
        let mut stream = UnixStream::connect(&self.socket).expect("listening");
        let answer = exchange(&mut stream, kind).expect("an answer");
        answer.expect("a known kind")
    }

    fn report_after(&self, known_change: u64, wait_ms: u32) -> (u64, MemoryServerReport) {
        let wanted = ReportRequest {
            known_change,
            wait_ms,
        };
        let Kind::Report(report) = self.ask(request::Kind::Report(wanted)) else {
            panic!("no report");
        };
        match report.kind {
            Some(report::Kind::MemoryServer(server)) => (report.change, server),
            other => panic!("another report: {other:?}"),
        }
    }

    pub fn report(&self) -> MemoryServerReport {
        self.report_after(0, 0).1
    }

    /// Waits for a report that fits, from change to change.
    pub fn wait_for(&self, fits: impl Fn(&MemoryServerReport) -> bool) -> MemoryServerReport {
        let start = monotonic_now();
        let mut known = 0;
        loop {
            let (change, report) = self.report_after(known, 200);
            if fits(&report) {
                return report;
            }
            assert!(monotonic_now().since(start) < TIME_MAX, "{report:?}");
            known = change;
        }
    }

    /// Grants are (slot, device, set). A [`Borrower`] takes a slot to be granted for [`set_of`] it.
    pub fn apply(&self, generation: u64, incarnation: &[u8], grants: &[(u32, u8, u64)]) -> Kind {
        let grants = grants.iter().map(|(slot, device, set)| SlotGrant {
            slot: *slot,
            device_id: vec![*device; 16],
            set_id: *set,
        });
        self.ask(request::Kind::ApplyMemoryServer(MemoryServerDocument {
            generation,
            incarnation: incarnation.to_vec(),
            grants: grants.collect(),
            emptied: false,
        }))
    }

    pub fn grant(&self, generation: u64, incarnation: &[u8], grants: &[(u32, u8, u64)]) {
        let answer = self.apply(generation, incarnation, grants);
        assert!(matches!(answer, Kind::Applied(a) if a.generation == generation));
    }

    /// kill -9; gives the pid that it had.
    pub fn kill(mut self) -> u32 {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
        self.child.id()
    }

    /// SIGTERM.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends")
    }
}

impl Drop for MemoryServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The set for which a [`Borrower`] takes a slot to be granted.
pub fn set_of(slot: u32) -> u64 {
    10 + u64::from(slot)
}

/// How an engine process of `device` presents itself.
pub fn hello(device: u8, epoch: u64) -> Hello {
    Hello {
        device: SwapDeviceId::from_bytes([device; 16]),
        epoch: Epoch::new(epoch),
        session: SessionId::new(epoch),
        queue: 0,
    }
}

/// A transport with a pool: 256 pages to write from, 256 to read into.
pub struct Borrower {
    // Before the pool, which it may have registered.
    transport: Box<dyn Transport>,
    pool: Vec<u8>,
    next: u64,
    waiting: Vec<TransportEvent>,
    seen: Seen,
}

/// Events counted by [`Borrower::poll_until`].
#[derive(Default)]
pub struct Seen {
    pub completed: u64,
    pub links: u64,
}

const HALF: BufferRange = BufferRange {
    first: 0,
    pages: 256,
};

fn pattern(seed: u8, place: usize) -> u8 {
    u8::try_from((place * 31 + place / 4096 + usize::from(seed) * 17) % 251).expect("small")
}

impl Borrower {
    pub fn connect(address: &str, hello: Hello) -> Self {
        let slot_size = SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size");
        let transport = TcpTransport::new(TcpOptions { hello, slot_size }).expect("epoll");
        Self::over(Box::new(transport), address)
    }

    pub fn connect_by_rdma(address: &str, hello: Hello) -> Self {
        let slot_size = SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size");
        let transport = RdmaTransport::new(RdmaOptions { hello, slot_size }).expect("a device");
        Self::over(Box::new(transport), address)
    }

    fn over(mut transport: Box<dyn Transport>, address: &str) -> Self {
        let mut pool = vec![0; 512 * 4096];
        transport
            .register(&mut pool)
            .expect("enough lockable memory");
        transport.set_server(SERVER, Some(address.parse().expect("an address")));
        Self {
            transport,
            pool,
            next: 0,
            waiting: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// The next events; sleeps until there is one.
    pub fn events(&mut self) -> Vec<TransportEvent> {
        let start = monotonic_now();
        loop {
            if !self.waiting.is_empty() {
                return std::mem::take(&mut self.waiting);
            }
            let now = monotonic_now();
            assert!(now.since(start) < TIME_MAX, "nothing happens");
            self.transport.flush(&mut self.pool, now);
            let waiting = &mut self.waiting;
            self.transport
                .poll(&mut self.pool, now, &mut |event| waiting.push(event));
            if self.waiting.is_empty() && !self.transport.arm() {
                self.sleep();
            }
        }
    }

    /// Polls until `done`, counting events and keeping none.
    pub fn poll_until(&mut self, done: impl Fn(&Seen) -> bool) {
        let start = monotonic_now();
        while !done(&self.seen) {
            let now = monotonic_now();
            assert!(now.since(start) < TIME_MAX, "nothing happens");
            self.transport.flush(&mut self.pool, now);
            let seen = &mut self.seen;
            self.transport
                .poll(&mut self.pool, now, &mut |event| match event {
                    TransportEvent::Completed(..) => seen.completed += 1,
                    TransportEvent::Link(..) => seen.links += 1,
                });
            if !done(&self.seen) && !self.transport.arm() {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        let due = self.transport.next_deadline();
        let wait = due.map_or(TIME_MAX, |due| due.since(monotonic_now()));
        let wait = Timespec::try_from(wait).expect("short");
        let fd = self.transport.event_fd().expect("epoll");
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait));
    }

    pub fn next_link(&mut self) -> Link {
        let mut events = self.events();
        let TransportEvent::Link(SERVER, link) = events.remove(0) else {
            panic!("{events:?}");
        };
        self.waiting = events;
        link
    }

    pub fn expect_up(&mut self) {
        let link = self.next_link();
        assert!(matches!(link, Link::Up { .. }), "{link:?}");
    }

    pub fn expect_down(&mut self) {
        assert_eq!(self.next_link(), Link::Down);
    }

    /// One page, between `page` of the slot and `first` of the pool.
    pub fn post(&mut self, direction: Direction, slot: u32, page: u32, first: u32) {
        self.post_range(direction, slot, page, BufferRange { first, pages: 1 });
    }

    fn post_range(&mut self, direction: Direction, slot: u32, page: u32, buffer: BufferRange) {
        let operation = Operation {
            id: OperationId(self.next),
            server: SERVER,
            direction,
            // These tests grant slot N for set 10 + N.
            set: SetId::new(u64::from(slot) + 10),
            slot: SlotIndex::new(slot),
            page,
            buffer,
        };
        self.next += 1;
        let now = monotonic_now();
        assert!(self.transport.post(&operation, &mut self.pool, now));
    }

    /// One operation from or to the right half of the pool, to its end.
    pub fn run(
        &mut self,
        direction: Direction,
        slot: u32,
        page: u32,
        pages: u32,
    ) -> OperationResult {
        let first = match direction {
            Direction::Read => HALF.pages,
            Direction::Write => 0,
        };
        self.post_range(direction, slot, page, BufferRange { first, pages });
        let mut events = self.events();
        let TransportEvent::Completed(_, result) = events.remove(0) else {
            panic!("{events:?}");
        };
        self.waiting = events;
        result
    }

    pub fn fill_pool(&mut self, seed: u8) {
        for (place, byte) in self.pool.bytes_mut(HALF).iter_mut().enumerate() {
            *byte = pattern(seed, place);
        }
    }

    pub fn clear_pool(&mut self) {
        self.pool.fill(0);
    }

    fn read_half(&self) -> &[u8] {
        &self.pool[HALF.byte_len()..]
    }

    pub fn check_pool(&self, seed: u8) {
        let wrong = (self.read_half().iter().enumerate()).find(|(at, b)| **b != pattern(seed, *at));
        assert_eq!(wrong, None);
    }

    pub fn check_zero(&self) {
        assert!(self.read_half().iter().all(|byte| *byte == 0));
    }

    /// These pages were read as `fill_pool` had filled them with `seed`.
    pub fn check_pages(&self, seed: u8, pages: std::ops::Range<usize>) {
        for at in pages.start * 4096..pages.end * 4096 {
            assert_eq!(self.read_half()[at], pattern(seed, at), "byte {at}");
        }
    }
}
