//! Every limit of the data path, in one place, with its reason and its relations asserted.

/// Pages of one read or write: 1 MiB, the most that FUSE and ublk hand over at once.
pub const REQUEST_PAGES_MAX: u32 = 256;
/// Requests under way: above FUSE's `max_background` (128, as the front end sets it) and ublk's usual depth (128).
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
/// Pages of answered writes that are on their way to the disk at once, each in its request's buffer: a slow
/// disk, or one that hangs, must not hold up reads of copies that are well. What is left out is copied to
/// the disk later. Two of the longest requests; a third of each class of the front ends' buffers at most.
pub const PAGES_BEHIND_MAX: u32 = 2 * REQUEST_PAGES_MAX;
/// Answered writes that are, whatever their size: a quarter of the requests.
pub const WRITES_BEHIND_MAX: u32 = 64;
/// Operations under way on one link: as many as there are requests, so that a server that holds
/// every slab of a busy device is no bottleneck. A memory server bounds its answers by it too.
pub const LINK_OPERATIONS_MAX: usize = 256;

const _: () = assert!(LINK_OPERATIONS_MAX >= REQUESTS_MAX);
const _: () = assert!(WRITES_BEHIND_MAX as usize * 4 <= REQUESTS_MAX);
const _: () = assert!(CONNECTIONS_MAX <= u16::MAX as usize);
const _: () = assert!(DEVICES_MAX <= u16::MAX as usize);
/// Places in the set table beyond one per slab: the reserve, and sets that wait to be taken back.
pub const SETS_SPARE_MAX: u32 = 256;
/// Pages that one copy job (rebuild, or disk behind) moves: large enough to amortise the round
/// trip, small enough that a write to the same pages waits about a millisecond.
pub const COPY_PAGES_MAX: u32 = 64;
/// Copy jobs under way at once: one reads while the other writes; more would take a small host's
/// processor away from the swap-ins.
pub const COPY_JOBS_MAX: usize = 2;
/// The same while requests of the kernel are under way, and then one job at a time: a page that a
/// process waits for has 64 KiB of a copy before it on a link at the most, which 1 Gb/s carries in
/// half a millisecond.
pub const COPY_PAGES_BUSY_MAX: u32 = 16;
/// Time in which the heat of a slab that nobody touches halves. Infiniswap's paper forgets half in
/// 3.1 s (weight 0.2 at 1 s); moving a slab takes seconds itself, and what was true 10 to 20 s ago
/// still is with probability 0.97 to 0.94 on Google's hosts, so a choice that looks back as far as
/// half a minute is not made by the last burst.
pub const HEAT_HALF_LIFE: std::time::Duration = std::time::Duration::from_secs(30);
/// Time from a copy that could not reach a source to the next try, if no link comes up before: a
/// try begins at the slab's first page, and moves up to a slab for nothing.
pub const COPY_REST: std::time::Duration = std::time::Duration::from_secs(1);
/// Pages of scratch buffer that the engine needs for its copy jobs.
pub const SCRATCH_PAGES: u32 = 128;
/// Parts of one request: a slab has at least as many pages as the longest request, so a request
/// crosses one edge at most.
pub const PARTS_MAX: usize = 2;
/// Operations under way at once: each part of each request to each copy and to the disk, and
/// repairs of single pages beside them.
pub const OPERATIONS_MAX: usize = 4096;
/// Of these, what requests and copy jobs may need at once, a disk beside three copies. Repairs stop
/// short of it: one that is left out is made by the next read.
pub const OPERATIONS_RESERVED: usize = (REQUESTS_MAX + COPY_JOBS_MAX) * PARTS_MAX * 4;

const _: () = assert!(OPERATIONS_RESERVED < OPERATIONS_MAX);
/// Effects that wait for the shell; one call never makes more.
pub const EFFECTS_MAX: usize = 2 * OPERATIONS_MAX;
/// Times that all copies are read before a mismatch counts as a loss: a bit that flipped on its
/// way is right the next time. With one payload of five damaged, as by a failing cable, one page
/// of ten million is given up.
pub const READ_ROUNDS_MAX: u8 = 10;
/// How many of these follow one another at once. The others come a tick apart, because whatever
/// damages payloads on their way comes in bursts.
pub const READ_ROUNDS_AT_ONCE: u8 = 3;
/// Holds of an engine that no document has reached, as by default in a policy: a device that was
/// attached before must not wait for ever for the agent.
pub const WRITE_HOLD_UNTIL_DOCUMENT: std::time::Duration = std::time::Duration::from_secs(2);
/// The same for reads.
pub const READ_STALL_UNTIL_DOCUMENT: std::time::Duration = std::time::Duration::from_secs(30);
/// Time between two looks at deadlines while anything is under way.
pub const TICK: std::time::Duration = std::time::Duration::from_millis(20);

/// The slowest link that is not given up while it works: 32 Mb/s, what Soft-RoCE carries between two
/// emulated machines that are busy swapping; over less nobody would want to swap. A whole request of
/// 1 MiB gets a quarter of a second more than a page.
pub const LINK_BYTES_PER_SECOND_MIN: u64 = 32_000_000 / 8;
/// Time between two events that say that writes are held: a storm holds hundreds at once, and a log of
/// 256 events should still hold what led to it.
pub const HELD_TOLD_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// How often the time of an operation doubles on a link that is slower than that: four times the
/// time is 8 Mb/s, and a read that waits for a dead copy of that link's waits a second and a fifth.
pub const PATIENCE_DOUBLINGS_MAX: u32 = 2;
/// Time without a late operation after which one doubling is taken back: longer than the bursts of
/// reclaim that make a link slow (kswapd's and a container's come seconds apart).
pub const PATIENCE_CALM: std::time::Duration = std::time::Duration::from_secs(10);

const _: () = assert!(COPY_PAGES_BUSY_MAX <= COPY_PAGES_MAX);
const _: () = assert!(READ_ROUNDS_AT_ONCE <= READ_ROUNDS_MAX);
const _: () = assert!(SCRATCH_PAGES as usize == COPY_PAGES_MAX as usize * COPY_JOBS_MAX);
const _: () = assert!(
    (1 << 20) / 4096 >= REQUEST_PAGES_MAX,
    "a slab holds the longest request"
);
