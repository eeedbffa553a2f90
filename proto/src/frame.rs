//! Frames of the daemons' unix sockets: a little-endian `u32` length, then one message.
//!
//! Owns the codec, not the socket.

use prost::Message;
use thiserror::Error;

/// Longest message: a document of 64 GiB in 1 MiB slabs with three copies stays below it.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
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

    #[test]
    fn long_and_malformed_frames_are_refused() {
        assert!(matches!(body_len([0xff; 4]), Err(FrameError::TooLong(_))));
        assert!(matches!(
            decode::<Request>(&[0xff; 3]),
            Err(FrameError::Message(_))
        ));
    }
}
