//! The control side of the engine process: documents in, reports out, events in words.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynamicswap_engine::tables::AttachState;
use dynamicswap_proto::common::v1::SwapDeviceDocument;
use dynamicswap_proto::daemon::v1::{KeptDocument, Report, report};
use dynamicswap_types::{Generation, SwapDeviceId};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::document::{self, Prepared};
use super::latencies::Latencies;
use super::mailbox::{Answer, Command, IoEvent, Outbox, Snapshot};
use super::memory::{Identity, SwapdMemory};
use super::paths::Paths;
use super::report::ReportParts;
use super::sentences::{self, Nodes};
use super::{kept, report as reports};
use crate::daemon::change::ChangeCounter;
use crate::daemon::control_server::{ControlHandler, Refusal};
use crate::daemon::events::EventLog;
use crate::daemon::protection::Protection;
use crate::front_end::choice::Choice;
use crate::holder::options::Backend;

/// The holder's words are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is said while the device is attached although no policy wants it.
pub const DETACH_WAITS: &str = "no policy wants the device: it stays until its pages have come home, as their owners touch them or end; stopping swapd brings them home at once, and then their owners need room";
/// Said while nobody would replace this engine.
pub const HOLDER_GONE: &str = "the holder of this engine has died: nobody replaces the engine now; start dynamicswap-swapd again with the same options, and it takes over";

/// What the control threads work with.
#[derive(Debug)]
pub struct Control {
    /// What the device is.
    pub identity: Identity,
    /// The memory file's words.
    pub memory: SwapdMemory,
    /// Where the document is kept.
    pub paths: Paths,
    /// Where page contents go.
    pub backend: Backend,
    /// What serves the device, and why.
    pub front_end: Choice,
    /// The way to the I/O thread.
    pub outbox: Outbox,
    /// Latencies.
    pub latencies: Arc<Latencies>,
    /// What the host permitted.
    pub protection: Protection,
    /// What it did not permit.
    pub warnings: Vec<String>,
    /// Counts changes of consequence.
    pub change: Arc<ChangeCounter>,
    /// What happened.
    pub events: EventLog,
    /// The document in force.
    pub taken: Mutex<KeptDocument>,
}

impl Control {
    fn taken(&self) -> MutexGuard<'_, KeptDocument> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happens, until the I/O thread ends. Runs on a thread of its own.
    pub fn tell_events(&self, events: &Receiver<IoEvent>) {
        let mut seen = self.holder_words();
        loop {
            match events.recv_timeout(LOOK_INTERVAL) {
                Ok(event) => {
                    let nodes = self.taken().server_nodes.clone();
                    let (kind, sentence) = sentences::of(event, Nodes(&nodes));
                    self.events.push(kind, sentence);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = self.holder_words();
            if now != seen {
                self.tell_holder_words(&seen, &now);
                seen = now;
            }
        }
    }

    /// Path of the block device; empty while there is none.
    #[must_use]
    pub fn device_path(&self, number: Option<u32>) -> String {
        let path = number.map(|number| self.front_end.kind.path(number));
        path.map_or_else(String::new, |path| path.display().to_string())
    }

    fn holder_words(&self) -> HolderWords {
        HolderWords {
            device: self.memory.device(),
            failure: self.memory.failure_version(),
            stopping: self.memory.is_stopping(),
            holder_gone: self.is_holder_gone(),
        }
    }

    /// Whether nobody watches this engine any more.
    #[must_use]
    pub fn is_holder_gone(&self) -> bool {
        let pid = self.memory.header().holder_pid.load(Ordering::Acquire);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
    }

    fn tell_holder_words(&self, before: &HolderWords, now: &HolderWords) {
        let device = self.device_path(now.device.1);
        match now.device.0 {
            state if state == before.device.0 => {}
            AttachState::Attached => {
                self.events
                    .push("Attached", format!("the kernel swaps to {device}"));
            }
            AttachState::Detached => {
                self.events
                    .push("Detached", "the device is no longer used as swap");
            }
            _ => self.change.bump(),
        }
        let failure = self.memory.failure();
        if now.failure != before.failure && !failure.is_empty() {
            self.events.push("DeviceFailed", failure);
        }
        if now.holder_gone && !before.holder_gone {
            self.events.push("HolderGone", HOLDER_GONE);
        }
        if now.stopping && !before.stopping {
            self.events.push(
                "Stopping",
                "swapd was asked to stop and detaches the device",
            );
        }
    }

    fn check_device(&self, message: &SwapDeviceDocument) -> Result<(), Refusal> {
        let device = SwapDeviceId::try_from(message.device_id.as_slice())
            .map_err(|error| invalid(format!("field 'device_id' is invalid: {error}")))?;
        let own = self.identity.device_id;
        if device != own {
            return Err(Refusal {
                code: "WrongDevice",
                reason: format!(
                    "the document is for device {device}, this is {own}: ask for a report and send a new document"
                ),
            });
        }
        let current = self.generation();
        if Generation::new(message.generation) < current {
            return Err(Refusal {
                code: "OldGeneration",
                reason: format!(
                    "generation {} is older than {current}, which is in force: send a newer one",
                    message.generation
                ),
            });
        }
        Ok(())
    }

    fn generation(&self) -> Generation {
        let taken = self.taken();
        let generation = taken.document.as_ref().map(|document| document.generation);
        Generation::new(generation.unwrap_or_default())
    }

    /// Keeps the document, hands it over, and takes it back where the engine refuses it.
    fn put_in_force(&self, message: SwapDeviceDocument) -> Result<Generation, Refusal> {
        let mut taken = self.taken();
        let prepared = document::prepare(&message, &taken.server_nodes)
            .map_err(|error| invalid(error.to_string()))?;
        let Prepared {
            document,
            endpoints,
            server_nodes,
            attached,
            copy_bandwidth,
        } = prepared;
        let generation = document.generation;
        let changed = taken.document.as_ref() != Some(&message);
        let next = KeptDocument {
            document: Some(message),
            server_nodes,
            fallback: fallback(&taken),
        };
        self.keep(&next)?;
        let applied = if self.backend == Backend::Local {
            Ok(())
        } else {
            self.hand_over(Command::Apply(
                Box::new(document),
                endpoints,
                copy_bandwidth,
            ))
        };
        if let Err(refusal) = applied {
            self.keep(&taken)?;
            return Err(refusal);
        }
        let wanted = &self.memory.header().desired_attached;
        wanted.store(u32::from(attached), Ordering::Release);
        *taken = next;
        drop(taken);
        if changed {
            self.change.bump();
        }
        Ok(generation)
    }

    fn keep(&self, document: &KeptDocument) -> Result<(), Refusal> {
        let path: &Path = &self.paths.document();
        kept::store(path, document).map_err(|error| Refusal {
            code: "NotKept",
            reason: format!("{error}: look at the host's memory, then send it again"),
        })
    }

    fn hand_over(&self, command: Command) -> Result<(), Refusal> {
        match self.outbox.ask(command) {
            Ok(Answer::Applied(result)) => result.map_err(invalid),
            Ok(Answer::Report(_)) => Err(invalid("the I/O thread answered something else")),
            Err(error) => Err(Refusal {
                code: "Busy",
                reason: error.to_string(),
            }),
        }
    }

    fn snapshot(&self, servers: usize) -> Snapshot {
        let mut empty = Box::<Snapshot>::default();
        empty.servers.reserve(servers);
        empty.ways.reserve(servers);
        empty.sets.reserve(self.memory.geometry().sets as usize);
        match self.outbox.ask(Command::Report(empty, servers)) {
            Ok(Answer::Report(snapshot)) => *snapshot,
            Ok(Answer::Applied(_)) => Snapshot::default(),
            Err(error) => {
                tracing::warn!("a report without the I/O thread's part: {error}");
                Snapshot::default()
            }
        }
    }
}

impl ControlHandler for Control {
    fn apply_swap_device(&self, message: SwapDeviceDocument) -> Result<Generation, Refusal> {
        self.check_device(&message)?;
        self.put_in_force(message)
    }

    fn report(&self) -> Report {
        let nodes = self.taken().server_nodes.clone();
        let snapshot = self.snapshot(nodes.len());
        let report = reports::build(&ReportParts {
            control: self,
            nodes: Nodes(&nodes),
            snapshot: &snapshot,
        });
        Report {
            change: 0,
            kind: Some(report::Kind::SwapDevice(report)),
        }
    }

    fn change(&self) -> &ChangeCounter {
        &self.change
    }
}

/// What the holder says in the memory file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HolderWords {
    device: (AttachState, Option<u32>),
    failure: u64,
    stopping: bool,
    holder_gone: bool,
}

/// What the next engine falls back to, should this one die before it has refused a document.
fn fallback(taken: &KeptDocument) -> Option<Box<KeptDocument>> {
    taken.document.is_some().then(|| {
        Box::new(KeptDocument {
            fallback: None,
            ..taken.clone()
        })
    })
}

fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal {
        code: "InvalidDocument",
        reason: format!("{}: correct the document and send it again", reason.into()),
    }
}
