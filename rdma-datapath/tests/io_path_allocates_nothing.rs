//! The I/O thread's promise: after the start, a request costs no allocation.
//!
//! Drives rounds of the real I/O thread over a socket pair that stands for `/dev/fuse` and the
//! local backend, and counts what this thread allocates.
#![expect(clippy::expect_used, reason = "a test may fail with its reason")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_datapath::daemon::clock::monotonic_now;
use dynamicswap_datapath::daemon::mapped_file::MappedFile;
use dynamicswap_datapath::daemon::spin::AdaptiveSpin;
use dynamicswap_datapath::front_end::Pool;
use dynamicswap_datapath::front_end::fuse_loop::FuseLoop;
use dynamicswap_datapath::swapd::carrier::Carrier;
use dynamicswap_datapath::swapd::io_thread::{IoThread, Parts};
use dynamicswap_datapath::swapd::latencies::Latencies;
use dynamicswap_datapath::swapd::local::{self, LocalTransport};
use dynamicswap_datapath::swapd::mailbox::mailbox;
use dynamicswap_datapath::swapd::memory::{self, Identity, SwapdMemory, scratch};
use dynamicswap_engine::engine::{Engine, EngineConfig};
use dynamicswap_engine::page_guard::{PageGuard, PageKey, TagLength};
use dynamicswap_types::{Bytes, Integrity, SlabSize, SwapDeviceId};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Counts allocations of threads that ask for it.
struct Counting;

thread_local! {
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

fn note() {
    COUNT.with(|count| {
        if let Some(so_far) = count.get() {
            count.set(Some(so_far + 1));
        }
    });
}

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn message(code: u32, unique: u64, offset: u64, data: &[u8], size: usize) -> Vec<u8> {
    let len = u32::try_from(80 + data.len()).expect("short");
    let mut message = Vec::new();
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&code.to_ne_bytes());
    message.extend_from_slice(&unique.to_ne_bytes());
    message.extend_from_slice(&[0; 24]);
    message.extend_from_slice(&1_u64.to_ne_bytes());
    message.extend_from_slice(&offset.to_ne_bytes());
    message.extend_from_slice(&u32::try_from(size).expect("short").to_ne_bytes());
    message.extend_from_slice(&[0; 20]);
    message.extend_from_slice(data);
    message
}

fn socket_pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    let (kernel, ours) =
        rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).expect("a socket pair");
    for socket in [&kernel, &ours] {
        rustix::net::sockopt::set_socket_send_buffer_size(socket, 4 << 20).expect("a buffer");
    }
    (kernel, ours)
}

#[test]
fn requests_cost_no_allocation_after_the_start() {
    let kinds = [
        (Integrity::Tag64, TagLength::Half),
        (Integrity::Full, TagLength::Whole),
    ];
    for (integrity, kept) in kinds {
        assert_eq!(allocations(integrity, kept), 0, "{integrity}");
    }
}

fn identity(integrity: Integrity) -> Identity {
    Identity {
        device_id: SwapDeviceId::from_bytes([1; 16]),
        size: Bytes::from_mib(32),
        slab: SlabSize::try_from(Bytes::from_mib(1)).expect("a slab"),
        spill: Bytes::ZERO,
        noswap: true,
        integrity,
    }
}

/// Allocations of the I/O thread over some hundred requests.
fn allocations(integrity: Integrity, kept: TagLength) -> u64 {
    const WRITE: u32 = 16;
    const READ: u32 = 15;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = identity(integrity);
    let create = |name: &str, bytes: usize| {
        MappedFile::create(&directory.path().join(name), bytes).expect("room")
    };
    let geometry = memory::geometry(identity.size, identity.slab, integrity).expect("possible");
    let file = create("memory", memory::file_bytes(geometry));
    let (memory, mut pool) = SwapdMemory::create(file, &identity).expect("fits");
    let content = local::content_bytes(identity.size, identity.slab).as_usize();
    let content = create("content", content).split(0).expect("bytes").2;
    let config = EngineConfig {
        geometry,
        epoch: memory.take_epoch(),
        scratch: scratch(),
        spill: false,
        operation_timeout: Duration::from_secs(1),
    };
    let mut engine = Engine::new(config, memory.tables()).expect("fresh tables");
    let key = PageKey::from_bytes([3; 32]);
    engine.guard_with(PageGuard::sealed(&key, identity.device_id, kept));
    let (_outbox, inbox, _events) = mailbox().expect("an eventfd");
    let (kernel, ours) = socket_pair();
    let local = LocalTransport::new(content, identity.slab);
    let mut io = IoThread::new(Parts {
        engine,
        front_end: FuseLoop::new(ours, identity.size),
        carrier: Carrier::Local(Box::new(local)),
        spill: None,
        pool: Pool::new(pool.as_mut_slice()).expect("long enough"),
        memory: &memory,
        inbox,
        latencies: Arc::new(Latencies::default()),
        spin: AdaptiveSpin::new(Duration::ZERO),
    });
    let document = local::document(identity.size, identity.slab);
    io.apply(&document, &[], monotonic_now()).expect("valid");
    let body = |n: u64, pages: usize| vec![u8::try_from(n % 251).expect("small"); pages * 4096];
    let mut answer = vec![0; 2 << 20];
    let mut allocations = 0;
    for n in 0..400_u64 {
        let pages = [1, 1, 16, 100][usize::try_from(n % 4).expect("small")];
        let offset = n % 40 * 131 * 4096;
        let data = body(n, pages);
        let calls = [
            message(WRITE, 2 * n + 2, offset, &data, data.len()),
            message(READ, 2 * n + 3, offset, &[], data.len()),
        ];
        for call in calls {
            rustix::io::write(&kernel, &call).expect("sent");
            COUNT.set(Some(0));
            while io.round(monotonic_now()).expect("served") {}
            allocations += COUNT.take().expect("counted");
            let len = rustix::io::read(&kernel, &mut answer).expect("an answer");
            assert_eq!(answer[4..8], [0; 4], "no error");
            if call.len() == 80 {
                assert_eq!(answer[16..len], data, "request {n}");
            }
        }
    }
    allocations
}
