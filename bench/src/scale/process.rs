//! What a process costs: processor time, memory and wake-ups, out of /proc; and programs that end with
//! their measurement.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// A tick of /proc/PID/stat, the same on every Linux (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Time in which all becomes as it stays, and for which the cost is then measured.
const SETTLE: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(30);

/// What a process has used up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// In user and in system mode, all its threads.
    pub processor: Duration,
    /// Resident memory now, in KiB.
    pub resident_kib: u64,
    /// The most of it so far, in KiB.
    pub peak_kib: u64,
    /// Times that a thread which lives went to sleep by itself, and so times that one was woken up.
    pub wakes: u64,
}

impl Figures {
    /// Reads them.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |path: String| {
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has it ended?"))
        };
        let stat = read(format!("/proc/{pid}/stat"))?;
        let status = read(format!("/proc/{pid}/status"))?;
        let figure = |name: &str| {
            line(&status, name).with_context(|| format!("/proc/{pid}/status has no {name}"))
        };
        Ok(Self {
            processor: processor(&stat)
                .with_context(|| format!("/proc/{pid}/stat is not as proc(5) says"))?,
            resident_kib: figure("VmRSS")?,
            peak_kib: figure("VmHWM")?,
            wakes: wakes(pid),
        })
    }

    /// What a process to which nothing happens has used after a while: also percent of one core, and
    /// wake-ups a second.
    pub async fn at_rest(pid: u32) -> Result<(Self, f64, f64)> {
        tokio::time::sleep(SETTLE).await;
        let (began, before) = (Instant::now(), Self::of(pid)?);
        tokio::time::sleep(MEASURED).await;
        let (after, elapsed) = (Self::of(pid)?, began.elapsed());
        let percent = after.percent_since(&before, elapsed);
        Ok((after, percent, after.wakes_since(&before, elapsed)))
    }

    /// Resident memory now, in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.resident_kib as f64 / 1024.0
    }

    /// The most of it so far, in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }

    /// Percent of one core used since `before`, which is `elapsed` ago.
    pub fn percent_since(&self, before: &Self, elapsed: Duration) -> f64 {
        let used = self.processor.saturating_sub(before.processor);
        100.0 * used.as_secs_f64() / elapsed.as_secs_f64()
    }

    /// Wake-ups a second since then.
    pub fn wakes_since(&self, before: &Self, elapsed: Duration) -> f64 {
        self.wakes.saturating_sub(before.wakes) as f64 / elapsed.as_secs_f64()
    }
}

/// Of all its threads.
fn wakes(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .filter_map(|status| line(&status, "voluntary_ctxt_switches"))
        .sum()
}

/// The 14th and 15th field; the second, the program's name, may hold anything.
fn processor(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    let (user, system) = (next()?, next()?);
    Some(TICK * user.checked_add(system)?)
}

fn line(status: &str, name: &str) -> Option<u64> {
    let lines = &mut status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// A program that is killed at the end of its measurement.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts it with nothing to read; what it logs below a warning is dropped.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 99\n";
        assert_eq!(processor(stat), Some(Duration::from_secs(3)));
        assert_eq!(processor("7 (a) S 1 2"), None);
    }

    #[test]
    fn status_lines_are_told_apart_by_their_whole_name() {
        let status = "VmHWM:\t   2048 kB\nVmRSS:\t    512 kB\nnonvoluntary_ctxt_switches:\t9\n\
                      voluntary_ctxt_switches:\t7\n";
        assert_eq!(line(status, "VmRSS"), Some(512));
        assert_eq!(line(status, "VmHWM"), Some(2048));
        assert_eq!(line(status, "voluntary_ctxt_switches"), Some(7));
        assert_eq!(line(status, "Vm"), None);
    }

    #[test]
    fn shares_are_of_one_core_and_of_the_time_between() {
        let before = Figures::default();
        let after = Figures {
            processor: Duration::from_millis(300),
            wakes: 60,
            ..before
        };
        let elapsed = Duration::from_secs(30);
        assert!((after.percent_since(&before, elapsed) - 1.0).abs() < 1e-9);
        assert!((after.wakes_since(&before, elapsed) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = Figures::of(std::process::id()).expect("it runs");
        assert!(figures.resident_kib > 0 && figures.peak_kib >= figures.resident_kib);
    }
}
