//! The breaker: stops all offload while pages only travel to and fro, and always closes again.
//!
//! Owns the state machine. It never undoes anything: while it is open no page is sent by us; the
//! kernel still swaps who reaches a limit, unless [`BreakerSettings::hold_limits`] says otherwise.

mod reason;
mod settings;

use std::time::Duration;

use dynamicswap_types::MonotonicTime;

use crate::share::Share;

pub use reason::Cause;
pub use settings::{BreakerSettings, Mark};

/// The figures that the breaker looks at, of the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BreakerSight {
    /// Share of the last 10 s in which all tasks waited for memory; none if the host does not say.
    pub full: Option<Share>,
    /// Pages swapped in per second of late.
    pub swap_ins_per_s: u64,
    /// Of these, those that had gone out less than [`BreakerSettings::refault_age`] before. Where
    /// that is not known: all of them.
    pub refaults_per_s: u64,
    /// Pages swapped out per second of late.
    pub swap_outs_per_s: u64,
    /// 99th percentile of a swap-in of late; none if too few were measured.
    pub p99: Option<Duration>,
}

/// What may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passage {
    /// Whatever the laws say.
    #[default]
    Free,
    /// What keeps containers and node from their limits, but no probe.
    AheadOnly,
    /// Nothing.
    Blocked,
}

/// Since when each figure is over its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Over {
    full: Option<MonotonicTime>,
    refaults: Option<MonotonicTime>,
    p99: Option<MonotonicTime>,
}

/// Where the breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything goes. Waits for a figure that stays over its mark; no timeout.
    Closed,
    /// Nothing goes. Waits for its time to end, which nothing prolongs.
    Open {
        /// What opened it.
        cause: Cause,
        /// How long it stays open.
        hold: Duration,
    },
    /// Only what is needed goes. Waits for a trial time without a figure over its mark (then it
    /// closes) or for one that stays over it (then it opens again, for twice the time).
    HalfOpen {
        /// What opened it.
        cause: Cause,
        /// How long it was open.
        hold: Duration,
        /// Since when nothing is over its mark; none while something is.
        quiet_since: Option<MonotonicTime>,
    },
}

/// The breaker of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    state: BreakerState,
    since: MonotonicTime,
    /// How long it was last open.
    last_hold: Duration,
    over: Over,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub const fn new(now: MonotonicTime) -> Self {
        Self {
            state: BreakerState::Closed,
            since: now,
            last_hold: Duration::ZERO,
            over: Over {
                full: None,
                refaults: None,
                p99: None,
            },
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> MonotonicTime {
        self.since
    }

    /// Whether swap limits shall stay at what is in use.
    #[must_use]
    pub fn holds_limits(&self, settings: &BreakerSettings) -> bool {
        settings.hold_limits && self.passage() == Passage::Blocked
    }

    /// What may go out.
    #[must_use]
    pub const fn passage(&self) -> Passage {
        match self.state {
            BreakerState::Closed => Passage::Free,
            BreakerState::Open { .. } => Passage::Blocked,
            BreakerState::HalfOpen { .. } => Passage::AheadOnly,
        }
    }

    /// Looks at the figures of a moment; whether the state changed.
    pub fn look(
        &mut self,
        now: MonotonicTime,
        sight: &BreakerSight,
        settings: &BreakerSettings,
    ) -> bool {
        let settings = settings.bounded();
        let cause = self.sustained(now, sight, &settings);
        let next = match self.state {
            BreakerState::Closed => cause.map(|cause| self.opened(now, cause, &settings)),
            BreakerState::Open { cause, hold } => (now.since(self.since) >= hold).then_some(
                // Figures that rose while nothing went out say nothing of what goes out now.
                BreakerState::HalfOpen {
                    cause,
                    hold,
                    quiet_since: Some(now),
                },
            ),
            BreakerState::HalfOpen { .. } => self.tried(now, cause, &settings),
        };
        let Some(next) = next else { return false };
        if matches!(
            next,
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. }
        ) {
            self.over = Over::default();
        }
        if let BreakerState::Open { hold, .. } = next {
            self.last_hold = hold;
        }
        (self.state, self.since) = (next, now);
        true
    }

    /// The open state that follows the present one.
    fn opened(&self, now: MonotonicTime, cause: Cause, settings: &BreakerSettings) -> BreakerState {
        let again = match self.state {
            BreakerState::HalfOpen { .. } => true,
            _ => now.since(self.since) < settings.forget_after,
        };
        let hold = if again && self.last_hold > Duration::ZERO {
            self.last_hold.saturating_mul(2)
        } else {
            settings.open_min
        };
        BreakerState::Open {
            cause,
            hold: hold.clamp(settings.open_min, settings.open_max),
        }
    }

    /// What a half-open breaker becomes, if anything.
    fn tried(
        &mut self,
        now: MonotonicTime,
        cause: Option<Cause>,
        settings: &BreakerSettings,
    ) -> Option<BreakerState> {
        if let Some(cause) = cause {
            return Some(self.opened(now, cause, settings));
        }
        let over = self.over != Over::default();
        let BreakerState::HalfOpen { quiet_since, .. } = &mut self.state else {
            return None;
        };
        *quiet_since = if over {
            None
        } else {
            Some(quiet_since.unwrap_or(now))
        };
        let quiet_for = quiet_since.map(|since| now.since(since))?;
        (quiet_for >= settings.trial).then_some(BreakerState::Closed)
    }

    /// Notes which figures are over their marks; the first that has been for its time.
    fn sustained(
        &mut self,
        now: MonotonicTime,
        sight: &BreakerSight,
        settings: &BreakerSettings,
    ) -> Option<Cause> {
        let full = sight.full.unwrap_or_default();
        // Of the larger flow: a node that sends ten times what comes back makes progress, however
        // young that is.
        let flow = sight.swap_ins_per_s.max(sight.swap_outs_per_s);
        let refaults = Share::ratio(sight.refaults_per_s, flow);
        let busy = sight.swap_ins_per_s >= settings.swap_ins_per_s_min;
        let p99 = sight.p99.unwrap_or_default();
        let long = |since: &mut Option<MonotonicTime>, over: bool, sustained: Duration| {
            *since = over.then(|| since.unwrap_or(now));
            let over_for = since.map(|since| now.since(since))?;
            (over_for >= sustained).then_some(over_for)
        };
        let of_full = long(
            &mut self.over.full,
            full >= settings.full.over,
            settings.full.sustained,
        );
        let of_refaults = long(
            &mut self.over.refaults,
            busy && refaults >= settings.refaults.over,
            settings.refaults.sustained,
        );
        let of_p99 = long(
            &mut self.over.p99,
            p99 >= settings.p99.over,
            settings.p99.sustained,
        );
        let full = of_full.map(|over_for| Cause::Full {
            share: full,
            max: settings.full.over,
            over_for,
        });
        let refaults = of_refaults.map(|over_for| Cause::Refaults {
            share: refaults,
            max: settings.refaults.over,
            over_for,
        });
        let p99 = of_p99.map(|over_for| Cause::Slow {
            p99,
            max: settings.p99.over,
            over_for,
        });
        full.or(refaults).or(p99)
    }
}

#[cfg(test)]
mod tests;
