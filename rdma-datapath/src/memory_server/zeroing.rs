//! The zeroing thread: takes slots that were taken back, zeroes them, says so; and gives the memory of
//! slots that shall have none back to the host.
//!
//! Writes through the file and not through the mapping: the I/O thread owns that.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use dynamicswap_types::{SlabSize, SlotIndex};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pwrite};
use rustix::process::setpriority_process;

use super::mailbox::{Command, Mailbox};
use super::shared::{ServerEvent, Shared};
use crate::daemon::threads;

/// Bytes of one write: short enough that the thread is soon moved aside for one that serves.
const STEP_BYTES: usize = 256 << 10;
static ZEROS: [u8; STEP_BYTES] = [0; STEP_BYTES];

/// Where the slots are.
#[derive(Debug)]
pub struct SlotFile {
    /// The memory file.
    pub file: OwnedFd,
    /// Where the slots begin.
    pub offset: u64,
    /// Size of each.
    pub slot_size: SlabSize,
}

/// What is to be done with a slot, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Zero it, which takes memory for it if it has none.
    Zero(SlotIndex),
    /// Give its memory back.
    GiveBack(SlotIndex),
}

impl SlotFile {
    /// Makes a hole of the slot. Its pages leave the mapping, locked or not, and are free at once.
    fn give_back(&self, slot: SlotIndex) -> Result<(), Errno> {
        let len = self.slot_size.bytes().get();
        let start = self.offset + u64::from(slot.get()) * len;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, start, len)
    }

    fn zero(&self, slot: SlotIndex) -> Result<(), Errno> {
        let len = self.slot_size.bytes().get();
        let start = self.offset + u64::from(slot.get()) * len;
        let mut done = 0;
        while done < len {
            let left = usize::try_from(len - done).unwrap_or(STEP_BYTES);
            let step = &ZEROS[..STEP_BYTES.min(left)];
            match pwrite(&self.file, step, start + done) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => done += u64::try_from(written).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// The host's.
pub fn start(
    slots: SlotFile,
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
) -> io::Result<Sender<Work>> {
    let (sender, receiver) = channel();
    threads::spawn("zeroing", move || {
        zero_all(&slots, &receiver, &mailbox, &shared);
    })?;
    Ok(sender)
}

fn zero_all(slots: &SlotFile, wanted: &Receiver<Work>, mailbox: &Mailbox, shared: &Shared) {
    // Of this thread alone. If refused, it competes with the I/O thread on equal terms.
    let _ = setpriority_process(None, 10);
    while let Ok(work) = wanted.recv() {
        match work {
            Work::Zero(slot) => match slots.zero(slot) {
                Ok(()) => mailbox.send(Command::Zeroed(slot)),
                Err(errno) => shared.tell(ServerEvent::ZeroingFailed { slot, errno }),
            },
            Work::GiveBack(slot) => match slots.give_back(slot) {
                Ok(()) => shared.change.bump(),
                Err(errno) => shared.tell(ServerEvent::GivingBackFailed { slot, errno }),
            },
        }
    }
}
