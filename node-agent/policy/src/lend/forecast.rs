//! What a donor will need for itself: the slope of the last minutes, and what it has needed at
//! this time of day before.

use std::collections::VecDeque;
use std::time::Duration;

use dynamicswap_types::{Bytes, MonotonicTime};

/// Hours of history: a week, so that a day of the week that differs is seen once more.
pub const SEASON_HOURS: usize = 168;

/// Hours of a day.
const DAY: u64 = 24;

/// Most samples of the last minutes.
const RECENT_MAX: usize = 32;

/// What it needs now, soon, and at this time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Its own use now.
    pub own: Bytes,
    /// That, gone on rising as in the last minutes.
    pub soon: Bytes,
    /// The most that it used in this and the next hour of the days before; zero without a
    /// history.
    pub season: Bytes,
}

impl Forecast {
    /// The most of the three.
    #[must_use]
    pub fn most(&self) -> Bytes {
        self.own.max(self.soon).max(self.season)
    }
}

/// Own use in the last minutes.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    samples: VecDeque<(MonotonicTime, Bytes)>,
}

impl Recent {
    /// Notes a sample, unless the last one is too young for the window to hold so many.
    pub(super) fn note(&mut self, at: MonotonicTime, own: Bytes, window: Duration) {
        if self.samples.back().is_some_and(|(last, _)| at < *last) {
            // A clock that jumps back makes the past worthless.
            self.samples.clear();
        }
        let apart = window / u32::try_from(RECENT_MAX).unwrap_or(1);
        if let Some((last, _)) = self.samples.back()
            && at.since(*last) < apart
        {
            return;
        }
        self.samples.push_back((at, own));
        while self.samples.len() > RECENT_MAX
            || self
                .samples
                .front()
                .is_some_and(|(first, _)| at.since(*first) > window)
        {
            self.samples.pop_front();
        }
    }

    /// How much it will have risen after `horizon`, by the line of least squares; zero if it
    /// falls, or is not known for long enough.
    pub(super) fn rise(&self, horizon: Duration) -> Bytes {
        let Some((first, _)) = self.samples.front().filter(|_| self.samples.len() >= 4) else {
            return Bytes::ZERO;
        };
        // Milliseconds of minutes times bytes of a node, 32 times: far from 127 bits.
        let (mut x, mut y, mut xx, mut xy) = (0_i128, 0_i128, 0_i128, 0_i128);
        for (at, own) in &self.samples {
            let time = i128::try_from(at.since(*first).as_millis()).unwrap_or(0);
            let own = i128::from(own.get());
            x += time;
            y += own;
            xx += time * time;
            xy += time * own;
        }
        let count = i128::try_from(self.samples.len()).unwrap_or(1);
        let horizon = i128::try_from(horizon.as_millis()).unwrap_or(0);
        let rise = (count * xy - x * y)
            .saturating_mul(horizon)
            .checked_div(count * xx - x * x)
            .unwrap_or(0);
        Bytes::new(u64::try_from(rise.max(0)).unwrap_or(u64::MAX))
    }
}

/// The most that the donor used for itself in each hour of a week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seasons {
    /// By hour modulo [`SEASON_HOURS`]: the hour and its most.
    ring: Vec<Option<(u64, Bytes)>>,
}

impl Default for Seasons {
    fn default() -> Self {
        Self {
            ring: vec![None; SEASON_HOURS],
        }
    }
}

impl Seasons {
    /// A history of hours since 1970, each with the most of it.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = (u64, Bytes)>) -> Self {
        let mut seasons = Self::default();
        for (hour, most) in entries {
            seasons.note(hour, most);
        }
        seasons
    }

    /// What it holds, to be kept over a restart.
    pub fn entries(&self) -> impl Iterator<Item = (u64, Bytes)> {
        self.ring.iter().flatten().copied()
    }

    /// Notes what was used in an hour.
    pub fn note(&mut self, hour: u64, own: Bytes) {
        let Some(place) = self.ring.get_mut(place(hour)) else {
            return;
        };
        *place = match *place {
            Some((noted, most)) if noted == hour => Some((hour, most.max(own))),
            _ => Some((hour, own)),
        };
    }

    /// The most of this and the next hour of the day in the week before. The next one counts from
    /// the start: it takes time to move slabs.
    #[must_use]
    pub fn expect(&self, hour: u64) -> Bytes {
        let (this, next) = (hour % DAY, (hour + 1) % DAY);
        let of_this_time = self.entries().filter(|(noted, _)| {
            let past = *noted < hour && hour - noted <= SEASON_HOURS as u64;
            past && (noted % DAY == this || noted % DAY == next)
        });
        of_this_time
            .map(|(_, most)| most)
            .max()
            .unwrap_or(Bytes::ZERO)
    }
}

fn place(hour: u64) -> usize {
    // A remainder of 168 fits.
    usize::try_from(hour % SEASON_HOURS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: fn(u32) -> Bytes = Bytes::from_mib;

    fn recent(samples: &[(u64, u32)]) -> Recent {
        let mut recent = Recent::default();
        for (seconds, mib) in samples {
            let at = MonotonicTime::ZERO.after(Duration::from_secs(*seconds));
            recent.note(at, MIB(*mib), Duration::from_secs(300));
        }
        recent
    }

    #[test]
    fn steady_rise_goes_on_and_a_fall_does_not() {
        let rise = |samples| recent(samples).rise(Duration::from_secs(120));
        let rising = [(0, 100), (60, 160), (120, 220), (180, 280)];
        assert_eq!(rise(&rising), MIB(120));
        let falling = [(0, 280), (60, 220), (120, 160), (180, 100)];
        assert_eq!(rise(&falling), Bytes::ZERO);
        assert_eq!(rise(&rising[..3]), Bytes::ZERO);
    }

    #[test]
    fn samples_are_bounded_and_a_clock_that_jumps_back_empties_them() {
        let many: Vec<(u64, u32)> = (0..10_000).map(|second| (second, 1)).collect();
        let mut recent = recent(&many);
        assert!(recent.samples.len() <= RECENT_MAX);
        recent.note(MonotonicTime::ZERO, MIB(1), Duration::from_secs(300));
        assert_eq!(recent.samples.len(), 1);
    }

    #[test]
    fn time_of_day_of_the_week_before_is_expected_again() {
        let mut seasons = Seasons::from_entries([(10, MIB(100)), (11, MIB(900)), (13, MIB(999))]);
        assert_eq!(seasons.expect(24 + 10), MIB(900));
        assert_eq!(seasons.expect(24 + 11), MIB(900));
        assert_eq!(seasons.expect(24 + 14), Bytes::ZERO);
        assert_eq!(seasons.expect(10 + 24 * 8), Bytes::ZERO);
        seasons.note(10, MIB(50));
        assert_eq!(seasons.expect(24 + 9), MIB(100));
        // This very hour is not history yet.
        assert_eq!(seasons.expect(10), Bytes::ZERO);
        let again = Seasons::from_entries(seasons.entries());
        assert_eq!(again, seasons);
    }
}
