//! Transports: how one-sided operations reach a memory server.
//!
//! Shaped after RDMA: the buffer pool is registered once ([`Transport::register`]), operations are posted without
//! blocking and flushed together (the doorbell), completions are polled from a queue, and an
//! idle engine arms one event descriptor before it sleeps (`ibv_req_notify_cq`). `rdma`,
//! `tcp`, `loopback` and `fault` implement the same trait.

pub mod fault;
mod link_error;
mod liveness;
pub mod loopback;
pub mod rdma;
pub mod remote;
mod segments;
pub mod tcp;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Operation, OperationId, OperationResult};
use dynamicswap_types::{MonotonicTime, ServerIndex};

pub use link_error::LinkError;

/// What comes out of a transport's completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportEvent {
    /// An operation ended; its buffer is the engine's again.
    Completed(OperationId, OperationResult),
    /// A link changed. Before `Down` every operation of that server has been completed.
    Link(ServerIndex, Link),
}

/// Carries one-sided operations. One instance belongs to one I/O thread; nothing is shared.
pub trait Transport {
    /// Registers the pool in which every operation's buffer lies: called once, before the first
    /// post, with all of it. A transport whose hardware reads and writes memory by itself makes
    /// its memory region here, so that nothing is ever registered on the I/O path; the others have
    /// nothing to do. The pool neither moves nor shrinks for as long as the transport lives.
    ///
    /// # Errors
    /// The host's, if it does not permit the registration (a memlock limit, say).
    fn register(&mut self, _pool: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    /// Connects to `address`, or stops using the server if `None`. Reconnects by itself, with
    /// bounded back-off, until told otherwise. Not on the I/O path: may allocate.
    fn set_server(&mut self, server: ServerIndex, address: Option<SocketAddr>);

    /// Posts an operation; a link that is not up completes it with `LinkDown`. Returns false if
    /// the send queue to that server is full: poll, then post again. Never blocks, never allocates.
    ///
    /// Writes reach the server in the order of their posts, and so do reads; a read may go ahead of
    /// writes that were posted before it, so whoever wants to read what it writes waits for the
    /// write's completion.
    fn post(
        &mut self,
        operation: &Operation,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) -> bool;

    /// Sends what was posted (rings the doorbell).
    fn flush(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime);

    /// Moves data and hands each event to `sink`; returns how many there were. Never blocks.
    fn poll(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) -> usize;

    /// An operation on the server is overdue: tears down the link and builds it anew, unless it moves.
    fn reset(&mut self, server: ServerIndex, now: MonotonicTime);

    /// Becomes readable when `poll` has something to do; `None` for a transport that is always
    /// polled.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Asks for the next event on [`Self::event_fd`]. Returns true if there already is something
    /// to poll, so that the caller must not sleep.
    fn arm(&mut self) -> bool;

    /// When the transport next needs a `poll` without any event (reconnect, keep-alive).
    fn next_deadline(&self) -> Option<MonotonicTime>;
}
