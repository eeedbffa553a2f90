//! Commands to the I/O thread, which owns the slot table: it is woken by an eventfd.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use dynamicswap_engine::slots::{Applied, ApplyError, GrantDocument};
use dynamicswap_types::SlotIndex;
use rustix::event::{EventfdFlags, eventfd};

/// What the I/O thread is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Take a document and answer.
    Apply(GrantDocument, SyncSender<Result<Applied, ApplyError>>),
    /// Hold memory for so many slots at most.
    Hold(u32),
    /// The slot is zeroed.
    Zeroed(SlotIndex),
    /// End.
    Stop,
}

/// The mailbox.
#[derive(Debug)]
pub struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    wake: OwnedFd,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// The host's, if it gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            commands: Mutex::new(VecDeque::new()),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Sends a command.
    pub fn send(&self, command: Command) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push_back(command);
        drop(commands);
        // Fails only if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes the next command; for the I/O thread, after a wake-up.
    pub fn take(&self) -> Option<Command> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.pop_front()
    }

    /// Takes the wake-up itself; call it before [`Self::take`].
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
