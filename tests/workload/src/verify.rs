//! The `verify` workload: memory that is written, rewritten and read at random, each page checked.
//!
//! Owns the phases fill, churn and check and the workers that run them. Everything but the pages
//! themselves is locked in memory, so that it is the pages that swap.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamicswap_types::{Bytes, PAGE_SIZE};

use crate::control::{Control, Ended};
use crate::line::{End, Line, Phase, WRONG_LINES_MAX};
use crate::meter::{Meter, Totals};
use crate::page::{Page, RunId, Stamp, mix};
use crate::region::{HugePages, Region, lock_everything_so_far, major_faults_of_thread};

/// An access that is over sooner cannot have waited for a device, so nobody asks the kernel.
const SWAP_IN_FLOOR: Duration = Duration::from_micros(2);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Memory to own.
    pub size: Bytes,
    /// Workers; each owns an equal part of the pages.
    pub threads: usize,
    /// How many of a hundred accesses rewrite the page after its check.
    pub write_percent: u64,
    /// Whether huge pages are allowed.
    pub huge_pages: HugePages,
    /// Time between two progress lines.
    pub progress_every: Duration,
    /// Seed of the accesses and of the run id.
    pub seed: u64,
}

/// Runs the workload until `control` ends the churn, checks everything and tells the result.
/// Lines go to `output`.
///
/// # Errors
/// Memory that cannot be mapped, or an output that cannot be written to.
pub fn run(settings: &Settings, control: &Control, output: &mut dyn Write) -> io::Result<End> {
    let pages = Bytes::new(settings.size.get() / PAGE_SIZE.get()).as_usize();
    let stripe = pages.div_ceil(settings.threads.max(1)).max(1);
    // As many as there are stripes: five pages on four threads are three stripes.
    let threads = pages.div_ceil(stripe).max(1);
    let origin = Instant::now();
    let shared = Shared {
        run: RunId::new(mix(settings.seed)),
        pages: pages as u64,
        write_percent: settings.write_percent,
        control,
        meters: (0..threads).map(|_| Meter::new(origin)).collect(),
        phase: AtomicUsize::new(0),
        gate: Barrier::new(threads),
        finished: AtomicUsize::new(0),
        checked_last: AtomicU64::new(0),
        wrong_lines: Mutex::default(),
        parts_checked: AtomicUsize::new(0),
    };
    let mut versions = vec![0_u32; pages];
    // Before the region is mapped: what is mapped later stays swappable.
    if let Err(error) = lock_everything_so_far() {
        eprintln!("the workload's own tables are not locked in memory: {error}");
    }
    let mut region = Region::map(settings.size, settings.huge_pages)?;
    writeln_json(
        output,
        &Line::Start {
            workload: "verify".to_owned(),
            pages: pages as u64,
            bytes: pages as u64 * PAGE_SIZE.get(),
            pid: std::process::id(),
        },
    )?;
    std::thread::scope(|scope| {
        let parts = region.as_mut_slice().chunks_mut(stripe);
        for (number, (pages, versions)) in parts.zip(versions.chunks_mut(stripe)).enumerate() {
            let worker = Worker {
                shared: &shared,
                meter: &shared.meters[number],
                first: (number * stripe) as u64,
                pages,
                versions,
                random: mix(settings.seed ^ mix(number as u64 + 1)),
                major_faults: 0,
            };
            scope.spawn(move || worker.run());
        }
        report(&shared, settings.progress_every, origin, output)
    })
}

/// Prints progress until all workers are done.
fn report(
    shared: &Shared<'_>,
    every: Duration,
    origin: Instant,
    output: &mut dyn Write,
) -> io::Result<End> {
    let mut totals = Totals::new(&shared.meters, origin);
    let mut announced = None;
    let mut passes = 0;
    loop {
        let done = shared.control.wait(every, || {
            shared.finished.load(Ordering::Acquire) == shared.meters.len()
        });
        let phase = shared.phase();
        let wrote = (|| {
            if announced != Some(phase) {
                announced = Some(phase);
                writeln_json(output, &Line::Phase { phase })?;
            }
            for line in std::mem::take(&mut *shared.wrong_lines()) {
                writeln_json(output, &line)?;
            }
            while passes < shared.passes_done() {
                passes += 1;
                let pages = shared.pages;
                writeln_json(
                    output,
                    &Line::Checked {
                        pass: passes,
                        pages,
                    },
                )?;
            }
            writeln_json(output, &Line::Progress(totals.progress(phase)))
        })();
        if wrote.is_err() {
            // Nobody listens any more: the workers must not go on for nobody.
            shared.control.end(Ended::Aborted);
        }
        if done {
            wrote?;
            let end = totals.end(shared.checked_last.load(Ordering::Relaxed));
            writeln_json(output, &Line::End(end.clone()))?;
            return Ok(end);
        }
    }
}

fn writeln_json(output: &mut dyn Write, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    output.write_all(&text)?;
    output.flush()
}

/// What workers and reporter share.
struct Shared<'a> {
    run: RunId,
    pages: u64,
    write_percent: u64,
    control: &'a Control,
    meters: Vec<Meter>,
    phase: AtomicUsize,
    gate: Barrier,
    finished: AtomicUsize,
    checked_last: AtomicU64,
    wrong_lines: Mutex<Vec<Line>>,
    /// Parts of the memory that passes asked for by a command have checked.
    parts_checked: AtomicUsize,
}

impl Shared<'_> {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Fill,
            1 if self.passes_done() < self.control.passes() => Phase::Check,
            1 => Phase::Churn,
            _ => Phase::Check,
        }
    }

    /// Passes over everything, asked for by a command, that are complete.
    fn passes_done(&self) -> u32 {
        let parts = self.parts_checked.load(Ordering::Acquire);
        u32::try_from(parts / self.meters.len()).unwrap_or(u32::MAX)
    }

    fn wrong_lines(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.wrong_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread and its part of the pages.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    meter: &'a Meter,
    first: u64,
    pages: &'a mut [Page],
    versions: &'a mut [u32],
    random: u64,
    /// The thread's count when it was last asked for.
    major_faults: u64,
}

impl Worker<'_> {
    fn run(mut self) {
        for position in 0..self.pages.len() {
            if self.shared.control.is_aborted() {
                break;
            }
            self.access(position, Access::FirstWrite);
        }
        self.enter(1);
        if self.shared.control.start_churn() {
            self.churn();
        }
        self.enter(2);
        let checked = self.check_all();
        self.shared
            .checked_last
            .fetch_add(checked, Ordering::Relaxed);
        if self.shared.finished.fetch_add(1, Ordering::Release) + 1 == self.shared.meters.len() {
            self.shared.control.wake();
        }
    }

    /// Waits for the other workers, then all are in the next phase.
    fn enter(&self, phase: usize) {
        if self.shared.gate.wait().is_leader() {
            self.shared.phase.store(phase, Ordering::Relaxed);
        }
        self.shared.gate.wait();
    }

    /// Reads and checks every page; tells how many.
    fn check_all(&mut self) -> u64 {
        let mut checked = 0;
        for position in 0..self.pages.len() {
            if self.shared.control.is_aborted() {
                break;
            }
            self.access(position, Access::Read);
            checked += 1;
        }
        checked
    }

    fn churn(&mut self) {
        let mut passes = 0;
        while self.shared.control.take_op() {
            self.make_asked_passes(&mut passes);
            if self.pages.is_empty() {
                continue;
            }
            let position = usize::try_from(self.draw() % self.pages.len() as u64).unwrap_or(0);
            let write = self.draw() % 100 < self.shared.write_percent;
            let access = if write { Access::Rewrite } else { Access::Read };
            self.access(position, access);
        }
        // The other workers may have used the budget up before this one's first access.
        self.make_asked_passes(&mut passes);
    }

    /// Makes this worker's part of the passes that a command asked for and it still owes.
    fn make_asked_passes(&mut self, passes: &mut u32) {
        let control = self.shared.control;
        while *passes < control.passes() && !control.is_aborted() {
            *passes += 1;
            self.check_all();
            self.shared.parts_checked.fetch_add(1, Ordering::Release);
        }
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    fn access(&mut self, position: usize, access: Access) {
        let page = &mut self.pages[position];
        let began = self.meter.begin();
        black_box(page[0]);
        let touch = began.elapsed();
        let waited = touch >= SWAP_IN_FLOOR && {
            let before = std::mem::replace(&mut self.major_faults, major_faults_of_thread());
            self.major_faults > before
        };
        let mut stamp = Stamp {
            run: self.shared.run,
            index: self.first + position as u64,
            version: self.versions[position],
        };
        if access != Access::FirstWrite {
            let result = stamp.check(page);
            let wrong_before = self.meter.checked(result.is_ok());
            if let Err(reason) = result
                && wrong_before < WRONG_LINES_MAX
            {
                self.shared.wrong_lines().push(Line::Wrong {
                    page: stamp.index,
                    reason: reason.to_string(),
                });
            }
        }
        if access != Access::Read {
            stamp.version = stamp.version.wrapping_add(1);
            stamp.fill(page);
            self.versions[position] = stamp.version;
        }
        self.meter.end(PAGE_SIZE.get(), waited.then_some(touch));
    }
}

/// What is done with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    FirstWrite,
    Read,
    Rewrite,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Budget;

    fn settings(pages: u64, threads: usize) -> Settings {
        Settings {
            size: Bytes::new(pages * 4096),
            threads,
            write_percent: 40,
            huge_pages: HugePages::Never,
            progress_every: Duration::from_millis(5),
            seed: 7,
        }
    }

    fn lines(output: &[u8]) -> Vec<Line> {
        let text = std::str::from_utf8(output).expect("text");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect()
    }

    #[test]
    fn every_page_is_checked_and_none_is_wrong() {
        let control = Control::new(Budget::ops(5000));
        let mut output = Vec::new();
        let end = run(&settings(301, 2), &control, &mut output).expect("runs");
        assert_eq!((end.pages_final, end.wrong_pages), (301, 0));
        assert_eq!(end.ops, 301 + 5000 + 301);
        let lines = lines(&output);
        assert!(matches!(lines[0], Line::Start { pages: 301, .. }));
        assert_eq!(lines.last(), Some(&Line::End(end)));
    }

    #[test]
    fn finish_ends_the_churn_and_still_checks_everything() {
        let control = Control::new(Budget::until_told());
        control.end(Ended::Finished);
        let end = run(&settings(64, 1), &control, &mut Vec::new()).expect("runs");
        assert_eq!((end.ops, end.pages_final), (128, 64));
    }

    #[test]
    fn asked_for_pass_checks_everything_and_the_churn_goes_on() {
        let control = Control::new(Budget::ops(1000));
        control.ask_for_pass();
        let mut output = Vec::new();
        let end = run(&settings(128, 2), &control, &mut output).expect("runs");
        assert_eq!((end.ops, end.wrong_pages), (128 + 1000 + 128 + 128, 0));
        let checked = Line::Checked {
            pass: 1,
            pages: 128,
        };
        assert!(lines(&output).contains(&checked));
    }

    #[test]
    fn abort_ends_everything_at_once() {
        let control = Control::new(Budget::until_told());
        control.end(Ended::Aborted);
        let end = run(&settings(64, 2), &control, &mut Vec::new()).expect("runs");
        assert_eq!((end.ops, end.pages_final), (0, 0));
    }

    #[test]
    fn fewer_pages_than_threads_still_run() {
        for (pages, threads) in [(1, 4), (5, 4), (7, 5)] {
            let control = Control::new(Budget::ops(10));
            let end = run(&settings(pages, threads), &control, &mut Vec::new()).expect("runs");
            assert_eq!((end.pages_final, end.wrong_pages), (pages, 0));
        }
    }
}
