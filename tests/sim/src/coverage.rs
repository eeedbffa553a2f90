//! What a seed has seen: so that a sweep can prove that it tested something.

use std::collections::BTreeMap;

/// How often each thing happened, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    seen: BTreeMap<&'static str, u64>,
}

/// What every sweep must have seen in at least one seed.
pub const REQUIRED: &[&str] = &[
    // Troubles.
    "trouble: engine killed",
    "trouble: engine killed between two effects",
    "trouble: engine killed over a document",
    "trouble: engine killed before its answer",
    "trouble: engine killed inside a publication",
    "trouble: engine hung",
    "trouble: server killed",
    "trouble: server lost its memory",
    "trouble: cut",
    "trouble: one-way cut to the server",
    "trouble: one-way cut from the server",
    "trouble: delay",
    "trouble: loss",
    "trouble: corruption in flight",
    "trouble: bit flipped in a server",
    "trouble: controller restarted",
    "trouble: agent away",
    "trouble: disk slow",
    "trouble: disk failing",
    "trouble: class changed",
    "trouble: copy moved",
    "trouble: donor cordoned",
    "trouble: donor drained",
    // What the planner did.
    "SetsComposed",
    "CopiesReplaced",
    "CopiesAdded",
    "CopiesReturned",
    "SlotsRegranted",
    "SlotsAbandoned",
    "ClassPending",
    "NoLiveCopy",
    "CopiesMoved",
    "CopiesRevoked",
    "RevokeForced",
    "LastCopyStays",
    "BrakeOn",
    // What followed.
    "operation lost",
    "payload corrupted",
    "late write after its link was down",
    "request sent again",
    "read right",
    "read failed, page lost",
    "read failed, no copy reachable",
    "write acknowledged",
    "write acknowledged with the disk instead of a copy",
    "write failed early",
    "write of a failed page read back",
    "engine: SlabBound",
    "engine: SlabReturned",
    "engine: SetReleased",
    "engine: RebuildStarted",
    "engine: RebuildFinished",
    "engine: ReplicaStale",
    "engine: IntegrityFailure",
    "engine: PageRepaired",
    "engine: PageLost",
    "engine: WritesHeld",
    "engine: ReserveEmpty",
    "engine: SpillFailed",
    "copy taken over half made",
    "slot granted again after its server's memory was lost",
    "slot taken back",
    "old session fenced by a new engine",
    "healed",
    "page lost after more failures than its class covers",
];

impl Coverage {
    /// Counts one.
    pub fn saw(&mut self, what: &'static str) {
        self.count(what, 1);
    }

    /// Counts several.
    pub fn count(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.seen.entry(what).or_default() += times;
        }
    }

    /// Adds a seed's coverage: each thing counts once a seed.
    pub fn add_seed(&mut self, seed: &Self) {
        for what in seed.seen.keys() {
            self.saw(what);
        }
    }

    /// Adds another sweep's.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.seen {
            self.count(what, *times);
        }
    }

    /// What no seed has seen.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED
            .iter()
            .filter(|what| !self.seen.contains_key(*what))
            .copied()
            .collect()
    }

    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.seen.iter().map(|(what, times)| (*what, *times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_seen_is_missing() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missing().len(), REQUIRED.len());
        coverage.saw(REQUIRED[0]);
        assert!(!coverage.missing().contains(&REQUIRED[0]));
    }

    #[test]
    fn sweep_counts_seeds_and_not_occurrences() {
        let mut seed = Coverage::default();
        seed.count("x", 5);
        let mut sweep = Coverage::default();
        sweep.add_seed(&seed);
        sweep.add_seed(&seed);
        assert_eq!(sweep.iter().collect::<Vec<_>>(), [("x", 2)]);
    }
}
