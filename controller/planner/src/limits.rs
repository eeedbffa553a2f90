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
/// Donors are evened out from the moment at which one of them lends this much more or less of what
/// it can than all together, in percent of what all together lend. Longhorn's replica auto-balance
/// had no such band and moved for ever (its issue 4502).
pub const REBALANCE_START_PERCENT: u32 = 10;
/// And until nobody does so by this much: the two together are the dead band.
pub const REBALANCE_STOP_PERCENT: u32 = 5;
/// The same, in millionths of what a donor can lend, where the percentage is less: a sixteenth is
/// what the choice of a donor calls equal, so donors that were filled evenly are left alone.
pub const REBALANCE_START_SHARE: u32 = 1_000_000 / 16;
/// And where they are left.
pub const REBALANCE_STOP_SHARE: u32 = 1_000_000 / 64;
/// Copies under way for the balance in the whole cluster. Half of all moves, so that a donor that
/// wants memory back finds room at once.
pub const REBALANCE_MOVES_MAX: usize = MOVES_MAX / 2;
/// Copies under way for the balance off, and onto, one donor: half of what a drain may.
pub const REBALANCE_PER_DONOR_MAX: usize = MOVES_PER_DONOR_MAX / 2;
/// Time in which a set that was moved for the balance is not moved for it again: a workload that
/// grows and shrinks by the minute must not drag its pages along.
pub const REBALANCE_COOL_DOWN: Duration = Duration::from_secs(600);
/// Pairs of a copy and a donor that one plan looks at for the balance. Where zones or filters stand
/// in the way, most pairs are refused, and the next plan looks again.
pub const REBALANCE_TRIES_MAX: usize = 8_192;
/// Moves that a preview shows.
pub const PREVIEW_MOVES_MAX: usize = 1_024;
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
/// Rounds after which the planner derives everything anew and its checker looks at the whole ledger: at
/// a round a second at the least, that is a few hundred milliseconds of work in four minutes.
pub const CHECK_WHOLE_EVERY: u64 = 256;
/// Lines of a plan's report; more say the same of another pair of nodes.
pub const REPORT_LINES_MAX: usize = 64;

const _: () = assert!(MOVES_PER_DONOR_MAX <= MOVES_MAX);
const _: () = assert!(REBALANCE_PER_DONOR_MAX >= 1 && REBALANCE_MOVES_MAX < MOVES_MAX);
const _: () = assert!(REBALANCE_STOP_PERCENT < REBALANCE_START_PERCENT);
const _: () = assert!(REBALANCE_STOP_SHARE < REBALANCE_START_SHARE);
const _: () = assert!(WHOLE_COPIES_BESIDE < LISTED_COPIES_MAX);
const _: () = assert!(RESERVE_SETS_MIN <= RESERVE_SETS_MAX);
const _: () = assert!(RESERVE_SETS_MAX <= SETS_SPARE_MAX);
