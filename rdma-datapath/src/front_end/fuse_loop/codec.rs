//! Codec of the FUSE messages: what the kernel asks, and the bytes of each answer.
//!
//! Pure. Requests are read into an 80-byte head, which holds the header and every argument that
//! this device looks at, and data behind it.

use dynamicswap_types::{Bytes, PAGE_SIZE};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::abi::{self, init_flag, opcode};

/// Bytes before a write's data: the request header and the write's arguments.
pub const HEAD_BYTES: usize = 80;
/// Longest answer without data: header and entry.
const ANSWER_BYTES: usize = 144;
/// Name of the one file.
pub const FILE_NAME: &str = "swap";
/// Its node.
const FILE_NODE: u64 = 2;
/// Longest read or write: as many bytes as the largest buffer.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
const TRANSFER_PAGES_MAX: u16 = 256;
/// Requests that the kernel hands over before the first is answered; the rest waits with it.
const BACKGROUND_MAX: u16 = 128;
const CONGESTION_THRESHOLD: u16 = 96;
/// Nothing about the file ever changes: names and attributes stay valid for ten years.
const VALID_SECONDS: u64 = 315_360_000;

/// A request that breaks the protocol; it cannot even be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a request of {read} bytes announces {announced} bytes")]
pub struct Malformed {
    /// Bytes that were read.
    pub read: usize,
    /// Bytes that its header announces.
    pub announced: u32,
}

/// What the kernel announces when the connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init {
    /// Major protocol version.
    pub major: u32,
    /// Minor protocol version.
    pub minor: u32,
    /// Longest read-ahead, taken over as it is.
    pub max_readahead: u32,
    /// What the kernel can do.
    pub flags: u64,
}

impl Init {
    /// Whether the kernel hands over unanswered requests again when a new process asks.
    #[must_use]
    pub const fn has_resend(self) -> bool {
        self.flags & init_flag::HAS_RESEND != 0
    }

    /// Whether this code can speak with the kernel.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        self.major == abi::MAJOR && self.minor >= abi::MINOR_MIN
    }
}

/// What the kernel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The connection begins.
    Init(Init),
    /// Look a name up in the root; whether it is the file's.
    Lookup {
        /// The name is [`FILE_NAME`].
        is_file: bool,
    },
    /// Attributes of a node.
    Attributes,
    /// Open the file.
    Open,
    /// Open the root directory.
    OpenDirectory,
    /// Read the root directory.
    ReadDirectory,
    /// Read bytes.
    Read {
        /// From here.
        offset: u64,
        /// So many.
        size: u32,
    },
    /// Write the bytes behind the head.
    Write {
        /// To here.
        offset: u64,
        /// So many.
        size: u32,
    },
    /// Everything written must be kept.
    Sync,
    /// Forget a range.
    PunchHole {
        /// From here.
        offset: u64,
        /// So many bytes.
        length: u64,
    },
    /// Another kind of fallocate.
    Fallocate,
    /// About the file system.
    Statfs,
    /// Answered with success: flush, release, access.
    Nothing,
    /// Not answered at all: forget, destroy.
    Silent,
    /// A waiting caller was interrupted.
    Interrupt,
    /// Not implemented.
    Unknown(u32),
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The kernel's name for it; the answer carries it.
    pub unique: u64,
    /// The node it is about.
    pub node: u64,
    /// What it asks.
    pub call: Call,
}

impl Incoming {
    /// Whether an earlier process had read it already.
    #[must_use]
    pub const fn is_resent(&self) -> bool {
        self.unique & abi::UNIQUE_RESENT != 0
    }
}

/// Reads a request of `read` bytes, the first of which are in `head`.
///
/// # Errors
/// [`Malformed`] if the length does not fit what was read.
pub fn parse(head: &[u8; HEAD_BYTES], read: usize) -> Result<Incoming, Malformed> {
    let malformed = |announced| Malformed { read, announced };
    let (header, arguments) =
        abi::InHeader::read_from_prefix(&head[..]).map_err(|_| malformed(0))?;
    if header.len as usize != read || read < size_of::<abi::InHeader>() {
        return Err(malformed(header.len));
    }
    let arguments = &arguments[..arguments.len().min(read - size_of::<abi::InHeader>())];
    let call = parse_call(header.opcode, arguments).ok_or_else(|| malformed(header.len))?;
    if let Call::Write { size, .. } = call
        && read != HEAD_BYTES + size as usize
    {
        return Err(malformed(header.len));
    }
    Ok(Incoming {
        unique: header.unique,
        node: header.node,
        call,
    })
}

fn parse_call(code: u32, arguments: &[u8]) -> Option<Call> {
    let transfer = || {
        abi::TransferIn::read_from_prefix(arguments)
            .ok()
            .map(|a| a.0)
    };
    Some(match code {
        opcode::INIT => Call::Init(parse_init(arguments)?),
        opcode::LOOKUP => Call::Lookup {
            is_file: arguments.strip_suffix(&[0]) == Some(FILE_NAME.as_bytes()),
        },
        opcode::GETATTR => Call::Attributes,
        opcode::OPEN => Call::Open,
        opcode::OPENDIR => Call::OpenDirectory,
        opcode::READDIR => Call::ReadDirectory,
        opcode::READ => {
            let abi::TransferIn { offset, size, .. } = transfer()?;
            Call::Read { offset, size }
        }
        opcode::WRITE => {
            let abi::TransferIn { offset, size, .. } = transfer()?;
            Call::Write { offset, size }
        }
        opcode::FSYNC => Call::Sync,
        opcode::FALLOCATE => parse_fallocate(arguments)?,
        opcode::STATFS => Call::Statfs,
        opcode::FLUSH | opcode::RELEASE | opcode::RELEASEDIR | opcode::ACCESS => Call::Nothing,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::DESTROY => Call::Silent,
        opcode::INTERRUPT => Call::Interrupt,
        other => Call::Unknown(other),
    })
}

fn parse_init(arguments: &[u8]) -> Option<Init> {
    // Kernels before 5.17 send four words only.
    let mut words = [0_u8; size_of::<abi::InitIn>()];
    let known = arguments.len().min(words.len());
    if known < 16 {
        return None;
    }
    words[..known].copy_from_slice(&arguments[..known]);
    let init = abi::InitIn::read_from_bytes(&words).ok()?;
    let low = u64::from(init.flags);
    let high = if low & init_flag::INIT_EXT == 0 {
        0
    } else {
        u64::from(init.flags2) << 32
    };
    Some(Init {
        major: init.major,
        minor: init.minor,
        max_readahead: init.max_readahead,
        flags: low | high,
    })
}

fn parse_fallocate(arguments: &[u8]) -> Option<Call> {
    let (call, _) = abi::FallocateIn::read_from_prefix(arguments).ok()?;
    let hole = abi::FALLOCATE_KEEP_SIZE | abi::FALLOCATE_PUNCH_HOLE;
    Some(if call.mode == hole {
        Call::PunchHole {
            offset: call.offset,
            length: call.length,
        }
    } else {
        Call::Fallocate
    })
}

/// The bytes of one answer; a read's data follow them.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    bytes: [u8; ANSWER_BYTES],
    len: usize,
}

impl Answer {
    /// An error, as a positive error number; 0 is success without a body.
    #[must_use]
    pub fn errno(unique: u64, errno: i32) -> Self {
        let mut answer = Self::new(unique, &[] as &[u8], 0);
        answer.bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        answer
    }

    /// Before `data_bytes` bytes of a read.
    #[must_use]
    pub fn read(unique: u64, data_bytes: usize) -> Self {
        Self::new(unique, &[] as &[u8], data_bytes)
    }

    /// A write of `size` bytes is done.
    #[must_use]
    pub fn written(unique: u64, size: u32) -> Self {
        Self::new(unique, &abi::WriteOut { size, padding: 0 }, 0)
    }

    /// Agrees on what both sides can do.
    #[must_use]
    pub fn init(unique: u64, init: Init) -> Self {
        let wanted = init_flag::ASYNC_READ
            | init_flag::BIG_WRITES
            | init_flag::ASYNC_DIO
            | init_flag::MAX_PAGES;
        let [f0, f1, f2, f3, ..] = (wanted & init.flags).to_le_bytes();
        let body = abi::InitOut {
            major: abi::MAJOR,
            minor: init.minor.min(abi::MINOR_MAX),
            max_readahead: init.max_readahead,
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            max_background: BACKGROUND_MAX,
            congestion_threshold: CONGESTION_THRESHOLD,
            max_write: TRANSFER_BYTES_MAX,
            time_gran: 1,
            max_pages: TRANSFER_PAGES_MAX,
            map_alignment: 0,
            flags2: 0,
            unused: [0; 7],
        };
        Self::new(unique, &body, 0)
    }

    /// The file, for a lookup.
    #[must_use]
    pub fn entry(unique: u64, size: Bytes) -> Self {
        let body = abi::EntryOut {
            node: FILE_NODE,
            generation: 0,
            entry_valid: VALID_SECONDS,
            attributes_valid: VALID_SECONDS,
            entry_valid_nsec: 0,
            attributes_valid_nsec: 0,
            attributes: attributes(FILE_NODE, size),
        };
        Self::new(unique, &body, 0)
    }

    /// Attributes of the root or the file.
    #[must_use]
    pub fn attributes(unique: u64, node: u64, size: Bytes) -> Self {
        let body = abi::AttributesOut {
            valid: VALID_SECONDS,
            valid_nsec: 0,
            dummy: 0,
            attributes: attributes(node, size),
        };
        Self::new(unique, &body, 0)
    }

    /// The file is open, around the page cache.
    #[must_use]
    pub fn opened(unique: u64) -> Self {
        let body = abi::OpenOut {
            handle: 1,
            flags: abi::open_flag::DIRECT_IO | abi::open_flag::PARALLEL_DIRECT_WRITES,
            backing: 0,
        };
        Self::new(unique, &body, 0)
    }

    /// The root is open.
    #[must_use]
    pub fn opened_directory(unique: u64) -> Self {
        let body = abi::OpenOut {
            handle: 0,
            flags: 0,
            backing: 0,
        };
        Self::new(unique, &body, 0)
    }

    /// About the file system; its block size is the granularity of discards.
    #[must_use]
    pub fn statfs(unique: u64, size: Bytes) -> Self {
        let page_bytes = TRANSFER_BYTES_MAX / u32::from(TRANSFER_PAGES_MAX);
        let body = abi::StatfsOut {
            blocks: size.get() / PAGE_SIZE.get(),
            files: 1,
            block_size: page_bytes,
            fragment_size: page_bytes,
            name_max: 255,
            ..abi::StatfsOut::default()
        };
        Self::new(unique, &body, 0)
    }

    /// Asks the kernel to hand over again what an earlier process had read.
    #[must_use]
    pub fn resend_notification() -> Self {
        Self::errno(0, -abi::NOTIFY_RESEND)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new<B>(unique: u64, body: &B, data_bytes: usize) -> Self
    where
        B: IntoBytes + Immutable + KnownLayout + ?Sized,
    {
        let header_bytes = size_of::<abi::OutHeader>();
        let len = header_bytes + size_of_val(body);
        let total = u32::try_from(len + data_bytes).unwrap_or(u32::MAX);
        let header = abi::OutHeader {
            len: total,
            error: 0,
            unique,
        };
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..header_bytes].copy_from_slice(header.as_bytes());
        bytes[header_bytes..len].copy_from_slice(body.as_bytes());
        Self { bytes, len }
    }
}

fn attributes(node: u64, size: Bytes) -> abi::Attributes {
    const DIRECTORY: u32 = 0o040_700;
    const FILE: u32 = 0o100_600;
    let root = node == abi::ROOT_NODE;
    abi::Attributes {
        inode: node,
        size: if root { 0 } else { size.get() },
        sectors: if root { 0 } else { size.get() / 512 },
        mode: if root { DIRECTORY } else { FILE },
        links: if root { 2 } else { 1 },
        block_size: 4096,
        ..abi::Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A request as the kernel would write it: opcode, unique, node, arguments.
    fn message(code: u32, arguments: &[u8]) -> ([u8; HEAD_BYTES], usize) {
        let len = 40 + arguments.len();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(len).expect("short").to_ne_bytes());
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&0x1122_u64.to_ne_bytes());
        bytes.extend_from_slice(&2_u64.to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(arguments);
        bytes.resize(HEAD_BYTES.max(len), 0xee);
        (bytes[..HEAD_BYTES].try_into().expect("80"), len)
    }

    fn words(parts: &[u64]) -> Vec<u8> {
        parts.iter().flat_map(|part| part.to_ne_bytes()).collect()
    }

    fn call(code: u32, arguments: &[u8]) -> Call {
        let (head, len) = message(code, arguments);
        parse(&head, len).expect("valid").call
    }

    #[test]
    fn header_is_read_as_the_kernel_writes_it() {
        let (head, len) = message(3, &[0; 16]);
        let incoming = parse(&head, len).expect("valid");
        assert_eq!((incoming.unique, incoming.node), (0x1122, 2));
        assert!(!incoming.is_resent());
    }

    #[test]
    fn bit_63_marks_a_resent_request() {
        let (mut head, len) = message(3, &[]);
        head[15] |= 0x80;
        let incoming = parse(&head, len).expect("valid");
        assert!(incoming.is_resent());
        assert_eq!(incoming.unique, 0x1122 | 1 << 63);
    }

    #[test]
    fn transfers_carry_offset_and_size() {
        let read = words(&[1, 0x0001_0000_2000, 8192, 0, 0]);
        assert_eq!(
            call(15, &read),
            Call::Read {
                offset: 0x0001_0000_2000,
                size: 8192
            }
        );
        let mut write = words(&[1, 4096, 4096, 0, 0]);
        write.resize(40 + 4096, 0xab);
        assert_eq!(
            call(16, &write),
            Call::Write {
                offset: 4096,
                size: 4096
            }
        );
    }

    #[test]
    fn only_the_file_s_name_is_found() {
        assert_eq!(call(1, b"swap\0"), Call::Lookup { is_file: true });
        assert_eq!(call(1, b"swa\0"), Call::Lookup { is_file: false });
        assert_eq!(call(1, b"swap"), Call::Lookup { is_file: false });
        assert_eq!(call(1, &[b'a'; 60]), Call::Lookup { is_file: false });
    }

    #[test]
    fn only_punching_a_hole_discards() {
        let arguments = |mode: u64| words(&[1, 8192, 4096, mode]);
        assert_eq!(
            call(43, &arguments(3)),
            Call::PunchHole {
                offset: 8192,
                length: 4096
            }
        );
        for mode in [0, 1, 2, 16, 17] {
            assert_eq!(call(43, &arguments(mode)), Call::Fallocate);
        }
    }

    #[test]
    fn init_of_old_kernels_has_no_upper_flags() {
        let short = words(&[31 << 32 | 7, 1 << 47 | 9]);
        let Call::Init(init) = call(26, &short) else {
            panic!("an init");
        };
        assert_eq!((init.major, init.minor, init.max_readahead), (7, 31, 9));
        assert_eq!(init.flags, 1 << 15);
        assert!(init.is_supported() && !init.has_resend());
        let mut long = words(&[45 << 32 | 7, 1 << 62 | 9, 1 << 7]);
        long.resize(64, 0);
        let Call::Init(init) = call(26, &long) else {
            panic!("an init");
        };
        assert!(init.has_resend());
        assert!(!Init { minor: 30, ..init }.is_supported());
        assert!(!Init { major: 8, ..init }.is_supported());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_otherwise_than_by_its_error(
            head in prop::collection::vec(any::<u8>(), HEAD_BYTES), code in 0_u32..60, read in 0_usize..200,
        ) {
            let mut head: [u8; HEAD_BYTES] = head.try_into().expect("80 bytes");
            head[0..4].copy_from_slice(&u32::try_from(read).expect("short").to_ne_bytes());
            head[4..8].copy_from_slice(&code.to_ne_bytes());
            if let Ok(incoming) = parse(&head, read) {
                prop_assert!(read >= 40);
                prop_assert_eq!(&incoming.unique.to_ne_bytes(), &head[8..16]);
            }
        }
    }

    #[test]
    fn request_of_another_length_than_announced_is_malformed() {
        let (head, len) = message(3, &[0; 16]);
        assert!(parse(&head, len + 1).is_err());
        assert!(parse(&head, 12).is_err());
        let write = words(&[1, 0, 8192, 0, 0]);
        let (head, len) = message(16, &write);
        assert_eq!(len, HEAD_BYTES);
        assert!(parse(&head, len).is_err());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn short_answers_are_byte_exact() {
        let unique = 0x0102_0304;
        let errno = Answer::errno(unique, 5);
        assert_eq!(hex(errno.as_bytes()), "10000000fbffffff0403020100000000");
        let success = Answer::errno(unique, 0);
        assert_eq!(hex(success.as_bytes()), "10000000000000000403020100000000");
        let read = Answer::read(unique, 4096);
        assert_eq!(hex(read.as_bytes()), "10100000000000000403020100000000");
        let written = Answer::written(unique, 4096);
        assert_eq!(
            hex(written.as_bytes()),
            "180000000000000004030201000000000010000000000000"
        );
        let resend = Answer::resend_notification();
        assert_eq!(hex(resend.as_bytes()), "10000000070000000000000000000000");
        let opened = Answer::opened(unique);
        assert_eq!(
            hex(opened.as_bytes()),
            "20000000000000000403020100000000010000000000000041000000\
             00000000"
        );
    }

    #[test]
    fn init_answer_takes_only_what_the_kernel_offers() {
        let init = Init {
            major: 7,
            minor: 45,
            max_readahead: 0x0002_0000,
            flags: u64::MAX,
        };
        let full = Answer::init(1, init);
        assert_eq!(
            hex(full.as_bytes()),
            "50000000000000000100000000000000\
             0700000029000000000002002180400080006000000010000100000000010000\
             0000000000000000000000000000000000000000000000000000000000000000"
        );
        let bare = Answer::init(1, Init { flags: 0, ..init });
        assert_eq!(hex(&bare.as_bytes()[28..32]), "00000000");
    }

    #[test]
    fn attribute_answers_are_byte_exact() {
        let size = Bytes::from_mib(1);
        let root = Answer::attributes(1, 1, size);
        assert_eq!(root.as_bytes().len(), 120);
        assert_eq!(
            hex(&root.as_bytes()[32..56]),
            "01".to_owned() + &"00".repeat(23)
        );
        let file = Answer::entry(9, size);
        assert_eq!(file.as_bytes().len(), 144);
        assert_eq!(
            hex(&file.as_bytes()[..24]),
            "900000000000000009000000000000000200000000000000"
        );
        // Inode, size, sectors; then mode 0100600 and one link.
        assert_eq!(
            hex(&file.as_bytes()[56..80]),
            "020000000000000000001000000000000008000000000000"
        );
        assert_eq!(hex(&file.as_bytes()[116..124]), "8081000001000000");
    }

    #[test]
    fn statfs_answer_counts_pages() {
        let answer = Answer::statfs(1, Bytes::from_mib(1));
        assert_eq!(answer.as_bytes().len(), 96);
        assert_eq!(hex(&answer.as_bytes()[16..24]), "0001000000000000");
        assert_eq!(hex(&answer.as_bytes()[56..68]), "00100000ff00000000100000");
    }
}
