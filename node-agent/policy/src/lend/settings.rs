//! The constants of lending, their bounds, and where each default comes from.

use std::time::Duration;

use dynamicswap_types::{Bytes, SlabSize};

use crate::offload::{seconds_within, share_within};
use crate::share::Share;

/// Constants of lending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LendSettings {
    /// Never lent: this share of the node, but at least `reserve_min`. 10 %, twice the room that
    /// a borrower keeps on its own node. 2 to 90 %.
    pub reserve: Share,
    /// 256 MiB: over kubelet's hard eviction at 100 MiB with room for what comes in 10 s.
    pub reserve_min: Bytes,
    /// How far ahead the slope of its use is followed. 120 s: the 60 s that a drained copy gets,
    /// twice. 10 s to 30 minutes.
    pub horizon: Duration,
    /// How far back the slope is measured. 300 s, more than the horizon so that noise does not
    /// count double. 60 s to 1 h.
    pub window: Duration,
    /// A step is taken back at once from this share of time in which some task of the donor waits.
    /// 1 %: the donor's own work may lose 2 % (Memtrade's producers lose 2.1 %). 0.1 to 10 %.
    pub some_max: Share,
    /// All that is missing is taken back at once from this share of time in which all wait.
    /// 1 %, Meta's emergency signal. 0.1 to 10 %.
    pub full_max: Share,
    /// The same when no more than this share of the reserve is available. 50 %. 10 to 90 %.
    pub emergency: Share,
    /// Growth per minute, of the capacity. 10 %: a headroom that was taken back is whole again after
    /// ten quiet minutes. 1 to 100 %.
    pub growth_per_min: Share,
    /// Offer and figures may differ by this share of the capacity. 3 %. 0 to 25 %.
    pub dead_band: Share,
    /// Most that one step takes back, of the capacity, emergencies apart. 12.5 %: one eighth, the
    /// planner moves at most four slabs of a donor at once. 1 to 50 %.
    pub shrink_step: Share,
    /// Between two steps. 10 s: by then the kernel's averages know of the last one. 1 to 300 s.
    pub step_time: Duration,
    /// Quiet after a step before it grows again. 120 s. 10 s to 1 h.
    pub rest: Duration,
    /// The unit of the headroom.
    pub slab: SlabSize,
}

impl LendSettings {
    /// What is never lent.
    #[must_use]
    pub fn reserve(&self, total: Bytes) -> Bytes {
        self.reserve.of_bytes(total).max(self.reserve_min)
    }

    /// Below so much available it is an emergency.
    #[must_use]
    pub fn emergency_room(&self, total: Bytes) -> Bytes {
        self.emergency.of_bytes(self.reserve(total))
    }

    /// Rounded down to whole slabs.
    #[must_use]
    pub const fn whole_slabs(&self, bytes: Bytes) -> Bytes {
        let slab = self.slab.bytes().get();
        Bytes::new(bytes.get() / slab * slab)
    }

    /// The same with each constant within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            reserve: share_within(self.reserve, 200, 9_000),
            reserve_min: self.reserve_min,
            horizon: seconds_within(self.horizon, 10, 1_800),
            window: seconds_within(self.window, 60, 3_600),
            some_max: share_within(self.some_max, 10, 1_000),
            full_max: share_within(self.full_max, 10, 1_000),
            emergency: share_within(self.emergency, 1_000, 9_000),
            growth_per_min: share_within(self.growth_per_min, 100, 10_000),
            dead_band: share_within(self.dead_band, 0, 2_500),
            shrink_step: share_within(self.shrink_step, 100, 5_000),
            step_time: seconds_within(self.step_time, 1, 300),
            rest: seconds_within(self.rest, 10, 3_600),
            slab: self.slab,
        }
    }
}

impl Default for LendSettings {
    fn default() -> Self {
        Self {
            reserve: Share::from_hundredths(1_000),
            reserve_min: Bytes::from_mib(256),
            horizon: Duration::from_secs(120),
            window: Duration::from_secs(300),
            some_max: Share::from_hundredths(100),
            full_max: Share::from_hundredths(100),
            emergency: Share::from_hundredths(5_000),
            growth_per_min: Share::from_hundredths(1_000),
            dead_band: Share::from_hundredths(300),
            shrink_step: Share::from_hundredths(1_250),
            step_time: Duration::from_secs(10),
            rest: Duration::from_secs(120),
            slab: SlabSize::DEFAULT,
        }
    }
}
