//! What to do now about the authorities: which one signs, which are trusted, whether a new one is
//! due. Pure: lives and the time in, a verdict out.
//!
//! A change of authority needs no agreement. The new one is trusted from the moment it is made and
//! signs once every agent has had the time to learn of it; the old one is trusted until everything
//! it has signed has run out. So no role is kept anywhere: an authority's age says what it is.

use crate::limits::{
    AUTHORITY_ANNOUNCED_S, AUTHORITY_RENEW_S, CERTIFICATE_LIFE_S, CERTIFICATE_SKEW_S,
};

/// From when to when a certificate is good, in seconds of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was made.
    pub made: u64,
    /// When it runs out.
    pub ends: u64,
}

/// What an authority is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// What it has signed is trusted, and it signs.
    Signs,
    /// What it has signed, or will sign, is trusted.
    Trusted,
    /// Nothing it has signed is good any more.
    Over,
}

/// What to do about all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What each is good for, in the order of the question.
    pub uses: Vec<Use>,
    /// A new one is due: none can sign, or the newest nears its end.
    pub make: bool,
}

impl Life {
    /// Whether it can sign. One that was made in the future, by a clock that was wrong, cannot yet.
    const fn can_sign(self, now: u64) -> bool {
        self.made <= now.saturating_add(CERTIFICATE_SKEW_S) && now < self.ends
    }

    /// When everybody knows of it.
    const fn known_at(self) -> u64 {
        self.made.saturating_add(AUTHORITY_ANNOUNCED_S)
    }

    /// Whether it is time for a successor.
    const fn nears_its_end(self, now: u64) -> bool {
        now >= self.made.saturating_add(AUTHORITY_RENEW_S) || now >= self.ends
    }
}

/// What to do about these authorities.
#[must_use]
pub fn judge(lives: &[Life], now: u64) -> Verdict {
    let able = || lives.iter().filter(|life| life.can_sign(now));
    let known = able().filter(|life| life.known_at() <= now);
    // Before anybody can know of one, the oldest signs: it is what agents trust by now.
    let signer = known
        .max_by_key(|life| life.made)
        .or_else(|| able().min_by_key(|life| life.made))
        .copied();
    let use_of = |life: &Life| match signer {
        Some(signer) if *life == signer => Use::Signs,
        _ if now >= life.ends => Use::Over,
        Some(signer) if life.made < signer.made && is_run_out(signer, now) => Use::Over,
        _ => Use::Trusted,
    };
    let newest = able().max_by_key(|life| life.made);
    Verdict {
        uses: lives.iter().map(use_of).collect(),
        make: newest.is_none_or(|newest| newest.nears_its_end(now)),
    }
}

/// Whether all that was signed before this one signed has run out.
const fn is_run_out(signer: Life, now: u64) -> bool {
    let last = signer.known_at().saturating_add(CERTIFICATE_LIFE_S);
    now > last.saturating_add(CERTIFICATE_SKEW_S)
}

/// Whether a certificate is to be replaced: two thirds of its life are over.
#[must_use]
pub const fn is_due(life: Life, now: u64) -> bool {
    let whole = life.ends.saturating_sub(life.made);
    now >= life.made.saturating_add(whole / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::AUTHORITY_LIFE_S;

    /// When the first one is made.
    const START: u64 = 1_800_000_000;

    fn made(at: u64) -> Life {
        Life {
            made: at,
            ends: at + AUTHORITY_LIFE_S,
        }
    }

    fn uses(lives: &[Life], now: u64) -> Vec<Use> {
        judge(lives, now).uses
    }

    #[test]
    fn first_one_is_made_at_once_and_signs_at_once() {
        assert!(judge(&[], START).make);
        let verdict = judge(&[made(START)], START);
        assert_eq!((verdict.uses, verdict.make), (vec![Use::Signs], false));
    }

    #[test]
    fn successor_is_trusted_first_and_signs_once_it_is_known() {
        let first = made(START);
        let due = START + AUTHORITY_RENEW_S;
        assert!(!judge(&[first], due - 1).make);
        assert!(judge(&[first], due).make);
        let both = [first, made(due)];
        assert!(!judge(&both, due).make, "one at a time");
        assert_eq!(uses(&both, due), [Use::Signs, Use::Trusted]);
        let known = due + AUTHORITY_ANNOUNCED_S;
        assert_eq!(uses(&both, known - 1), [Use::Signs, Use::Trusted]);
        assert_eq!(uses(&both, known), [Use::Trusted, Use::Signs]);
    }

    #[test]
    fn old_one_is_trusted_as_long_as_anything_it_signed_is_good() {
        let due = START + AUTHORITY_RENEW_S;
        let both = [made(START), made(due)];
        let last = due + AUTHORITY_ANNOUNCED_S + CERTIFICATE_LIFE_S + CERTIFICATE_SKEW_S;
        assert_eq!(uses(&both, last), [Use::Trusted, Use::Signs]);
        assert_eq!(uses(&both, last + 1), [Use::Over, Use::Signs]);
    }

    #[test]
    fn controller_that_was_away_beyond_the_end_begins_anew() {
        let first = made(START);
        let verdict = judge(&[first], first.ends);
        assert_eq!((verdict.uses, verdict.make), (vec![Use::Over], true));
        let later = first.ends + 5;
        let both = [first, made(later)];
        assert_eq!(uses(&both, later), [Use::Over, Use::Signs]);
    }

    #[test]
    fn one_from_the_future_does_not_sign_and_is_not_forgotten() {
        let ahead = made(START + CERTIFICATE_SKEW_S + 1);
        let verdict = judge(&[ahead], START);
        assert_eq!((verdict.uses, verdict.make), (vec![Use::Trusted], true));
        let both = [made(START), ahead];
        assert_eq!(uses(&both, START), [Use::Signs, Use::Trusted]);
        assert!(!judge(&both, START).make);
    }

    #[test]
    fn whatever_was_signed_is_trusted_while_it_is_good_and_one_always_signs() {
        let mut lives = Vec::new();
        // The last time at which each signed anything.
        let mut signed: Vec<(Life, u64)> = Vec::new();
        let step = 3_571;
        for now in (START..START + 3 * AUTHORITY_LIFE_S).step_by(step) {
            let mut verdict = judge(&lives, now);
            if verdict.make {
                lives.push(made(now));
                verdict = judge(&lives, now);
            }
            let signers = verdict.uses.iter().filter(|it| **it == Use::Signs).count();
            assert_eq!(signers, 1, "at {now}");
            for (life, it) in lives.iter().zip(&verdict.uses) {
                let last = signed.iter_mut().find(|(other, _)| other == life);
                match (it, last) {
                    (Use::Signs, Some(last)) => last.1 = now,
                    (Use::Signs, None) => signed.push((*life, now)),
                    (Use::Over, Some(last)) => {
                        assert!(now >= (last.1 + CERTIFICATE_LIFE_S).min(life.ends));
                    }
                    _ => {}
                }
            }
            let mut it = verdict.uses.iter();
            lives.retain(|_| it.next() != Some(&Use::Over));
            assert!(lives.len() <= 2);
        }
        assert!(signed.len() >= 4, "{} have signed", signed.len());
    }

    #[test]
    fn certificate_is_renewed_after_two_thirds() {
        let life = Life {
            made: START,
            ends: START + 900,
        };
        assert!(!is_due(life, START + 599));
        assert!(is_due(life, START + 600));
    }
}
