//! Every limit of the data path, in one place, with its reason and its relations asserted.

/// Pages of one read or write: 1 MiB, the most that FUSE and ublk hand over at once.
pub const REQUEST_PAGES_MAX: u32 = 256;
/// Requests under way: above FUSE's `max_background` (64) and ublk's usual depth (128).
pub const REQUESTS_MAX: usize = 256;
/// Memory servers that one device can know in its life.
pub const SERVERS_MAX: usize = 256;
/// Largest device: 2^28 pages, 1 TiB; its page table takes 4 GiB.
pub const DEVICE_PAGES_MAX: u64 = 1 << 28;
/// Connections that a memory server holds at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Wire: longest payload of one frame, one whole request.
pub const FRAME_PAYLOAD_MAX: usize = REQUEST_PAGES_MAX as usize * 4096;

const _: () = assert!(REQUEST_PAGES_MAX as usize * 4096 == 1 << 20);
/// Devices whose epoch a memory server keeps; a table of 6 KiB in its memory file.
pub const DEVICES_MAX: usize = 256;
/// Operations under way on one link: as many as there are requests, so that a server that holds
/// every slab of a busy device is no bottleneck. A memory server bounds its answers by it too.
pub const LINK_OPERATIONS_MAX: usize = 256;

const _: () = assert!(LINK_OPERATIONS_MAX >= REQUESTS_MAX);
const _: () = assert!(CONNECTIONS_MAX <= u16::MAX as usize);
const _: () = assert!(DEVICES_MAX <= u16::MAX as usize);
