//! Every number of the planner, in one place, with its reason.

use std::time::Duration;

/// Unbound sets to keep at the least: a write burst binds one set per slab and must not wait
/// for the control plane, whose answer takes some milliseconds.
pub const RESERVE_SETS_MIN: u32 = 8;
/// Share of the bound sets that is kept unbound, as a divisor: a device that grows fast has
/// grown much already.
pub const RESERVE_DIVISOR: u32 = 8;
/// Unbound sets at the most, so that a large device does not lock up donors' memory.
pub const RESERVE_SETS_MAX: u32 = 128;
/// Sets of one device beyond one per slab: the reserve, and sets that are being taken back. The
/// engine's table has 256 such places.
pub const SETS_SPARE_MAX: u32 = 192;
/// Donors above which two are drawn and compared instead of scoring all.
pub const SAMPLE_ABOVE: usize = 32;
/// Draws that may hit refused donors before all are scored after all.
pub const SAMPLE_DRAWS_MAX: u32 = 16;
/// Time that a donor which this controller has not heard of since its own start is given to
/// open a session: agents wait up to 5 s between two attempts.
pub const STARTUP_GRACE: Duration = Duration::from_secs(10);
/// Time that a link which was never up is given, if the donor itself is well.
pub const CONNECT_GRACE: Duration = Duration::from_secs(10);
/// Donors gone at once from which on the brake may engage.
pub const BRAKE_DONORS_MIN: usize = 2;
/// The brake engages above this share of all donors, as a divisor.
pub const BRAKE_SHARE_DIVISOR: usize = 3;
/// The brake lets go after this time: who has not come back by then is lost.
pub const BRAKE_HOLD: Duration = Duration::from_secs(60);
/// Copies that are moved off one donor at once: a borrower's engine makes one at a time, and a
/// donor that is drained has other work on its link.
pub const MOVES_PER_DONOR_MAX: usize = 4;
/// Copies that are moved at once in the whole cluster.
pub const MOVES_MAX: usize = 16;
/// Slots by which a donor's headroom must recover before moves are called off, unless it wants
/// nothing back any more: headroom breathes, and a move that is called off was made for nothing.
pub const PARDON_BAND: u32 = 2;
/// Time in which a donor whose headroom shrank gets its slots back. Its own pages are at stake, so
/// it is short: four moves at once at 256 MiB/s bring 15 GiB elsewhere.
pub const REVOKE_DEADLINE: Duration = Duration::from_secs(60);
/// Whole copies that stay when one is moved out of a set that has no room for a fourth.
pub const WHOLE_COPIES_BESIDE: usize = 2;
/// Copies that a set can list: the engine's table has so many places.
pub const LISTED_COPIES_MAX: usize = 3;
/// Lines of a plan's report; more say the same of another pair of nodes.
pub const REPORT_LINES_MAX: usize = 64;

const _: () = assert!(MOVES_PER_DONOR_MAX <= MOVES_MAX);
const _: () = assert!(WHOLE_COPIES_BESIDE < LISTED_COPIES_MAX);
const _: () = assert!(RESERVE_SETS_MIN <= RESERVE_SETS_MAX);
const _: () = assert!(RESERVE_SETS_MAX <= SETS_SPARE_MAX);
