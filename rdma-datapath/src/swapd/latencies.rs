//! Latencies of requests, from the kernel's hand-over to the answer, over the engine's life.

use crate::daemon::histogram::Histogram;
use crate::front_end::Done;
use crate::front_end::in_flight::DoneKind;

/// One histogram for each kind that people ask about.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Reads.
    pub read: Histogram,
    /// Writes.
    pub write: Histogram,
}

impl Latencies {
    /// Counts an ended request.
    pub fn record(&self, done: &Done) {
        match done.kind {
            DoneKind::Read => self.read.record(done.latency),
            DoneKind::Write => self.write.record(done.latency),
            DoneKind::Discard | DoneKind::Flush => {}
        }
    }
}
