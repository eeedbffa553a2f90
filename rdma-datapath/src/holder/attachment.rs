//! When the block device is attached and detached: pure decisions, with time as an argument.

use std::time::Duration;

use dynamicswap_engine::tables::AttachState;
use dynamicswap_types::MonotonicTime;

/// Delays before a failed attach or detach is tried again.
const DELAYS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// What to start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A helper that attaches.
    Attach,
    /// A helper that detaches.
    Detach,
}

/// The block device's life. At most one helper is at work.
#[derive(Debug)]
pub struct Attachment {
    state: AttachState,
    number: Option<u32>,
    failures: usize,
    not_before: MonotonicTime,
}

impl Attachment {
    /// A device in a known state.
    #[must_use]
    pub fn new(state: AttachState, number: Option<u32>) -> Self {
        Self {
            state,
            number,
            failures: 0,
            not_before: MonotonicTime::ZERO,
        }
    }

    /// The state, and the block device's number if there is one.
    #[must_use]
    pub fn state(&self) -> (AttachState, Option<u32>) {
        (self.state, self.number)
    }

    /// What brings the state nearer to what is wanted, if anything; it then counts as started.
    pub fn next_job(&mut self, now: MonotonicTime, wanted: bool) -> Option<Job> {
        let job = match (self.state, wanted) {
            (AttachState::Detached, true) => Job::Attach,
            (AttachState::Attached, false) => Job::Detach,
            _ => return None,
        };
        if now < self.not_before {
            return None;
        }
        self.state = match job {
            Job::Attach => AttachState::Attaching,
            Job::Detach => AttachState::Detaching,
        };
        Some(job)
    }

    /// A wish of a person: the next try need not wait.
    pub fn hurry(&mut self) {
        self.not_before = MonotonicTime::ZERO;
    }

    /// The helper succeeded; an attach gives the block device's number.
    pub fn succeeded(&mut self, number: Option<u32>) {
        self.failures = 0;
        self.not_before = MonotonicTime::ZERO;
        (self.state, self.number) = match self.state {
            AttachState::Attaching => (AttachState::Attached, number),
            _ => (AttachState::Detached, None),
        };
    }

    /// The helper failed or died: the state is as before it, and the next try waits.
    pub fn failed(&mut self, now: MonotonicTime) {
        let delay = DELAYS[self.failures.min(DELAYS.len() - 1)];
        self.failures += 1;
        self.not_before = now.after(delay);
        self.state = match self.state {
            AttachState::Detaching => AttachState::Attached,
            _ => AttachState::Detached,
        };
    }

    /// Somebody else turned the swap area off; the block device went with it.
    pub fn lost(&mut self) {
        if self.state == AttachState::Attached {
            (self.state, self.number) = (AttachState::Detached, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(ms * 1_000_000)
    }

    fn detached() -> Attachment {
        Attachment::new(AttachState::Detached, None)
    }

    #[test]
    fn state_follows_the_wish_with_one_helper_at_a_time() {
        let mut device = detached();
        assert_eq!(device.next_job(at(0), false), None);
        assert_eq!(device.next_job(at(0), true), Some(Job::Attach));
        assert_eq!(device.next_job(at(0), true), None);
        assert_eq!(device.next_job(at(0), false), None, "the helper is at work");
        device.succeeded(Some(3));
        assert_eq!(device.state(), (AttachState::Attached, Some(3)));
        assert_eq!(device.next_job(at(0), false), Some(Job::Detach));
        device.succeeded(None);
        assert_eq!(device.state(), (AttachState::Detached, None));
    }

    #[test]
    fn failed_attach_is_tried_again_ever_later_and_at_once_when_asked() {
        let mut device = detached();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let began = now;
            while device.next_job(at(now), true).is_none() {
                now += 100;
            }
            waits.push(now - began);
            device.failed(at(now));
        }
        assert_eq!(waits, [0, 500, 1000, 2000, 5000, 10_000, 10_000]);
        device.hurry();
        assert_eq!(device.next_job(at(now), true), Some(Job::Attach));
    }

    #[test]
    fn failed_detach_leaves_the_device_attached_and_known() {
        let mut device = Attachment::new(AttachState::Attached, Some(5));
        assert_eq!(device.next_job(at(0), false), Some(Job::Detach));
        device.failed(at(0));
        assert_eq!(device.state(), (AttachState::Attached, Some(5)));
    }

    #[test]
    fn device_turned_off_by_others_counts_as_detached() {
        let mut device = Attachment::new(AttachState::Attached, Some(5));
        device.lost();
        assert_eq!(device.state(), (AttachState::Detached, None));
    }
}
