//! The local backend: slots in a memory file of this machine, behind the same transport trait.
//!
//! A floor to measure the network against, and a device without a cluster. The file outlives the
//! engine process, as a memory server would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::limits::REQUESTS_MAX;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, Operation, OperationError, OperationId};
use dynamicswap_types::{
    Bytes, Copies, Durability, Generation, IncarnationId, MonotonicTime, ServerIndex, SetId,
    SlabSize, SlotIndex, Spill,
};

use crate::daemon::mapped_file::MappedBytes;
use crate::transport::{Transport, TransportEvent};

/// The one server.
const SERVER: ServerIndex = ServerIndex::new(0);
/// Its memory lives as long as the device.
const INCARNATION: IncarnationId = IncarnationId::from_bytes([0x10; 16]);
/// Operations that wait for the next poll.
const OPERATIONS_MAX: usize = 4 * REQUESTS_MAX;

/// The document of a device whose every slab has its slot in local memory.
#[must_use]
pub fn document(size: Bytes, slab: SlabSize) -> Document {
    let slabs = u32::try_from(slab.slabs_for(size)).unwrap_or(u32::MAX);
    Document {
        generation: Generation::new(1),
        durability: Durability {
            copies: Copies::ONE,
            spill: Spill::None,
        },
        write_hold: Duration::from_secs(1),
        read_stall: Duration::from_secs(1),
        empty_slab_hold: Duration::from_secs(60),
        reserve_sets_max: slabs,
        servers: vec![ServerDescriptor {
            incarnation: Some(INCARNATION),
            domain: 0,
        }],
        sets: (0..slabs)
            .map(|slot| SetGrant {
                id: SetId::new(u64::from(slot) + 1),
                replicas: vec![ReplicaPlace {
                    server: SERVER,
                    slot: SlotIndex::new(slot),
                }],
            })
            .collect(),
    }
}

/// Bytes of memory that the slots take.
#[must_use]
pub fn content_bytes(size: Bytes, slab: SlabSize) -> Bytes {
    Bytes::new(slab.slabs_for(size) * slab.bytes().get())
}

/// The transport: each operation is a copy, done when it is posted.
#[derive(Debug)]
pub struct LocalTransport {
    content: MappedBytes,
    slab_pages: u64,
    done: VecDeque<(OperationId, Result<(), OperationError>)>,
    announced: bool,
}

impl LocalTransport {
    /// Over the memory of [`content_bytes`].
    #[must_use]
    pub fn new(content: MappedBytes, slab: SlabSize) -> Self {
        Self {
            content,
            slab_pages: slab.pages().get(),
            done: VecDeque::with_capacity(OPERATIONS_MAX),
            announced: false,
        }
    }

    /// The pages in the content that an operation means.
    fn place(&self, operation: &Operation) -> Option<BufferRange> {
        let last = u64::from(operation.page) + u64::from(operation.buffer.pages);
        let first = u64::from(operation.slot.get()) * self.slab_pages + u64::from(operation.page);
        let range = BufferRange {
            first: u32::try_from(first).ok()?,
            pages: operation.buffer.pages,
        };
        let end = range.byte_offset() + range.byte_len();
        (last <= self.slab_pages && end <= self.content.as_slice().len()).then_some(range)
    }
}

impl Transport for LocalTransport {
    fn set_server(&mut self, _server: ServerIndex, _address: Option<SocketAddr>) {}

    fn post(
        &mut self,
        operation: &Operation,
        buffers: &mut dyn Buffers,
        _now: MonotonicTime,
    ) -> bool {
        if self.done.len() == OPERATIONS_MAX {
            return false;
        }
        let result = match (self.place(operation), operation.direction) {
            (None, _) => Err(OperationError::OutOfRange),
            (Some(place), Direction::Read) => {
                let bytes = self.content.bytes(place);
                buffers.bytes_mut(operation.buffer).copy_from_slice(bytes);
                Ok(())
            }
            (Some(place), Direction::Write) => {
                let bytes = buffers.bytes(operation.buffer);
                self.content.bytes_mut(place).copy_from_slice(bytes);
                Ok(())
            }
        };
        self.done.push_back((operation.id, result));
        true
    }

    fn flush(&mut self, _buffers: &mut dyn Buffers, _now: MonotonicTime) {}

    fn poll(
        &mut self,
        _buffers: &mut dyn Buffers,
        _now: MonotonicTime,
        sink: &mut dyn FnMut(TransportEvent),
    ) -> usize {
        let mut count = self.done.len();
        if !std::mem::replace(&mut self.announced, true) {
            count += 1;
            let incarnation = INCARNATION;
            sink(TransportEvent::Link(SERVER, Link::Up { incarnation }));
        }
        while let Some((id, result)) = self.done.pop_front() {
            sink(TransportEvent::Completed(id, result));
        }
        count
    }

    fn reset(&mut self, _server: ServerIndex, _now: MonotonicTime) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn arm(&mut self) -> bool {
        !self.announced || !self.done.is_empty()
    }

    fn next_deadline(&self) -> Option<MonotonicTime> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::mapped_file::MappedFile;

    fn transport(directory: &tempfile::TempDir) -> LocalTransport {
        let slab = SlabSize::try_from(SlabSize::MIN).expect("a slab");
        let size = content_bytes(Bytes::new((1 << 20) + 4096), slab).as_usize();
        assert_eq!(size, 2 << 20);
        let path = directory.path().join("content");
        let file = MappedFile::create(&path, size).expect("room");
        LocalTransport::new(file.split(0).expect("bytes").2, slab)
    }

    fn operation(id: u64, direction: Direction, slot: u32, page: u32) -> Operation {
        Operation {
            id: OperationId(id),
            server: SERVER,
            direction,
            set: SetId::new(1),
            slot: SlotIndex::new(slot),
            page,
            buffer: BufferRange {
                first: u32::try_from(id).expect("small"),
                pages: 1,
            },
        }
    }

    fn poll(transport: &mut LocalTransport) -> Vec<TransportEvent> {
        let mut events = Vec::new();
        let mut pool = Vec::new();
        transport.poll(&mut pool, MonotonicTime::ZERO, &mut |event| {
            events.push(event)
        });
        events
    }

    #[test]
    fn page_comes_back_from_the_slot_it_was_written_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut transport = transport(&directory);
        let mut pool = vec![0_u8; 4 * 4096];
        pool[..4096].fill(9);
        let now = MonotonicTime::ZERO;
        assert!(transport.arm(), "the link is news");
        assert_eq!(poll(&mut transport).len(), 1);
        transport.post(&operation(0, Direction::Write, 1, 255), &mut pool, now);
        transport.post(&operation(1, Direction::Read, 1, 255), &mut pool, now);
        transport.post(&operation(2, Direction::Read, 0, 255), &mut pool, now);
        assert_eq!(poll(&mut transport).len(), 3);
        assert!(!transport.arm());
        assert!(pool[4096..8192].iter().all(|byte| *byte == 9));
        assert!(pool[8192..12288].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn operation_outside_of_its_slot_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut transport = transport(&directory);
        let mut pool = vec![0_u8; 4 * 4096];
        poll(&mut transport);
        for (slot, page) in [(0, 256), (2, 0)] {
            let operation = operation(0, Direction::Write, slot, page);
            transport.post(&operation, &mut pool, MonotonicTime::ZERO);
            let refused =
                TransportEvent::Completed(OperationId(0), Err(OperationError::OutOfRange));
            assert_eq!(poll(&mut transport), [refused]);
        }
    }
}
