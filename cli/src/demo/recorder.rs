//! What a demo sees while it runs: one place for workload, cluster and kernel figures.
//!
//! Owns the clock of the run and everything that the report is made of. Any thread adds to it;
//! the story reads the latest.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dynamicswap_workload::line::{End, Line, Phase as WorkloadPhase, Progress};

use crate::report::series::{ClusterSample, DeviceSample, PressureSample, Series, WorkloadSample};
use crate::report::{Digest, Event, Mark, Phase};
use crate::view::summary::Summary;

/// Cluster events that a report keeps.
const EVENTS_MAX: usize = 2000;

/// Shared by the story, the sampler and the reader of the workload's output.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    started_unix_ms: u64,
    seen: Mutex<Seen>,
}

/// Everything seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Samples.
    pub series: Series,
    /// Events of story and cluster.
    pub events: Vec<Event>,
    /// Stretches; the last one is open until another begins.
    pub phases: Vec<Phase>,
    /// The workload's last progress.
    pub progress: Progress,
    /// The cluster at the last look.
    pub summary: Summary,
    /// The process that owns the workload's memory.
    pub pid: Option<u32>,
    /// Passes over everything that are complete.
    pub passes: u32,
    /// The workload's result.
    pub end: Option<End>,
    /// Digests, in the order of their making.
    pub digests: Vec<(String, Digest)>,
    /// What the workload said of wrong pages.
    pub wrong: Vec<String>,
    /// Most pages on the device at one moment.
    pub pages_peak: u64,
    /// The device's front end.
    pub front_end: String,
    /// Ways to donors that were in use at any moment.
    pub transports: BTreeSet<String>,
    /// Engine processes that the holder has started so far.
    pub engine_starts: u32,
    /// The last event of the controller that is in `events`.
    pub events_after: u64,
}

impl Recorder {
    /// Starts the clock.
    #[must_use]
    pub fn new(donors: Vec<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = now.map_or(0, |now| now.as_millis());
        let seen = Seen {
            series: Series {
                donors,
                ..Series::default()
            },
            ..Seen::default()
        };
        Self {
            origin: Instant::now(),
            started_unix_ms: u64::try_from(started).unwrap_or(0),
            seen: Mutex::new(seen),
        }
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the clock started.
    #[must_use]
    pub fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// What has been seen.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of the story, now.
    pub fn event(&self, kind: &str, message: &str, mark: Mark) -> u64 {
        let t_ms = self.now_ms();
        self.seen().events.push(Event {
            t_ms,
            source: "demo".to_owned(),
            kind: kind.to_owned(),
            message: message.to_owned(),
            mark: Some(mark),
        });
        t_ms
    }

    /// Begins a stretch; the one before it ends.
    pub fn phase(&self, name: &str) {
        let now = self.now_ms();
        let mut seen = self.seen();
        if let Some(last) = seen.phases.last_mut() {
            if last.name == name {
                return;
            }
            last.to_ms = now;
        }
        seen.phases.push(Phase {
            name: name.to_owned(),
            from_ms: now,
            to_ms: now,
        });
    }

    /// Ends the last stretch.
    pub fn end_phases(&self) {
        let now = self.now_ms();
        if let Some(last) = self.seen().phases.last_mut() {
            last.to_ms = now;
        }
    }

    /// Takes a line of the workload's output.
    pub fn line(&self, line: Line) {
        if let Line::Phase { phase } = line {
            self.phase(phase_name(phase));
            return;
        }
        let t_ms = self.now_ms();
        let mut seen = self.seen();
        match line {
            Line::Start { pid, .. } => seen.pid = Some(pid),
            Line::Progress(progress) => {
                seen.series.workload.push(sample(t_ms, &progress));
                seen.progress = progress;
            }
            Line::Wrong { page, reason } => seen.wrong.push(format!("page {page}: {reason}")),
            Line::Checked { pass, .. } => seen.passes = pass,
            Line::Digest { when, digest, keys } => {
                let digest = Digest {
                    keys,
                    before: digest.clone(),
                    after: digest,
                };
                seen.digests.push((when, digest));
            }
            Line::End(end) => seen.end = Some(end),
            Line::Phase { .. } => {}
        }
    }

    /// Takes a look at the cluster.
    pub fn summary(&self, summary: Summary) {
        let t_ms = self.now_ms();
        let mut seen = self.seen();
        let held = seen.series.donors.iter().map(|d| summary.held_by(d));
        let held = held.collect();
        let memory = seen.series.donors.iter().map(|d| summary.memory_of(d));
        let sample = ClusterSample {
            t_ms,
            memory: memory.collect(),
            held,
            used: summary.used(),
            degraded: summary.degraded(),
        };
        seen.pages_peak = seen.pages_peak.max(summary.used() / 4096);
        // The device leaves the reports before the demo ends.
        if let Some(device) = summary.devices.first() {
            seen.front_end.clone_from(&device.front_end);
            seen.transports.extend(device.transports.iter().cloned());
        }
        let starts = summary.devices.iter().map(|device| device.engine_starts);
        seen.engine_starts = seen.engine_starts.max(starts.max().unwrap_or(0));
        seen.series.cluster.push(sample);
        for event in &summary.events {
            if event.sequence > seen.events_after && seen.events.len() < EVENTS_MAX {
                seen.events_after = event.sequence;
                let t_ms = event.unix_ms.saturating_sub(self.started_unix_ms);
                seen.events.push(Event {
                    t_ms,
                    source: event.node.clone(),
                    kind: event.kind.clone(),
                    message: event.message.clone(),
                    mark: None,
                });
            }
        }
        seen.summary = summary;
    }

    /// Takes the workload's pressure since the last sample.
    pub fn pressure(&self, some: f64, full: f64) {
        let t_ms = self.now_ms();
        let sample = PressureSample { t_ms, some, full };
        self.seen().series.pressure.push(sample);
    }

    /// Takes the block device's figures since the last sample.
    pub fn device(&self, sample: DeviceSample) {
        let t_ms = self.now_ms();
        let sample = DeviceSample { t_ms, ..sample };
        self.seen().series.device.push(sample);
    }
}

fn phase_name(phase: WorkloadPhase) -> &'static str {
    match phase {
        WorkloadPhase::Fill => "fill",
        WorkloadPhase::Churn => "load",
        WorkloadPhase::Check => "check all",
    }
}

fn sample(t_ms: u64, progress: &Progress) -> WorkloadSample {
    WorkloadSample {
        t_ms,
        ops_per_second: progress.ops_per_second,
        mb_per_second: progress.mb_per_second,
        swap_ins: progress.swap_ins,
        p50_us: progress.p50_us,
        p99_us: progress.p99_us,
        max_us: progress.max_us.max(progress.waiting_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::summary::tests::status;

    #[test]
    fn cluster_events_are_kept_once_and_in_the_run_s_time() {
        let recorder = Recorder::new(vec!["donor-1".to_owned()]);
        let mut summary = Summary::of(&status());
        summary.events[0].unix_ms = recorder.started_unix_ms() + 1500;
        recorder.summary(summary.clone());
        recorder.summary(summary);
        let seen = recorder.seen();
        assert_eq!(seen.events.len(), 1);
        assert_eq!((seen.events[0].t_ms, seen.events_after), (1500, 4));
        assert_eq!(seen.series.cluster[0].held, [200 * 4096]);
        assert_eq!(seen.pages_peak, 200);
    }

    #[test]
    fn device_is_remembered_when_it_is_gone() {
        let recorder = Recorder::new(Vec::new());
        recorder.summary(Summary::of(&status()));
        recorder.summary(Summary::default());
        let seen = recorder.seen();
        assert_eq!(seen.engine_starts, 2);
        assert_eq!(seen.front_end, "fuse-loop");
        assert!(seen.transports.iter().eq(["tcp"]), "{:?}", seen.transports);
    }

    #[test]
    fn phases_follow_each_other_and_repeated_ones_are_one() {
        let recorder = Recorder::new(Vec::new());
        let phase = |phase| recorder.line(Line::Phase { phase });
        phase(WorkloadPhase::Fill);
        phase(WorkloadPhase::Churn);
        phase(WorkloadPhase::Churn);
        recorder.end_phases();
        let names: Vec<String> = recorder
            .seen()
            .phases
            .iter()
            .map(|p| p.name.clone())
            .collect();
        assert_eq!(names, ["fill", "load"]);
    }

    #[test]
    fn access_that_still_waits_counts_as_the_longest() {
        let recorder = Recorder::new(Vec::new());
        recorder.line(Line::Progress(Progress {
            max_us: 5,
            waiting_us: 900,
            ..Progress::default()
        }));
        assert_eq!(recorder.seen().series.workload[0].max_us, 900);
    }
}
