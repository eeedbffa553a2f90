//! The real memory server and the real rdma transport: the rules of the TCP data path hold, and
//! keys end when they must. Runs in a guest of the lab (`cargo xtask lab --scenario rdma_rules`).
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod support;

use std::io::Write as _;

use dynamicswap_datapath::transport::TransportEvent;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, OperationError};
use dynamicswap_workload::layer;
use support::{Borrower, MemoryServer, Setup, hello};

/// The IP of an RDMA device.
const PLACE: &str = "DYNAMICSWAP_RDMA_IP";

/// A state directory, and the server's option; `None`, and a word on stderr, without a device.
fn setup() -> Option<(Setup, String)> {
    let Ok(ip) = std::env::var(PLACE) else {
        assert!(
            !layer::is_required("lab"),
            "required, but {PLACE} names no RDMA device"
        );
        let _said = writeln!(std::io::stderr(), "SKIPPED: {PLACE} names no RDMA device");
        return None;
    };
    Some((Setup::new()?, format!("--rdma-listen={ip}:0")))
}

fn start(setup: &Setup, option: &str) -> (MemoryServer, String, Vec<u8>) {
    let server = MemoryServer::start_with(setup, &[option]);
    let report = server.report();
    assert_ne!(report.rdma_address, "", "{:?}", report.warnings);
    (server, report.rdma_address, report.incarnation)
}

#[test]
fn pages_come_back_after_the_server_was_killed() {
    let Some((setup, option)) = setup() else {
        return;
    };
    let (server, address, incarnation) = start(&setup, &option);
    server.grant(1, &incarnation, &[(0, 1, 10), (2, 1, 12)]);
    let mut borrower = Borrower::connect_by_rdma(&address, hello(1, 1));
    borrower.expect_up();
    for slot in [0, 2] {
        borrower.fill_pool(slot);
        let written = borrower.run(Direction::Write, u32::from(slot), 0, 256);
        written.expect("granted");
    }
    server.kill();
    borrower.expect_down();
    let (server, again, _) = start(&setup, &option);
    assert_eq!(again, address, "port 0 takes the old port");
    borrower.expect_up();
    for slot in [0, 2] {
        borrower.clear_pool();
        let read = borrower.run(Direction::Read, u32::from(slot), 0, 256);
        read.expect("granted");
        borrower.check_pool(slot);
    }
    assert_eq!(
        server.report().bytes_read,
        0,
        "its processor has no part in it"
    );
}

#[test]
fn foreign_slots_and_ranges_are_refused_without_harm() {
    let Some((setup, option)) = setup() else {
        return;
    };
    let (server, address, incarnation) = start(&setup, &option);
    server.grant(1, &incarnation, &[(0, 1, 10), (1, 2, 11)]);
    let mut borrower = Borrower::connect_by_rdma(&address, hello(1, 1));
    borrower.expect_up();
    let not_owner = Err(OperationError::NotOwner);
    for slot in [1, 2] {
        assert_eq!(borrower.run(Direction::Write, slot, 0, 1), not_owner);
    }
    let out_of_range = Err(OperationError::OutOfRange);
    assert_eq!(borrower.run(Direction::Read, 0, 255, 2), out_of_range);
    assert_eq!(borrower.run(Direction::Read, 4, 0, 1), out_of_range);
    borrower.run(Direction::Read, 0, 255, 1).expect("granted");
    server.grant(2, &incarnation, &[(0, 1, 10), (1, 2, 11), (2, 1, 12)]);
    let granted_later = borrower.run(Direction::Write, 2, 0, 256);
    granted_later.expect("granted while the link was up");
    assert_eq!(server.report().refused_key, 0);
}

#[test]
fn many_operations_are_under_way_at_once() {
    let Some((setup, option)) = setup() else {
        return;
    };
    let (server, address, incarnation) = start(&setup, &option);
    server.grant(1, &incarnation, &[(0, 1, 10)]);
    let mut borrower = Borrower::connect_by_rdma(&address, hello(1, 1));
    borrower.expect_up();
    borrower.fill_pool(3);
    for (rounds, direction) in [(1, Direction::Write), (2, Direction::Read)] {
        for page in 0..256 {
            let first = if direction == Direction::Read { 256 } else { 0 };
            borrower.post(direction, 0, page, first + page);
        }
        borrower.poll_until(|seen| seen.completed == rounds * 256);
    }
    borrower.check_pool(3);
}

#[test]
fn key_of_a_slot_that_was_taken_back_is_dead_and_the_slot_is_zeroed() {
    let Some((setup, option)) = setup() else {
        return;
    };
    let (server, address, incarnation) = start(&setup, &option);
    server.grant(1, &incarnation, &[(0, 1, 10), (1, 1, 11)]);
    let mut before = Borrower::connect_by_rdma(&address, hello(1, 1));
    before.expect_up();
    before.fill_pool(1);
    before.run(Direction::Write, 0, 0, 256).expect("granted");
    server.grant(2, &incarnation, &[(1, 1, 11)]);
    server.wait_for(|report| report.slots_ready == 3);
    server.grant(3, &incarnation, &[(0, 2, 10), (1, 1, 11)]);
    let mut after = Borrower::connect_by_rdma(&address, hello(2, 1));
    after.expect_up();
    // The old key faults in the server's device and costs this link, once.
    let late = before.run(Direction::Write, 0, 0, 256);
    assert_eq!(late, Err(OperationError::LinkDown));
    before.expect_down();
    before.expect_up();
    let refused = before.run(Direction::Write, 0, 0, 256);
    assert_eq!(refused, Err(OperationError::NotOwner));
    before
        .run(Direction::Write, 1, 0, 256)
        .expect("still granted");
    after.run(Direction::Read, 0, 0, 256).expect("granted");
    after.check_zero();
    server.wait_for(|report| report.refused_key >= 1);
}

#[test]
fn newer_epoch_ends_the_older_queue_pair_over_either_network() {
    let Some((setup, option)) = setup() else {
        return;
    };
    let (server, address, incarnation) = start(&setup, &option);
    let by_tcp = server.report().tcp_address;
    server.grant(1, &incarnation, &[(0, 1, 10)]);
    let mut first = Borrower::connect_by_rdma(&address, hello(1, 1));
    first.expect_up();
    first.fill_pool(1);
    first.run(Direction::Write, 0, 0, 256).expect("granted");
    let mut second = Borrower::connect_by_rdma(&address, hello(1, 2));
    second.expect_up();
    let fenced = first.run(Direction::Write, 0, 0, 1);
    assert_eq!(fenced, Err(OperationError::LinkDown));
    expect_refused(&mut first);
    let mut third = Borrower::connect(&by_tcp, hello(1, 3));
    third.expect_up();
    expect_refused(&mut second);
    let mut fourth = Borrower::connect_by_rdma(&address, hello(1, 4));
    fourth.expect_up();
    expect_refused(&mut third);
    fourth.run(Direction::Read, 0, 0, 256).expect("granted");
    fourth.check_pool(1);
}

/// The link ends in a refusal, and may have been down before.
fn expect_refused(borrower: &mut Borrower) {
    for event in std::iter::from_fn(|| Some(borrower.events())).flatten() {
        match event {
            TransportEvent::Link(_, Link::Refused) => return,
            TransportEvent::Link(_, Link::Down)
            | TransportEvent::Completed(_, Err(OperationError::LinkDown)) => {}
            other => panic!("{other:?}"),
        }
    }
}
