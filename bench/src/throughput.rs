//! Sequential throughput of the data path at depth 32, against a raw TCP stream on loopback.
//!
//! Ours: the `tcp` transport against a real memory server process, 128 KiB operations, 32 under
//! way, every byte through the frames and into or out of the slot. Theirs: one socket, one writer,
//! one reader, 128 KiB per call, nothing framed, checked or kept.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dynamicswap_engine::operation::Direction;
use dynamicswap_types::SlabSize;

use crate::Args;
use crate::borrower::{Borrower, Network, OPERATION_BYTES};
use crate::memory_server;
use crate::report::{Bar, Report};
use crate::workload::beside;

/// Time of one measurement.
const DURATION: Duration = Duration::from_secs(3);
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
            match memory_server::report(&server.socket()) {
                Ok(report) if report.slots_ready > 0 => break report,
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => std::thread::park_timeout(Duration::from_millis(10)),
            }
        };
        memory_server::grant(&server.socket(), &report)?;
        server.address = report.tcp_address;
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.state.path().join("control.sock")
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

/// Measures both directions between two raw runs, whose better one counts.
pub fn measure(_args: &Args, report: &mut Report) -> Result<()> {
    let raw = raw_tcp()?;
    let server = Server::start()?;
    let mut borrower = Borrower::connect(Network::Tcp, &server.address, SlabSize::DEFAULT)?;
    let write = borrower.stream(Direction::Write, DURATION)?;
    let read = borrower.stream(Direction::Read, DURATION)?;
    let (p50, p99) = borrower.round_trips(Direction::Read, ROUND_TRIPS)?;
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
