//! How full donors are beside each other: what the step for the balance reckons with, and what a
//! preview of it shows.
//!
//! A move takes the lent share of all together nowhere, so that share is what every donor shall come
//! to. Each move brings two donors nearer to each other and never past, so moves end.

use std::collections::BTreeMap;

use dynamicswap_types::{MonotonicTime, NodeName, SetId};

use crate::limits::{
    REBALANCE_COOL_DOWN, REBALANCE_START_PERCENT, REBALANCE_START_SHARE, REBALANCE_STOP_PERCENT,
    REBALANCE_STOP_SHARE,
};
use crate::plan::{Plan, Step};

/// Millionths.
const WHOLE: u64 = 1_000_000;

/// What a donor lends, and can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Slots that it lends, or soon will, to copies that stay.
    pub lent: u32,
    /// Slots that it can lend in all.
    pub lendable: u32,
}

impl Load {
    /// Lent share, in millionths.
    #[must_use]
    pub fn share(self) -> u64 {
        u64::from(self.lent) * WHOLE / u64::from(self.lendable.max(1))
    }

    /// Whether a donor that gives this one a copy is no emptier afterwards than this one.
    pub(crate) fn may_take_from(self, fuller: Self) -> bool {
        let Some(left) = fuller.lent.checked_sub(1) else {
            return false;
        };
        let here = (u64::from(self.lent) + 1) * u64::from(fuller.lendable);
        here <= u64::from(left) * u64::from(self.lendable)
    }
}

/// Where donors shall be, and how far from it they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Band {
    /// Lent share of all together.
    pub(crate) level: u64,
    /// What a donor may be off it.
    width: u64,
}

impl Band {
    /// The band around the lent share of these donors: the outer one while nothing moves, and the
    /// inner one once something does.
    pub(crate) fn around(loads: impl Iterator<Item = Load>, inner: bool) -> Self {
        let (mut lent, mut lendable) = (0_u64, 0_u64);
        for load in loads {
            lent += u64::from(load.lent);
            lendable += u64::from(load.lendable);
        }
        let level = lent * WHOLE / lendable.max(1);
        let (percent, share) = if inner {
            (REBALANCE_STOP_PERCENT, REBALANCE_STOP_SHARE)
        } else {
            (REBALANCE_START_PERCENT, REBALANCE_START_SHARE)
        };
        let width = (level * u64::from(percent) / 100).max(u64::from(share));
        Self { level, width }
    }

    /// Whether a donor's share is outside.
    pub(crate) const fn leaves_out(self, share: u64) -> bool {
        share.abs_diff(self.level) > self.width
    }
}

/// A donor in a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewDonor {
    /// Its node.
    pub node: NodeName,
    /// As it is.
    pub before: Load,
    /// As it would be.
    pub after: Load,
}

/// A move in a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewMove {
    /// The set that a copy of is moved.
    pub set: SetId,
    /// Whose it is.
    pub borrower: NodeName,
    /// The fuller donor.
    pub from: NodeName,
    /// The emptier one.
    pub to: NodeName,
    /// What they lend and can, before this move.
    pub loads: (Load, Load),
    /// Whether the set is bound to a slab: the copy is made page by page then.
    pub bound: bool,
}

/// What a rebalance would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preview {
    /// The donors that take part, by name.
    pub donors: Vec<PreviewDonor>,
    /// The moves, in their order.
    pub moves: Vec<PreviewMove>,
    /// The donors leave the dead band: the controller would begin by itself.
    pub uneven: bool,
    /// What is more urgent; absent if nothing is.
    pub held: Option<String>,
}

/// Notes when sets were moved for the balance, from the plan that is carried out, and forgets what is
/// longer ago than the time in which they are not moved again. A controller that starts anew has
/// forgotten all of them: a set may then move once more too early.
pub fn stamp_rebalanced(
    rebalanced: &mut BTreeMap<SetId, MonotonicTime>,
    plan: &Plan,
    now: MonotonicTime,
) {
    rebalanced.retain(|_, at| at.after(REBALANCE_COOL_DOWN) > now);
    for step in &plan.steps {
        if let Step::Rebalance { set, .. } = step {
            rebalanced.insert(*set, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(lent: u32, lendable: u32) -> Load {
        Load { lent, lendable }
    }

    #[test]
    fn move_that_would_turn_two_donors_around_is_none() {
        assert!(load(3, 10).may_take_from(load(5, 10)));
        assert!(!load(4, 10).may_take_from(load(5, 10)));
        assert!(load(8, 20).may_take_from(load(6, 10)));
        assert!(!load(9, 20).may_take_from(load(5, 10)));
        assert!(!load(0, 10).may_take_from(load(0, 10)));
    }

    #[test]
    fn dead_band_is_wider_until_something_moves() {
        let donors = [load(50, 100), load(58, 100), load(54, 100)];
        let outer = Band::around(donors.into_iter(), false);
        let inner = Band::around(donors.into_iter(), true);
        assert_eq!(outer.level, 540_000);
        assert!(!outer.leaves_out(load(58, 100).share()));
        assert!(inner.leaves_out(load(58, 100).share()));
        assert!(outer.leaves_out(load(61, 100).share()));
        assert!(outer.leaves_out(load(47, 100).share()));
    }

    #[test]
    fn donors_that_can_lend_nothing_have_a_share() {
        assert_eq!(load(0, 0).share(), 0);
        assert_eq!(Band::around([load(0, 0)].into_iter(), true).level, 0);
    }
}
