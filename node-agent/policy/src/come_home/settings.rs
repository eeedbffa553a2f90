//! The constants of return, their bounds, and where each default comes from.

use std::time::Duration;

use dynamicswap_types::Bytes;

use crate::offload::{AheadSettings, seconds_within, share_within};
use crate::share::Share;

/// Constants of return. Our own but for their anchors: no peer brings pages home by a law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnSettings {
    /// Begins when so much of the node is available. 15 %: kubelet evicts at 100 MiB, the kernel's
    /// own reclaim begins at a few percent. 5 to 90 %.
    pub node_start: Share,
    /// Goes on until no more than this is. 10 %. At least 2 % below `node_start`.
    pub node_stop: Share,
    /// Plenty: pages that were sent as cold come home only from this on. 30 %. From `node_start`.
    pub node_plenty: Share,
    /// Begins when so much of a container's limit is unused. 20 %. 4 to 90 %.
    pub container_start: Share,
    /// Goes on until no more than this is; in any case until twice the room that offload keeps
    /// there, or the two laws would hand pages to each other. 12 %. At least 2 % below
    /// `container_start`.
    pub container_stop: Share,
    /// The room that offload keeps below the limit: the same settings as offload's.
    pub ahead: AheadSettings,
    /// Quiet before it begins. 5 s, on top of the 10 s that a level takes to become Calm.
    /// 1 s to 10 minutes.
    pub quiet_min: Duration,
    /// Stops when some task waited for more than this share of a step. 1 %: ten times what
    /// offload bears, a tenth of what makes a container Pressured. 0.1 to 10 %.
    pub stall_max: Share,
    /// Most per second, the node's containers together. 128 MiB/s: a tenth of 10 Gbit/s,
    /// so that demand hardly notices. 1 MiB/s to 4 GiB/s.
    pub bytes_per_s: Bytes,
    /// Most of one container in one step. 32 MiB. From 1 MiB.
    pub step_max: Bytes,
    /// Least that is worth beginning for. 1 MiB. From one page.
    pub worth_min: Bytes,
    /// Pages sent as cold count as wanted from this share of them per minute on. 1 %: five times
    /// g-swap's target (0.2 % of the working set), a fifteenth of what is re-touched where age
    /// alone chooses (15 %). 0.2 to 50 %.
    pub wanted_per_min: Share,
    /// And from so many pages per minute on. 256, one a fourth of a second. From 1.
    pub wanted_pages_min: u64,
    /// Stops when nothing has come home for this long, whatever was asked. 10 s. 2 s to 2 minutes.
    pub stuck_max: Duration,
    /// After any stop it does not begin again for this long. 120 s, twelve times the kernel's
    /// shortest average. 30 s to 1 h.
    pub cool_down: Duration,
}

impl ReturnSettings {
    /// The lower mark of a container's room.
    #[must_use]
    pub fn stop_room(&self, limit: Bytes) -> Bytes {
        let kept = self.ahead.room(limit, Bytes::ZERO);
        let twice = kept.saturating_add(kept);
        self.container_stop.of_bytes(limit).max(twice)
    }

    /// The upper mark of a container's room: as far above the lower one as the two shares are
    /// apart.
    #[must_use]
    pub fn start_room(&self, limit: Bytes) -> Bytes {
        let start = self.container_start.of_bytes(limit);
        let gap = start.saturating_sub(self.container_stop.of_bytes(limit));
        self.stop_room(limit).saturating_add(gap)
    }

    /// The same with each constant within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        let below = |start: Share, stop: Share| {
            stop.min(Share::from_hundredths(
                start.hundredths().saturating_sub(200),
            ))
        };
        let node_start = share_within(self.node_start, 500, 9_000);
        let container_start = share_within(self.container_start, 400, 9_000);
        let mib = Bytes::from_mib;
        Self {
            node_start,
            node_stop: below(node_start, self.node_stop),
            node_plenty: self.node_plenty.max(node_start),
            container_start,
            container_stop: below(container_start, self.container_stop),
            ahead: self.ahead.bounded(),
            quiet_min: seconds_within(self.quiet_min, 1, 600),
            stall_max: share_within(self.stall_max, 10, 1_000),
            bytes_per_s: self.bytes_per_s.clamp(mib(1), mib(4_096)),
            step_max: self.step_max.max(mib(1)),
            worth_min: self.worth_min.max(dynamicswap_types::PAGE_SIZE),
            wanted_per_min: share_within(self.wanted_per_min, 20, 5_000),
            wanted_pages_min: self.wanted_pages_min.max(1),
            stuck_max: seconds_within(self.stuck_max, 2, 120),
            cool_down: seconds_within(self.cool_down, 30, 3_600),
        }
    }
}

impl Default for ReturnSettings {
    fn default() -> Self {
        Self {
            node_start: Share::from_hundredths(1_500),
            node_stop: Share::from_hundredths(1_000),
            node_plenty: Share::from_hundredths(3_000),
            container_start: Share::from_hundredths(2_000),
            container_stop: Share::from_hundredths(1_200),
            ahead: AheadSettings::default(),
            quiet_min: Duration::from_secs(5),
            stall_max: Share::from_hundredths(100),
            bytes_per_s: Bytes::from_mib(128),
            step_max: Bytes::from_mib(32),
            worth_min: Bytes::from_mib(1),
            wanted_per_min: Share::from_hundredths(100),
            wanted_pages_min: 256,
            stuck_max: Duration::from_secs(10),
            cool_down: Duration::from_secs(120),
        }
    }
}
