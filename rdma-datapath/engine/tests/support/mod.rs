//! An engine of one small device whose pages have one copy each, on one server.

use std::time::Duration;

use dynamicswap_engine::buffer::BufferRange;
use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::limits::SCRATCH_PAGES;
use dynamicswap_engine::request::{Request, RequestKind, RequestTag};
use dynamicswap_engine::tables::{Geometry, OwnedTables};
use dynamicswap_types::{
    Bytes, Copies, Durability, Epoch, Generation, IncarnationId, Integrity, MonotonicTime,
    PageIndex, ServerIndex, SetId, SlabSize, SlotIndex, Spill, SwapDeviceId,
};

/// The server's memory.
pub const LIFE: IncarnationId = IncarnationId::from_bytes([7; 16]);
/// The server.
pub const SERVER: ServerIndex = ServerIndex::new(0);
/// An operation on a quiet link may take so long.
pub const TIMEOUT: Duration = Duration::from_millis(300);

fn geometry() -> Geometry {
    let slab = SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size");
    Geometry::new(Bytes::from_mib(4), slab, 0, Integrity::Tag64).expect("a geometry")
}

/// The device's tables.
pub fn tables() -> OwnedTables {
    OwnedTables::new(SwapDeviceId::from_bytes([1; 16]), geometry())
}

/// An engine on them, and its pool.
pub fn engine(tables: &OwnedTables) -> (Engine<'_>, Vec<u8>) {
    let config = EngineConfig {
        geometry: geometry(),
        epoch: Epoch::new(1),
        scratch: BufferRange {
            first: 4,
            pages: SCRATCH_PAGES,
        },
        spill: false,
        operation_timeout: TIMEOUT,
    };
    let pool = vec![0; (4 + SCRATCH_PAGES as usize) * 4096];
    (
        Engine::new(config, tables.tables()).expect("its tables"),
        pool,
    )
}

/// A document whose reserve is this many sets.
pub fn document(
    generation: u64,
    sets: u32,
    write_hold: Duration,
    read_stall: Duration,
) -> Document {
    let set = |slot| SetGrant {
        id: SetId::new(u64::from(slot) + 1),
        replicas: [ReplicaPlace {
            server: SERVER,
            slot: SlotIndex::new(slot),
        }]
        .into_iter()
        .collect(),
    };
    Document {
        generation: Generation::new(generation),
        durability: Durability {
            copies: Copies::ONE,
            spill: Spill::None,
        },
        write_hold,
        read_stall,
        empty_slab_hold: Duration::from_secs(9),
        reserve_sets_max: 4,
        servers: vec![ServerDescriptor {
            incarnation: Some(LIFE),
            domain: 0,
        }],
        sets: (0..sets).map(set).collect(),
    }
}

/// Submits a write of one page.
pub fn write(engine: &mut Engine<'_>, page: u64, pool: &mut Vec<u8>, now: MonotonicTime) {
    let request = Request {
        tag: RequestTag(page),
        page: PageIndex::new(page),
        pages: 1,
        kind: RequestKind::Write {
            buffer: BufferRange { first: 0, pages: 1 },
        },
    };
    engine.submit(request, pool, now).expect("room");
}
