//! Whether a link's peer is alive, and whether the link moves: one rule for every network.
//!
//! Only time in which this thread ran counts as silence: what a thread that was not scheduled has not
//! heard may well lie in its queues (Lifeguard's local health, Dadgar et al. 2017). A link that fell
//! silent lately gets more time, as [`Patience`] says: on a host whose processors are taken, each
//! connection that is made anew costs more than the wait.

use std::time::Duration;

use dynamicswap_engine::patience::Patience;
use dynamicswap_types::MonotonicTime;

/// An idle link is pinged after this time.
const PING_AFTER: Duration = Duration::from_millis(150);
/// With something under way and nothing heard for this time, the peer is dead. With [`PING_AFTER`] it
/// is noticed within a second even when idle. The patience with the link doubles it.
const SILENCE_MAX: Duration = Duration::from_millis(800);
/// A link that was heard of within this time moves. Half of the silence: what has come to a stop is
/// noticed by that at the latest.
const MOVES_WITHIN: Duration = Duration::from_millis(400);

/// While something is under way, the thread looks at least so often.
const LOOK_EVERY: Duration = PING_AFTER;

const _: () = assert!(PING_AFTER.as_millis() + SILENCE_MAX.as_millis() < 1000);

/// What is known of one link's peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    /// When the peer was last heard, or the link last began to wait for it.
    alive: MonotonicTime,
    /// When it was last heard since then.
    moved: Option<MonotonicTime>,
    /// When this thread last looked.
    looked: MonotonicTime,
    patience: Patience,
}

impl Liveness {
    /// Of a link that has not connected yet.
    pub(super) const NEW: Self = Self {
        alive: MonotonicTime::ZERO,
        moved: None,
        looked: MonotonicTime::ZERO,
        patience: Patience::NEW,
    };

    /// The thread looks at the link. Time in which it should have, and did not, is nobody's silence.
    pub(super) fn looks(&mut self, now: MonotonicTime) {
        let since = now.since(self.looked);
        self.looked = now;
        // Twice the time: a timer that is a little late is none.
        if since > LOOK_EVERY * 2 {
            let missed = since.saturating_sub(LOOK_EVERY);
            self.alive = now.min(self.alive.after(missed));
            self.moved = self.moved.map(|at| now.min(at.after(missed)));
        }
    }

    /// The link was given up because the peer was silent.
    pub(super) fn was_silent(&mut self, now: MonotonicTime) {
        self.patience.overdue(now);
    }

    /// The link was idle, and now something is under way.
    pub(super) const fn begins(&mut self, now: MonotonicTime) {
        self.alive = now;
        self.moved = None;
    }

    /// The peer has done something: an answer, a completion.
    pub(super) const fn hears(&mut self, now: MonotonicTime) {
        self.alive = now;
        self.moved = Some(now);
    }

    /// Whether what is under way goes on: such a link is slow, and not dead.
    pub(super) fn moves(&self, now: MonotonicTime) -> bool {
        self.moved.is_some_and(|at| now < at.after(MOVES_WITHIN))
    }

    /// When a link that stays idle is to be pinged.
    pub(super) fn ping_at(&self) -> MonotonicTime {
        self.alive.after(PING_AFTER)
    }

    /// Whether a peer that is waited for has been silent for so long that it is dead.
    pub(super) fn is_silent(&self, now: MonotonicTime) -> bool {
        self.silent_at() <= now
    }

    /// When to look at a peer that is waited for.
    pub(super) fn look_at(&self) -> MonotonicTime {
        self.silent_at().min(self.looked.after(LOOK_EVERY))
    }

    /// How long the peer may be silent now.
    pub(super) fn silence_max(&self) -> Duration {
        SILENCE_MAX * (1 << self.patience.doublings(self.looked))
    }

    fn silent_at(&self) -> MonotonicTime {
        self.alive.after(self.silence_max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_moves_while_it_is_heard_of_and_not_for_what_came_before_it_was_idle() {
        let mut liveness = Liveness::NEW;
        let now = MonotonicTime::from_nanos(1);
        liveness.begins(now);
        assert!(!liveness.moves(now), "nothing was heard yet");
        liveness.hears(now);
        assert!(liveness.moves(now));
        assert!(!liveness.moves(now.after(MOVES_WITHIN)));
        liveness.begins(now);
        assert!(!liveness.moves(now), "that was the work before");
    }

    /// Looks as often as a thread does that is scheduled.
    fn look_until(liveness: &mut Liveness, from: MonotonicTime, to: MonotonicTime) {
        let mut now = from;
        while now < to {
            liveness.looks(now);
            now = now.after(LOOK_EVERY);
        }
        liveness.looks(to);
    }

    #[test]
    fn waiting_begins_with_the_work_and_again_with_each_answer() {
        let mut liveness = Liveness::NEW;
        let began = MonotonicTime::from_nanos(1);
        let heard = began.after(SILENCE_MAX / 2);
        liveness.looks(began);
        liveness.begins(began);
        assert_eq!(liveness.silent_at(), began.after(SILENCE_MAX));
        look_until(&mut liveness, began, heard);
        liveness.hears(heard);
        assert_eq!(liveness.ping_at(), heard.after(PING_AFTER));
        let silent = heard.after(SILENCE_MAX);
        look_until(&mut liveness, heard, silent);
        assert!(!liveness.is_silent(heard.after(SILENCE_MAX - Duration::from_nanos(1))));
        assert!(liveness.is_silent(silent));
    }

    #[test]
    fn time_in_which_the_thread_did_not_run_is_no_silence() {
        let mut liveness = Liveness::NEW;
        let began = MonotonicTime::from_nanos(1);
        liveness.looks(began);
        liveness.begins(began);
        // Stopped for an hour, say.
        let woken = began.after(Duration::from_secs(3_600));
        liveness.looks(woken);
        assert!(!liveness.is_silent(woken));
        let silent = woken.after(SILENCE_MAX);
        look_until(&mut liveness, woken, silent);
        assert!(liveness.is_silent(silent), "now it had its time");
    }

    #[test]
    fn thread_looks_often_while_it_waits() {
        let mut liveness = Liveness::NEW;
        let began = MonotonicTime::from_nanos(1);
        liveness.looks(began);
        liveness.begins(began);
        assert_eq!(liveness.look_at(), began.after(LOOK_EVERY));
        look_until(
            &mut liveness,
            began,
            began.after(SILENCE_MAX - LOOK_EVERY / 2),
        );
        assert_eq!(liveness.look_at(), began.after(SILENCE_MAX));
    }

    #[test]
    fn link_that_fell_silent_lately_gets_more_time_and_loses_it_again() {
        let mut liveness = Liveness::NEW;
        let fell = MonotonicTime::from_nanos(1);
        liveness.looks(fell);
        liveness.was_silent(fell);
        liveness.begins(fell);
        assert_eq!(liveness.silent_at(), fell.after(SILENCE_MAX * 2));
        let calm = fell.after(Duration::from_secs(60));
        look_until(&mut liveness, fell, calm);
        liveness.hears(calm);
        assert_eq!(liveness.silent_at(), calm.after(SILENCE_MAX));
    }
}
