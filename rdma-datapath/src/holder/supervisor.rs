//! When an engine process is started, killed and replaced, and when everything is given up: pure
//! decisions, with time as an argument.

use std::time::Duration;

use dynamicswap_types::MonotonicTime;

/// An engine that has not served yet gets this long before it counts as hung.
const START_TIME_MAX: Duration = Duration::from_secs(5);
/// The first engine of a device's life gets this long: nothing is on the device yet, and a node that
/// starts everything at once is slow. Below the time after which an unserved device is given up.
const FIRST_START_TIME_MAX: Duration = Duration::from_secs(20);
/// Each engine in a row that was killed before it served gives the next one twice the time, this often:
/// on a node that is short of processor or has to read the programs back from its disk, another start is
/// no faster than the one before, and the device is served only if one of them comes to its end.
const START_DOUBLINGS_MAX: u32 = 4;
/// An engine that served this long before it died did not die in a loop.
const STABLE_TIME: Duration = Duration::from_millis(500);
/// The first replacement comes at once, the next ones after these delays.
const DELAYS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Limits of the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// An engine whose heartbeat stands still this long is hung.
    pub heartbeat_timeout: Duration,
    /// When to give up a device that no engine serves; `None`: never.
    pub unserved_timeout: Option<Duration>,
}

/// What the engine process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for `at`, then is started.
    Waiting { at: MonotonicTime },
    /// Runs; hung when its heartbeat stands still for too long.
    Running {
        since: MonotonicTime,
        served: bool,
        beat_at: MonotonicTime,
    },
    /// Waits for its exit, which SIGKILL makes certain.
    Killed { since: MonotonicTime, served: bool },
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start an engine, then call [`Supervisor::started`].
    Start,
    /// Kill the engine: hung for so long.
    Kill(Duration),
    /// Nobody has served the device for so long: abort its connection.
    Abort(Duration),
}

/// The watch over one engine process after the other.
#[derive(Debug)]
pub struct Supervisor {
    limits: Limits,
    phase: Phase,
    /// Engines that died in a row without having been stable.
    failures: usize,
    /// Engines that were killed in a row before they served.
    slow_starts: u32,
    heartbeat: u64,
    served_at: MonotonicTime,
    looked_at: MonotonicTime,
    aborted: bool,
}

impl Supervisor {
    /// Wants an engine at once.
    #[must_use]
    pub fn new(limits: Limits, now: MonotonicTime) -> Self {
        Self {
            limits,
            phase: Phase::Waiting { at: now },
            failures: 0,
            slow_starts: 0,
            heartbeat: 0,
            served_at: now,
            looked_at: now,
            aborted: false,
        }
    }

    /// Engines that died in a row without having been stable.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// An engine process was started.
    pub fn started(&mut self, now: MonotonicTime) {
        self.phase = Phase::Running {
            since: now,
            served: false,
            beat_at: now,
        };
    }

    /// The engine process ended, or could not be started.
    pub fn exited(&mut self, now: MonotonicTime) {
        let stable = match self.phase {
            Phase::Running { since, served, .. } | Phase::Killed { since, served } => {
                served && now.since(since) >= STABLE_TIME
            }
            Phase::Waiting { .. } => false,
        };
        self.failures = if stable { 1 } else { self.failures + 1 };
        let delay = DELAYS[(self.failures - 1).min(DELAYS.len() - 1)];
        self.phase = Phase::Waiting {
            at: now.after(delay),
        };
    }

    /// Looks at the heartbeat and the clock. Call it often, and after every event.
    pub fn look(&mut self, now: MonotonicTime, heartbeat: u64) -> Option<Step> {
        let gap = now.since(self.looked_at);
        self.looked_at = now;
        let beats = heartbeat != self.heartbeat;
        self.heartbeat = heartbeat;
        if beats {
            self.served_at = now;
        } else if gap > self.limits.heartbeat_timeout / 2 {
            // This process itself did not run, and the engine perhaps neither: a machine that was
            // paused has not left its device unserved.
            self.served_at = self.served_at.after(gap);
        }
        self.step(now, beats, gap).or_else(|| self.give_up(now))
    }

    /// How long the engine that runs may be silent.
    fn patience(&self, served: bool) -> Duration {
        if served {
            return self.limits.heartbeat_timeout;
        }
        let start = if self.heartbeat == 0 {
            FIRST_START_TIME_MAX
        } else {
            START_TIME_MAX
        };
        let start = start * (1 << self.slow_starts.min(START_DOUBLINGS_MAX));
        start.max(self.limits.heartbeat_timeout)
    }

    fn step(&mut self, now: MonotonicTime, beats: bool, gap: Duration) -> Option<Step> {
        let patience = match self.phase {
            Phase::Running { served, .. } => self.patience(served),
            Phase::Waiting { .. } | Phase::Killed { .. } => Duration::ZERO,
        };
        match &mut self.phase {
            Phase::Waiting { at } if *at <= now => Some(Step::Start),
            Phase::Waiting { .. } | Phase::Killed { .. } => None,
            Phase::Running {
                since,
                served,
                beat_at,
            } => {
                if beats {
                    (*served, *beat_at) = (true, now);
                    self.slow_starts = 0;
                    return None;
                }
                if gap > self.limits.heartbeat_timeout / 2 {
                    // This process itself did not run: that says nothing about the engine.
                    *beat_at = beat_at.after(gap);
                    return None;
                }
                let silent = now.since(*beat_at);
                if silent < patience {
                    return None;
                }
                let (since, served) = (*since, *served);
                self.slow_starts += u32::from(!served);
                self.phase = Phase::Killed { since, served };
                Some(Step::Kill(silent))
            }
        }
    }

    fn give_up(&mut self, now: MonotonicTime) -> Option<Step> {
        let unserved = now.since(self.served_at);
        let over = self
            .limits
            .unserved_timeout
            .is_some_and(|timeout| unserved >= timeout);
        (over && !std::mem::replace(&mut self.aborted, over)).then_some(Step::Abort(unserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        heartbeat_timeout: Duration::from_millis(1500),
        unserved_timeout: None,
    };

    fn ms(ms: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(ms * 1_000_000)
    }

    /// Looks every 100 ms in `from..to` with a heartbeat that stands still.
    fn silence(supervisor: &mut Supervisor, from: u64, to: u64, beat: u64) -> Option<(u64, Step)> {
        (from..to)
            .step_by(100)
            .find_map(|at| supervisor.look(ms(at), beat).map(|step| (at, step)))
    }

    #[test]
    fn silent_engine_is_killed_after_the_timeout_and_replaced_at_once() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        assert_eq!(supervisor.look(ms(0), 0), Some(Step::Start));
        supervisor.started(ms(0));
        assert_eq!(supervisor.look(ms(100), 1), None);
        let killed = silence(&mut supervisor, 200, 5000, 1);
        assert_eq!(
            killed,
            Some((1600, Step::Kill(Duration::from_millis(1500))))
        );
        assert_eq!(silence(&mut supervisor, 1700, 2500, 1), None, "killed once");
        supervisor.exited(ms(2500));
        assert_eq!(supervisor.look(ms(2500), 1), Some(Step::Start));
    }

    #[test]
    fn engine_that_starts_slowly_gets_more_time() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        supervisor.started(ms(0));
        assert_eq!(supervisor.look(ms(100), 7), None);
        supervisor.exited(ms(200));
        assert_eq!(supervisor.look(ms(200), 7), Some(Step::Start));
        supervisor.started(ms(200));
        let killed = silence(&mut supervisor, 300, 9000, 7);
        assert_eq!(killed.map(|(at, _)| at), Some(5200));
    }

    #[test]
    fn first_engine_of_a_device_gets_more_time_still() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        supervisor.started(ms(0));
        let killed = silence(&mut supervisor, 100, 40_000, 0);
        assert_eq!(killed.map(|(at, _)| at), Some(20_000));
    }

    /// A node that needs 12 s for a start has an engine at last.
    #[test]
    fn engines_that_were_killed_before_they_served_give_the_next_one_twice_the_time() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        supervisor.started(ms(0));
        assert_eq!(supervisor.look(ms(100), 1), None);
        supervisor.exited(ms(100));
        let mut given = Vec::new();
        let mut at = 200;
        for _ in 0..6 {
            supervisor.started(ms(at));
            let killed = silence(&mut supervisor, at, at + 200_000, 1);
            let (end, _) = killed.expect("killed");
            given.push((end - at) / 1000);
            supervisor.exited(ms(end));
            at = end + 100;
        }
        assert_eq!(given, [5, 10, 20, 40, 80, 80]);
        supervisor.started(ms(at));
        assert_eq!(supervisor.look(ms(at + 100), 2), None);
        supervisor.exited(ms(at + 200));
        supervisor.started(ms(at + 300));
        let killed = silence(&mut supervisor, at + 400, at + 100_000, 2);
        assert_eq!(killed.map(|(end, _)| end - at), Some(5_300), "one served");
    }

    #[test]
    fn pause_of_the_holder_itself_is_not_held_against_the_engine() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        supervisor.started(ms(0));
        assert_eq!(supervisor.look(ms(100), 1), None);
        assert_eq!(supervisor.look(ms(60_000), 1), None);
        assert_eq!(silence(&mut supervisor, 60_100, 61_000, 1), None);
        assert!(silence(&mut supervisor, 61_000, 62_000, 1).is_some());
    }

    #[test]
    fn pause_of_the_whole_machine_gives_nothing_up() {
        let limits = Limits {
            unserved_timeout: Some(Duration::from_secs(30)),
            ..LIMITS
        };
        let mut supervisor = Supervisor::new(limits, ms(0));
        supervisor.started(ms(0));
        assert_eq!(supervisor.look(ms(100), 1), None);
        assert_eq!(supervisor.look(ms(60_000), 1), None, "nobody ran meanwhile");
        assert_eq!(supervisor.look(ms(60_100), 2), None);
    }

    #[test]
    fn engines_that_die_in_a_loop_are_replaced_ever_more_slowly_up_to_a_bound() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..10 {
            supervisor.started(ms(now));
            supervisor.exited(ms(now));
            let died = now;
            while supervisor.look(ms(now), 0) != Some(Step::Start) {
                now += 10;
            }
            delays.push(now - died);
        }
        assert_eq!(delays, [0, 50, 100, 250, 500, 1000, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn stable_engine_s_death_counts_as_the_first() {
        let mut supervisor = Supervisor::new(LIMITS, ms(0));
        for _ in 0..5 {
            supervisor.started(ms(0));
            supervisor.exited(ms(0));
        }
        supervisor.started(ms(10_000));
        supervisor.look(ms(10_100), 1);
        supervisor.exited(ms(25_000));
        assert_eq!(supervisor.look(ms(25_000), 1), Some(Step::Start));
    }

    #[test]
    fn unserved_device_is_given_up_once_and_only_where_policy_says_so() {
        let limits = Limits {
            unserved_timeout: Some(Duration::from_secs(30)),
            ..LIMITS
        };
        let mut supervisor = Supervisor::new(limits, ms(0));
        let mut aborts = 0;
        for at in (0..90_000).step_by(100) {
            match supervisor.look(ms(at), 0) {
                Some(Step::Start) => supervisor.started(ms(at)),
                Some(Step::Kill(_)) => supervisor.exited(ms(at)),
                Some(Step::Abort(_)) => {
                    assert!((30_000..31_000).contains(&at), "{at}");
                    aborts += 1;
                }
                None => {}
            }
        }
        assert_eq!(aborts, 1);
    }
}
