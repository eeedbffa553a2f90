//! Scores: compared field by field, the lower one wins, and the name makes ties deterministic.

use dynamicswap_types::NodeName;

/// How good a donor is for one more copy of one device. Fields in the order of their weight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score<'a> {
    /// Share of its slots that is taken, in steps of a sixteenth: donors fill evenly, and small
    /// differences leave the word to the next field.
    pub taken_sixteenths: u32,
    /// Copies of this device that it has already: the loss of one donor hits few slabs.
    pub copies_of_device: u32,
    /// Its name.
    pub node: &'a NodeName,
}

impl<'a> Score<'a> {
    /// Puts a score together.
    #[must_use]
    pub fn new(node: &'a NodeName, slots: SlotUse, copies_of_device: u32) -> Self {
        let taken = u64::from(slots.total.saturating_sub(slots.free)) * 16;
        let sixteenths = taken / u64::from(slots.total.max(1));
        Self {
            taken_sixteenths: u32::try_from(sixteenths).unwrap_or(u32::MAX),
            copies_of_device,
            node,
        }
    }
}

/// Slots of a donor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUse {
    /// Free ones.
    pub free: u32,
    /// All.
    pub total: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(node: &NodeName, free: u32, copies: u32) -> Score<'_> {
        Score::new(node, SlotUse { free, total: 64 }, copies)
    }

    #[test]
    fn emptier_donor_wins_then_fewer_copies_then_name() {
        let (a, b) = ("a".parse().expect("valid"), "b".parse().expect("valid"));
        assert!(score(&b, 64, 9) < score(&a, 10, 0));
        assert!(score(&b, 63, 0) < score(&a, 64, 1));
        assert!(score(&a, 64, 1) < score(&b, 64, 1));
    }

    #[test]
    fn donor_without_slots_has_a_score() {
        let node = "a".parse().expect("valid");
        let slots = SlotUse { free: 0, total: 0 };
        assert_eq!(Score::new(&node, slots, 0).taken_sixteenths, 0);
    }
}
