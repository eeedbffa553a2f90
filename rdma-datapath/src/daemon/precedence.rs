//! Precedence of an I/O thread over the work whose pages it serves.
//!
//! A page fault waits for the engine. As an ordinary thread the engine waits in turn for those that
//! compute meanwhile, by the weight of its own cgroup, which on Kubernetes is that of a small
//! request: on a node whose processors are taken, each page comes a scheduling round late. So while
//! the kernel says that the thread waits for a processor, it runs before all ordinary work; else it
//! is ordinary, because one that preempts at each completion costs a calm processor more than it
//! gains (measured: a third of a swap-in's median).
//!
//! One of the few files with unsafe code: a thread's scheduling class has no safe call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread::available_parallelism;
use std::time::Duration;

use dynamicswap_types::MonotonicTime;

/// Where the kernel counts for the calling thread: nanoseconds that it ran, nanoseconds that it
/// wanted to and waited, and turns.
const COUNTS: &str = "/proc/thread-self/schedstat";
/// Longest text of it: three numbers of 20 digits.
const COUNTS_BYTES_MAX: usize = 64;
/// The least of the real-time priorities: before ordinary work, behind whatever else is real-time.
const PRIORITY: i32 = 1;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Share of the time in which the thread wanted a processor: who waited for longer is in need.
const WAITED_PERCENT_MAX: u64 = 50;
/// Less than this within a look is no need: 5 % of the time.
const WAITED_MIN: Duration = Duration::from_millis(25);
/// How long the thread precedes before it is tried how it fares without.
const HOLD: Duration = Duration::from_secs(10);

/// What the kernel counted for a thread since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    ran: Duration,
    waited: Duration,
}

impl Counts {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok().map(Duration::from_nanos);
        Some(Self {
            ran: next()?,
            waited: next()?,
        })
    }

    /// Whether a thread waited for too long between two looks.
    fn is_need(self, before: Self) -> bool {
        let ran = self.ran.saturating_sub(before.ran);
        let waited = self.waited.saturating_sub(before.waited);
        let wanted = (ran + waited).as_nanos();
        waited >= WAITED_MIN && waited.as_nanos() * 100 > wanted * u128::from(WAITED_PERCENT_MAX)
    }
}

/// When to precede: pure.
#[derive(Debug, Default)]
struct Rule {
    last: Counts,
    until: Option<MonotonicTime>,
}

impl Rule {
    /// Whether to precede from now on. What is counted meanwhile says nothing of how it would be
    /// without, so the time is fixed.
    fn look(&mut self, counts: Counts, now: MonotonicTime) -> bool {
        let is_need = counts.is_need(self.last);
        self.last = counts;
        match self.until {
            Some(until) if now < until => {}
            Some(_) => self.until = None,
            None if is_need => self.until = Some(now.after(HOLD)),
            None => {}
        }
        self.until.is_some()
    }
}

/// The calling thread's precedence. Costs a small read every half a second.
#[derive(Debug)]
pub struct Precedence {
    /// None where the kernel does not count, or permits no other class.
    counts: Option<File>,
    rule: Rule,
    next_look: MonotonicTime,
    precedes: bool,
    one_processor: bool,
}

impl Precedence {
    /// For the thread that calls it, which is ordinary now. What the host does not permit is a
    /// sentence for the user.
    #[must_use]
    pub fn of_this_thread() -> (Self, Option<String>) {
        let permitted = set_precedes(true).and_then(|()| set_precedes(false));
        let (counts, refusal) = match permitted.and_then(|()| File::open(COUNTS)) {
            Ok(counts) => (Some(counts), None),
            Err(error) => (None, Some(refusal(&error))),
        };
        let precedence = Self {
            counts,
            rule: Rule::default(),
            next_look: MonotonicTime::ZERO,
            precedes: false,
            one_processor: available_parallelism().map_or(1, usize::from) == 1,
        };
        (precedence, refusal)
    }

    /// Looks how the thread fared, if it is time to.
    pub fn look(&mut self, now: MonotonicTime) {
        if now < self.next_look {
            return;
        }
        self.next_look = now.after(LOOK_EVERY);
        let Some(counts) = self.counts.as_ref().and_then(read) else {
            return;
        };
        let precedes = self.rule.look(counts, now);
        if precedes != self.precedes && set_precedes(precedes).is_ok() {
            self.precedes = precedes;
        }
    }

    /// Whether to sleep at once: on the only processor, a thread that precedes all others and spins
    /// keeps away the very work that it waits for.
    #[must_use]
    pub const fn must_sleep(&self) -> bool {
        self.precedes && self.one_processor
    }
}

fn read(counts: &File) -> Option<Counts> {
    let mut text = [0; COUNTS_BYTES_MAX];
    let length = counts.read_at(&mut text, 0).ok()?;
    Counts::parse(std::str::from_utf8(&text[..length]).ok()?)
}

fn refusal(error: &io::Error) -> String {
    format!(
        "the I/O thread cannot run before ordinary work ({error}): where processors are taken, page \
         faults wait longer; give it CAP_SYS_NICE"
    )
}

/// Has the calling thread run before all ordinary work, or be ordinary again. Threads and processes
/// that it starts are ordinary. The kernel keeps 5 % of each processor for ordinary work, whatever
/// happens (`kernel.sched_rt_runtime_us`).
fn set_precedes(precedes: bool) -> io::Result<()> {
    let (class, sched_priority) = if precedes {
        (libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, PRIORITY)
    } else {
        // Once set, only the privileged may clear the flag, and it does no harm.
        (libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0)
    };
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: the call reads the parameter, and changes this thread alone.
    let result = unsafe { libc::sched_setscheduler(0, class, &raw const parameter) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::ZERO.after(Duration::from_millis(millis))
    }

    fn counts(ran_ms: u32, waited_ms: u32) -> Counts {
        Counts {
            ran: MILLI * ran_ms,
            waited: MILLI * waited_ms,
        }
    }

    #[test]
    fn kernels_counts_are_read() {
        let read = Counts::parse("7000000 2000000 31\n");
        assert_eq!(read, Some(counts(7, 2)));
        for wrong in ["", "7", "7 x 1", "-7 2 1"] {
            assert_eq!(Counts::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn thread_that_waits_more_than_it_runs_precedes_for_a_time_and_is_tried_without() {
        let mut rule = Rule::default();
        assert!(!rule.look(counts(100, 90), at(500)), "it ran for longer");
        assert!(!rule.look(counts(100, 114), at(1_000)), "24 ms are nothing");
        assert!(rule.look(counts(150, 200), at(1_500)), "50 of 136 ms");
        for millis in (2_000..11_500).step_by(500) {
            assert!(rule.look(counts(400, 200), at(millis)), "{millis}");
        }
        assert!(!rule.look(counts(400, 200), at(11_500)));
        assert!(!rule.look(counts(500, 200), at(12_000)));
        assert!(rule.look(counts(500, 300), at(12_500)));
    }

    #[test]
    fn counts_that_jump_back_are_no_need() {
        let mut rule = Rule::default();
        assert!(rule.look(counts(0, 500), at(500)));
        let mut rule = Rule::default();
        assert!(!rule.look(counts(500, 400), at(500)));
        assert!(!rule.look(counts(0, 0), at(1_000)));
    }

    #[test]
    fn thread_precedes_and_the_threads_that_it_starts_do_not() {
        // SAFETY: the call reads the calling thread's own class.
        let class = || unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
        let seen = std::thread::spawn(move || {
            let permitted = set_precedes(true);
            let own = class();
            let heir = std::thread::spawn(class).join();
            (permitted, own, heir.expect("it reads a number"))
        });
        let (permitted, own, heir) = seen.join().expect("it only asks");
        assert_eq!(heir, libc::SCHED_OTHER);
        match permitted {
            Ok(()) => assert_eq!(own, libc::SCHED_RR),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
                assert_eq!(own, libc::SCHED_OTHER);
            }
        }
    }
}
