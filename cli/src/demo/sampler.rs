//! The thread that looks at cluster and kernel while the demo runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::recorder::Recorder;
use crate::client::Client;
use crate::report::series::DeviceSample;
use crate::view::summary::Summary;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// The thread; it ends with the value.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Sampler {
    /// Starts to look at the cluster behind `controller` and at the container whose PSI is in
    /// `unified_cgroup`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        controller: &str,
        unified_cgroup: PathBuf,
        recorder: Arc<Recorder>,
    ) -> Result<Self> {
        let mut client = Client::new(controller)?;
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new()
                .name("sampler".to_owned())
                .spawn(move || {
                    let mut pressure = Pressure::default();
                    let mut block = Block::default();
                    while !seen.stopped.load(Ordering::Acquire) {
                        look(&mut client, &recorder, &mut block);
                        if let Some((some, full)) = pressure.look(&unified_cgroup) {
                            recorder.pressure(some, full);
                        }
                        let guard = seen.lock.lock().unwrap_or_else(PoisonError::into_inner);
                        let stopped = |()| !seen.stopped.load(Ordering::Acquire);
                        let waited =
                            seen.changed
                                .wait_timeout_while(guard, LOOK_EVERY, |_: &mut ()| stopped(()));
                        drop(waited);
                    }
                })
                .context("cannot start the sampler")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        {
            let _guard = self
                .stop
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.stop.stopped.store(true, Ordering::Release);
        }
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A sampler that panicked has told so itself; the demo goes on without samples.
            let _panicked = thread.join();
        }
    }
}

/// One look at the cluster and its device; a controller that does not answer is looked at again.
fn look(client: &mut Client, recorder: &Recorder, block: &mut Block) {
    let after = recorder.seen().events_after;
    let Ok(status) = client.status(after) else {
        return;
    };
    let summary = Summary::of(&status);
    let device = summary.devices.first().map(|device| device.path.clone());
    recorder.summary(summary);
    if let Some(name) = device
        .as_deref()
        .and_then(|path| path.strip_prefix("/dev/"))
    {
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap_or_default();
        if let Some(sample) = block.look(&stat) {
            recorder.device(sample);
        }
    }
}

/// PSI totals at the last look.
#[derive(Debug, Default)]
struct Pressure {
    last: Option<(Instant, u64, u64)>,
}

impl Pressure {
    fn look(&mut self, cgroup: &Path) -> Option<(f64, f64)> {
        let text = fs::read_to_string(cgroup.join("memory.pressure")).ok()?;
        let (some, full) = totals(&text)?;
        let now = Instant::now();
        let (then, some_then, full_then) = self.last.replace((now, some, full))?;
        let elapsed = now.duration_since(then).as_secs_f64().max(1e-3) * 1e6;
        let share =
            |now: u64, then: u64| (float(now.saturating_sub(then)) / elapsed * 100.0).min(100.0);
        Some((share(some, some_then), share(full, full_then)))
    }
}

/// Microseconds of stall, some and full, from the text of a pressure file.
fn totals(text: &str) -> Option<(u64, u64)> {
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.trim().parse().ok()
    };
    Some((total("some")?, total("full")?))
}

/// Figures of a block device at the last look.
#[derive(Debug, Default)]
struct Block {
    last: Option<[u64; 4]>,
}

impl Block {
    /// What happened since the last look, from the text of the device's stat file.
    fn look(&mut self, stat: &str) -> Option<DeviceSample> {
        let fields: Vec<u64> = stat
            .split_whitespace()
            .map_while(|f| f.parse().ok())
            .collect();
        // Reads, milliseconds of reads, writes, milliseconds of writes.
        let now = [
            *fields.first()?,
            *fields.get(3)?,
            *fields.get(4)?,
            *fields.get(7)?,
        ];
        let then = self.last.replace(now)?;
        let grown = |at: usize| now[at].saturating_sub(then[at]);
        let mean = |millis: u64, requests: u64| {
            if requests == 0 {
                0.0
            } else {
                float(millis) * 1000.0 / float(requests)
            }
        };
        Some(DeviceSample {
            t_ms: 0,
            read_us: mean(grown(1), grown(0)),
            write_us: mean(grown(3), grown(2)),
            reads: grown(0),
            writes: grown(2),
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures of a plot, far below 2^52"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_totals_are_read() {
        let text = "some avg10=1.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=56\n";
        assert_eq!(totals(text), Some((1234, 56)));
        assert_eq!(totals("some avg10=1.00\n"), None);
    }

    #[test]
    fn block_figures_are_since_the_last_look() {
        let mut block = Block::default();
        assert_eq!(block.look("10 0 80 5 20 0 160 10 0 9 9"), None);
        let sample = block
            .look("30 0 80 25 20 0 160 10 0 9 9")
            .expect("two looks");
        assert!((sample.read_us - 1000.0).abs() < 1e-9);
        assert_eq!((sample.reads, sample.writes), (20, 0));
        assert!(sample.write_us.abs() < 1e-9);
    }
}
