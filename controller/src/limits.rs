//! Every limit of the controller, in one place, with its reason.

use std::time::Duration;

/// Events from sessions and operators that wait for the owner. When it is full, sessions stop
/// reading, and agents wait.
pub const EVENTS_QUEUED_MAX: usize = 1024;
/// Events that are taken in before one plan is made of them all.
pub const EVENTS_PER_ROUND_MAX: usize = 256;
/// Cluster events that are kept for `status`.
pub const EVENT_RING_MAX: usize = 1024;
/// Longest message: a report of a 64 GiB device in 1 MiB slabs with three copies stays below.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Time that a new session has for its hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that has vanished without a word is noticed within this time and the next.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Time that a peer has to answer.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A plan is made at least this often, in case an event was missed.
pub const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Time until a store that failed is tried again.
pub const STORE_RETRY: Duration = Duration::from_millis(200);
/// Time that sessions have to end when the controller stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest `--replace-after-ms`, an hour.
pub const REPLACE_AFTER_MS_MAX: u64 = 3_600_000;
/// Nodes that are known at once; a borrower's engine knows 256 servers.
pub const NODES_MAX: usize = 4096;
/// Policies that are kept.
pub const POLICIES_MAX: usize = 1024;
