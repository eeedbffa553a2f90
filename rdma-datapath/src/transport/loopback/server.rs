//! A memory server in this process: the real core over ordinary memory.

use std::ops::Range;

use dynamicswap_engine::buffer::Buffers;
use dynamicswap_engine::limits::DEVICES_MAX;
use dynamicswap_engine::operation::{Direction, Operation, OperationError, OperationResult};
use dynamicswap_engine::slots::{
    Applied, ApplyError, ConnectionIndex, CoreLimits, GrantDocument, Hello, Kept, MemoryServerCore,
    SessionEffect, SessionRefusal, SlotEffect, SlotGeometry, SlotPages, SlotRecord,
};
use dynamicswap_types::{IncarnationId, PAGE_SIZE, SlotIndex};

/// Connections at once.
const CONNECTIONS: u16 = 64;

/// A connection, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    index: ConnectionIndex,
    serial: u64,
}

/// The server. Zeroes at once; keeps what a real one keeps in its memory file.
#[derive(Debug)]
pub struct LoopbackServer {
    limits: CoreLimits,
    kept: Kept,
    core: MemoryServerCore,
    /// Bytes of each slot, up to the last page that was touched; zeroes behind them.
    memory: Vec<Vec<u8>>,
    running: bool,
    connections: Vec<Option<u64>>,
    next_serial: u64,
}

impl LoopbackServer {
    /// A running server with fresh memory.
    #[must_use]
    pub fn new(geometry: SlotGeometry, incarnation: IncarnationId) -> Self {
        let limits = CoreLimits {
            geometry,
            connections_max: usize::from(CONNECTIONS),
            devices_max: DEVICES_MAX,
        };
        let kept = fresh(geometry, incarnation);
        Self {
            limits,
            core: MemoryServerCore::restore(limits, &kept, &mut Vec::new()),
            kept,
            memory: vec![Vec::new(); SlotIndex::new(geometry.slots).as_usize()],
            running: true,
            connections: vec![None; usize::from(CONNECTIONS)],
            next_serial: 0,
        }
    }

    /// Its core: grants, counters, generation.
    #[must_use]
    pub const fn core(&self) -> &MemoryServerCore {
        &self.core
    }

    /// The life of its memory.
    #[must_use]
    pub const fn incarnation(&self) -> IncarnationId {
        self.kept.incarnation
    }

    /// Whether it runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    /// Takes a document, as from its agent; slots that are taken back are zeroed at once.
    ///
    /// # Errors
    /// As the core refuses it.
    pub fn apply(&mut self, document: &GrantDocument) -> Result<Applied, ApplyError> {
        let mut effects = Vec::new();
        let applied = self.core.apply(document, &mut effects)?;
        self.carry_out_effects(effects);
        Ok(applied)
    }

    /// Kills the process: connections close, memory and its records stay.
    pub fn stop(&mut self) {
        self.running = false;
        self.connections.fill(None);
    }

    /// Starts the process again on the memory that was kept.
    pub fn start(&mut self) {
        self.stop();
        let mut effects = Vec::new();
        self.core = MemoryServerCore::restore(self.limits, &self.kept, &mut effects);
        self.carry_out_effects(effects);
        self.running = true;
    }

    /// Loses the memory and everything kept, as a reboot does. Stopped until `start`.
    pub fn lose_memory(&mut self, incarnation: IncarnationId) {
        self.stop();
        self.kept = fresh(self.limits.geometry, incarnation);
        self.memory.iter_mut().for_each(Vec::clear);
    }

    /// The bytes of a slot, to look at or to corrupt; `None` if there is no such slot.
    pub fn slot_mut(&mut self, slot: SlotIndex) -> Option<&mut [u8]> {
        let len = self.limits.geometry.slot_size.bytes().as_usize();
        self.range_mut(slot, 0..len)
    }

    /// The same for some bytes of a slot: pages that nobody touches take no memory.
    pub fn range_mut(&mut self, slot: SlotIndex, range: Range<usize>) -> Option<&mut [u8]> {
        let len = self.limits.geometry.slot_size.bytes().as_usize();
        let bytes = self.memory.get_mut(slot.as_usize())?;
        if range.end > len {
            return None;
        }
        if bytes.len() < range.end {
            bytes.resize(range.end, 0);
        }
        bytes.get_mut(range)
    }

    fn carry_out_effects(&mut self, effects: Vec<SlotEffect>) {
        for effect in effects {
            match effect {
                SlotEffect::Record(slot, record) => self.kept.slots[slot.as_usize()] = record,
                SlotEffect::Generation(generation) => self.kept.generation = generation,
                SlotEffect::Zero(slot) => {
                    if let Some(bytes) = self.memory.get_mut(slot.as_usize()) {
                        bytes.clear();
                    }
                    let mut next = Vec::new();
                    self.core.zeroed(slot, &mut next);
                    self.carry_out_effects(next);
                }
                SlotEffect::GiveBack(slot) => {
                    if let Some(bytes) = self.memory.get_mut(slot.as_usize()) {
                        *bytes = Vec::new();
                    }
                }
            }
        }
    }

    /// A handshake; `None` if nobody answers or there is no room.
    pub(super) fn connect(&mut self, hello: Hello) -> Option<Result<Connection, SessionRefusal>> {
        if !self.running {
            return None;
        }
        let free = (0..CONNECTIONS).zip(&self.connections);
        let (number, _) = { free }.find(|(_, serial)| serial.is_none())?;
        let index = ConnectionIndex::new(number);
        let mut effects = Vec::new();
        if let Err(refusal) = self.core.open(index, hello, &mut effects) {
            return Some(Err(refusal));
        }
        for effect in effects {
            match effect {
                SessionEffect::Close(older) => self.connections[older.as_usize()] = None,
                SessionEffect::RecordEpoch(known) => {
                    self.kept.devices.retain(|other| other.place != known.place);
                    self.kept.devices.push(known);
                }
            }
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.connections[index.as_usize()] = Some(serial);
        Some(Ok(Connection { index, serial }))
    }

    pub(super) fn disconnect(&mut self, connection: Connection) {
        if self.is_open(connection) {
            self.connections[connection.index.as_usize()] = None;
            self.core.close(connection.index);
        }
    }

    pub(super) fn is_open(&self, connection: Connection) -> bool {
        self.running && self.connections[connection.index.as_usize()] == Some(connection.serial)
    }

    pub(super) fn carry_out(
        &mut self,
        connection: Connection,
        operation: &Operation,
        buffers: &mut dyn Buffers,
    ) -> OperationResult {
        let range = SlotPages {
            set: operation.set,
            slot: operation.slot,
            page: operation.page,
            pages: operation.buffer.pages,
        };
        let permit = self.core.check(connection.index, range)?;
        let offset = operation.page as usize * PAGE_SIZE.as_usize();
        let remote = self.range_mut(permit.slot(), offset..offset + permit.len);
        let remote = remote.ok_or(OperationError::OutOfRange)?;
        match operation.direction {
            Direction::Read => buffers.bytes_mut(operation.buffer).copy_from_slice(remote),
            Direction::Write => remote.copy_from_slice(buffers.bytes(operation.buffer)),
        }
        Ok(())
    }
}

fn fresh(geometry: SlotGeometry, incarnation: IncarnationId) -> Kept {
    let slots = SlotIndex::new(geometry.slots).as_usize();
    Kept {
        slots: vec![SlotRecord::Ready; slots],
        ..Kept::fresh(incarnation)
    }
}
