//! The real memory server and the real tcp transport: kill -9 keeps the memory, fences hold,
//! malformed peers hurt nobody but themselves.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use dynamicswap_datapath::transport::TransportEvent;
use dynamicswap_engine::link::Link;
use dynamicswap_engine::operation::{Direction, OperationError};
use dynamicswap_engine::wire::{
    HANDSHAKE_BYTES, REQUEST_BYTES, RESPONSE_BYTES, Refusal, Response, Status, VersionRange,
    decode_reply, encode_hello,
};
use dynamicswap_proto::daemon::v1::response::Kind;
use support::{Borrower, MemoryServer, Setup, hello};

#[test]
fn killed_server_comes_back_with_every_page_and_grant() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let before = server.report();
    assert_eq!((before.slots_total, before.slots_ready), (4, 4));
    assert!(
        before.warnings.iter().all(|w| !w.contains("noswap")),
        "{:?}",
        before.warnings
    );
    server.grant(1, &before.incarnation, &[(0, 1, 10), (2, 1, 12)]);
    let mut borrower = Borrower::connect(&before.tcp_address, hello(1, 1));
    borrower.expect_up();
    for slot in [0, 2] {
        borrower.fill_pool(slot);
        borrower
            .run(Direction::Write, u32::from(slot), 0, 256)
            .expect("granted");
    }
    let pid = server.kill();
    borrower.expect_down();

    let server = MemoryServer::start(&setup);
    let after = server.report();
    assert_ne!(after.pid, pid);
    assert_eq!(after.incarnation, before.incarnation);
    assert_eq!(after.generation, 1);
    assert_eq!(after.grants.len(), 2);
    assert_eq!(
        after.tcp_address, before.tcp_address,
        "port 0 takes the old port"
    );
    borrower.expect_up();
    for slot in [0, 2] {
        borrower.clear_pool();
        borrower
            .run(Direction::Read, u32::from(slot), 0, 256)
            .expect("granted");
        borrower.check_pool(slot);
    }
    assert_eq!(server.report().bytes_read, 2 << 20);
}

#[test]
fn second_owner_is_refused_and_a_slot_is_zeroed_between_two_owners() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let incarnation = server.report().incarnation;
    server.grant(1, &incarnation, &[(0, 1, 10)]);
    let refused = server.apply(2, &incarnation, &[(0, 2, 10)]);
    assert!(matches!(refused, Kind::Refused(r) if r.code == "SecondOwner"));
    let refused = server.apply(2, &[7; 16], &[]);
    assert!(matches!(refused, Kind::Refused(r) if r.code == "OtherIncarnation"));
    let refused = server.apply(2, &[7; 3], &[]);
    assert!(matches!(refused, Kind::Refused(r) if r.code == "Malformed"));

    let address = server.report().tcp_address;
    let mut first = Borrower::connect(&address, hello(1, 1));
    first.expect_up();
    first.fill_pool(1);
    first.run(Direction::Write, 0, 0, 256).expect("granted");
    let mut second = Borrower::connect(&address, hello(2, 1));
    second.expect_up();
    let foreign = second.run(Direction::Read, 0, 0, 1);
    assert_eq!(foreign, Err(OperationError::NotOwner));

    server.grant(2, &incarnation, &[]);
    assert_eq!(
        first.run(Direction::Read, 0, 0, 1),
        Err(OperationError::NotOwner)
    );
    server.grant(3, &incarnation, &[(0, 2, 10)]);
    server.wait_for(|report| report.grants.len() == 1);
    second.fill_pool(9);
    second.run(Direction::Read, 0, 0, 256).expect("granted now");
    second.check_zero();
    assert_eq!(server.report().refused_owner, 2);
}

#[test]
fn operation_for_a_set_that_left_the_slot_is_refused() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let report = server.report();
    server.grant(1, &report.incarnation, &[(0, 1, 10)]);
    let mut borrower = Borrower::connect(&report.tcp_address, hello(1, 1));
    borrower.expect_up();
    borrower.run(Direction::Write, 0, 0, 1).expect("granted");
    server.grant(2, &report.incarnation, &[]);
    server.grant(3, &report.incarnation, &[(0, 1, 77)]);
    server.wait_for(|report| report.grants.len() == 1);
    let late = borrower.run(Direction::Write, 0, 0, 1);
    assert_eq!(late, Err(OperationError::NotOwner));
}

#[test]
fn newer_epoch_fences_the_older_engine_across_a_restart_too() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let address = server.report().tcp_address;
    let mut older = Borrower::connect(&address, hello(1, 1));
    older.expect_up();
    let mut newer = Borrower::connect(&address, hello(1, 2));
    newer.expect_up();
    older.expect_down();
    assert_eq!(older.next_link(), Link::Refused);
    server.kill();
    let server = MemoryServer::start(&setup);
    let mut older = Borrower::connect(&address, hello(1, 1));
    assert_eq!(older.next_link(), Link::Refused);
    assert!(server.report().refused_epoch > 0);
}

/// A bare connection that has shaken hands.
fn shaken(address: &str, device: u8) -> TcpStream {
    let mut peer = TcpStream::connect(address).expect("listening");
    let bytes = encode_hello(&hello(device, 1), VersionRange::OURS);
    peer.write_all(&bytes).expect("sent");
    let mut reply = [0; HANDSHAKE_BYTES];
    peer.read_exact(&mut reply).expect("a reply");
    assert!(matches!(decode_reply(&reply), Ok(Ok(_))));
    peer
}

#[test]
fn malformed_frame_closes_only_that_connection() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let report = server.report();
    server.grant(1, &report.incarnation, &[(0, 1, 10)]);
    let mut good = Borrower::connect(&report.tcp_address, hello(1, 1));
    good.expect_up();
    let mut bad = shaken(&report.tcp_address, 2);
    bad.write_all(&[0xee; REQUEST_BYTES]).expect("sent");
    let mut answer = [0; RESPONSE_BYTES];
    bad.read_exact(&mut answer).expect("an answer");
    let answer = Response::decode(&answer).expect("valid");
    assert_eq!(answer.status, Status::Malformed);
    assert_eq!(bad.read(&mut [0]).unwrap_or(0), 0, "then it is closed");
    good.fill_pool(3);
    good.run(Direction::Write, 0, 0, 1).expect("still served");
    let report = server.wait_for(|report| report.refused_malformed == 1);
    assert!(report.events.iter().any(|event| event.kind == "Malformed"));
}

#[test]
fn unknown_version_and_a_broken_handshake_get_named_refusals() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let address = server.report().tcp_address;
    let newer = VersionRange { min: 7, max: 9 };
    let mut broken = encode_hello(&hello(1, 1), VersionRange::OURS);
    broken[20] ^= 1;
    let cases = [
        (
            encode_hello(&hello(1, 1), newer),
            Refusal::Version(VersionRange::OURS),
        ),
        (broken, Refusal::Malformed),
    ];
    for (bytes, refusal) in cases {
        let mut peer = TcpStream::connect(&address).expect("listening");
        peer.write_all(&bytes).expect("sent");
        let mut reply = [0; HANDSHAKE_BYTES];
        peer.read_exact(&mut reply).expect("a reply");
        assert_eq!(decode_reply(&reply), Ok(Err(refusal)));
        assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0, "then it is closed");
    }
}

#[test]
fn connections_are_bounded_and_the_one_too_many_is_told() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start_with(&setup, &["--connections-max=2"]);
    let address = server.report().tcp_address;
    let held = [shaken(&address, 1), shaken(&address, 2)];
    let mut peer = TcpStream::connect(&address).expect("listening");
    let bytes = encode_hello(&hello(3, 1), VersionRange::OURS);
    peer.write_all(&bytes).expect("sent");
    let mut reply = [0; HANDSHAKE_BYTES];
    peer.read_exact(&mut reply).expect("a reply");
    assert_eq!(decode_reply(&reply), Ok(Err(Refusal::Busy)));
    drop(held);
    server.wait_for(|report| report.connections == 0);
    shaken(&address, 3);
}

#[test]
fn deep_pipeline_of_mixed_requests_keeps_its_bytes() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let report = server.report();
    server.grant(1, &report.incarnation, &[(0, 1, 10), (1, 1, 11)]);
    let mut borrower = Borrower::connect(&report.tcp_address, hello(1, 1));
    borrower.expect_up();
    // Each round writes one half of the pages and reads what the round before wrote into the other.
    let half = |round: u32| round % 2 * 100;
    for round in 0..20 {
        borrower.fill_pool(u8::try_from(round).expect("small"));
        let mut ended = 0;
        for page in 0..100 {
            let (written, read) = (half(round) + page, half(round + 1) + page);
            borrower.post(Direction::Write, 1, written, written);
            borrower.post(Direction::Read, 1, read, 256 + read);
        }
        while ended < 200 {
            for event in borrower.events() {
                let TransportEvent::Completed(_, result) = event else {
                    panic!("round {round}: {event:?}");
                };
                result.expect("granted");
                ended += 1;
            }
        }
        if round > 0 {
            let read = half(round + 1) as usize;
            borrower.check_pages(u8::try_from(round - 1).expect("small"), read..read + 100);
        }
    }
}

#[test]
fn bad_input_gets_one_sentence_and_exit_code_two() {
    let Some(setup) = Setup::new() else { return };
    let sentence = |arguments: &[&str]| {
        let ended = Command::new(support::PROGRAM)
            .args(setup.arguments())
            .args(arguments)
            .output()
            .expect("the program is there");
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8(ended.stderr).expect("text");
        let told = said.lines().filter(|line| !line.contains("WARN"));
        told.collect::<Vec<_>>().join("\n")
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    assert!(sentence(&["--capacity=1500Ki"]).contains("multiple"));
    assert!(sentence(&["--capacity=900Ti"]).contains("choose"));
    assert!(sentence(&["--capacity=64Ti"]).contains("choose a larger --slab"));
    assert!(sentence(&["--slab=3Mi"]).contains("power of two"));
    assert!(sentence(&["--connections-max=0"]).contains("--connections-max"));
    assert!(sentence(&["--listen", &address]).contains("choose another"));
    assert!(!setup.memory_dir().exists(), "nothing is left behind");
    assert!(!setup.socket().exists(), "nothing is left behind");

    let server = MemoryServer::start(&setup);
    assert!(sentence(&[]).contains("another memory server"));
    assert!(sentence(&["--discard"]).contains("another memory server"));
    server.kill();
    let other_size = "made with --slab 1Mi and --capacity 4Mi";
    assert!(sentence(&["--capacity=8Mi"]).contains(other_size));
    assert!(sentence(&["--slab=2Mi"]).contains(other_size));
    assert!(sentence(&["--node=other"]).contains("belongs to node 'donor-1'"));
}

#[test]
fn sigterm_ends_cleanly_and_keeps_the_memory_until_it_is_discarded() {
    let Some(setup) = Setup::new() else { return };
    let server = MemoryServer::start(&setup);
    let incarnation = server.report().incarnation;
    assert!(server.terminate().success());
    assert!(!setup.socket().exists());
    let server = MemoryServer::start(&setup);
    assert_eq!(server.report().incarnation, incarnation);
    assert!(server.terminate().success());
    let ended = Command::new(support::PROGRAM)
        .args(setup.arguments())
        .arg("--discard")
        .status()
        .expect("the program is there");
    assert!(ended.success());
    assert!(!setup.memory_dir().exists());
    let server = MemoryServer::start(&setup);
    assert_ne!(server.report().incarnation, incarnation);
}

#[test]
fn host_without_rdma_serves_tcp_and_says_so() {
    let Some(setup) = Setup::new() else { return };
    // No device has this address, on any host.
    let server = MemoryServer::start_with(&setup, &["--rdma-listen=192.0.2.1:0"]);
    let report = server.report();
    assert_eq!(report.rdma_address, "");
    let told = report.warnings.iter().find(|w| w.contains("RDMA"));
    let told = told.expect("a warning");
    assert!(told.starts_with("no RDMA on 192.0.2.1:"), "{told}");
    assert!(told.contains("borrowers use TCP"), "{told}");
    Borrower::connect(&report.tcp_address, hello(1, 1)).expect_up();
}
