//! Latencies of requests, from the kernel's hand-over to the answer, over the engine's life.

use std::sync::{Mutex, PoisonError};

use dynamicswap_proto::common::v1::LatencyReport;

use crate::daemon::clock::monotonic_now;
use crate::daemon::histogram::{Histogram, Recent};
use crate::front_end::Done;
use crate::front_end::in_flight::DoneKind;

/// One histogram for each kind that people ask about.
#[derive(Debug)]
pub struct Latencies {
    /// Reads.
    pub read: Histogram,
    /// Writes.
    pub write: Histogram,
    /// Of the threads that report alone.
    recent_reads: Mutex<Recent>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            read: Histogram::default(),
            write: Histogram::default(),
            recent_reads: Mutex::new(Recent::new(monotonic_now())),
        }
    }
}

impl Latencies {
    /// Reads of the last 10 to 20 s.
    #[must_use]
    pub fn recent_reads(&self) -> LatencyReport {
        let mut recent = self
            .recent_reads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        recent.report(&self.read, monotonic_now())
    }

    /// Counts an ended request.
    pub fn record(&self, done: &Done) {
        match done.kind {
            DoneKind::Read => self.read.record(done.latency),
            DoneKind::Write => self.write.record(done.latency),
            DoneKind::Discard | DoneKind::Flush => {}
        }
    }
}
