//! The rules: when a level rises, when it falls, and what guards it next.
//!
//! It rises at once, by the first evidence there is: a fired trigger, the growth of the total
//! since the last sight, the kernel's average. It falls only after a quiet time, so that it does
//! not flap.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamicswap_types::MonotonicTime;

use crate::observation::{ContainerName, Observation, Pressure, Sight};
use crate::reason::{Evidence, Level, NoticedBy, Reason};
use crate::share::Share;
use crate::thresholds::Thresholds;
use crate::trigger::Line;

/// Shortest time between two sights whose growth says something: within less, one long fault
/// would look like a stall.
const GROWTH_SPAN_MIN: Duration = Duration::from_millis(500);

/// What is held of a container after an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Its level.
    pub level: Level,
    /// Why it came to this level.
    pub reason: Reason,
    /// Since when.
    pub since: MonotonicTime,
    /// What noticed it.
    pub noticed_by: NoticedBy,
}

/// A container's history, as far as the rules need it.
#[derive(Debug, Clone, Copy)]
struct Track {
    verdict: Verdict,
    /// The sight that growth is measured from.
    base: (MonotonicTime, Pressure),
    /// Since when `some` and `full` have been quiet without a break.
    some_quiet_since: Option<MonotonicTime>,
    full_quiet_since: Option<MonotonicTime>,
}

/// Judges observation after observation, and remembers what hysteresis needs.
#[derive(Debug, Clone, Default)]
pub struct Assessor {
    node: Option<Track>,
    containers: BTreeMap<ContainerName, Track>,
}

impl Assessor {
    /// Judges everything in `observation`. A container is judged by its entry in `thresholds`,
    /// or by the default ones; the node by the default ones. What is not seen is forgotten.
    pub fn assess(
        &mut self,
        observation: &Observation,
        thresholds: &BTreeMap<ContainerName, Thresholds>,
    ) {
        self.node = judge(self.node, &observation.node, &Thresholds::default());
        let before = std::mem::take(&mut self.containers);
        for (name, sight) in &observation.containers {
            let track = before.get(name).copied();
            let thresholds = thresholds.get(name).copied().unwrap_or_default();
            if let Some(track) = judge(track, sight, &thresholds) {
                self.containers.insert(name.clone(), track);
            }
        }
        self.check_invariants();
    }

    /// What is held of the node; nothing without PSI.
    #[must_use]
    pub fn node(&self) -> Option<Verdict> {
        self.node.map(|track| track.verdict)
    }

    /// What is held of a container; nothing if its pressure is not known.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<Verdict> {
        self.containers.get(name).map(|track| track.verdict)
    }

    /// A level and its reason belong together.
    fn check_invariants(&self) {
        for track in self.node.iter().chain(self.containers.values()) {
            let fits = match (track.verdict.level, track.verdict.reason) {
                (Level::Calm, Reason::New | Reason::Quiet { .. }) => true,
                (Level::Pressured, Reason::Reached { line, .. }) => line == Line::Some,
                (Level::Pressured, Reason::Quiet { line, .. }) => line == Line::Full,
                (Level::Stalled, Reason::Reached { line, .. }) => line == Line::Full,
                _ => false,
            };
            debug_assert!(fits, "{:?}", track.verdict);
        }
    }
}

/// The track after `sight`; none without a pressure.
fn judge(before: Option<Track>, sight: &Sight, thresholds: &Thresholds) -> Option<Track> {
    let pressure = sight.pressure?;
    let first = Track {
        verdict: Verdict {
            level: Level::Calm,
            reason: Reason::New,
            since: sight.at,
            noticed_by: NoticedBy::Timer,
        },
        base: (sight.at, pressure),
        some_quiet_since: None,
        full_quiet_since: None,
    };
    let mut track = before.unwrap_or(first);
    if before.is_some_and(|before| sight.at < before.base.0) {
        return before;
    }
    let figures = Figures::of(&track, sight, pressure);
    track.some_quiet_since = figures.quiet_since(Line::Some, track.some_quiet_since, thresholds);
    track.full_quiet_since = figures.quiet_since(Line::Full, track.full_quiet_since, thresholds);
    if let Some(verdict) = figures
        .rise(&track.verdict, thresholds)
        .or_else(|| figures.fall(&track, thresholds))
    {
        track.verdict = verdict;
    }
    if figures.span >= GROWTH_SPAN_MIN {
        track.base = (sight.at, pressure);
    }
    Some(track)
}

/// The figures of one sight.
struct Figures<'a> {
    sight: &'a Sight,
    pressure: Pressure,
    base: Pressure,
    span: Duration,
}

impl<'a> Figures<'a> {
    fn of(track: &Track, sight: &'a Sight, pressure: Pressure) -> Self {
        let (at, base) = track.base;
        Self {
            sight,
            pressure,
            base,
            span: sight.at.since(at),
        }
    }

    /// The line's share of the time since the base; none if that is too short.
    fn grown(&self, line: Line) -> Option<Share> {
        let (now, base) = (self.pressure.line(line), self.base.line(line));
        let grown = now.total.saturating_sub(base.total);
        (self.span >= GROWTH_SPAN_MIN).then(|| Share::of(grown, self.span))
    }

    /// What shows that the line has reached its threshold, if anything.
    fn evidence(&self, line: Line, threshold: Share) -> Option<Evidence> {
        let fired = self
            .sight
            .fired
            .filter(|trigger| trigger.line == line && trigger.share >= threshold)
            .map(Evidence::Fired);
        let grown = || {
            let share = self.grown(line).filter(|share| *share >= threshold)?;
            let over = self.span;
            Some(Evidence::Grown { share, over })
        };
        let average = || {
            let share = self.pressure.line(line).avg10;
            (share >= threshold).then_some(Evidence::Average(share))
        };
        fired.or_else(grown).or_else(average)
    }

    fn quiet_since(
        &self,
        line: Line,
        since: Option<MonotonicTime>,
        thresholds: &Thresholds,
    ) -> Option<MonotonicTime> {
        let threshold = thresholds.of(line);
        let quiet = self.pressure.line(line).avg10.is_quiet(threshold)
            && self
                .grown(line)
                .is_none_or(|share| share.is_quiet(threshold))
            && self.sight.fired.is_none_or(|trigger| trigger.line != line);
        quiet.then(|| since.unwrap_or(self.sight.at))
    }

    /// A higher level than before, by the most severe line that has reached its threshold.
    fn rise(&self, before: &Verdict, thresholds: &Thresholds) -> Option<Verdict> {
        let levels = [(Level::Stalled, Line::Full), (Level::Pressured, Line::Some)];
        levels.into_iter().find_map(|(level, line)| {
            let threshold = thresholds.of(line);
            let evidence = (level > before.level)
                .then(|| self.evidence(line, threshold))
                .flatten()?;
            // A trigger that guards one line may be what brings the other one to light.
            let noticed_by = match self.sight.fired {
                Some(_) => NoticedBy::Trigger,
                None => NoticedBy::Timer,
            };
            Some(Verdict {
                level,
                reason: Reason::Reached {
                    line,
                    evidence,
                    threshold,
                },
                since: self.sight.at,
                noticed_by,
            })
        })
    }

    /// A lower level than before, where what raised it has been quiet long enough.
    fn fall(&self, track: &Track, thresholds: &Thresholds) -> Option<Verdict> {
        let quiet_for = |since: Option<MonotonicTime>| {
            let quiet_for = self.sight.at.since(since?);
            (quiet_for >= thresholds.calm_after).then_some(quiet_for)
        };
        let full = quiet_for(track.full_quiet_since)?;
        let (level, line, quiet_for) =
            match (track.verdict.level, quiet_for(track.some_quiet_since)) {
                (Level::Pressured | Level::Stalled, Some(some)) => {
                    (Level::Calm, Line::Some, some.min(full))
                }
                (Level::Stalled, None) => (Level::Pressured, Line::Full, full),
                (Level::Calm, _) | (Level::Pressured, None) => return None,
            };
        Some(Verdict {
            level,
            reason: Reason::Quiet {
                line,
                quiet_for,
                threshold: thresholds.of(line),
            },
            since: self.sight.at,
            noticed_by: NoticedBy::Timer,
        })
    }
}

#[cfg(test)]
mod tests;
