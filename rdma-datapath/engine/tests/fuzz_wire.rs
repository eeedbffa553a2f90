//! Fuzz target of the wire codec: any bytes are refused by name or mean what they encode to.
//!
//! Runs as an ordinary test; `cargo bolero test fuzz_wire` digs deeper.

use dynamicswap_engine::slots::Hello;
use dynamicswap_engine::wire::{
    Accepted, HANDSHAKE_BYTES, REQUEST_BYTES, RESPONSE_BYTES, Request, Response, VersionRange,
    decode_hello, decode_reply, encode_accepted, encode_hello, encode_refusal,
};
use dynamicswap_types::{Epoch, IncarnationId, SessionId, SlabSize, SwapDeviceId};

/// Puts the right CRC-32C behind the bytes, or the fuzzer never gets past it.
fn sealed<const N: usize>(input: &[u8; HANDSHAKE_BYTES]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&input[..N]);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..N - 4]);
    bytes[N - 4..].copy_from_slice(&crc.to_le_bytes()[..4]);
    bytes
}

/// Both valid handshakes, to be changed in a few bytes: random ones never get past the magic.
fn handshakes() -> [[u8; HANDSHAKE_BYTES]; 2] {
    let hello = Hello {
        device: SwapDeviceId::from_bytes([7; 16]),
        epoch: Epoch::new(1),
        session: SessionId::new(1),
        queue: 0,
    };
    let accepted = Accepted {
        version: 2,
        incarnation: IncarnationId::from_bytes([8; 16]),
        slot_size: SlabSize::DEFAULT,
        slots: 1,
    };
    [
        encode_hello(&hello, VersionRange::OURS),
        encode_accepted(&accepted),
    ]
}

fn check_frames(input: &[u8; HANDSHAKE_BYTES]) {
    let bytes = sealed::<REQUEST_BYTES>(input);
    if let Ok(request) = Request::decode(&bytes) {
        assert_eq!(request.encode(), bytes);
    }
    let bytes = sealed::<RESPONSE_BYTES>(input);
    if let Ok(response) = Response::decode(&bytes) {
        assert_eq!(response.encode(), bytes);
    }
}

fn check_handshakes(input: &[u8; HANDSHAKE_BYTES]) {
    let bytes = sealed::<HANDSHAKE_BYTES>(input);
    if let Ok((hello, version)) = decode_hello(&bytes) {
        let again = decode_hello(&encode_hello(&hello, VersionRange::OURS));
        assert_eq!(again, Ok((hello, version)));
    }
    match decode_reply(&bytes) {
        Ok(Ok(accepted)) => {
            assert_eq!(decode_reply(&encode_accepted(&accepted)), Ok(Ok(accepted)));
        }
        Ok(Err(refusal)) => {
            assert!(matches!(decode_reply(&encode_refusal(refusal)), Ok(Err(_))));
        }
        Err(_) => {}
    }
}

#[test]
fn fuzz_wire() {
    let handshakes = handshakes();
    bolero::check!()
        .with_type::<([u8; HANDSHAKE_BYTES], [(u8, u8); 3])>()
        .for_each(|(random, edits)| {
            check_frames(random);
            check_handshakes(random);
            for mut bytes in handshakes {
                for (place, value) in edits {
                    bytes[usize::from(*place) % HANDSHAKE_BYTES] = *value;
                }
                check_handshakes(&bytes);
            }
        });
}
