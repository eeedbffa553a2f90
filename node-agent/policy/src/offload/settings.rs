//! The constants of offload: what a policy may set, within which bounds, and where each default
//! comes from.

use std::time::Duration;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use crate::share::Share;

/// Pages that the kernel reclaims at once at the least (`SWAP_CLUSTER_MAX`), in bytes: asking for
/// less gets as much, so the law waits until it wants so much.
pub const RECLAIM_MIN: Bytes = Bytes::new(32 * 4096);

/// Constants of offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadSettings {
    /// Probing at no pressure: this share of the container per interval. 0.05 %, TMO's
    /// `reclaim_ratio`. Up to 1 %.
    pub ratio: Share,
    /// Time between two probes. 6 s, TMO and Senpai. 1 to 60 s.
    pub interval: Duration,
    /// No probing from this share of time in which some task waits. 0.1 %, TMO and oomd.
    /// 0.01 to 1 %.
    pub pressure_max: Share,
    /// Most that one probe asks for, however late it is. 1 % of the container, TMO. Up to 5 %.
    pub step_max: Share,
    /// No probing from this multiple of the device's reference p99 on. 8, our own: at it, what a
    /// probe could still send is an eighth, and a device that slow is overloaded, not far away.
    /// 2 to 64.
    pub latency_multiple_max: u32,
    /// No probing where less than this share of the pages last taken stayed out. 50 %, our own:
    /// below it more than half of the work is undone at once. (Katalyst aims at 99 %, which stops
    /// at two pages of a small probe; the price of the others is for the pressure to say.)
    /// 0 to 99 %.
    pub accuracy_min: Share,
    /// Below this share of scanned pages that could be taken, probing slows down by that share.
    /// 60 %, Katalyst's `reclaimScanEfficiencyTarget`. 0 to 99 %.
    pub efficiency_min: Share,
    /// No probing below this size. 16 MiB, our own: Senpai and oomd have 100 MB, more than most
    /// side containers have in all. From 0.
    pub size_min: Bytes,
    /// No probing while the node sends more than this per second to the device. 32 MiB/s, our
    /// own: a fortieth of 10 Gbit/s. (TMO's 1 MB/s saves
    /// flash from wear, which memory has not.) From 1 MiB/s.
    pub writes_per_s_max: Bytes,
    /// What probing leaves free in the pool, for those who reach their limit. 64 MiB, a slab of
    /// the default size. From 0.
    pub pool_reserve: Bytes,
    /// After its pages came home a container is not probed for this long. 300 s, our own: a
    /// working set that a daily load touches at all it touches within minutes (g-swap's oldest
    /// useful age is of that size). 30 s to 1 h.
    pub after_return: Duration,
    /// How the room below a limit is kept.
    pub ahead: AheadSettings,
}

/// Constants of staying ahead of a limit. Our own: no peer does it. A reclaim that starts only at
/// `memory.max` waits for the device, and the kernel kills before a slow device has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadSettings {
    /// Room kept below the limit, as a share of it. 5 %. 1 to 25 %.
    pub room: Share,
    /// But at least this. 8 MiB: what one CPU fills in the few milliseconds that a batch takes
    /// to a slow device. 1 MiB to 1 GiB.
    pub room_min: Bytes,
    /// And at most this, unless it grows faster. 256 MiB. From `room_min`.
    pub room_max: Bytes,
    /// Growth of this time must fit into the room, too: a trigger fires within 0.1 s, and reclaim
    /// takes as long again for each 100 MiB. 1 s. 0 to 10 s.
    pub growth: Duration,
}

impl AheadSettings {
    /// The room that a container with this limit and growth keeps free: never more than a
    /// quarter of the limit.
    #[must_use]
    pub fn room(&self, limit: Bytes, growth_per_s: Bytes) -> Bytes {
        let (min, max) = (self.room_min, self.room_max.max(self.room_min));
        let of_size = self.room.of_bytes(limit).clamp(min, max);
        let millis = u64::try_from(self.growth.as_millis()).unwrap_or(u64::MAX);
        let of_growth = Bytes::new(growth_per_s.get().saturating_mul(millis) / 1_000);
        of_size.max(of_growth).min(Bytes::new(limit.get() / 4))
    }

    /// The `memory.high` of a container that may swap and has this `memory.max`: half of the room
    /// below it. At `memory.max` the kernel kills while a slow device still writes; at
    /// `memory.high` it makes the tasks wait. Who keeps its room never comes there.
    ///
    /// It is no limit in the sense of [`crate::OffloadSight::limit`]: room is kept below the one
    /// that the container was given.
    #[must_use]
    pub fn guard(&self, limit: Bytes) -> Bytes {
        let half = Bytes::new(self.room(limit, Bytes::ZERO).get() / 2);
        let guard = limit.saturating_sub(half).get();
        Bytes::new(guard / PAGE_SIZE.get() * PAGE_SIZE.get())
    }

    /// The same with each constant within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        let room_min = self
            .room_min
            .clamp(Bytes::from_mib(1), Bytes::from_mib(1024));
        Self {
            room: share_within(self.room, 100, 2_500),
            room_min,
            room_max: self.room_max.max(room_min),
            growth: self.growth.min(Duration::from_secs(10)),
        }
    }
}

impl Default for AheadSettings {
    fn default() -> Self {
        Self {
            room: Share::from_hundredths(500),
            room_min: Bytes::from_mib(8),
            room_max: Bytes::from_mib(256),
            growth: Duration::from_secs(1),
        }
    }
}

impl OffloadSettings {
    /// The same with each constant within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            ratio: share_within(self.ratio, 0, 100),
            interval: seconds_within(self.interval, 1, 60),
            pressure_max: share_within(self.pressure_max, 1, 100),
            step_max: share_within(self.step_max, 0, 500),
            latency_multiple_max: self.latency_multiple_max.clamp(2, 64),
            accuracy_min: share_within(self.accuracy_min, 0, 9_900),
            efficiency_min: share_within(self.efficiency_min, 0, 9_900),
            size_min: self.size_min,
            writes_per_s_max: self.writes_per_s_max.max(Bytes::from_mib(1)),
            pool_reserve: self.pool_reserve,
            after_return: seconds_within(self.after_return, 30, 3_600),
            ahead: self.ahead.bounded(),
        }
    }
}

impl Default for OffloadSettings {
    fn default() -> Self {
        Self {
            ratio: Share::from_hundredths(5),
            interval: Duration::from_secs(6),
            pressure_max: Share::from_hundredths(10),
            step_max: Share::from_hundredths(100),
            latency_multiple_max: 8,
            accuracy_min: Share::from_hundredths(5_000),
            efficiency_min: Share::from_hundredths(6_000),
            size_min: Bytes::from_mib(16),
            writes_per_s_max: Bytes::from_mib(32),
            pool_reserve: Bytes::from_mib(64),
            after_return: Duration::from_secs(300),
            ahead: AheadSettings::default(),
        }
    }
}

/// The share, within bounds in hundredths of a percent.
pub(crate) fn share_within(share: Share, min: u16, max: u16) -> Share {
    share.clamp(Share::from_hundredths(min), Share::from_hundredths(max))
}

/// The time, within bounds in seconds.
pub(crate) fn seconds_within(time: Duration, min: u64, max: u64) -> Duration {
    time.clamp(Duration::from_secs(min), Duration::from_secs(max))
}
