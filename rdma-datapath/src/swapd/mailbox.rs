//! The way between the control threads and the I/O thread: bounded channels and one eventfd.
//!
//! The I/O thread never waits here, and nothing on its side allocates: a report's vectors are made
//! by whoever asks, and come back filled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use dynamicswap_engine::document::Document;
use dynamicswap_engine::effect::EngineEvent;
use dynamicswap_engine::engine::ServerState;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::report::SetView;
use dynamicswap_types::{Bytes, Generation, ServerIndex};
use rustix::event::EventfdFlags;
use thiserror::Error;

use crate::front_end::FrontEndCounters;
use crate::transport::LinkError;
use crate::transport::remote::{Endpoint, Way};

/// Events that wait for the control thread; a storm beyond it is counted and not told one by one.
const EVENTS_MAX: usize = 4096;
/// The I/O thread answers within one round; a longer wait means that it hangs.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What the I/O thread says about itself.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Generation in force.
    pub generation: Generation,
    /// Pages that hold something.
    pub pages_used: u64,
    /// Pages whose class is not satisfied.
    pub pages_degraded: u64,
    /// Servers by index, as many as were asked for.
    pub servers: Vec<ServerState>,
    /// The ways to them, in the same order; none on a device without a network.
    pub ways: Vec<Option<Way>>,
    /// All granted sets.
    pub sets: Vec<SetView>,
    /// The front end's counts.
    pub front_end: FrontEndCounters,
    /// Events that were dropped because the ring was full.
    pub events_dropped: u64,
}

/// What the control threads ask of the I/O thread.
#[derive(Debug)]
pub enum Command {
    /// Take this document, and where each server is; the bytes a second that copies may move.
    Apply(Box<Document>, Vec<Option<Endpoint>>, Option<Bytes>),
    /// Fill this.
    Report(Box<Snapshot>, usize),
}

/// What it answers.
#[derive(Debug)]
pub enum Answer {
    /// The document is in force, or why not, and whether it was only old.
    Applied(Result<(), String>),
    /// Filled.
    Report(Box<Snapshot>),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MailboxError {
    /// It hangs; the holder replaces it.
    #[error("the I/O thread has not answered for {ANSWER_TIME_MAX:?}: try again in a second")]
    Silent,
    /// It has ended.
    #[error("the I/O thread has ended: try again in a second")]
    Ended,
}

/// What happened in the I/O thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoEvent {
    /// The engine says so.
    Engine(EngineEvent),
    /// A link changed: by which way, and the transport's reason.
    Link(ServerIndex, Link, Option<Way>, Option<LinkError>),
}

/// The control threads' end.
#[derive(Debug)]
pub struct Outbox {
    // One exchange at a time. Held by control threads only.
    exchange: Mutex<(SyncSender<Command>, Receiver<Answer>)>,
    wake: OwnedFd,
}

impl Outbox {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`MailboxError`].
    pub fn ask(&self, command: Command) -> Result<Answer, MailboxError> {
        let exchange = self.exchange.lock();
        let exchange = exchange.unwrap_or_else(PoisonError::into_inner);
        // An answer that came too late for the one who asked.
        while exchange.1.try_recv().is_ok() {}
        exchange
            .0
            .try_send(command)
            .map_err(|_| MailboxError::Silent)?;
        // Cannot fail: the counter is far from its end.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        exchange
            .1
            .recv_timeout(ANSWER_TIME_MAX)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => MailboxError::Silent,
                RecvTimeoutError::Disconnected => MailboxError::Ended,
            })
    }
}

/// The I/O thread's end.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    answers: SyncSender<Answer>,
    events: SyncSender<IoEvent>,
    dropped: u64,
    wake: OwnedFd,
}

impl Inbox {
    /// The next command, if there is one.
    pub fn take(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Answers a command.
    pub fn answer(&self, answer: Answer) {
        // Fails only if whoever asked is gone.
        let _ = self.answers.try_send(answer);
    }

    /// Tells of an event, or counts it where the ring is full.
    pub fn tell(&mut self, event: IoEvent) {
        self.dropped += u64::from(self.events.try_send(event).is_err());
    }

    /// Events that were not told.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Becomes readable with a command; see [`Self::disarm`].
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor silent again.
    pub fn disarm(&self) {
        let mut count = [0; 8];
        // Fails only where nothing was told.
        let _ = rustix::io::read(&self.wake, &mut count);
    }
}

/// Makes both ends, and the end at which events come out.
///
/// # Errors
/// The host's, if it gives no eventfd.
pub fn mailbox() -> io::Result<(Outbox, Inbox, Receiver<IoEvent>)> {
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let (command_sender, commands) = sync_channel(1);
    let (answers, answer_receiver) = sync_channel(2);
    let (events, event_receiver) = sync_channel(EVENTS_MAX);
    let outbox = Outbox {
        exchange: Mutex::new((command_sender, answer_receiver)),
        wake: wake.try_clone()?,
    };
    let inbox = Inbox {
        commands,
        answers,
        events,
        dropped: 0,
        wake,
    };
    Ok((outbox, inbox, event_receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::PageIndex;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn question_wakes_the_io_thread_and_gets_its_answer() {
        let (outbox, mut inbox, _events) = mailbox().expect("an eventfd");
        let io = std::thread::spawn(move || {
            let mut ready = [PollFd::from_borrowed_fd(inbox.event_fd(), PollFlags::IN)];
            poll(&mut ready, None).expect("polled");
            inbox.disarm();
            let Some(Command::Report(mut snapshot, _)) = inbox.take() else {
                panic!("a report");
            };
            snapshot.pages_used = 7;
            inbox.answer(Answer::Report(snapshot));
        });
        let answer = outbox
            .ask(Command::Report(Box::default(), 0))
            .expect("answered");
        assert!(matches!(answer, Answer::Report(snapshot) if snapshot.pages_used == 7));
        io.join().expect("no panic");
        let ended = outbox.ask(Command::Report(Box::default(), 0));
        assert!(ended.is_err());
    }

    #[test]
    fn events_beyond_the_ring_are_counted() {
        let (_outbox, mut inbox, events) = mailbox().expect("an eventfd");
        let event = IoEvent::Engine(EngineEvent::PageLost(PageIndex::new(1)));
        for _ in 0..EVENTS_MAX + 3 {
            inbox.tell(event);
        }
        assert_eq!(inbox.dropped(), 3);
        assert_eq!(events.try_iter().count(), EVENTS_MAX);
    }
}
