//! The memory server's core: who owns which slot, who may speak for a device, what must be zeroed.
//!
//! Owns the slot table and the session table as one machine. Effects go out as values; the shell
//! writes records to the memory file, zeroes slots and closes connections. `check` stands on the
//! I/O path and allocates nothing.

mod sessions;
mod table;
#[cfg(test)]
mod tests;

use dynamicswap_types::{Epoch, Generation, IncarnationId, SetId, SlotIndex, SwapDeviceId};

use crate::operation::OperationError;

pub use sessions::{
    ConnectionIndex, DeviceEpoch, Hello, SessionCounters, SessionEffect, SessionRefusal,
};
pub use table::{
    Applied, ApplyError, Grant, GrantDocument, Owner, SlotEffect, SlotGeometry, SlotRecord,
};

use sessions::Sessions;
use table::SlotTable;

/// What the memory file kept of an earlier process; [`Kept::fresh`] for a new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The life of this memory.
    pub incarnation: IncarnationId,
    /// Of the last document taken.
    pub generation: Generation,
    /// One for each slot; missing ones are [`SlotRecord::Ready`].
    pub slots: Vec<SlotRecord>,
    /// Highest epoch of each known device.
    pub devices: Vec<DeviceEpoch>,
}

impl Kept {
    /// A new memory: every slot zeroed and free, no device known.
    #[must_use]
    pub const fn fresh(incarnation: IncarnationId) -> Self {
        Self {
            incarnation,
            generation: Generation::ZERO,
            slots: Vec::new(),
            devices: Vec::new(),
        }
    }
}

/// Sizes that do not change while the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreLimits {
    /// The slots.
    pub geometry: SlotGeometry,
    /// Connections at once.
    pub connections_max: usize,
    /// Devices whose epoch is kept.
    pub devices_max: usize,
}

/// Leave to touch `pages` pages at `page` of `slot`, until the slot changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    slot: SlotIndex,
    serial: u64,
    /// First byte, from the start of all slots.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

impl Permit {
    /// The slot it is for.
    #[must_use]
    pub const fn slot(self) -> SlotIndex {
        self.slot
    }
}

/// Pages of a slot, as an operation names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPages {
    /// The set for which the slot was granted.
    pub set: SetId,
    /// The slot.
    pub slot: SlotIndex,
    /// First page.
    pub page: u32,
    /// Number of pages, at least 1.
    pub pages: u32,
}

/// Slots, grants and sessions of one memory server.
#[derive(Debug, Clone)]
pub struct MemoryServerCore {
    table: SlotTable,
    sessions: Sessions,
}

impl MemoryServerCore {
    /// Continues from what was kept. Slots that were being zeroed are zeroed again: see `effects`.
    #[must_use]
    pub fn restore(limits: CoreLimits, kept: &Kept, effects: &mut Vec<SlotEffect>) -> Self {
        Self {
            table: SlotTable::restore(limits.geometry, kept, effects),
            sessions: Sessions::restore(limits, &kept.devices),
        }
    }

    /// The life of this memory.
    #[must_use]
    pub const fn incarnation(&self) -> IncarnationId {
        self.table.incarnation()
    }

    /// Generation of the last document taken.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.table.generation()
    }

    /// Takes a document, or refuses it as a whole. `effects` are in the order in which they
    /// must happen.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing has changed then.
    pub fn apply(
        &mut self,
        document: &GrantDocument,
        effects: &mut Vec<SlotEffect>,
    ) -> Result<Applied, ApplyError> {
        self.table.apply(document, effects)
    }

    /// The shell has zeroed the slot. Grants it if the document wants that. Returns whether the
    /// slot was waiting for it.
    pub fn zeroed(&mut self, slot: SlotIndex, effects: &mut Vec<SlotEffect>) -> bool {
        self.table.zeroed(slot, effects)
    }

    /// Holds memory for `slots_max` slots at most: that of free ones above goes back to the host.
    pub fn hold(&mut self, slots_max: u32, effects: &mut Vec<SlotEffect>) {
        self.table.hold(slots_max, effects);
    }

    /// Slots whose memory the host has.
    #[must_use]
    pub fn slots_given_back(&self) -> u32 {
        self.table.slots_given_back()
    }

    /// Takes a handshake. `effects` must be done before the answer is sent: older sessions are
    /// closed, the epoch is recorded.
    ///
    /// # Errors
    /// See [`SessionRefusal`]; nothing has changed then.
    pub fn open(
        &mut self,
        connection: ConnectionIndex,
        hello: Hello,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), SessionRefusal> {
        let table = &self.table;
        self.sessions
            .open(connection, hello, effects, |device| table.serves(device))
    }

    /// The connection is gone.
    pub fn close(&mut self, connection: ConnectionIndex) {
        self.sessions.close(connection);
    }

    /// Whether the connection may touch these pages. Refusals are counted.
    ///
    /// # Errors
    /// `OldEpoch` for a connection without a session or with an outdated one, `NotOwner` for a
    /// slot that is not granted to its device for this set, `OutOfRange` beyond the slot.
    pub fn check(
        &mut self,
        connection: ConnectionIndex,
        range: SlotPages,
    ) -> Result<Permit, OperationError> {
        let device = self.sessions.device(connection)?;
        let permit = self.table.check(device, range);
        if permit == Err(OperationError::NotOwner) {
            self.sessions.count_refused_owner();
        }
        permit
    }

    /// Whether the slot is still in the hands for which the permit was given.
    #[must_use]
    pub fn still_valid(&self, permit: Permit) -> bool {
        self.table.serial(permit.slot) == Some(permit.serial)
    }

    /// The highest known epoch of the device.
    #[must_use]
    pub fn epoch(&self, device: SwapDeviceId) -> Option<Epoch> {
        self.sessions.epoch(device)
    }

    /// Refusals since the process began.
    #[must_use]
    pub const fn counters(&self) -> SessionCounters {
        self.sessions.counters()
    }

    /// Slots that are granted now, by index.
    pub fn grants(&self) -> impl Iterator<Item = Grant> + '_ {
        self.table.grants()
    }

    /// Slots that are zeroed and free.
    #[must_use]
    pub fn slots_ready(&self) -> u32 {
        self.table.slots_ready()
    }

    /// The sizes.
    #[must_use]
    pub const fn geometry(&self) -> SlotGeometry {
        self.table.geometry()
    }
}
