//! When a certificate is renewed. Pure: ages in, a decision out.

use std::time::Duration;

/// Agents that were enrolled together renew over this share of their certificates' life: a twelfth.
const SPREAD: u32 = 12;

/// Whether a new certificate is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The one that is there will do.
    None,
    /// One would be good; the one that is there will do.
    May,
    /// There is none that is good.
    Must,
}

/// Whether a certificate of this age and life has to be replaced; `is_due` when it is to be renewed.
#[must_use]
pub fn need(age: Duration, life: Duration, is_due: bool) -> Need {
    if age >= life {
        Need::Must
    } else if is_due {
        Need::May
    } else {
        Need::None
    }
}

/// Time from a certificate's making to its renewal: two thirds of its life, less what keeps the
/// agents of a cluster that was installed at once from coming together.
#[must_use]
pub fn after(life: Duration, node: &str) -> Duration {
    let share = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, node.as_bytes()) % 1_000;
    let share = u32::try_from(share).unwrap_or(0);
    (life * 2 / 3).saturating_sub(life / SPREAD * share / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(86_400);

    #[test]
    fn certificate_that_has_run_out_must_be_replaced() {
        assert_eq!(need(Duration::ZERO, LIFE, false), Need::None);
        assert_eq!(need(LIFE * 2 / 3, LIFE, true), Need::May);
        assert_eq!(need(LIFE, LIFE, false), Need::Must);
    }

    #[test]
    fn renewals_are_spread_before_two_thirds() {
        let times: Vec<Duration> = (0..100)
            .map(|number| after(LIFE, &format!("node-{number}")))
            .collect();
        let (first, last) = (times.iter().min(), times.iter().max());
        let earliest = LIFE * 7 / 12;
        assert!(
            times
                .iter()
                .all(|time| *time >= earliest && *time <= LIFE * 2 / 3)
        );
        assert!(last.expect("some").saturating_sub(*first.expect("some")) > LIFE / 15);
        assert_eq!(after(LIFE, "a"), after(LIFE, "a"));
    }

    #[test]
    fn life_of_nothing_is_renewed_at_once() {
        assert_eq!(after(Duration::ZERO, "a"), Duration::ZERO);
    }
}
