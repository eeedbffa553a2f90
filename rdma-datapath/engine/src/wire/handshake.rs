//! The handshake: 64 bytes each way, the same for ever, so that any two versions can at least
//! tell each other why they do not fit.

use dynamicswap_types::{Bytes, Epoch, IncarnationId, SessionId, SlabSize, SwapDeviceId};
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, crc, epoch};
use crate::slots::{Hello, SessionRefusal};

/// Length of the hello and of its reply.
pub const HANDSHAKE_BYTES: usize = 64;

const HELLO_MAGIC: [u8; 8] = *b"DYNSWAPc";
const REPLY_MAGIC: [u8; 8] = *b"DYNSWAPs";

/// Protocol versions that a program speaks.
///
/// | version | reason |
/// |---|---|
/// | 1 | first |
/// | 2 | a request names the set: a late one must not reach the slot's next owner of the same device. 1 is no longer spoken, it cannot be made safe |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl VersionRange {
    /// What this program speaks.
    pub const OURS: Self = Self { min: 2, max: 2 };

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }

    /// The version to speak with a peer whose hello offers these.
    pub(super) fn agree(min: U16, max: U16) -> Result<u16, WireError> {
        let peer = Self {
            min: min.get(),
            max: max.get(),
        };
        Self::OURS.common(peer).ok_or(WireError::Version { peer })
    }
}

/// Layout of the borrower's hello.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HelloBytes {
    magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    queue: U16,
    reserved: [u8; 2],
    device: [u8; 16],
    epoch: U64,
    session: U64,
    reserved_too: [u8; 12],
    crc: U32,
}

/// Layout of the server's reply.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReplyBytes {
    magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    /// The version to speak; 0 in a refusal.
    version: U16,
    status: U16,
    incarnation: [u8; 16],
    slot_bytes: U64,
    slots: U32,
    reserved: [u8; 4],
    /// Of a refused epoch: the highest that is known; else 0.
    known_epoch: U64,
    reserved_too: [u8; 4],
    crc: U32,
}

const _: () = assert!(size_of::<HelloBytes>() == HANDSHAKE_BYTES);
const _: () = assert!(size_of::<ReplyBytes>() == HANDSHAKE_BYTES);

/// Bytes under the checksum.
const CHECKED: usize = HANDSHAKE_BYTES - 4;

/// A server's yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The version to speak.
    pub version: u16,
    /// The life of the server's memory.
    pub incarnation: IncarnationId,
    /// Size of its slots.
    pub slot_size: SlabSize,
    /// How many it has.
    pub slots: u32,
}

/// A server's no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No common version.
    #[error("the memory server speaks protocol versions {} to {} only", .0.min, .0.max)]
    Version(VersionRange),
    /// A newer epoch is known.
    #[error("the memory server knows a newer epoch of this device")]
    OldEpoch {
        /// The highest known one.
        known: Option<Epoch>,
    },
    /// The epoch belongs to another session.
    #[error("another session of this device has the same epoch")]
    EpochTaken,
    /// No room for another connection or device.
    #[error("the memory server has as many connections or devices as it can hold")]
    Busy,
    /// The hello was malformed.
    #[error("the memory server found the handshake malformed")]
    Malformed,
}

impl Refusal {
    const fn status(self) -> u16 {
        match self {
            Self::Version(_) => 1,
            Self::OldEpoch { .. } => 2,
            Self::EpochTaken => 3,
            Self::Busy => 4,
            Self::Malformed => 5,
        }
    }
}

impl From<SessionRefusal> for Refusal {
    fn from(refusal: SessionRefusal) -> Self {
        match refusal {
            SessionRefusal::OldEpoch { known, .. } => Self::OldEpoch { known: Some(known) },
            SessionRefusal::EpochTaken { .. } => Self::EpochTaken,
            SessionRefusal::TooManyDevices => Self::Busy,
        }
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Version { .. } => Self::Version(VersionRange::OURS),
            _ => Self::Malformed,
        }
    }
}

/// Writes a hello that offers `versions`.
#[must_use]
pub fn encode_hello(hello: &Hello, versions: VersionRange) -> [u8; HANDSHAKE_BYTES] {
    let mut bytes = HelloBytes {
        magic: HELLO_MAGIC,
        version_min: versions.min.into(),
        version_max: versions.max.into(),
        queue: hello.queue.into(),
        reserved: [0; 2],
        device: hello.device.to_bytes(),
        epoch: hello.epoch.get().into(),
        session: hello.session.get().into(),
        reserved_too: [0; 12],
        crc: U32::ZERO,
    };
    bytes.crc = crc(&bytes.as_bytes()[..CHECKED]).into();
    zerocopy::transmute!(bytes)
}

/// Reads a hello; gives the version to speak with it. Reserved bytes are not looked at: a newer
/// borrower may use them.
///
/// # Errors
/// `Magic`, `Checksum`, `Version`, or `Value` for epoch 0.
pub fn decode_hello(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<(Hello, u16), WireError> {
    let hello: HelloBytes = zerocopy::transmute!(*bytes);
    if hello.magic != HELLO_MAGIC {
        return Err(WireError::Magic);
    }
    if hello.crc.get() != crc(&bytes[..CHECKED]) {
        return Err(WireError::Checksum);
    }
    let version = VersionRange::agree(hello.version_min, hello.version_max)?;
    let hello = Hello {
        device: SwapDeviceId::from_bytes(hello.device),
        epoch: epoch(hello.epoch.get()).ok_or(WireError::Value("epoch 0"))?,
        session: SessionId::new(hello.session.get()),
        queue: hello.queue.get(),
    };
    Ok((hello, version))
}

/// Writes a yes.
#[must_use]
pub fn encode_accepted(accepted: &Accepted) -> [u8; HANDSHAKE_BYTES] {
    encode_reply(ReplyBytes {
        version: accepted.version.into(),
        incarnation: accepted.incarnation.to_bytes(),
        slot_bytes: accepted.slot_size.bytes().get().into(),
        slots: accepted.slots.into(),
        ..empty_reply()
    })
}

/// Writes a no.
#[must_use]
pub fn encode_refusal(refusal: Refusal) -> [u8; HANDSHAKE_BYTES] {
    let known = match refusal {
        Refusal::OldEpoch { known: Some(epoch) } => epoch.get(),
        _ => 0,
    };
    encode_reply(ReplyBytes {
        status: refusal.status().into(),
        known_epoch: known.into(),
        ..empty_reply()
    })
}

const fn empty_reply() -> ReplyBytes {
    ReplyBytes {
        magic: REPLY_MAGIC,
        version_min: U16::new(VersionRange::OURS.min),
        version_max: U16::new(VersionRange::OURS.max),
        version: U16::ZERO,
        status: U16::ZERO,
        incarnation: [0; 16],
        slot_bytes: U64::ZERO,
        slots: U32::ZERO,
        reserved: [0; 4],
        known_epoch: U64::ZERO,
        reserved_too: [0; 4],
        crc: U32::ZERO,
    }
}

fn encode_reply(mut reply: ReplyBytes) -> [u8; HANDSHAKE_BYTES] {
    reply.crc = crc(&reply.as_bytes()[..CHECKED]).into();
    zerocopy::transmute!(reply)
}

/// Reads a reply.
///
/// # Errors
/// `Magic`, `Checksum`, `Status`, `Version` for one that was not offered, or `Value` for a slot
/// size that is none.
pub fn decode_reply(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<Result<Accepted, Refusal>, WireError> {
    let reply: ReplyBytes = zerocopy::transmute!(*bytes);
    if reply.magic != REPLY_MAGIC {
        return Err(WireError::Magic);
    }
    if reply.crc.get() != crc(&bytes[..CHECKED]) {
        return Err(WireError::Checksum);
    }
    let peer = VersionRange {
        min: reply.version_min.get(),
        max: reply.version_max.get(),
    };
    let refusal = match reply.status.get() {
        0 => return accepted(&reply, peer).map(Ok),
        1 => Refusal::Version(peer),
        2 => Refusal::OldEpoch {
            known: epoch(reply.known_epoch.get()),
        },
        3 => Refusal::EpochTaken,
        4 => Refusal::Busy,
        5 => Refusal::Malformed,
        unknown => return Err(WireError::Status(unknown)),
    };
    Ok(Err(refusal))
}

fn accepted(reply: &ReplyBytes, peer: VersionRange) -> Result<Accepted, WireError> {
    let ours = VersionRange::OURS;
    let version = reply.version.get();
    if version < ours.min || version > ours.max {
        return Err(WireError::Version { peer });
    }
    let slot_size = SlabSize::try_from(Bytes::new(reply.slot_bytes.get()));
    Ok(Accepted {
        version,
        incarnation: IncarnationId::from_bytes(reply.incarnation),
        slot_size: slot_size.map_err(|_| WireError::Value("the slot size"))?,
        slots: reply.slots.get(),
    })
}
