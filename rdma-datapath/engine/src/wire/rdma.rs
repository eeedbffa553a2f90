//! What crosses an RDMA connection beside page contents: the hello and its reply, which ride in
//! the connection's private data, and the directory, which a borrower reads out of the server's
//! memory to learn the keys of its slots, and in which it says which key it waits for.
//!
//! The hello says what the TCP one does in the 56 bytes that a connection request carries; the
//! reply is the TCP one with the directory's place behind it.

use dynamicswap_types::{SessionId, SetId, SwapDeviceId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    Accepted, HANDSHAKE_BYTES, Refusal, VersionRange, WireError, crc, decode_reply,
    encode_accepted, epoch,
};
use crate::slots::Hello;

/// Length of the hello; a connection request carries 56 bytes at most.
pub const RDMA_HELLO_BYTES: usize = 52;
/// Length of the reply; a connection's acceptance carries 196 bytes at most, and a refusal, which
/// is a plain reply, 148.
pub const RDMA_REPLY_BYTES: usize = HANDSHAKE_BYTES + 24;
/// Length of a directory's entry. The entry of slot N begins at N times this.
pub const ENTRY_BYTES: usize = 64;
/// The same in the words in which a server keeps it.
pub const ENTRY_WORDS: usize = ENTRY_BYTES / 8;

/// Words behind the last entry into which a borrower writes the number of a slot, plus 1, whose
/// key it waits for: that one is made next. It writes to one word for each lookup under way.
pub const WISHES: usize = 16;

const HELLO_MAGIC: [u8; 8] = *b"DYNSWAPr";

/// Layout of the hello.
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
    crc: U32,
}

/// Layout of what stands behind the reply.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DirectoryBytes {
    address: U64,
    key: U32,
    reserved: [u8; 8],
    crc: U32,
}

/// Layout of an entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryBytes {
    state: U32,
    key: U32,
    set: U64,
    address: U64,
    reserved: [u8; 36],
    crc: U32,
}

const _: () = assert!(size_of::<HelloBytes>() == RDMA_HELLO_BYTES && RDMA_HELLO_BYTES <= 56);
const _: () = assert!(size_of::<DirectoryBytes>() == RDMA_REPLY_BYTES - HANDSHAKE_BYTES);
const _: () = assert!(RDMA_REPLY_BYTES <= 196 && HANDSHAKE_BYTES <= 148);
const _: () = assert!(size_of::<EntryBytes>() == ENTRY_BYTES);

/// Where the directory is in the server's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// First byte.
    pub address: u64,
    /// The key that reads it.
    pub key: u32,
}

/// What the directory says about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryEntry {
    /// It does not belong to the reader's device.
    NotYours,
    /// It does, and its key is being made: read again.
    Pending,
    /// It does.
    Ready {
        /// The set for which it was granted.
        set: SetId,
        /// First byte.
        address: u64,
        /// The key that reads and writes it.
        key: u32,
    },
}

const NOT_YOURS: u32 = 0;
const PENDING: u32 = 1;
const READY: u32 = 2;

fn without_crc(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - 4]
}

/// Writes a hello that offers `versions`.
#[must_use]
pub fn encode_rdma_hello(hello: &Hello, versions: VersionRange) -> [u8; RDMA_HELLO_BYTES] {
    let mut bytes = HelloBytes {
        magic: HELLO_MAGIC,
        version_min: versions.min.into(),
        version_max: versions.max.into(),
        queue: hello.queue.into(),
        reserved: [0; 2],
        device: hello.device.to_bytes(),
        epoch: hello.epoch.get().into(),
        session: hello.session.get().into(),
        crc: U32::ZERO,
    };
    bytes.crc = crc(without_crc(bytes.as_bytes())).into();
    zerocopy::transmute!(bytes)
}

/// Reads a hello, behind which the fabric may have put zeros; gives the version to speak with it.
///
/// # Errors
/// `Magic`, also for too few bytes, `Checksum`, `Version`, or `Value` for epoch 0.
pub fn decode_rdma_hello(bytes: &[u8]) -> Result<(Hello, u16), WireError> {
    let (hello, _) = HelloBytes::read_from_prefix(bytes).map_err(|_| WireError::Magic)?;
    if hello.magic != HELLO_MAGIC {
        return Err(WireError::Magic);
    }
    if hello.crc.get() != crc(without_crc(hello.as_bytes())) {
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
pub fn encode_rdma_accepted(accepted: &Accepted, directory: Directory) -> [u8; RDMA_REPLY_BYTES] {
    let mut place = DirectoryBytes {
        address: directory.address.into(),
        key: directory.key.into(),
        reserved: [0; 8],
        crc: U32::ZERO,
    };
    place.crc = crc(without_crc(place.as_bytes())).into();
    let mut bytes = [0; RDMA_REPLY_BYTES];
    bytes[..HANDSHAKE_BYTES].copy_from_slice(&encode_accepted(accepted));
    bytes[HANDSHAKE_BYTES..].copy_from_slice(place.as_bytes());
    bytes
}

/// Reads a reply, a yes or a no, behind which the fabric may have put zeros.
///
/// # Errors
/// As [`decode_reply`]; `Magic` for too few bytes.
pub fn decode_rdma_reply(
    bytes: &[u8],
) -> Result<Result<(Accepted, Directory), Refusal>, WireError> {
    let (reply, rest) = bytes
        .split_first_chunk::<HANDSHAKE_BYTES>()
        .ok_or(WireError::Magic)?;
    let accepted = match decode_reply(reply)? {
        Ok(accepted) => accepted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (place, _) = DirectoryBytes::read_from_prefix(rest).map_err(|_| WireError::Magic)?;
    if place.crc.get() != crc(without_crc(place.as_bytes())) {
        return Err(WireError::Checksum);
    }
    let directory = Directory {
        address: place.address.get(),
        key: place.key.get(),
    };
    Ok(Ok((accepted, directory)))
}

/// Writes an entry, in the words in which the server keeps it. The checksum is in the last one:
/// written last, it makes a half-written entry known for what it is.
#[must_use]
pub fn encode_entry(entry: DirectoryEntry) -> [u64; ENTRY_WORDS] {
    let (state, set, address, key) = match entry {
        DirectoryEntry::NotYours => (NOT_YOURS, 0, 0, 0),
        DirectoryEntry::Pending => (PENDING, 0, 0, 0),
        DirectoryEntry::Ready { set, address, key } => (READY, set.get(), address, key),
    };
    let mut bytes = EntryBytes {
        state: state.into(),
        key: key.into(),
        set: set.into(),
        address: address.into(),
        reserved: [0; 36],
        crc: U32::ZERO,
    };
    bytes.crc = crc(without_crc(bytes.as_bytes())).into();
    let bytes: [u8; ENTRY_BYTES] = zerocopy::transmute!(bytes);
    let mut words = [0; ENTRY_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Reads an entry; `None` if it was read while it was written.
#[must_use]
pub fn decode_entry(words: &[u64; ENTRY_WORDS]) -> Option<DirectoryEntry> {
    let mut bytes = [0; ENTRY_BYTES];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    let entry: EntryBytes = zerocopy::transmute!(bytes);
    if entry.crc.get() != crc(without_crc(&bytes)) {
        return None;
    }
    match entry.state.get() {
        NOT_YOURS => Some(DirectoryEntry::NotYours),
        PENDING => Some(DirectoryEntry::Pending),
        READY => Some(DirectoryEntry::Ready {
            set: SetId::new(entry.set.get()),
            address: entry.address.get(),
            key: entry.key.get(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamicswap_types::{Bytes, Epoch, IncarnationId, SlabSize};
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            device: SwapDeviceId::from_bytes([7; 16]),
            epoch: Epoch::new(3),
            session: SessionId::new(0x0102_0304_0506_0708),
            queue: 2,
        }
    }

    fn accepted() -> Accepted {
        Accepted {
            version: VersionRange::OURS.max,
            incarnation: IncarnationId::from_bytes([9; 16]),
            slot_size: SlabSize::try_from(Bytes::from_mib(64)).expect("a slab size"),
            slots: 12,
        }
    }

    #[test]
    fn hello_comes_back_with_zeros_behind_it() {
        let mut bytes = encode_rdma_hello(&hello(), VersionRange::OURS).to_vec();
        bytes.extend([0; 4]);
        let decoded = decode_rdma_hello(&bytes);
        assert_eq!(decoded, Ok((hello(), VersionRange::OURS.max)));
        bytes[12] ^= 1;
        assert_eq!(decode_rdma_hello(&bytes), Err(WireError::Checksum));
        assert_eq!(decode_rdma_hello(&bytes[..51]), Err(WireError::Magic));
    }

    #[test]
    fn hello_begins_with_these_bytes_for_ever() {
        let bytes = encode_rdma_hello(&hello(), VersionRange { min: 2, max: 2 });
        assert_eq!(&bytes[..16], b"DYNSWAPr\x02\0\x02\0\x02\0\0\0");
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(bytes[32..40], 3_u64.to_le_bytes());
        assert_eq!(&bytes[40..48], [8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn reply_comes_back_and_so_does_a_refusal() {
        let directory = Directory {
            address: 0xdead_0000,
            key: 77,
        };
        let mut bytes = encode_rdma_accepted(&accepted(), directory).to_vec();
        bytes.resize(196, 0);
        assert_eq!(decode_rdma_reply(&bytes), Ok(Ok((accepted(), directory))));
        bytes[HANDSHAKE_BYTES] ^= 1;
        assert_eq!(decode_rdma_reply(&bytes), Err(WireError::Checksum));
        let refusal = Refusal::OldEpoch {
            known: Some(Epoch::new(5)),
        };
        let mut bytes = super::super::encode_refusal(refusal).to_vec();
        bytes.resize(148, 0);
        assert_eq!(decode_rdma_reply(&bytes), Ok(Err(refusal)));
        assert_eq!(decode_rdma_reply(&[]), Err(WireError::Magic));
    }

    proptest! {
        #[test]
        fn entry_comes_back_and_a_half_written_one_is_known(
            set in any::<u64>(), address in any::<u64>(), key in any::<u32>(), cut in 0..ENTRY_WORDS,
        ) {
            let ready = DirectoryEntry::Ready { set: SetId::new(set), address, key };
            let words = encode_entry(ready);
            prop_assert_eq!(decode_entry(&words), Some(ready));
            let mut torn = encode_entry(DirectoryEntry::Pending);
            torn[..cut].copy_from_slice(&words[..cut]);
            let read = decode_entry(&torn);
            prop_assert!(read.is_none() || cut == 0, "{:?}", read);
        }
    }
}
