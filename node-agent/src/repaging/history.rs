//! What the laws need of a container's past, from one look to the next: pure.

use std::collections::VecDeque;
use std::time::Duration;

use dynamicswap_policy::{SinceProbe, SwapAccount};
use dynamicswap_types::{Bytes, MonotonicTime, PageCount};

use crate::cgroup::Stat;

/// Time over which swap-ins are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Time between two samples of them.
const SAMPLE_SPACING: Duration = Duration::from_secs(5);

/// What was read of a container at one look.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When.
    pub at: MonotonicTime,
    /// Its counts.
    pub stat: Stat,
    /// In RAM.
    pub used: Bytes,
    /// Swapped out.
    pub swapped: Bytes,
    /// Total of `some`; zero if the host does not say.
    pub stalled: Duration,
}

/// A container's past.
#[derive(Debug)]
pub struct History {
    last: Reading,
    /// The reading that the next probe counts from.
    base: Reading,
    /// What was in RAM at the last look, which may have read nothing else.
    used: (MonotonicTime, Bytes),
    growth_per_s: Bytes,
    swap_ins: VecDeque<(MonotonicTime, u64)>,
    unscanned_since: Option<MonotonicTime>,
    stalls: Stalls,
    account: SwapAccount,
    /// What was asked of the kernel since the last look, and whether as a probe.
    asked: Option<Asked>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    bytes: Bytes,
    is_probe: bool,
}

/// Since when hardly a task has waited for memory. The kernel's averages take half a minute to say so;
/// the growth of the total says it at the next look.
#[derive(Debug, Clone, Copy)]
pub struct Stalls {
    /// The last look, and the total of `some` then.
    last: (MonotonicTime, Duration),
    stalled_at: MonotonicTime,
}

impl Stalls {
    /// Of what is first seen: what was before is not known.
    #[must_use]
    pub const fn new(at: MonotonicTime, total: Duration) -> Self {
        Self {
            last: (at, total),
            stalled_at: at,
        }
    }

    /// Takes the next total. Over a hundredth of the time since the last one is a stall.
    pub fn see(&mut self, at: MonotonicTime, total: Duration) {
        let (before, known) = std::mem::replace(&mut self.last, (at, total));
        if total.saturating_sub(known).saturating_mul(100) > at.since(before) {
            self.stalled_at = at;
        }
    }

    /// For how long there was none, at the last look.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        self.last.0.since(self.stalled_at)
    }
}

impl History {
    /// Of a container that is first seen. `may_be_cold`: somebody may have sent what is out because
    /// it was cold.
    #[must_use]
    pub fn new(reading: Reading, may_be_cold: bool) -> Self {
        let account = if may_be_cold {
            SwapAccount::found(reading.swapped)
        } else {
            SwapAccount::default().seen(reading.swapped)
        };
        Self {
            last: reading,
            base: reading,
            used: (reading.at, reading.used),
            growth_per_s: Bytes::ZERO,
            swap_ins: VecDeque::from([(reading.at, reading.stat.swap_ins)]),
            unscanned_since: reading.stat.scanned.map(|_| reading.at),
            stalls: Stalls::new(reading.at, reading.stalled),
            account,
            asked: None,
        }
    }

    /// Takes the next reading.
    pub fn see(&mut self, reading: Reading) {
        self.carry(reading.at, reading.used, reading.stalled);
        // What the kernel scanned because it was asked to says nothing of a shortage.
        let asked = self.asked.take();
        if asked.is_none() && reading.stat.scanned > self.last.stat.scanned {
            self.unscanned_since = reading.stat.scanned.map(|_| reading.at);
        }
        self.account = match asked {
            Some(Asked {
                bytes,
                is_probe: true,
            }) => self.account.after_probe(bytes, reading.swapped),
            _ => self.account.seen(reading.swapped),
        };
        self.count_swap_ins(&reading);
        self.last = reading;
    }

    /// Takes a look that has read nothing but this, because nothing has happened since the last reading.
    /// A burst that follows is judged by its own time, and not by that of the calm before it.
    pub fn carry(&mut self, now: MonotonicTime, used: Bytes, stalled: Duration) {
        let (before, known) = std::mem::replace(&mut self.used, (now, used));
        let millis = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX);
        let grown = used.saturating_sub(known).get().saturating_mul(1_000);
        self.growth_per_s = Bytes::new(grown / millis.max(1));
        self.stalls.see(now, stalled);
    }

    fn count_swap_ins(&mut self, reading: &Reading) {
        let now = reading.at;
        let is_due = |(at, _): &(MonotonicTime, u64)| now.since(*at) >= SAMPLE_SPACING;
        if self.swap_ins.back().is_none_or(is_due) {
            self.swap_ins.push_back((now, reading.stat.swap_ins));
        }
        while self.swap_ins.len() > 1
            && self
                .swap_ins
                .get(1)
                .is_some_and(|(at, _)| now.since(*at) >= MINUTE)
        {
            self.swap_ins.pop_front();
        }
    }

    /// The kernel was asked to take `bytes`.
    pub const fn asked(&mut self, bytes: Bytes, is_probe: bool) {
        self.asked = Some(Asked { bytes, is_probe });
    }

    /// Whether it was asked for something since the last reading.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// The time since the last probe has been judged: the next one counts from here.
    pub const fn looked(&mut self) {
        self.base = self.last;
    }

    /// What happened since the last probe.
    #[must_use]
    pub fn since_probe(&self) -> SinceProbe {
        let (now, base) = (&self.last, &self.base);
        let grown = |now: u64, before: u64| PageCount::new(now.saturating_sub(before));
        SinceProbe {
            elapsed: now.at.since(base.at),
            stalled: now.stalled.saturating_sub(base.stalled),
            scanned: grown(
                now.stat.scanned.unwrap_or(0),
                base.stat.scanned.unwrap_or(0),
            ),
            stolen: grown(now.stat.stolen, base.stat.stolen),
            refaulted: grown(now.stat.refaulted, base.stat.refaulted),
        }
    }

    /// Its counts at the last look.
    #[must_use]
    pub const fn stat(&self) -> Stat {
        self.last.stat
    }

    /// Page cache that the kernel could drop then.
    #[must_use]
    pub const fn droppable(&self) -> Bytes {
        self.last.stat.droppable()
    }

    /// How fast it grew at the last look.
    #[must_use]
    pub const fn growth_per_s(&self) -> Bytes {
        self.growth_per_s
    }

    /// Pages that it swapped in during the last minute.
    #[must_use]
    pub fn swap_ins_per_min(&self) -> u64 {
        let first = self.swap_ins.front().map_or(0, |(_, count)| *count);
        self.last.stat.swap_ins.saturating_sub(first)
    }

    /// For how long hardly a task of it has waited for memory.
    #[must_use]
    pub fn unstalled_for(&self) -> Duration {
        self.stalls.quiet_for()
    }

    /// For how long the kernel has not looked for pages to take; none if it does not say.
    #[must_use]
    pub fn unscanned_for(&self) -> Option<Duration> {
        self.unscanned_since.map(|since| self.last.at.since(since))
    }

    /// What of its pages out there probing sent away.
    #[must_use]
    pub const fn probed(&self) -> Bytes {
        self.account.probed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seconds: u64, swap_ins: u64, scanned: u64) -> Reading {
        Reading {
            at: MonotonicTime::ZERO.after(Duration::from_secs(seconds)),
            stat: Stat {
                swap_ins,
                scanned: Some(scanned),
                ..Stat::default()
            },
            used: Bytes::from_mib(10),
            swapped: Bytes::ZERO,
            stalled: Duration::ZERO,
        }
    }

    #[test]
    fn swap_ins_are_those_of_a_minute() {
        let mut history = History::new(reading(0, 100, 0), false);
        for second in 1..=120 {
            history.see(reading(second, 100 + second, 0));
        }
        let counted = history.swap_ins_per_min();
        assert!((60..=66).contains(&counted), "{counted}");
    }

    #[test]
    fn scan_that_was_asked_for_is_no_shortage() {
        let mut history = History::new(reading(0, 0, 0), false);
        history.asked(Bytes::from_mib(1), true);
        history.see(reading(1, 0, 50));
        assert_eq!(history.unscanned_for(), Some(Duration::from_secs(1)));
        history.see(reading(2, 0, 60));
        assert_eq!(history.unscanned_for(), Some(Duration::ZERO));
    }

    #[test]
    fn stall_that_is_over_is_known_at_the_next_look() {
        let mut history = History::new(reading(0, 0, 0), false);
        let mut stalled = reading(1, 0, 0);
        stalled.stalled = Duration::from_millis(500);
        history.see(stalled);
        assert_eq!(history.unstalled_for(), Duration::ZERO);
        let mut rests = reading(3, 0, 0);
        rests.stalled = Duration::from_millis(505);
        history.see(rests);
        assert_eq!(history.unstalled_for(), Duration::from_secs(2));
    }

    #[test]
    fn growth_is_bytes_a_second_and_never_negative() {
        let mut history = History::new(reading(0, 0, 0), false);
        let mut grown = reading(2, 0, 0);
        grown.used = Bytes::from_mib(14);
        history.see(grown);
        assert_eq!(history.growth_per_s(), Bytes::from_mib(2));
        history.see(reading(3, 0, 0));
        assert_eq!(history.growth_per_s(), Bytes::ZERO);
    }

    #[test]
    fn burst_after_a_calm_is_judged_by_its_own_time() {
        let mut history = History::new(reading(0, 0, 0), false);
        let at = |seconds: u64| MonotonicTime::ZERO.after(Duration::from_secs(seconds));
        for second in 1..=5 {
            history.carry(at(second), Bytes::from_mib(10), Duration::ZERO);
        }
        assert_eq!(history.unstalled_for(), Duration::from_secs(5));
        let mut burst = reading(6, 0, 0);
        burst.used = Bytes::from_mib(40);
        burst.stalled = Duration::from_millis(30);
        history.see(burst);
        assert_eq!(history.growth_per_s(), Bytes::from_mib(30));
        assert_eq!(history.unstalled_for(), Duration::ZERO);
    }

    #[test]
    fn what_a_probe_sent_is_counted_apart() {
        let mut history = History::new(reading(0, 0, 0), true);
        history.asked(Bytes::from_mib(2), true);
        let mut after = reading(1, 0, 9);
        after.swapped = Bytes::from_mib(3);
        history.see(after);
        assert_eq!(history.probed(), Bytes::from_mib(2));
    }
}
