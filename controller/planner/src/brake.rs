//! The mass-failure brake: when many donors vanish at once, the network is more likely broken
//! than they are, and rebuilding everything elsewhere would make it worse.

use dynamicswap_types::MonotonicTime;

use crate::limits::{BRAKE_DONORS_MIN, BRAKE_HOLD, BRAKE_SHARE_DIVISOR};
use crate::reach::Reach;
use crate::view::ClusterView;

/// Whether the brake is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brake {
    /// Replace what is dead.
    Off,
    /// Replace nothing.
    On {
        /// Donors gone.
        gone: usize,
        /// Donors known.
        known: usize,
        /// When it lets go.
        until: MonotonicTime,
    },
}

impl Brake {
    /// Looks at every donor on record.
    #[must_use]
    pub fn judge(view: &ClusterView<'_>) -> Self {
        Self::judge_with(view, &Reach::of(view))
    }

    pub(crate) fn judge_with(view: &ClusterView<'_>, reach: &Reach) -> Self {
        let donors = view
            .ledger
            .nodes
            .iter()
            .filter(|(_, record)| record.donor && record.server.is_some());
        let (mut known, mut gone) = (0_usize, 0_usize);
        let mut until = MonotonicTime::ZERO;
        for (node, _) in donors {
            known += 1;
            // A donor that has been away for long is not part of what happens now.
            let ends = reach
                .gone_since(view, node)
                .map(|since| since.after(BRAKE_HOLD));
            if let Some(ends) = ends.filter(|ends| *ends > view.now) {
                gone += 1;
                until = until.max(ends);
            }
        }
        if gone >= BRAKE_DONORS_MIN && gone * BRAKE_SHARE_DIVISOR > known {
            Self::On { gone, known, until }
        } else {
            Self::Off
        }
    }
}
