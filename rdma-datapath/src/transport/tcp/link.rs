//! One link: connect, handshake, pipeline, keep-alive, back-off.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::link::Link as LinkState;
use dynamicswap_engine::operation::{Direction, Operation, OperationError};
use dynamicswap_engine::wire::{
    HANDSHAKE_BYTES, RESPONSE_BYTES, Refusal, Response, Status, VersionRange, decode_reply,
    encode_hello,
};
use dynamicswap_types::{Backoff, MonotonicTime, ServerIndex};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect, send, sendmsg,
    socket_with, sockopt,
};
use socket2::SockRef;

use super::super::liveness::Liveness;
use super::super::{LinkError, TransportEvent};
use super::flights::{Flights, SLICES_MAX};
use super::input::Input;
use super::{Context, Step, TcpOptions};

/// Longest time to make a connection, and again for its handshake.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// First wait before a new attempt; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Longest wait: a server that comes back is used again within it.
const RETRY_MAX: Duration = Duration::from_millis(320);
/// Bytes that the socket takes beyond what its congestion window lets go.
const NOT_SENT_MAX: u32 = 64 << 10;
/// Reads of one link in one poll, so that one busy link does not starve the others.
const READS_MAX: usize = 8;

/// Traffic and trouble of a link since it was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Payload received.
    pub bytes_read: u64,
    /// Payload acknowledged.
    pub bytes_written: u64,
    /// Why it last went down, or cannot come up.
    pub last_error: Option<LinkError>,
}

enum State {
    /// No connection; waits for the time of the next attempt.
    Waiting { until: MonotonicTime },
    /// Waits for the socket to become writable, at most until `deadline`.
    Connecting {
        socket: OwnedFd,
        deadline: MonotonicTime,
    },
    /// Waits for the server's reply, at most until `deadline`.
    Greeting {
        socket: OwnedFd,
        deadline: MonotonicTime,
    },
    /// Carries operations.
    Up { socket: OwnedFd },
    /// Refused for good; waits for a reset or another address.
    Refused,
}

/// What the engine was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Down,
    Refused,
}

pub(super) struct Link {
    server: ServerIndex,
    /// `None`: remove the link once everything under way is completed.
    address: Option<SocketAddr>,
    state: State,
    told: Told,
    flights: Flights,
    input: Input,
    retry: Backoff,
    liveness: Liveness,
    /// The socket takes no more for now.
    blocked: bool,
    /// epoll was asked to tell when the socket takes more.
    watches_output: bool,
    /// The engine must hear that the link is not up: at the next poll.
    fell: bool,
    stats: LinkStats,
}

impl Link {
    pub(super) fn new(server: ServerIndex, address: SocketAddr) -> Self {
        Self {
            server,
            address: Some(address),
            state: State::Waiting {
                until: MonotonicTime::ZERO,
            },
            told: Told::Nothing,
            flights: Flights::new(),
            input: Input::new(),
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            liveness: Liveness::NEW,
            blocked: false,
            watches_output: false,
            fell: false,
            stats: LinkStats::default(),
        }
    }

    pub(super) const fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Whether answers are awaited.
    pub(super) fn is_busy(&self) -> bool {
        !self.flights.is_empty() && matches!(self.state, State::Up { .. })
    }

    /// Whether the socket must tell when it takes more.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether the next poll has something to tell without any event.
    pub(super) const fn has_news(&self) -> bool {
        self.fell
    }

    /// Whether the link may be forgotten.
    pub(super) const fn is_removed(&self) -> bool {
        self.address.is_none() && !self.fell
    }

    pub(super) fn set_address(&mut self, address: Option<SocketAddr>) {
        if self.address == address {
            return;
        }
        self.address = address;
        self.retry.reset();
        self.stats.last_error = None;
        self.state = State::Waiting {
            until: MonotonicTime::ZERO,
        };
        self.fall();
    }

    /// An operation is overdue. A link that moves is slow and not dead: what is under way would only
    /// have to be sent once more.
    pub(super) fn reset(&mut self, now: MonotonicTime) {
        if self.is_busy() && self.liveness.moves(now) {
            return;
        }
        self.stats.last_error = Some(LinkError::Reset);
        self.state = State::Waiting {
            until: MonotonicTime::ZERO,
        };
        self.fall();
    }

    /// What every way down has in common; the socket is closed already.
    const fn fall(&mut self) {
        self.blocked = false;
        self.watches_output = false;
        self.fell = true;
        self.input.clear();
    }

    fn fail(&mut self, error: LinkError, now: MonotonicTime) {
        self.stats.last_error = Some(error);
        let pause = self.retry.pause();
        let refused = matches!(
            error,
            LinkError::Refused(Refusal::OldEpoch { .. } | Refusal::EpochTaken)
        );
        self.state = if refused {
            State::Refused
        } else {
            State::Waiting {
                until: now.after(pause),
            }
        };
        self.fall();
    }

    pub(super) fn post(&mut self, operation: &Operation, now: MonotonicTime) -> bool {
        if self.flights.is_empty() {
            self.liveness.begins(now);
        }
        let posted = self.flights.push(operation);
        // The next poll completes it with LinkDown.
        self.fell |= !matches!(self.state, State::Up { .. });
        posted
    }

    /// Sends what the socket takes. Errors are left to the next read, which finds them too.
    pub(super) fn send(&mut self, epoll: BorrowedFd<'_>, buffers: &dyn Buffers) {
        let State::Up { socket } = &self.state else {
            return;
        };
        self.blocked = false;
        while self.flights.prepare() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = self.flights.gather(buffers, &mut slices);
            let mut control = SendAncillaryBuffer::default();
            let sent = sendmsg(socket, &slices[..used], &mut control, SendFlags::NOSIGNAL);
            match sent {
                Ok(bytes) => self.flights.advance(bytes),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    self.blocked = errno == Errno::AGAIN;
                    break;
                }
            }
        }
        if self.blocked != self.watches_output {
            watch(epoll, socket, self.server, self.blocked);
            self.watches_output = self.blocked;
        }
    }

    /// The socket has something to tell.
    pub(super) fn ready(&mut self, flags: EventFlags, context: Context<'_>, step: &mut Step<'_>) {
        if flags.contains(EventFlags::OUT) {
            self.blocked = false;
        }
        match &self.state {
            State::Connecting { .. } => self.connected(context, step.now),
            State::Greeting { .. } => self.read_reply(context.options, step),
            State::Up { .. } if flags != EventFlags::OUT => self.read(step),
            State::Up { .. } | State::Waiting { .. } | State::Refused => {}
        }
    }

    fn connected(&mut self, context: Context<'_>, now: MonotonicTime) {
        let until = MonotonicTime::ZERO;
        let state = std::mem::replace(&mut self.state, State::Waiting { until });
        let State::Connecting { socket, deadline } = state else {
            self.state = state;
            return;
        };
        let hello = encode_hello(&context.options.hello, VersionRange::OURS);
        let sent = sockopt::socket_error(&socket)
            .and_then(|result| result)
            .and_then(|()| send(&socket, &hello, SendFlags::NOSIGNAL));
        match sent {
            // A fresh socket's buffer takes 64 bytes at once, or something is very wrong.
            Ok(bytes) if bytes == hello.len() => {
                watch(context.epoll, &socket, self.server, false);
                self.state = State::Greeting { socket, deadline };
            }
            Ok(_) => self.fail(LinkError::Closed, now),
            Err(errno) => self.fail(LinkError::Network(errno), now),
        }
    }

    fn read_reply(&mut self, options: &TcpOptions, step: &mut Step<'_>) {
        if self.fill(step).is_none() {
            return;
        }
        let Some(reply) = self.input.take::<HANDSHAKE_BYTES>() else {
            return;
        };
        let accepted = match decode_reply(&reply) {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(refusal)) => return self.fail(LinkError::Refused(refusal), step.now),
            Err(error) => return self.fail(LinkError::Wire(error), step.now),
        };
        if accepted.slot_size != options.slot_size {
            let error = LinkError::SlotSize(accepted.slot_size.bytes());
            return self.fail(error, step.now);
        }
        if self.fell {
            // What was posted before belongs to no connection: it ends first, as LinkDown.
            self.tell_fall(step);
        }
        let until = MonotonicTime::ZERO;
        let state = std::mem::replace(&mut self.state, State::Waiting { until });
        if let State::Greeting { socket, .. } = state {
            self.state = State::Up { socket };
            self.retry.reset();
            self.told = Told::Up;
            let incarnation = accepted.incarnation;
            (step.sink)(TransportEvent::Link(
                self.server,
                LinkState::Up { incarnation },
            ));
        }
    }

    /// Reads once; tells whether there may be more, `None` if there was nothing or the link fell.
    fn fill(&mut self, step: &mut Step<'_>) -> Option<bool> {
        let (State::Greeting { socket, .. } | State::Up { socket }) = &self.state else {
            return None;
        };
        match self.input.fill(socket.as_fd(), step.buffers) {
            Ok(Some(more)) => {
                self.liveness.hears(step.now);
                Some(more)
            }
            Ok(None) => {
                self.fail(LinkError::Closed, step.now);
                None
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(errno) => {
                self.fail(LinkError::Network(errno), step.now);
                None
            }
        }
    }

    /// Takes the answers that have arrived.
    pub(super) fn read(&mut self, step: &mut Step<'_>) {
        for _ in 0..READS_MAX {
            let Some(more) = self.fill(step) else {
                return;
            };
            if let Err(error) = self.take_answers(step) {
                return self.fail(error, step.now);
            }
            if !more {
                return;
            }
        }
    }

    fn take_answers(&mut self, step: &mut Step<'_>) -> Result<(), LinkError> {
        loop {
            if self.input.payload_done() {
                self.complete(Ok(()), step);
            }
            if self.input.awaits_payload() {
                return Ok(());
            }
            let Some(bytes) = self.input.take::<RESPONSE_BYTES>() else {
                return Ok(());
            };
            let response = Response::decode(&bytes).map_err(LinkError::Wire)?;
            self.take_answer(response, step)?;
        }
    }

    fn take_answer(&mut self, response: Response, step: &mut Step<'_>) -> Result<(), LinkError> {
        if response.status == Status::Malformed {
            return Err(LinkError::Malformed);
        }
        let next = self.flights.next_answer();
        let (tag, segment) = next.ok_or(LinkError::OutOfStep)?;
        let read = segment.filter(|it| it.operation.direction == Direction::Read);
        let expected = match (read, response.status) {
            (Some(read), Status::Done) => read.buffer().byte_len(),
            _ => 0,
        };
        let payload = usize::try_from(response.payload_len).unwrap_or(usize::MAX);
        if response.tag != tag || payload != expected {
            return Err(LinkError::OutOfStep);
        }
        match (read, response.status) {
            (Some(read), Status::Done) => {
                self.input.expect(read.buffer(), step.buffers);
            }
            (_, Status::Refused(error)) => self.complete(Err(error), step),
            (_, Status::Done | Status::Malformed) => self.complete(Ok(()), step),
        }
        Ok(())
    }

    /// The next answer has come whole.
    fn complete(&mut self, result: Result<(), OperationError>, step: &mut Step<'_>) {
        let Some((operation, result)) = self.flights.answered(result) else {
            return;
        };
        if result.is_ok() {
            let bytes = u64::try_from(operation.buffer.byte_len()).unwrap_or_default();
            match operation.direction {
                Direction::Read => self.stats.bytes_read += bytes,
                Direction::Write => self.stats.bytes_written += bytes,
            }
        }
        (step.sink)(TransportEvent::Completed(operation.id, result));
    }

    /// Everything that time and earlier calls ask for.
    pub(super) fn settle(&mut self, epoll: BorrowedFd<'_>, step: &mut Step<'_>) {
        self.liveness.looks(step.now);
        self.give_up_if_late(step.now);
        if self.fell {
            self.tell_fall(step);
        }
        match &self.state {
            State::Waiting { until } if *until <= step.now => self.connect(epoll, step.now),
            State::Up { .. } => {
                if self.flights.is_empty() && self.liveness.ping_at() <= step.now {
                    self.flights.push_ping();
                    self.liveness.begins(step.now);
                }
                if !self.blocked {
                    self.send(epoll, step.buffers);
                }
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Greeting { .. }
            | State::Refused => {}
        }
    }

    fn give_up_if_late(&mut self, now: MonotonicTime) {
        match &self.state {
            State::Connecting { deadline, .. } | State::Greeting { deadline, .. }
                if *deadline <= now =>
            {
                self.fail(LinkError::ConnectTime, now);
            }
            State::Up { .. } if !self.flights.is_empty() && self.liveness.is_silent(now) => {
                self.liveness.was_silent(now);
                self.fail(LinkError::Silent, now);
            }
            _ => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<MonotonicTime> {
        match &self.state {
            State::Waiting { until } => self.address.map(|_| *until),
            State::Connecting { deadline, .. } | State::Greeting { deadline, .. } => {
                Some(*deadline)
            }
            State::Up { .. } if self.flights.is_empty() => Some(self.liveness.ping_at()),
            State::Up { .. } => Some(self.liveness.look_at()),
            State::Refused => None,
        }
    }

    /// Completes everything under way, then says that the link is not up, once.
    fn tell_fall(&mut self, step: &mut Step<'_>) {
        self.fell = false;
        while let Some(operation) = self.flights.abandon() {
            let down = Err(OperationError::LinkDown);
            (step.sink)(TransportEvent::Completed(operation.id, down));
        }
        let (now_told, state) = match self.state {
            State::Refused => (Told::Refused, LinkState::Refused),
            _ => (Told::Down, LinkState::Down),
        };
        // A link that was just set and has not failed yet is no news.
        let tried = self.stats.last_error.is_some() || self.told != Told::Nothing;
        if self.told != now_told && tried {
            self.told = now_told;
            (step.sink)(TransportEvent::Link(self.server, state));
        }
    }

    fn connect(&mut self, epoll: BorrowedFd<'_>, now: MonotonicTime) {
        let Some(address) = self.address else {
            return;
        };
        match open_socket(address, epoll, self.server, self.liveness.silence_max()) {
            Ok(socket) => {
                let deadline = now.after(CONNECT_TIME_MAX);
                self.state = State::Connecting { socket, deadline };
            }
            Err(errno) => self.fail(LinkError::Network(errno), now),
        }
    }
}

/// Asks epoll to tell of input, and of room for output if `output`.
fn watch(epoll: BorrowedFd<'_>, socket: &OwnedFd, server: ServerIndex, output: bool) {
    let wanted = if output {
        EventFlags::IN | EventFlags::OUT
    } else {
        EventFlags::IN
    };
    let data = EventData::new_u64(u64::from(server.get()));
    // Cannot fail for a socket that epoll knows; if it did, the keep-alive finds out.
    let _ = epoll::modify(epoll, socket, data, wanted);
}

fn open_socket(
    address: SocketAddr,
    epoll: BorrowedFd<'_>,
    server: ServerIndex,
    silence_max: Duration,
) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    let silence = u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&socket, silence)?;
    // Best effort: without it the kernel takes more writes than the network carries, and a read that
    // comes later waits for them.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT_MAX);
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let data = EventData::new_u64(u64::from(server.get()));
    epoll::add(epoll, &socket, data, EventFlags::IN | EventFlags::OUT)?;
    Ok(socket)
}
