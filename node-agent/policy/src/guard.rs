//! `memory.high` a little below a hard limit: where a task waits, and is not killed, while the device is
//! slow.
//!
//! Owns the rule whose value is whose: what somebody else wrote is never changed.

use dynamicswap_types::Bytes;

use crate::offload::AheadSettings;

/// The two limits of a container, of which none is no limit, and what this system made of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardSight {
    /// `memory.high`.
    pub high: Option<Bytes>,
    /// `memory.max`.
    pub max: Option<Bytes>,
    /// What was last written to `memory.high`; none if nothing was.
    pub own: Option<Bytes>,
    /// In RAM.
    pub used: Bytes,
}

/// What becomes of `memory.high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardDeed {
    /// It stays as it is.
    Leave,
    /// It is set to this.
    Set(Bytes),
    /// It is taken away again: there was none before.
    Lift,
}

/// Decides about one container; `wanted` has the room that its policy keeps, and nothing if it shall
/// have no guard. Below what is in RAM none is set: the kernel would take the rest at once, and let
/// whoever sets it wait for the device. Whoever keeps its room comes below soon.
#[must_use]
pub fn guard(sight: &GuardSight, wanted: Option<&AheadSettings>) -> GuardDeed {
    let is_own = sight.own.is_some() && sight.high == sight.own;
    let target = wanted.zip(sight.max).map(|(ahead, max)| ahead.guard(max));
    match target {
        Some(target) if sight.high == Some(target) => GuardDeed::Leave,
        Some(target) if sight.used > target => GuardDeed::Leave,
        Some(target) if sight.high.is_none() || is_own => GuardDeed::Set(target),
        None if is_own => GuardDeed::Lift,
        Some(_) | None => GuardDeed::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: fn(u32) -> Bytes = Bytes::from_mib;

    fn sight(high: Option<u32>, max: Option<u32>, own: Option<u32>) -> GuardSight {
        GuardSight {
            high: high.map(MIB),
            max: max.map(MIB),
            own: own.map(MIB),
            used: MIB(200),
        }
    }

    #[test]
    fn guard_is_set_once_it_takes_nothing() {
        let ahead = AheadSettings::default();
        let full = GuardSight {
            used: MIB(976),
            ..sight(None, Some(1_000), None)
        };
        assert_eq!(guard(&full, Some(&ahead)), GuardDeed::Leave);
    }

    #[test]
    fn guard_stands_below_a_hard_limit_and_follows_it() {
        let ahead = AheadSettings::default();
        let wanted = Some(&ahead);
        let set = GuardDeed::Set(MIB(975));
        assert_eq!(guard(&sight(None, Some(1_000), None), wanted), set);
        let stands = sight(Some(975), Some(1_000), Some(975));
        assert_eq!(guard(&stands, wanted), GuardDeed::Leave);
        // The container was given more, or somebody took the guard away.
        assert_eq!(
            guard(&sight(Some(487), Some(1_000), Some(487)), wanted),
            set
        );
        assert_eq!(guard(&sight(None, Some(1_000), Some(975)), wanted), set);
        assert_eq!(guard(&sight(None, None, None), wanted), GuardDeed::Leave);
    }

    #[test]
    fn guard_is_lifted_once_nobody_wants_it() {
        let stands = sight(Some(975), Some(1_000), Some(975));
        assert_eq!(guard(&stands, None), GuardDeed::Lift);
        let limitless = sight(Some(975), None, Some(975));
        let ahead = AheadSettings::default();
        assert_eq!(guard(&limitless, Some(&ahead)), GuardDeed::Lift);
    }

    #[test]
    fn limit_of_somebody_else_is_never_touched() {
        let ahead = AheadSettings::default();
        for own in [None, Some(975)] {
            let theirs = sight(Some(600), Some(1_000), own);
            assert_eq!(guard(&theirs, Some(&ahead)), GuardDeed::Leave);
            assert_eq!(guard(&theirs, None), GuardDeed::Leave);
        }
        assert_eq!(
            guard(&sight(Some(975), Some(1_000), None), None),
            GuardDeed::Leave
        );
    }
}
