//! When a look at a container needs its memory and its pressure alone, because nothing has happened in
//! it: pure.

use std::time::Duration;

use dynamicswap_policy::Memory;
use dynamicswap_types::{Bytes, MonotonicTime};

use crate::limits::{QUIET_BYTES, QUIET_LOOK, QUIET_STALL_DIVISOR};

/// The last look at all figures of a container.
#[derive(Debug, Clone, Copy)]
pub struct WholeLook {
    /// When.
    pub at: MonotonicTime,
    /// What it saw.
    pub memory: Memory,
    /// Total of `some` then; none if the host does not say.
    pub stalled: Option<Duration>,
}

impl WholeLook {
    /// The container's memory at `now`, of which `used` was read, if the other figures may be taken to
    /// be what they were.
    #[must_use]
    pub fn carried(
        &self,
        now: MonotonicTime,
        used: Bytes,
        stalled: Option<Duration>,
    ) -> Option<Memory> {
        let elapsed = now.since(self.at);
        // Without its pressure nobody knows whether it is quiet.
        let waited = stalled?.checked_sub(self.stalled?)?;
        let moved = used.get().abs_diff(self.memory.used.get());
        let is_quiet = elapsed < QUIET_LOOK
            && moved < QUIET_BYTES.get()
            && waited.saturating_mul(QUIET_STALL_DIVISOR) <= elapsed;
        is_quiet.then_some(Memory {
            used,
            ..self.memory
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: fn(u64) -> Duration = Duration::from_millis;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::ZERO.after(MILLIS(millis))
    }

    fn look() -> WholeLook {
        WholeLook {
            at: at(1_000),
            memory: Memory {
                used: Bytes::from_mib(64),
                limit: Some(Bytes::from_mib(96)),
                swapped: Bytes::from_mib(8),
            },
            stalled: Some(MILLIS(700)),
        }
    }

    #[test]
    fn figures_are_carried_while_nothing_happens_and_for_a_time() {
        let used = Bytes::new((64 << 20) + 4096);
        let stalled = Some(MILLIS(701));
        let carried = look().carried(at(3_000), used, stalled);
        let expected = Memory {
            used,
            ..look().memory
        };
        assert_eq!(carried, Some(expected));
        let later = at(1_000).after(QUIET_LOOK);
        assert_eq!(look().carried(later, used, stalled), None);
    }

    #[test]
    fn container_that_moves_or_waits_is_looked_at() {
        let (used, stalled) = (Bytes::from_mib(64), Some(MILLIS(700)));
        let now = at(2_000);
        for moved in [63, 65] {
            let moved = Bytes::from_mib(moved);
            assert_eq!(look().carried(now, moved, stalled), None);
        }
        assert_eq!(look().carried(now, used, Some(MILLIS(702))), None);
        assert_eq!(look().carried(now, used, None), None);
        // A counter that has jumped back is another cgroup's.
        assert_eq!(look().carried(now, used, Some(MILLIS(1))), None);
    }
}
