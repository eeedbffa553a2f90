//! Whether a link's peer is alive, and whether the link moves: one rule for every network.

use std::time::Duration;

use dynamicswap_types::MonotonicTime;

/// An idle link is pinged after this time.
const PING_AFTER: Duration = Duration::from_millis(150);
/// With something under way and nothing heard for this time, the peer is dead. With [`PING_AFTER`] it
/// is noticed within a second even when idle.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(800);
/// A link that was heard of within this time moves. Half of the silence: what has come to a stop is
/// noticed by that at the latest.
const MOVES_WITHIN: Duration = Duration::from_millis(400);

const _: () = assert!(PING_AFTER.as_millis() + SILENCE_MAX.as_millis() < 1000);

/// What is known of one link's peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    /// When the peer was last heard, or the link last began to wait for it.
    alive: MonotonicTime,
    /// When it was last heard since then.
    moved: Option<MonotonicTime>,
}

impl Liveness {
    /// Of a link that has not connected yet.
    pub(super) const NEW: Self = Self {
        alive: MonotonicTime::ZERO,
        moved: None,
    };

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

    /// When a peer that is waited for, and stays silent, is dead.
    pub(super) fn silent_at(&self) -> MonotonicTime {
        self.alive.after(SILENCE_MAX)
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

    #[test]
    fn waiting_begins_with_the_work_and_again_with_each_answer() {
        let mut liveness = Liveness::NEW;
        let began = MonotonicTime::from_nanos(1);
        let heard = began.after(Duration::from_secs(5));
        liveness.begins(began);
        assert_eq!(liveness.silent_at(), began.after(SILENCE_MAX));
        liveness.hears(heard);
        assert_eq!(liveness.silent_at(), heard.after(SILENCE_MAX));
        assert_eq!(liveness.ping_at(), heard.after(PING_AFTER));
    }
}
