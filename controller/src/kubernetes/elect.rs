//! Who may lead: the decision over one Lease, without a clock and without a server.
//!
//! A lease is free once it has not changed for its own duration on the observer's clock, so that
//! the clocks of two hosts need not agree (as in Kubernetes' own leader election).

use std::time::Duration;

use dynamicswap_types::{MonotonicTime, Term};

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Who holds it; empty once it was given up.
    pub holder: String,
    /// The term in which it was last taken: `leaseTransitions`.
    pub term: Term,
    /// Time without a change after which it is free.
    pub duration: Duration,
    /// Its resource version: another one for each change.
    pub version: String,
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Take the lease, for this term.
    Take(Term),
    /// Look again after this time at the latest.
    Wait(Duration),
}

/// A candidate's memory: the lease as it last saw it change, and when.
#[derive(Debug, Default)]
pub struct Candidate {
    seen: Option<(String, MonotonicTime)>,
}

impl Candidate {
    /// What to do about the lease. A term is never used twice: it is above the lease's and above
    /// `floor`, the highest one that the store has seen, for a lease can be deleted.
    pub fn judge(&mut self, lease: Option<&LeaseView>, floor: Term, now: MonotonicTime) -> Move {
        let Some(lease) = lease else {
            return Move::Take(floor.next());
        };
        let next = lease.term.max(floor).next();
        if lease.holder.is_empty() {
            return Move::Take(next);
        }
        match &self.seen {
            Some((version, since)) if *version == lease.version => {
                let silent = now.since(*since);
                match lease.duration.checked_sub(silent) {
                    None | Some(Duration::ZERO) => Move::Take(next),
                    Some(left) => Move::Wait(left),
                }
            }
            _ => {
                self.seen = Some((lease.version.clone(), now));
                Move::Wait(lease.duration)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> MonotonicTime {
        MonotonicTime::ZERO.after(SECOND * seconds)
    }

    fn lease(holder: &str, version: &str) -> LeaseView {
        LeaseView {
            holder: holder.to_owned(),
            term: Term::new(4),
            duration: SECOND * 15,
            version: version.to_owned(),
        }
    }

    #[test]
    fn missing_and_given_up_leases_are_free_at_once() {
        let mut candidate = Candidate::default();
        assert_eq!(
            candidate.judge(None, Term::ZERO, at(0)),
            Move::Take(Term::new(1))
        );
        let given_up = lease("", "7");
        assert_eq!(
            candidate.judge(Some(&given_up), Term::ZERO, at(0)),
            Move::Take(Term::new(5))
        );
    }

    #[test]
    fn lease_that_changes_is_held_and_one_that_does_not_is_free_after_its_duration() {
        let mut candidate = Candidate::default();
        let mut judge = |version: &str, seconds| {
            candidate.judge(Some(&lease("a", version)), Term::ZERO, at(seconds))
        };
        assert_eq!(judge("1", 0), Move::Wait(SECOND * 15));
        assert_eq!(judge("1", 10), Move::Wait(SECOND * 5));
        assert_eq!(judge("2", 14), Move::Wait(SECOND * 15));
        assert_eq!(judge("2", 28), Move::Wait(SECOND));
        assert_eq!(judge("2", 29), Move::Take(Term::new(5)));
    }

    #[test]
    fn term_is_above_what_the_store_has_seen() {
        let mut candidate = Candidate::default();
        assert_eq!(
            candidate.judge(None, Term::new(9), at(0)),
            Move::Take(Term::new(10))
        );
        assert_eq!(
            candidate.judge(Some(&lease("", "1")), Term::new(9), at(0)),
            Move::Take(Term::new(10))
        );
    }
}
