//! Byte-exact golden tests, round trips, and a name for each malformed input.

use dynamicswap_types::{
    Bytes, Epoch, IncarnationId, SessionId, SetId, SlabSize, SlotIndex, SwapDeviceId,
};
use proptest::prelude::*;

use super::*;
use crate::operation::OperationError;
use crate::slots::{Hello, SlotPages};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hello() -> Hello {
    Hello {
        device: SwapDeviceId::from_bytes(*b"0123456789abcdef"),
        epoch: Epoch::new(3),
        session: SessionId::new(0x1122_3344_5566_7788),
        queue: 2,
    }
}

fn accepted() -> Accepted {
    Accepted {
        version: 2,
        incarnation: IncarnationId::from_bytes(*b"ABCDEFGHIJKLMNOP"),
        slot_size: SlabSize::try_from(Bytes::from_mib(16)).expect("a slab size"),
        slots: 64,
    }
}

const RANGE: SlotPages = SlotPages {
    set: SetId::new(0x0a0b),
    slot: SlotIndex::new(5),
    page: 0x0102,
    pages: 2,
};

#[test]
fn handshake_bytes_never_change() {
    assert_eq!(
        hex(&encode_hello(&hello(), VersionRange::OURS)),
        "44594e535741506302000200020000003031323334353637383961626364656603000000000000008877665544332211000000000000000000000000f8510c14"
    );
    assert_eq!(
        hex(&encode_accepted(&accepted())),
        "44594e535741507302000200020000004142434445464748494a4b4c4d4e4f50000000010000000040000000000000000000000000000000000000007e959491"
    );
    assert_eq!(
        hex(&encode_refusal(Refusal::OldEpoch {
            known: Some(Epoch::new(9))
        })),
        "44594e53574150730200020000000200000000000000000000000000000000000000000000000000000000000000000009000000000000000000000017ebf694"
    );
}

#[test]
fn frame_bytes_of_version_2_never_change() {
    let request = |kind| Request { tag: 7, kind }.encode();
    assert_eq!(
        hex(&request(RequestKind::Read(RANGE))),
        "010000000200000007000000000000000b0a000000000000050000000201000000000000fdb21c96"
    );
    assert_eq!(
        hex(&request(RequestKind::Write(RANGE))),
        "020000000200000007000000000000000b0a0000000000000500000002010000002000002d850d23"
    );
    assert_eq!(
        hex(&request(RequestKind::Ping)),
        "03000000000000000700000000000000000000000000000000000000000000000000000089c02fce"
    );
    let response = |status, payload_len| {
        Response {
            tag: 7,
            status,
            payload_len,
        }
        .encode()
    };
    assert_eq!(
        hex(&response(Status::Done, 8192)),
        "8000000000200000070000000000000000000000c92bf63d"
    );
    assert_eq!(
        hex(&response(Status::Refused(OperationError::NotOwner), 0)),
        "800100000000000007000000000000000000000042abc04d"
    );
}

#[test]
fn refusals_keep_their_names() {
    for refusal in [
        Refusal::Version(VersionRange::OURS),
        Refusal::OldEpoch {
            known: Some(Epoch::new(9)),
        },
        Refusal::OldEpoch { known: None },
        Refusal::EpochTaken,
        Refusal::Busy,
        Refusal::Malformed,
    ] {
        assert_eq!(decode_reply(&encode_refusal(refusal)), Ok(Err(refusal)));
    }
}

#[test]
fn peers_without_a_common_version_are_told_so() {
    let newer = VersionRange { min: 3, max: 9 };
    let bytes = encode_hello(&hello(), newer);
    let error = decode_hello(&bytes).expect_err("no common version");
    assert_eq!(error, WireError::Version { peer: newer });
    assert_eq!(Refusal::from(error), Refusal::Version(VersionRange::OURS));
    let both = VersionRange { min: 1, max: 9 };
    assert_eq!(
        decode_hello(&encode_hello(&hello(), both)),
        Ok((hello(), 2))
    );
}

/// Changes bytes of a frame and repairs its checksum.
fn forge<const N: usize>(mut bytes: [u8; N], change: impl Fn(&mut [u8; N])) -> [u8; N] {
    change(&mut bytes);
    let sum = crc(&bytes[..N - 4]);
    bytes[N - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn malformed_requests_are_refused_by_name() {
    let write = Request {
        tag: 7,
        kind: RequestKind::Write(RANGE),
    }
    .encode();
    let decode = |change: fn(&mut [u8; REQUEST_BYTES])| Request::decode(&forge(write, change));
    assert_eq!(decode(|b| b[0] = 9), Err(WireError::Kind(9)));
    assert_eq!(decode(|b| b[1] = 1), Err(WireError::Reserved));
    assert_eq!(
        decode(|b| b[4] = 0),
        Err(WireError::Length {
            pages: 0,
            payload: 8192
        })
    );
    assert_eq!(
        decode(|b| b[5] = 1),
        Err(WireError::Length {
            pages: 258,
            payload: 8192
        })
    );
    assert_eq!(
        decode(|b| b[32] = 1),
        Err(WireError::Length {
            pages: 2,
            payload: 8193
        })
    );
    assert_eq!(
        decode(|b| b[0] = 1),
        Err(WireError::Length {
            pages: 2,
            payload: 8192
        })
    );
    assert_eq!(
        decode(|b| b[0] = 3),
        Err(WireError::Length {
            pages: 2,
            payload: 8192
        })
    );
    let mut flipped = write;
    flipped[16] ^= 4;
    assert_eq!(Request::decode(&flipped), Err(WireError::Checksum));
}

#[test]
fn malformed_responses_are_refused_by_name() {
    let done = Response {
        tag: 7,
        status: Status::Done,
        payload_len: 4096,
    }
    .encode();
    let decode = |change: fn(&mut [u8; RESPONSE_BYTES])| Response::decode(&forge(done, change));
    assert_eq!(decode(|b| b[0] = 1), Err(WireError::Kind(1)));
    assert_eq!(decode(|b| b[1] = 9), Err(WireError::Status(9)));
    assert_eq!(
        decode(|b| b[1] = 1),
        Err(WireError::Length {
            pages: 1,
            payload: 4096
        })
    );
    assert_eq!(
        decode(|b| b[4] = 1),
        Err(WireError::Length {
            pages: 1,
            payload: 4097
        })
    );
    assert_eq!(
        decode(|b| b[7] = 1),
        Err(WireError::Length {
            pages: 4097,
            payload: 4097 << 12
        })
    );
    assert_eq!(decode(|b| b[17] = 1), Err(WireError::Reserved));
}

#[test]
fn malformed_handshakes_are_refused_by_name() {
    let good = encode_hello(&hello(), VersionRange::OURS);
    assert_eq!(
        decode_hello(&forge(good, |b| b[0] = 0)),
        Err(WireError::Magic)
    );
    assert_eq!(
        decode_hello(&forge(good, |b| b[32] = 0)),
        Err(WireError::Value("epoch 0"))
    );
    let mut flipped = good;
    flipped[20] ^= 1;
    assert_eq!(decode_hello(&flipped), Err(WireError::Checksum));
    let good = encode_accepted(&accepted());
    assert_eq!(decode_reply(&good), Ok(Ok(accepted())));
    assert_eq!(
        decode_reply(&forge(good, |b| b[14] = 99)),
        Err(WireError::Status(99))
    );
    assert_eq!(
        decode_reply(&forge(good, |b| b[32] = 1)),
        Err(WireError::Value("the slot size"))
    );
    assert!(matches!(
        decode_reply(&forge(good, |b| b[12] = 7)),
        Err(WireError::Version { .. })
    ));
    assert_eq!(
        decode_reply(&forge(good, |b| b[7] = b'c')),
        Err(WireError::Magic)
    );
}

fn ranges() -> impl Strategy<Value = SlotPages> {
    let numbers = (
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
        1..=REQUEST_PAGES_MAX,
    );
    numbers.prop_map(|(set, slot, page, pages)| SlotPages {
        set: SetId::new(set),
        slot: SlotIndex::new(slot),
        page,
        pages,
    })
}

fn kinds() -> impl Strategy<Value = RequestKind> {
    prop_oneof![
        ranges().prop_map(RequestKind::Read),
        ranges().prop_map(RequestKind::Write),
        Just(RequestKind::Ping),
    ]
}

proptest! {
    #[test]
    fn every_request_survives_the_wire(tag in any::<u64>(), kind in kinds()) {
        let request = Request { tag, kind };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn every_response_survives_the_wire(tag in any::<u64>(), pages in 0..=REQUEST_PAGES_MAX) {
        let response = Response { tag, status: Status::Done, payload_len: pages * 4096 };
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn every_hello_survives_the_wire(
        device in any::<[u8; 16]>(), epoch in 1..u64::MAX, session in any::<u64>(), queue in any::<u16>()
    ) {
        let hello = Hello {
            device: SwapDeviceId::from_bytes(device),
            epoch: Epoch::new(epoch),
            session: SessionId::new(session),
            queue,
        };
        prop_assert_eq!(decode_hello(&encode_hello(&hello, VersionRange::OURS)), Ok((hello, 2)));
    }

    #[test]
    fn single_flipped_bit_is_always_found(kind in kinds(), bit in 0_usize..8 * REQUEST_BYTES) {
        let mut bytes = Request { tag: 1, kind }.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Request::decode(&bytes), Err(WireError::Checksum));
    }
}
