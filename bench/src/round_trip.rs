//! One page over raw TCP on loopback: what the network alone adds to a swap-in on this machine.
//!
//! A request of 40 bytes, answered by a page behind a header of 24, as on our wire; nothing is
//! checked or kept. The asking thread looks again without sleeping, as the engine does; the
//! answering one sleeps between requests, as a memory server does whose requests are seldom.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Bytes of a request and of its answer.
const REQUEST_BYTES: usize = 40;
const ANSWER_BYTES: usize = 24 + 4096;
/// Requests whose time is taken.
const ROUND_TRIPS: usize = 20_000;
/// Pause before each: a swap-in's own work, in which the server falls asleep.
const PAUSE: Duration = Duration::from_micros(40);

fn answer(listener: &TcpListener) -> Result<()> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let (mut request, answer) = ([0; REQUEST_BYTES], vec![7; ANSWER_BYTES]);
    loop {
        match socket.read_exact(&mut request) {
            Ok(()) => socket.write_all(&answer)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn ask(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<Duration> {
    let began = Instant::now();
    socket.write_all(&[1; REQUEST_BYTES])?;
    let mut read = 0;
    while read < ANSWER_BYTES {
        match socket.read(&mut buffer[read..]) {
            Ok(0) => bail!("the answering thread has closed its socket"),
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(began.elapsed())
}

/// Median and 99th percentile of a page's round trip in microseconds.
pub fn measure() -> Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let answering = std::thread::spawn(move || answer(&listener));
    let mut socket = TcpStream::connect(address).context("cannot connect to 127.0.0.1")?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut buffer = vec![0; ANSWER_BYTES];
    let mut taken = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        while began.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
        taken.push(ask(&mut socket, &mut buffer)?);
    }
    drop(socket);
    let ended = answering.join();
    ended.map_err(|_| anyhow::anyhow!("the answering thread died"))??;
    taken.sort_unstable();
    let at = |share: usize| taken[ROUND_TRIPS * share / 100].as_nanos() as f64 / 1e3;
    Ok((at(50), at(99)))
}
