//! Requests and responses of version 2.

use dynamicswap_types::{SetId, SlotIndex};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{PAGE_BYTES, WireError, crc, pages_allowed};
use crate::operation::OperationError;
use crate::slots::SlotPages;

/// Length of a request's header; a WRITE's payload follows it.
pub const REQUEST_BYTES: usize = 40;
/// Length of a response's header; the payload of a READ that succeeded follows it.
pub const RESPONSE_BYTES: usize = 24;

const READ: u8 = 1;
const WRITE: u8 = 2;
const PING: u8 = 3;
/// Tells a response from a request in a dump.
const RESPONSE: u8 = 0x80;

/// Layout of a request.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RequestBytes {
    kind: u8,
    reserved: [u8; 3],
    pages: U32,
    tag: U64,
    set: U64,
    slot: U32,
    page: U32,
    payload: U32,
    crc: U32,
}

/// Layout of a response.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ResponseBytes {
    kind: u8,
    status: u8,
    reserved: [u8; 2],
    payload: U32,
    tag: U64,
    reserved_too: [u8; 4],
    crc: U32,
}

const _: () = assert!(size_of::<RequestBytes>() == REQUEST_BYTES);
const _: () = assert!(size_of::<ResponseBytes>() == RESPONSE_BYTES);

/// What a borrower asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// The pages' contents, please.
    Read(SlotPages),
    /// Store the payload, which is as long as the pages.
    Write(SlotPages),
    /// Is anybody there?
    Ping,
}

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The response carries it back.
    pub tag: u64,
    /// What is asked.
    pub kind: RequestKind,
}

impl Request {
    /// Bytes that follow the header.
    #[must_use]
    pub const fn payload_len(&self) -> u32 {
        match self.kind {
            RequestKind::Write(range) => range.pages * PAGE_BYTES,
            RequestKind::Read(_) | RequestKind::Ping => 0,
        }
    }

    /// Writes the header. Ranges longer than a request may be make no valid one.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let (kind, range) = match self.kind {
            RequestKind::Read(range) => (READ, range),
            RequestKind::Write(range) => (WRITE, range),
            RequestKind::Ping => (PING, NO_PAGES),
        };
        let mut bytes = RequestBytes {
            kind,
            reserved: [0; 3],
            pages: range.pages.into(),
            tag: self.tag.into(),
            set: range.set.get().into(),
            slot: range.slot.get().into(),
            page: range.page.into(),
            payload: self.payload_len().into(),
            crc: U32::ZERO,
        };
        bytes.crc = crc(&bytes.as_bytes()[..REQUEST_BYTES - 4]).into();
        zerocopy::transmute!(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Checksum`, `Kind`, `Length`, or `Reserved`.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, WireError> {
        let request: RequestBytes = zerocopy::transmute!(*bytes);
        if request.crc.get() != crc(&bytes[..REQUEST_BYTES - 4]) {
            return Err(WireError::Checksum);
        }
        if request.reserved != [0; 3] {
            return Err(WireError::Reserved);
        }
        let range = SlotPages {
            set: SetId::new(request.set.get()),
            slot: SlotIndex::new(request.slot.get()),
            page: request.page.get(),
            pages: request.pages.get(),
        };
        let kind = match request.kind {
            READ => RequestKind::Read(range),
            WRITE => RequestKind::Write(range),
            PING => RequestKind::Ping,
            unknown => return Err(WireError::Kind(unknown)),
        };
        let allowed = match kind {
            RequestKind::Read(_) | RequestKind::Write(_) => pages_allowed(range.pages),
            RequestKind::Ping => range == NO_PAGES,
        };
        let tag = request.tag.get();
        let decoded = Self { tag, kind };
        if allowed && decoded.payload_len() == request.payload.get() {
            Ok(decoded)
        } else {
            Err(WireError::Length {
                pages: range.pages,
                payload: request.payload.get(),
            })
        }
    }
}

/// What a PING has where others have pages.
const NO_PAGES: SlotPages = SlotPages {
    set: SetId::new(0),
    slot: SlotIndex::new(0),
    page: 0,
    pages: 0,
};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Done,
    /// Refused.
    Refused(OperationError),
    /// The frame was malformed; the server closes the connection after this.
    Malformed,
}

impl Status {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused(OperationError::NotOwner) => 1,
            Self::Refused(OperationError::OldEpoch) => 2,
            Self::Refused(OperationError::OutOfRange) => 3,
            // A server that answers has a link: it never says this. Closing is the honest answer.
            Self::Malformed | Self::Refused(OperationError::LinkDown) => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Done,
            1 => Self::Refused(OperationError::NotOwner),
            2 => Self::Refused(OperationError::OldEpoch),
            3 => Self::Refused(OperationError::OutOfRange),
            4 => Self::Malformed,
            _ => return None,
        })
    }
}

/// A response's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes that follow: a whole number of pages, none unless a READ succeeded.
    pub payload_len: u32,
}

impl Response {
    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; RESPONSE_BYTES] {
        let mut bytes = ResponseBytes {
            kind: RESPONSE,
            status: self.status.to_byte(),
            reserved: [0; 2],
            payload: self.payload_len.into(),
            tag: self.tag.into(),
            reserved_too: [0; 4],
            crc: U32::ZERO,
        };
        bytes.crc = crc(&bytes.as_bytes()[..RESPONSE_BYTES - 4]).into();
        zerocopy::transmute!(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Checksum`, `Kind`, `Status`, `Length`, or `Reserved`.
    pub fn decode(bytes: &[u8; RESPONSE_BYTES]) -> Result<Self, WireError> {
        let response: ResponseBytes = zerocopy::transmute!(*bytes);
        if response.crc.get() != crc(&bytes[..RESPONSE_BYTES - 4]) {
            return Err(WireError::Checksum);
        }
        if response.kind != RESPONSE {
            return Err(WireError::Kind(response.kind));
        }
        if response.reserved != [0; 2] || response.reserved_too != [0; 4] {
            return Err(WireError::Reserved);
        }
        let status = Status::from_byte(response.status);
        let status = status.ok_or(WireError::Status(u16::from(response.status)))?;
        let payload = response.payload.get();
        let pages = payload / PAGE_BYTES;
        let whole = payload.is_multiple_of(PAGE_BYTES);
        let allowed = payload == 0 || (status == Status::Done && whole && pages_allowed(pages));
        if !allowed {
            return Err(WireError::Length { pages, payload });
        }
        Ok(Self {
            tag: response.tag.get(),
            status,
            payload_len: payload,
        })
    }
}
