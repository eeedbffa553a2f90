//! The `tcp` transport allocates nothing after `set_server`: counted, under load.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use dynamicswap_engine::operation::Direction;
use support::{Borrower, MemoryServer, Setup, hello};

/// The system's allocator, counting the allocations of threads that ask for it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

// SAFETY: hands every call to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn transport_allocates_nothing_while_it_carries_operations_and_reconnects() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let report = server.report();
    server.grant(1, &report.incarnation, &[(0, 1, 10)]);
    let mut borrower = Borrower::connect(&report.tcp_address, hello(1, 1));
    COUNTED.set(true);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    borrower.poll_until(|seen| seen.links == 1);
    for round in 1..=50_u64 {
        for page in 0..100 {
            borrower.post(Direction::Write, 0, page, page);
            borrower.post(Direction::Read, 0, page, 256 + page);
        }
        borrower.poll_until(|seen| seen.completed == round * 200);
    }
    COUNTED.set(false);
    server.kill();
    COUNTED.set(true);
    borrower.poll_until(|seen| seen.links == 2);
    COUNTED.set(false);
    let _server = MemoryServer::start(&setup);
    COUNTED.set(true);
    borrower.poll_until(|seen| seen.links == 3);
    COUNTED.set(false);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
}
