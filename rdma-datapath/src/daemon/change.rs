//! The change counter behind `ReportRequest.known_change`: a report that waits for news.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Counts changes of consequence and wakes those who wait for one. Bumped on events only, never
/// per request, so that its lock is not on the I/O path.
#[derive(Debug, Default)]
pub struct ChangeCounter {
    count: Mutex<u64>,
    changed: Condvar,
}

impl ChangeCounter {
    /// Something of consequence changed.
    pub fn bump(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        self.changed.notify_all();
    }

    /// The count now.
    #[must_use]
    pub fn current(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the count is above `known`, at most `wait`; gives the count then.
    #[must_use]
    pub fn wait_above(&self, known: u64, wait: Duration) -> u64 {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = self
            .changed
            .wait_timeout_while(count, wait, |count| *count <= known)
            .unwrap_or_else(PoisonError::into_inner);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn waiter_is_woken_by_a_change_and_not_before() {
        let counter = Arc::new(ChangeCounter::default());
        assert_eq!(counter.wait_above(0, Duration::from_millis(1)), 0);
        let waiter = std::thread::spawn({
            let counter = Arc::clone(&counter);
            move || counter.wait_above(0, Duration::from_secs(30))
        });
        counter.bump();
        assert_eq!(waiter.join().expect("no panic"), 1);
        assert_eq!(counter.wait_above(0, Duration::from_secs(30)), 1);
    }
}
