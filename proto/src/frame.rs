//! Frames of the daemons' unix sockets: a little-endian `u32` length, then one message.
//!
//! Owns the codec, not the socket.

use prost::Message;
use thiserror::Error;

/// Longest message. Documents and reports stay below it as long as devices and memory servers stay
/// within the two limits below; the controller's sessions have the same limit.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Most slabs of a device: its document and its report fit into a frame with three copies on nodes
/// of the longest names. A device of 1 TiB in slabs of 64 MiB has so many.
pub const DEVICE_SLABS_MAX: u64 = 1 << 14;
/// Most slots of a memory server, likewise: 256 GiB in slots of 1 MiB.
pub const SERVER_SLOTS_MAX: u64 = 1 << 18;
/// Bytes of the length that stands before each message.
pub const HEADER_BYTES: usize = 4;

/// Why a frame is refused.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The length is over [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The bytes are no message of the expected type.
    #[error("a frame holds no valid message")]
    Message(#[source] prost::DecodeError),
}

/// Writes `message` as one frame.
///
/// # Errors
/// [`FrameError::TooLong`] if the message is over the limit.
pub fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    let header = u32::try_from(len).ok().filter(|_| len <= FRAME_BYTES_MAX);
    let header = header.ok_or(FrameError::TooLong(len))?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + len);
    frame.extend_from_slice(&header.to_le_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    Ok(frame)
}

/// Reads the length that `header` announces.
///
/// # Errors
/// [`FrameError::TooLong`] if it is over the limit.
pub fn body_len(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(header) as usize;
    if len > FRAME_BYTES_MAX {
        Err(FrameError::TooLong(len))
    } else {
        Ok(len)
    }
}

/// Reads a message from a frame's body.
///
/// # Errors
/// [`FrameError::Message`] if the bytes are no such message.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    M::decode(body).map_err(FrameError::Message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::v1 as common;
    use crate::daemon::v1::{ReportRequest, Request, request::Kind};

    #[test]
    fn frame_is_length_then_message() {
        let request = Request {
            kind: Some(Kind::Report(ReportRequest {
                known_change: 7,
                wait_ms: 1,
            })),
        };
        let frame = encode(&request).expect("short");
        let header = frame[..HEADER_BYTES].try_into().expect("4 bytes");
        assert_eq!(body_len(header).expect("short"), frame.len() - HEADER_BYTES);
        assert_eq!(
            decode::<Request>(&frame[HEADER_BYTES..]).expect("valid"),
            request
        );
    }

    /// Sets of a device beyond one a slab: the engine's table has so many places.
    const SETS_SPARE: u64 = 256;
    /// Servers that a device can know in its life.
    const SERVERS: usize = 256;

    /// The longest name that a node may have.
    fn name() -> String {
        "n".repeat(253)
    }

    /// The largest document of a device with `sets` sets.
    fn device_document(sets: u64) -> common::SwapDeviceDocument {
        let replica = common::Replica {
            node: name(),
            slot: u32::MAX,
        };
        let server = common::ServerEndpoint {
            node: name(),
            tcp_address: "[0123:4567:89ab:cdef:0123:4567:89ab:cdef]:65535".to_owned(),
            failure_domain: name(),
            incarnation: vec![0xff; 16],
            rdma_address: "[0123:4567:89ab:cdef:0123:4567:89ab:cdef]:65535".to_owned(),
        };
        let set = |set_id| common::ReplicaSet {
            set_id,
            replicas: vec![replica.clone(); 3],
        };
        common::SwapDeviceDocument {
            servers: vec![server; SERVERS],
            sets: (0..sets).map(|set_id| set(u64::MAX - set_id)).collect(),
            ..common::SwapDeviceDocument::default()
        }
    }

    /// The largest report of a device with `sets` sets, without its events and warnings.
    fn device_report(sets: u64) -> common::SwapDeviceReport {
        let replica = common::ReplicaReport {
            node: name(),
            slot: u32::MAX,
            state: common::ReplicaState::Stale.into(),
        };
        let link = common::LinkReport {
            node: name(),
            state: common::LinkState::Refused.into(),
            for_ms: u64::MAX,
            bytes_read: u64::MAX,
            bytes_written: u64::MAX,
            pages_held: u64::MAX,
            transport: "rdma".to_owned(),
            transport_reason: "x".repeat(200),
        };
        let set = |set_id| common::SetReport {
            set_id,
            slab: Some(u32::MAX),
            pages_used: u32::MAX,
            released: true,
            replicas: vec![replica.clone(); 3],
            read_heat: u64::MAX,
            write_heat: u64::MAX,
            on_disk: true,
        };
        common::SwapDeviceReport {
            links: vec![link; SERVERS],
            sets: (0..sets).map(|set_id| set(u64::MAX - set_id)).collect(),
            ..common::SwapDeviceReport::default()
        }
    }

    /// Left for what else a message holds: events, warnings, containers.
    const REST: usize = 1 << 20;

    #[test]
    fn largest_device_fits_into_a_frame() {
        let sets = DEVICE_SLABS_MAX + SETS_SPARE;
        assert!(device_document(sets).encoded_len() + REST <= FRAME_BYTES_MAX);
        assert!(device_report(sets).encoded_len() + REST <= FRAME_BYTES_MAX);
        let twice = device_document(2 * DEVICE_SLABS_MAX);
        assert!(encode(&twice).is_err(), "the next power of two does not");
    }

    #[test]
    fn largest_memory_server_fits_into_a_frame() {
        let grants: Vec<_> = (0..u32::try_from(SERVER_SLOTS_MAX).expect("small"))
            .map(|slot| common::SlotGrant {
                slot: u32::MAX - slot,
                device_id: vec![0xff; 16],
                set_id: u64::MAX,
            })
            .collect();
        let reported = grants.iter().map(|grant| common::SlotReport {
            slot: grant.slot,
            device_id: grant.device_id.clone(),
            set_id: grant.set_id,
        });
        let report = common::MemoryServerReport {
            grants: reported.collect(),
            ..common::MemoryServerReport::default()
        };
        let document = common::MemoryServerDocument {
            grants,
            ..common::MemoryServerDocument::default()
        };
        assert!(report.encoded_len() + REST <= FRAME_BYTES_MAX);
        assert!(document.encoded_len() + REST <= FRAME_BYTES_MAX);
    }

    #[test]
    fn long_and_malformed_frames_are_refused() {
        assert!(matches!(body_len([0xff; 4]), Err(FrameError::TooLong(_))));
        assert!(matches!(
            decode::<Request>(&[0xff; 3]),
            Err(FrameError::Message(_))
        ));
    }
}
