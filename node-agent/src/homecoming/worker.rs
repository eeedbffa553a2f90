//! The thread that brings pages home, and the agent's end of it.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dynamicswap_policy::ContainerName;
use dynamicswap_types::{Bytes, PAGE_SIZE};
use rustix::process::Pid;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::foreign::{Foreign, FrameFlags, MAPPED_PAGES_MAX, RUNS_MAX, Touch, Unreadable};
use super::pages::{Away, Batch, Run, batches, groups};
use super::processes;
use crate::limits::HOMECOMING_BATCH_PAGES;

/// What shall come home.
#[derive(Debug, Clone)]
pub struct Order {
    /// Whose pages.
    pub container: ContainerName,
    /// The cgroup with its processes.
    pub cgroup: PathBuf,
    /// So much of it at most.
    pub bytes: Bytes,
    /// Bytes a second at most.
    pub bandwidth: Bytes,
    /// Pages of a slab of the swap device, for the order.
    pub slab_pages: u64,
}

/// What became of an order.
#[derive(Debug)]
pub struct Outcome {
    /// Whose pages.
    pub container: ContainerName,
    /// What came home.
    pub brought: Bytes,
    /// What was found swapped out before, in private memory.
    pub found: Bytes,
    /// What was in RAM already and kept a place in swap, which is free now.
    pub freed: Bytes,
    /// Why not all of it, if something went wrong.
    pub error: Option<String>,
}

/// Whether what is under way shall end.
#[derive(Debug, Default)]
struct Stop {
    said: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self, said: bool) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
        self.changed.notify_all();
    }

    /// Waits for `time`, or until it is said; whether it is.
    fn within(&self, time: Duration) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(said, time, |said| !*said);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The agent's end; see the module. With it the thread ends.
#[derive(Debug)]
pub struct Homecoming {
    orders: Sender<Order>,
    outcomes: UnboundedReceiver<Outcome>,
    stop: Arc<Stop>,
    under_way: Option<ContainerName>,
}

impl Homecoming {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host's.
    pub fn start() -> anyhow::Result<Self> {
        let unreadable = Unreadable::new().context("cannot reserve a range of addresses")?;
        let (orders, ordered) = channel();
        let (done, outcomes) = unbounded_channel();
        let stop = Arc::new(Stop::default());
        let worker = Worker {
            orders: ordered,
            done,
            stop: Arc::clone(&stop),
            unreadable,
        };
        std::thread::Builder::new()
            .name("homecoming".to_owned())
            .spawn(move || worker.run())
            .context("cannot start the thread that brings pages home")?;
        Ok(Self {
            orders,
            outcomes,
            stop,
            under_way: None,
        })
    }

    /// Whose pages are coming home now.
    #[must_use]
    pub const fn under_way(&self) -> Option<&ContainerName> {
        self.under_way.as_ref()
    }

    /// Gives an order; to be called when none is under way.
    pub fn begin(&mut self, order: Order) {
        self.stop.set(false);
        self.under_way = Some(order.container.clone());
        if self.orders.send(order).is_err() {
            self.under_way = None;
        }
    }

    /// Ends what is under way after the batch in hand.
    pub fn stop(&self) {
        self.stop.set(true);
    }

    /// What became of the order under way. Cancelling loses nothing.
    pub async fn next(&mut self) -> Outcome {
        match self.outcomes.recv().await {
            Some(outcome) => {
                self.under_way = None;
                outcome
            }
            // The thread is gone, and with it all that could be told.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Homecoming {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    orders: Receiver<Order>,
    done: UnboundedSender<Outcome>,
    stop: Arc<Stop>,
    unreadable: Unreadable,
}

impl Worker {
    fn run(&self) {
        while let Ok(order) = self.orders.recv() {
            let outcome = self.carry_out(&order);
            if self.done.send(outcome).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, order: &Order) -> Outcome {
        let mut outcome = Outcome {
            container: order.container.clone(),
            brought: Bytes::ZERO,
            found: Bytes::ZERO,
            freed: Bytes::ZERO,
            error: None,
        };
        if let Err(error) = self.bring(order, &mut outcome) {
            outcome.error = Some(format!("{error:#}"));
        }
        outcome
    }

    fn bring(&self, order: &Order, outcome: &mut Outcome) -> anyhow::Result<()> {
        let pids = match processes::of_cgroup(&order.cgroup) {
            Ok(pids) => pids,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => {
                let what = format!("cannot list the processes of {}", order.cgroup.display());
                return Err(error).context(what);
            }
        };
        let (mut held, mut away) = (Vec::new(), Vec::new());
        for pid in pids {
            let looked = Foreign::open(pid).and_then(|mut foreign| {
                processes::swapped_of(&mut foreign, held.len(), &mut away)?;
                Ok(foreign)
            });
            match unless_gone(looked, pid)? {
                Some(foreign) => held.push(foreign),
                // What it had was dropped with it.
                None => away.retain(|page| page.process < held.len()),
            }
        }
        outcome.found = pages(away.len() as u64);
        let handled = self.bring_all(order, &held, away)?;
        // What could not be mapped is still out, and counts with the next order.
        away = Vec::new();
        for (index, foreign) in held.iter_mut().enumerate() {
            match processes::swapped_of(foreign, index, &mut away) {
                Err(error) if !is_gone(&error) => return Err(error).context("cannot count anew"),
                Ok(()) | Err(_) => {}
            }
        }
        let left = pages(away.len() as u64);
        outcome.brought = outcome.found.saturating_sub(left).min(handled);
        if left == Bytes::ZERO {
            self.free_places(order, &held, outcome)?;
        }
        Ok(())
    }

    /// Brings batch after batch until it is enough; gives what it has handled.
    fn bring_all(&self, order: &Order, held: &[Foreign], away: Vec<Away>) -> anyhow::Result<Bytes> {
        let began = Instant::now();
        let mut handled = Bytes::ZERO;
        for batch in batches(away, order.slab_pages, HOMECOMING_BATCH_PAGES) {
            if handled >= order.bytes || self.stop.within(Duration::ZERO) {
                break;
            }
            let Some(foreign) = held.get(batch.process) else {
                continue;
            };
            let brought = self.bring_batch(foreign, &batch);
            if unless_gone(brought, foreign.pid())?.is_none() {
                continue;
            }
            handled = handled.saturating_add(pages(batch.pages()));
            let pause = time_for(handled, order.bandwidth).saturating_sub(began.elapsed());
            self.stop.within(pause);
        }
        Ok(handled)
    }

    /// Frees the places in swap of pages that are in RAM: the kernel keeps them until swap is half
    /// full, and the donors would get nothing back. Out and in again as if they were written to, no byte
    /// of them changes.
    fn free_places(
        &self,
        order: &Order,
        held: &[Foreign],
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        // Where the kernel does not show which they are, they stay.
        let Ok(flags) = FrameFlags::open() else {
            return Ok(());
        };
        let began = Instant::now();
        for foreign in held {
            // A page that another processor still has in hand keeps its place once more.
            for _ in 0..PLACE_PASSES_MAX {
                let freed = self.free_places_of(foreign, &flags, (order, began), outcome);
                if unless_gone(freed, foreign.pid())? != Some(true) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One pass over a process; whether there was anything, and nobody said stop.
    fn free_places_of(
        &self,
        foreign: &Foreign,
        flags: &FrameFlags,
        (order, began): (&Order, Instant),
        outcome: &mut Outcome,
    ) -> io::Result<bool> {
        let found = processes::with_place(foreign, flags)?;
        for groups in groups(&found, HOMECOMING_BATCH_PAGES).chunks(GROUPS_OUT_MAX) {
            if self.stop.within(Duration::ZERO) {
                return Ok(false);
            }
            for group in groups {
                foreign.page_out(group)?;
            }
            // One that is still being written would keep its place.
            self.stop.within(WRITTEN_AFTER);
            for group in groups {
                let batch = Batch {
                    process: 0,
                    own: group.clone(),
                    read_only: Vec::new(),
                };
                self.bring_batch(foreign, &batch)?;
                outcome.freed = outcome.freed.saturating_add(pages(batch.pages()));
            }
            let pause = time_for(outcome.freed, order.bandwidth).saturating_sub(began.elapsed());
            self.stop.within(pause);
        }
        Ok(!found.is_empty())
    }

    fn bring_batch(&self, foreign: &Foreign, batch: &Batch) -> io::Result<()> {
        let all: Vec<Run> = batch.own.iter().chain(&batch.read_only).copied().collect();
        for runs in all.chunks(RUNS_MAX) {
            foreign.load(runs)?;
        }
        let kinds = [(&batch.own, Touch::Write), (&batch.read_only, Touch::Read)];
        for (runs, touch) in kinds {
            for run in runs {
                foreign.map(*run, touch, &self.unreadable)?;
            }
        }
        Ok(())
    }
}

/// Groups of pages, of 1 MiB each, that are out together while their places are freed.
const GROUPS_OUT_MAX: usize = 8;
/// Time after which such pages are written, as a rule.
const WRITTEN_AFTER: Duration = Duration::from_millis(5);
/// Passes over a process's pages that have a place in swap.
const PLACE_PASSES_MAX: usize = 4;

const _: () = assert!(HOMECOMING_BATCH_PAGES <= MAPPED_PAGES_MAX);

const fn pages(count: u64) -> Bytes {
    Bytes::new(count * PAGE_SIZE.get())
}

/// Time that `bytes` take at `bandwidth` bytes a second.
fn time_for(bytes: Bytes, bandwidth: Bytes) -> Duration {
    let nanoseconds = u128::from(bytes.get()) * 1_000_000_000 / u128::from(bandwidth.get().max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// What was done with a process; none if it has ended meanwhile.
fn unless_gone<T>(done: io::Result<T>, pid: Pid) -> anyhow::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot bring the pages of process {} home: give the agent CAP_SYS_PTRACE and \
                 CAP_SYS_NICE, and on Kubernetes hostPID",
                pid.as_raw_nonzero()
            )
        }),
    }
}

/// Whether a process or a cgroup is simply no longer there.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_is_bytes_a_second() {
        let mib = Bytes::from_mib;
        assert_eq!(time_for(mib(64), mib(256)), Duration::from_millis(250));
        assert!(time_for(mib(1), Bytes::ZERO) > Duration::from_secs(1_000));
    }

    #[tokio::test]
    async fn cgroup_that_is_gone_has_nothing_to_bring() {
        let mut homecoming = Homecoming::start().expect("started");
        let container = ContainerName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        homecoming.begin(Order {
            container: container.clone(),
            cgroup: PathBuf::from("/nonexistent"),
            bytes: Bytes::from_mib(1),
            bandwidth: Bytes::from_mib(1),
            slab_pages: 1,
        });
        assert_eq!(homecoming.under_way(), Some(&container));
        let outcome = homecoming.next().await;
        assert_eq!((outcome.brought, outcome.error), (Bytes::ZERO, None));
        assert_eq!(homecoming.under_way(), None);
    }
}
