//! Sequential throughput of the data path at depth 32, against a raw TCP stream on loopback.
//!
//! Ours: the `tcp` transport against a real memory server process, 128 KiB operations, 32 under
//! way, every byte through the frames and into the slot. Theirs: one socket, one writer, one
//! reader, 128 KiB per call, nothing checked.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Bytes of one operation and of one raw write.
pub const OPERATION_BYTES: usize = 128 << 10;
/// Time of one measurement.
const DURATION: Duration = Duration::from_secs(3);

/// MB/s of a raw TCP stream over loopback.
pub fn raw_tcp() -> Result<f64> {
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
    let bytes = reader.join().map_err(|_| anyhow::anyhow!("the reader thread died"))??;
    Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
}
