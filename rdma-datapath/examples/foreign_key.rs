//! Tries to reach memory of a memory server by RDMA with keys that it does not have: another
//! session's, its own for what that does not permit, and guessed ones.
//!
//! `cargo run --example foreign_key -- --server IP:PORT [--guesses 8]` ends with 0 if every try
//! was refused. A tool for the lab; it is nobody's borrower, and so owns no slot.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use dynamicswap_datapath::verbs::{
    Batch, CmEventKind, CompletionQueue, Connection, EventChannel, Posting, ProtectionDomain,
    SharedWords, Verbs, WorkCompletion,
};
use dynamicswap_engine::slots::Hello;
use dynamicswap_engine::wire::{
    Directory, DirectoryEntry, ENTRY_BYTES, ENTRY_WORDS, VersionRange, decode_entry,
    decode_rdma_reply, encode_rdma_hello,
};
use dynamicswap_types::{Epoch, SessionId, SwapDeviceId};

const TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Options {
    /// The server's RDMA address.
    #[arg(long)]
    server: SocketAddr,
    /// Keys to guess.
    #[arg(long, default_value_t = 8)]
    guesses: u32,
}

struct Session {
    connection: Connection,
    buffer: SharedWords,
    directory: Directory,
    slots: u32,
}

impl Session {
    fn open(server: SocketAddr, device: u8) -> Result<Self> {
        let verbs = Verbs::load()?;
        let events = EventChannel::new(verbs)?;
        let mut connection = Connection::new(&events)?;
        connection.resolve_address(server, TIME_MAX)?;
        wait(&events, CmEventKind::AddressResolved)?;
        connection.resolve_route(TIME_MAX)?;
        wait(&events, CmEventKind::RouteResolved)?;
        let rdma = connection.device().context("no device")?;
        let domain = ProtectionDomain::new(verbs, rdma)?;
        let queue = CompletionQueue::new(verbs, rdma, None, 8)?;
        connection.make_queue_pair(&domain, queue, 8)?;
        let buffer = SharedWords::new(&domain, ENTRY_WORDS, None)?;
        let hello = Hello {
            device: SwapDeviceId::from_bytes([device; 16]),
            epoch: Epoch::new(1),
            session: SessionId::new(u64::from(std::process::id())),
            queue: 0,
        };
        connection.connect(&encode_rdma_hello(&hello, VersionRange::OURS))?;
        let reply = wait(&events, CmEventKind::Established)?;
        let (accepted, directory) = decode_rdma_reply(&reply)??;
        Ok(Self {
            connection,
            buffer,
            directory,
            slots: accepted.slots,
        })
    }

    /// Does one operation; gives its status, 0 if it succeeded.
    fn touch(&mut self, read: bool, remote: u64, rkey: u32) -> Result<u32> {
        let mut batch = Batch::new(1);
        batch.push(Posting {
            id: 1,
            read,
            local: self.buffer.address(0),
            len: u32::try_from(ENTRY_BYTES)?,
            lkey: self.buffer.region().lkey(),
            remote,
            rkey,
            signalled: true,
        });
        self.connection.post(&mut batch)?;
        let deadline = Instant::now() + TIME_MAX;
        while Instant::now() < deadline {
            let queue = self.connection.completions().context("no queue")?;
            if let [done, ..] = queue.poll(&mut [WorkCompletion::default(); 4]) {
                return Ok(done.status);
            }
            std::thread::yield_now();
        }
        bail!("an operation has not ended in {TIME_MAX:?}")
    }

    fn entry(&mut self, slot: u32) -> Result<DirectoryEntry> {
        let Directory { address, key } = self.directory;
        let place = address + u64::from(slot) * ENTRY_BYTES as u64;
        ensure!(
            self.touch(true, place, key)? == 0,
            "the own directory is closed"
        );
        let mut words = [0; ENTRY_WORDS];
        for (word, from) in words.iter_mut().zip(self.buffer.words()) {
            *word = from.load(Ordering::Acquire);
        }
        decode_entry(&words).context("a torn entry")
    }
}

fn wait(events: &EventChannel, wanted: CmEventKind) -> Result<Vec<u8>> {
    let deadline = Instant::now() + TIME_MAX;
    while Instant::now() < deadline {
        if let Some(news) = events.next() {
            ensure!(news.kind == wanted, "{:?} instead of {wanted:?}", news.kind);
            return Ok(news.data.as_slice().to_vec());
        }
        std::thread::yield_now();
    }
    bail!("no {wanted:?} in {TIME_MAX:?}")
}

fn refused(what: &str, status: u32) -> Result<()> {
    ensure!(status != 0, "{what}: it was permitted");
    println!("refused with status {status}: {what}");
    Ok(())
}

fn main() -> Result<()> {
    let Options { server, guesses } = Options::parse();
    let mut own = Session::open(server, 0xa1)?;
    for slot in 0..own.slots {
        let entry = own.entry(slot)?;
        ensure!(entry == DirectoryEntry::NotYours, "slot {slot}: {entry:?}");
    }
    println!("no entry of {} is ours", own.slots);
    let other = Session::open(server, 0xa2)?;
    let theirs = other.directory;
    refused(
        "another session's key",
        own.touch(true, theirs.address, theirs.key)?,
    )?;
    drop(own);
    let mut own = Session::open(server, 0xa1)?;
    let Directory { address, key } = own.directory;
    let behind = address + (1 << 20) + u64::from(own.slots) * ENTRY_BYTES as u64;
    refused(
        "the own key behind its region",
        own.touch(false, behind, key)?,
    )?;
    drop(own);
    for guess in 1..=guesses {
        let mut own = Session::open(server, 0xa1)?;
        let Directory { address, key } = own.directory;
        // Devices number regions upwards and vary the low byte: the likely ones first.
        let guessed = key.wrapping_add(guess << 8);
        refused(
            "a guessed key",
            own.touch(guess % 2 == 0, address, guessed)?,
        )?;
    }
    let mut own = Session::open(server, 0xa1)?;
    own.entry(0)?;
    println!("every try was refused, and the server still serves");
    Ok(())
}
