//! The law of lending: how much memory a donor may lend, its headroom, and when it takes some back.
//!
//! Owns the headroom, and the history that its forecast is made of. Which slabs go first, and where
//! to, is the planner's.

mod forecast;
mod reason;
mod settings;

use std::time::Duration;

use dynamicswap_types::{Bytes, MonotonicTime};

use crate::observation::Pressure;
use crate::share::Share;

pub use forecast::{Forecast, SEASON_HOURS, Seasons};
pub use reason::LendReason;
pub use settings::LendSettings;

use forecast::Recent;

/// The time that growth is measured by.
const MINUTE: Duration = Duration::from_secs(60);

/// What is seen of the donor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LendSight {
    /// When.
    pub at: MonotonicTime,
    /// Whole hours since 1970 by the wall clock. If it jumps, the history of the hours that it
    /// skips is lost, no more.
    pub hour: u64,
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemAvailable`.
    pub available: Bytes,
    /// What the memory server holds for others. It is locked, so not in `available`.
    pub lent: Bytes,
    /// The most that the administrator lets it lend.
    pub capacity: Bytes,
    /// The node's pressure; none if the host does not say.
    pub pressure: Option<Pressure>,
}

/// What shall happen to the headroom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendDeed {
    /// It stays.
    Keep,
    /// It grows.
    Grow,
    /// It shrinks, with the time that slabs get to move elsewhere.
    Shrink,
    /// It shrinks at once by all that is missing.
    ShrinkNow,
}

/// A decision and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lend {
    /// What shall happen.
    pub deed: LendDeed,
    /// The headroom after that, in whole slabs.
    pub headroom: Bytes,
    /// Why.
    pub reason: LendReason,
}

/// The law, with what it remembers.
#[derive(Debug, Clone)]
pub struct Lender {
    /// The headroom; none before the first decision.
    headroom: Option<Bytes>,
    /// When the headroom last grew, or might have.
    grown_at: MonotonicTime,
    /// When it last shrank.
    shrunk_at: Option<MonotonicTime>,
    recent: Recent,
    seasons: Seasons,
}

impl Lender {
    /// A donor with the headroom that it had before a restart, if any, and its history.
    #[must_use]
    pub fn new(headroom: Option<Bytes>, seasons: Seasons) -> Self {
        Self {
            headroom,
            grown_at: MonotonicTime::ZERO,
            shrunk_at: None,
            recent: Recent::default(),
            seasons,
        }
    }

    /// The history, to be kept over a restart.
    #[must_use]
    pub const fn seasons(&self) -> &Seasons {
        &self.seasons
    }

    /// Decides on the headroom.
    pub fn decide(&mut self, sight: &LendSight, settings: &LendSettings) -> Lend {
        let settings = settings.bounded();
        let own = sight
            .total
            .saturating_sub(sight.available)
            .saturating_sub(sight.lent);
        self.recent.note(sight.at, own, settings.window);
        let forecast = Forecast {
            own,
            soon: own.saturating_add(self.recent.rise(settings.horizon)),
            season: self.seasons.expect(sight.hour),
        };
        self.seasons.note(sight.hour, own);
        let reserve = settings.reserve(sight.total);
        let can = sight
            .total
            .saturating_sub(reserve)
            .saturating_sub(forecast.most())
            .min(sight.capacity);
        let figures = Figures {
            sight,
            settings: &settings,
            forecast,
            reserve,
            can: settings.whole_slabs(can),
        };
        let lend = self.rule(&figures);
        if lend.deed == LendDeed::Grow || self.headroom.is_none() {
            self.grown_at = sight.at;
        }
        if self.headroom.is_some_and(|before| lend.headroom < before) {
            self.shrunk_at = Some(sight.at);
        }
        self.headroom = Some(lend.headroom);
        debug_assert!(lend.headroom <= sight.capacity);
        lend
    }

    fn rule(&self, figures: &Figures<'_>) -> Lend {
        let (can, settings) = (figures.can, figures.settings);
        // Nobody has taken anything of the first headroom yet, so it need not grow slowly.
        let Some(before) = self.headroom else {
            let deed = LendDeed::Grow;
            return figures.lend(deed, can);
        };
        // A capacity that was lowered is obeyed at once, whatever else holds.
        let headroom = settings.whole_slabs(before.min(figures.sight.capacity));
        let missing = headroom.saturating_sub(can);
        let at = figures.sight.at;
        let rests = |since: Option<MonotonicTime>, time: Duration| {
            since.is_some_and(|since| at.since(since) < time)
        };
        let steps = !rests(self.shrunk_at, settings.step_time);
        if let Some(reason) = figures.emergency() {
            // All that is missing at once; and a step in any case, since figures that show
            // nothing missing are wrong.
            let step = if steps { figures.step() } else { Bytes::ZERO };
            let least = missing.max(step);
            return figures.because(LendDeed::ShrinkNow, headroom.saturating_sub(least), reason);
        }
        if let Some(reason) = figures.pressed().filter(|_| steps) {
            let headroom = headroom.saturating_sub(figures.step());
            return figures.because(LendDeed::Shrink, headroom, reason);
        }
        if missing > figures.band() && steps {
            let headroom = headroom.saturating_sub(missing.min(figures.step()));
            return figures.lend(LendDeed::Shrink, headroom);
        }
        // A rest, or a long time without need, is not made up for.
        let rested = self.shrunk_at.map(|since| since.after(settings.rest));
        let since = rested.map_or(self.grown_at, |rested| rested.max(self.grown_at));
        let growing_for = at.since(since).min(MINUTE);
        let growth = can
            .saturating_sub(headroom)
            .min(figures.growth(growing_for));
        let growth = settings.whole_slabs(growth);
        let wide = can.saturating_sub(headroom) > figures.band();
        if wide
            && growth > Bytes::ZERO
            && figures.is_quiet()
            && !rests(self.shrunk_at, settings.rest)
        {
            return figures.lend(LendDeed::Grow, headroom.saturating_add(growth));
        }
        if headroom < before {
            return figures.lend(LendDeed::Shrink, headroom);
        }
        figures.lend(LendDeed::Keep, headroom)
    }
}

/// The figures of one decision.
struct Figures<'a> {
    sight: &'a LendSight,
    settings: &'a LendSettings,
    forecast: Forecast,
    reserve: Bytes,
    /// What it can lend, in whole slabs.
    can: Bytes,
}

impl Figures<'_> {
    fn lend(&self, deed: LendDeed, headroom: Bytes) -> Lend {
        let reason = LendReason::Forecast {
            can: self.can,
            reserve: self.reserve,
            forecast: self.forecast,
        };
        self.because(deed, headroom, reason)
    }

    fn because(&self, deed: LendDeed, headroom: Bytes, reason: LendReason) -> Lend {
        Lend {
            deed,
            headroom: self.settings.whole_slabs(headroom),
            reason,
        }
    }

    /// A step of shrinking: at least a slab.
    fn step(&self) -> Bytes {
        let step = self.settings.shrink_step.of_bytes(self.sight.capacity);
        step.max(self.settings.slab.bytes())
    }

    /// How far headroom and figures may be apart: less than a slab is no difference either.
    fn band(&self) -> Bytes {
        self.settings.dead_band.of_bytes(self.sight.capacity)
    }

    /// How much it may have grown in a time.
    fn growth(&self, time: Duration) -> Bytes {
        let per_min = self.settings.growth_per_min.of_bytes(self.sight.capacity);
        let millis = u128::from(per_min.get()).saturating_mul(time.as_millis());
        Bytes::new(u64::try_from(millis / 60_000).unwrap_or(u64::MAX))
    }

    fn full(&self) -> Share {
        self.sight
            .pressure
            .map(|pressure| pressure.full.avg10)
            .unwrap_or_default()
    }

    fn some(&self) -> Share {
        self.sight
            .pressure
            .map(|pressure| pressure.some.avg10)
            .unwrap_or_default()
    }

    fn is_short(&self) -> bool {
        self.sight.available < self.settings.emergency_room(self.sight.total)
    }

    fn is_quiet(&self) -> bool {
        self.some().is_quiet(self.settings.some_max)
    }

    fn emergency(&self) -> Option<LendReason> {
        if self.is_short() {
            return Some(LendReason::Short {
                available: self.sight.available,
                least: self.settings.emergency_room(self.sight.total),
            });
        }
        let (share, max) = (self.full(), self.settings.full_max);
        (share >= max).then_some(LendReason::Stalled { share, max })
    }

    fn pressed(&self) -> Option<LendReason> {
        let (share, max) = (self.some(), self.settings.some_max);
        (share >= max).then_some(LendReason::Pressed { share, max })
    }
}

#[cfg(test)]
mod tests;
