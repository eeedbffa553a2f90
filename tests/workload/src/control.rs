//! When a workload's churn ends: a budget of time or operations, a command, or an abort.
//!
//! Owns the commands that a workload takes on its standard input: `check` (check everything, then
//! go on), `rest` (do nothing until told to `resume`), `finish` (end the churn, check everything, tell the
//! result) and `abort`; the end of the input is an abort too, because whoever started the workload is
//! gone.

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long the churn lasts at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    /// Time since the churn began.
    pub time: Option<Duration>,
    /// Operations of all workers.
    pub ops: Option<u64>,
}

impl Budget {
    /// Until a command ends it.
    #[must_use]
    pub const fn until_told() -> Self {
        Self {
            time: None,
            ops: None,
        }
    }

    /// A number of operations.
    #[must_use]
    pub const fn ops(ops: u64) -> Self {
        Self {
            time: None,
            ops: Some(ops),
        }
    }

    /// A time.
    #[must_use]
    pub const fn time(time: Duration) -> Self {
        Self {
            time: Some(time),
            ops: None,
        }
    }
}

/// Why a churn ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Told to check everything and end.
    Finished,
    /// Told to end without a check.
    Aborted,
}

const RUNNING: u8 = 0;
const FINISHED: u8 = 1;
const ABORTED: u8 = 2;
/// Time after which a churn that rests looks whether it has been ended.
const REST_LOOK: Duration = Duration::from_millis(100);
/// Operations between two looks at the clock.
const OPS_PER_CLOCK_LOOK: u64 = 16;

/// Shared by workers, reporter and the reader of commands.
#[derive(Debug)]
pub struct Control {
    budget: Budget,
    state: AtomicU8,
    ops: AtomicU64,
    passes: AtomicU32,
    resting: AtomicBool,
    churn_began: OnceLock<Instant>,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Control {
    /// A control that ends the churn when `budget` is used up.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            state: AtomicU8::new(RUNNING),
            ops: AtomicU64::new(0),
            passes: AtomicU32::new(0),
            resting: AtomicBool::new(false),
            churn_began: OnceLock::new(),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// Ends the churn; an abort is never taken back.
    pub fn end(&self, how: Ended) {
        let state = match how {
            Ended::Finished => FINISHED,
            Ended::Aborted => ABORTED,
        };
        self.state.fetch_max(state, Ordering::Release);
        self.wake();
    }

    /// Asks for one more pass over everything, after which the churn goes on.
    pub fn ask_for_pass(&self) {
        self.passes.fetch_add(1, Ordering::Release);
    }

    /// Passes asked for so far.
    #[must_use]
    pub fn passes(&self) -> u32 {
        self.passes.load(Ordering::Acquire)
    }

    /// Whether nothing more shall be done.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.state.load(Ordering::Acquire) == ABORTED
    }

    /// Whether neither a command nor the budget has ended the churn.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let ops = self.ops.load(Ordering::Relaxed);
        self.state.load(Ordering::Acquire) == RUNNING
            && self.budget.ops.is_none_or(|most| ops < most)
    }

    /// Starts the clock of the budget; false if the churn is over before it began.
    pub fn start_churn(&self) -> bool {
        self.churn_began.get_or_init(Instant::now);
        self.state.load(Ordering::Acquire) == RUNNING
    }

    /// Lets the churn rest, or go on.
    pub fn rest(&self, resting: bool) {
        self.resting.store(resting, Ordering::Release);
        self.wake();
    }

    /// Whether one more operation of the churn may be done; while it rests, this waits.
    pub fn take_op(&self) -> bool {
        while self.resting.load(Ordering::Relaxed) && self.state.load(Ordering::Relaxed) == RUNNING
        {
            self.wait(REST_LOOK, || !self.resting.load(Ordering::Acquire));
        }
        if self.state.load(Ordering::Relaxed) != RUNNING {
            return false;
        }
        let ops = self.ops.fetch_add(1, Ordering::Relaxed);
        let in_time = || {
            let began = self.churn_began.get_or_init(Instant::now);
            self.budget.time.is_none_or(|time| began.elapsed() < time)
        };
        self.budget.ops.is_none_or(|most| ops < most)
            && (!ops.is_multiple_of(OPS_PER_CLOCK_LOOK) || in_time() || {
                self.end(Ended::Finished);
                false
            })
    }

    /// Wakes whoever is in [`Control::wait`].
    pub fn wake(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// Waits for `duration`, or until `done`; says whether it is done.
    pub fn wait(&self, duration: Duration, done: impl Fn() -> bool) -> bool {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(guard, duration, |()| !done());
        drop(waited);
        done()
    }

    /// Obeys the lines of `input` until it ends.
    pub fn obey(&self, input: impl BufRead) {
        for line in input.lines() {
            match line.as_deref().map(str::trim) {
                Ok("check") => self.ask_for_pass(),
                Ok("rest") => self.rest(true),
                Ok("resume") => self.rest(false),
                Ok("finish") => self.end(Ended::Finished),
                Ok("abort") | Err(_) => break,
                Ok("") => {}
                Ok(other) => {
                    eprintln!("'{other}' is no command: write check, rest, resume, finish or abort")
                }
            }
        }
        self.end(Ended::Aborted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_budget_is_kept_exactly() {
        let control = Control::new(Budget::ops(37));
        assert!(control.start_churn());
        let taken = (0..100).filter(|_| control.take_op()).count();
        assert_eq!(taken, 37);
    }

    #[test]
    fn time_budget_ends_the_churn() {
        let control = Control::new(Budget::time(Duration::from_millis(20)));
        assert!(control.start_churn());
        let began = Instant::now();
        while control.take_op() {}
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert!(!control.is_aborted());
    }

    #[test]
    fn churn_rests_until_it_is_resumed_or_ended() {
        let control = Control::new(Budget::until_told());
        control.rest(true);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| control.take_op());
            control.wait(Duration::from_millis(20), || false);
            assert!(!taken.is_finished());
            control.rest(false);
            assert!(taken.join().expect("no panic"));
        });
        control.rest(true);
        control.end(Ended::Finished);
        assert!(!control.take_op());
    }

    #[test]
    fn commands_are_obeyed_and_end_of_input_aborts() {
        let control = Control::new(Budget::until_told());
        assert!(control.take_op());
        control.end(Ended::Finished);
        assert!(!control.take_op() && !control.is_aborted());
        control.obey(&b"check\nfinish\nwhat\n"[..]);
        assert_eq!(control.passes(), 1);
        assert!(control.is_aborted());
    }
}
