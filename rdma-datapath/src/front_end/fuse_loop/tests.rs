//! The front end against a socket pair that stands for `/dev/fuse`: both keep message borders.

use super::*;
use crate::front_end::pool::POOL_PAGES;
use dynamicswap_engine::request::RequestError;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const SIZE: Bytes = Bytes::from_mib(64);

struct Kernel {
    socket: OwnedFd,
    unique: u64,
}

impl Kernel {
    fn new() -> (Self, FuseLoop) {
        let (socket, ours) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK,
            None,
        )
        .expect("a socket pair");
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, 4 << 20).expect("a buffer");
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4 << 20).expect("a buffer");
        (Self { socket, unique: 2 }, FuseLoop::new(ours, SIZE))
    }

    fn ask(&mut self, code: u32, arguments: &[u8], data: &[u8]) -> u64 {
        self.unique += 2;
        let len = u32::try_from(40 + arguments.len() + data.len()).expect("short");
        let mut message = Vec::new();
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&code.to_ne_bytes());
        message.extend_from_slice(&self.unique.to_ne_bytes());
        message.extend_from_slice(&[0; 24]);
        message.extend_from_slice(arguments);
        message.extend_from_slice(data);
        rustix::io::write(&self.socket, &message).expect("sent");
        self.unique
    }

    fn ask_transfer(&mut self, code: u32, offset: u64, size: usize, data: &[u8]) -> u64 {
        let mut arguments = Vec::new();
        arguments.extend_from_slice(&1_u64.to_ne_bytes());
        arguments.extend_from_slice(&offset.to_ne_bytes());
        arguments.extend_from_slice(&u32::try_from(size).expect("short").to_ne_bytes());
        arguments.extend_from_slice(&[0; 20]);
        self.ask(code, &arguments, data)
    }

    /// Error number, unique and body of the next answer.
    fn answer(&self) -> (i32, u64, Vec<u8>) {
        let mut bytes = vec![0; 2 << 20];
        let len = rustix::io::read(&self.socket, &mut bytes).expect("an answer");
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4"));
        assert_eq!(word(0) as usize, len);
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().expect("8"));
        (-word(4).cast_signed(), unique, bytes[16..len].to_vec())
    }
}

fn memory() -> Vec<u8> {
    vec![0; POOL_PAGES as usize * 4096]
}

fn now() -> MonotonicTime {
    MonotonicTime::from_nanos(1)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|n| u8::try_from(n / 512 % 251).expect("small"))
        .collect()
}

#[test]
fn write_of_any_length_lies_whole_in_its_buffer() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    for pages in [1_usize, 2, 15, 16, 17, 100, 256] {
        let data = pattern(pages * 4096);
        let unique = kernel.ask_transfer(16, 8 * 4096, data.len(), &data);
        let request = front_end
            .take(&mut pool, now())
            .expect("served")
            .expect("a request");
        let RequestKind::Write { buffer } = request.kind else {
            panic!("a write");
        };
        assert_eq!((request.page.get(), request.pages as usize), (8, pages));
        assert_eq!(pool.bytes(buffer), data);
        let completion = Completion {
            tag: request.tag,
            result: Ok(()),
            data: None,
        };
        let done = front_end
            .complete(completion, &pool, now())
            .expect("answered");
        assert_eq!(done.map(|done| done.kind), Some(DoneKind::Write));
        front_end.release(request.tag);
        let size = u32::try_from(data.len()).expect("short").to_ne_bytes();
        let (errno, answered, body) = kernel.answer();
        assert_eq!((errno, answered, &body[..4]), (0, unique, &size[..]));
        assert_eq!(front_end.under_way(), 0);
    }
}

#[test]
fn read_is_answered_from_the_given_bytes_and_cut_at_the_end() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    kernel.ask_transfer(15, SIZE.get() - 4096, 8192, &[]);
    let request = front_end
        .take(&mut pool, now())
        .expect("served")
        .expect("a request");
    let RequestKind::Read { buffer } = request.kind else {
        panic!("a read");
    };
    assert_eq!(request.pages, 1);
    pool.bytes_mut(buffer).fill(0x5a);
    let completion = Completion {
        tag: request.tag,
        result: Ok(()),
        data: Some(buffer),
    };
    front_end
        .complete(completion, &pool, now())
        .expect("answered");
    assert_eq!(kernel.answer().2, vec![0x5a; 4096]);
    kernel.ask_transfer(15, SIZE.get(), 4096, &[]);
    assert_eq!(front_end.take(&mut pool, now()).expect("served"), None);
    assert!(kernel.answer().2.is_empty());
}

#[test]
fn failed_request_gets_an_input_output_error_once() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    kernel.ask_transfer(15, 0, 4096, &[]);
    let request = front_end
        .take(&mut pool, now())
        .expect("served")
        .expect("a request");
    let completion = Completion {
        tag: request.tag,
        result: Err(RequestError::Lost),
        data: None,
    };
    assert!(
        front_end
            .complete(completion, &pool, now())
            .expect("answered")
            .is_some()
    );
    assert!(
        front_end
            .complete(completion, &pool, now())
            .expect("answered")
            .is_none()
    );
    assert_eq!(kernel.answer().0, libc::EIO);
}

#[test]
fn unaligned_and_outlying_transfers_are_turned_down() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    let page = [7_u8; 4096];
    kernel.ask_transfer(15, 512, 4096, &[]);
    kernel.ask_transfer(15, 0, 512, &[]);
    kernel.ask_transfer(16, 512, 4096, &page);
    kernel.ask_transfer(16, SIZE.get(), 4096, &page);
    kernel.ask_transfer(16, u64::MAX - 4095, 4096, &page);
    assert_eq!(front_end.take(&mut pool, now()).expect("served"), None);
    for _ in 0..5 {
        assert_eq!(kernel.answer().0, libc::EINVAL);
    }
    assert_eq!(front_end.counters().refused, 5);
}

#[test]
fn hole_discards_the_pages_wholly_inside() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    let hole = |offset: u64, length: u64| {
        let words = [1, offset, length, 3];
        words
            .iter()
            .flat_map(|word: &u64| word.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    kernel.ask(43, &hole(4095, 3 * 4096), &[]);
    let request = front_end
        .take(&mut pool, now())
        .expect("served")
        .expect("a request");
    assert_eq!(request.kind, RequestKind::Discard);
    assert_eq!((request.page.get(), request.pages), (1, 2));
    kernel.ask(43, &hole(1, 4096), &[]);
    assert_eq!(front_end.take(&mut pool, now()).expect("served"), None);
    assert_eq!(kernel.answer().0, 0);
}

#[test]
fn reads_wait_for_a_buffer_and_get_the_first_free_one() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    let mut tags = Vec::new();
    loop {
        kernel.ask_transfer(15, 0, 1 << 20, &[]);
        match front_end.take(&mut pool, now()).expect("served") {
            Some(request) => tags.push(request.tag),
            None => break,
        }
    }
    // One large buffer is kept for the next request to land in.
    assert_eq!(tags.len(), CLASSES[2].count as usize - 1);
    assert!(!front_end.wants_requests());
    front_end.release(tags[3]);
    assert!(front_end.take(&mut pool, now()).expect("served").is_some());
    assert!(front_end.wants_requests());
    assert!(front_end.counters().waits_for_buffer > 0);
}

#[test]
fn resent_request_is_counted_and_answered_under_its_own_name() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    front_end.recover().expect("sent");
    let mut notification = [0; 16];
    rustix::io::read(&kernel.socket, &mut notification).expect("a notification");
    assert_eq!(notification[4], 7);
    kernel.unique = 1 << 63;
    let unique = kernel.ask(20, &[0; 16], &[]);
    let request = front_end
        .take(&mut pool, now())
        .expect("served")
        .expect("a request");
    assert_eq!(request.kind, RequestKind::Flush);
    let completion = Completion {
        tag: request.tag,
        result: Ok(()),
        data: None,
    };
    front_end
        .complete(completion, &pool, now())
        .expect("answered");
    assert_eq!(kernel.answer().1, unique);
    assert_eq!(front_end.counters().resent, 1);
}

#[test]
fn old_kernel_is_refused_with_its_version() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    kernel.ask(26, &[7, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    let error = front_end.take(&mut pool, now()).expect_err("refused");
    assert!(error.to_string().contains("7.12"));
    assert_eq!(kernel.answer().0, libc::EPROTO);
}

#[test]
fn listing_the_mount_shows_nothing_and_looks_up_the_file() {
    let (mut kernel, mut front_end) = Kernel::new();
    let mut memory = memory();
    let mut pool = Pool::new(&mut memory).expect("long enough");
    kernel.ask(27, &[0; 8], &[]);
    kernel.ask(28, &[0; 40], &[]);
    kernel.ask(1, b"swap\0", &[]);
    kernel.ask(1, b"other\0", &[]);
    kernel.ask(2, &[0; 8], &[]);
    kernel.ask(99, &[], &[]);
    assert_eq!(front_end.take(&mut pool, now()).expect("served"), None);
    let next = || {
        let (errno, _, body) = kernel.answer();
        (errno, body.len())
    };
    assert_eq!(next(), (0, 16));
    assert_eq!(next(), (0, 0));
    assert_eq!(next(), (0, 128));
    assert_eq!(next(), (libc::ENOENT, 0));
    assert_eq!(next(), (libc::ENOSYS, 0));
}
