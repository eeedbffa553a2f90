//! The triggers in force: one watch for the node and for each container that can get worse.
//!
//! Owns their open files. Each watch is one small task; an event is taken from its task's end, so
//! that no queue can grow.

use std::collections::BTreeMap;
use std::path::Path;

use dynamicswap_policy::{ContainerName, Trigger};
use tokio::task::{AbortHandle, JoinSet};

use crate::cgroup::{Armed, CgroupError, Fired};

/// What a trigger guards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The node as a whole.
    Node,
    /// A container.
    Container(ContainerName),
}

/// What a watch has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The trigger has fired, and stays armed.
    Fired(Subject, Trigger),
    /// The cgroup is gone, and so is the watch.
    Gone(Subject),
}

/// The end of one wait.
struct Ended {
    subject: Subject,
    serial: u64,
    armed: Armed,
    fired: Fired,
}

#[derive(Debug)]
struct Watch {
    trigger: Trigger,
    /// Tells this watch from an earlier one of the same subject, whose end may still come.
    serial: u64,
    task: AbortHandle,
}

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    watches: BTreeMap<Subject, Watch>,
    waits: JoinSet<Ended>,
    serial: u64,
}

impl Watches {
    /// What guards a subject now.
    #[must_use]
    pub fn trigger(&self, subject: &Subject) -> Option<Trigger> {
        self.watches.get(subject).map(|watch| watch.trigger)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Makes `trigger` the one that guards `subject`; one that does already stays as it is.
    ///
    /// # Errors
    /// [`CgroupError`] if the kernel does not take it; nothing guards the subject then.
    pub fn set(
        &mut self,
        subject: &Subject,
        file: &Path,
        trigger: Trigger,
    ) -> Result<(), CgroupError> {
        if self.trigger(subject) == Some(trigger) {
            return Ok(());
        }
        self.remove(subject);
        let armed = Armed::arm(file, trigger)?;
        self.serial += 1;
        let serial = self.serial;
        let task = self.wait(subject.clone(), serial, armed);
        let watch = Watch {
            trigger,
            serial,
            task,
        };
        self.watches.insert(subject.clone(), watch);
        Ok(())
    }

    /// Disarms what guards `subject`.
    pub fn remove(&mut self, subject: &Subject) {
        if let Some(watch) = self.watches.remove(subject) {
            watch.task.abort();
        }
    }

    /// Disarms what guards a container that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&ContainerName) -> bool) {
        self.watches.retain(|subject, watch| {
            let stays = match subject {
                Subject::Node => true,
                Subject::Container(name) => keep(name),
            };
            if !stays {
                watch.task.abort();
            }
            stays
        });
    }

    /// The next event; never returns while there is no watch. Cancelling loses nothing.
    pub async fn next(&mut self) -> WatchEvent {
        loop {
            let Some(joined) = self.waits.join_next().await else {
                return std::future::pending().await;
            };
            // An aborted wait was removed on purpose.
            let Ok(ended) = joined else { continue };
            let current = self.watches.get_mut(&ended.subject);
            let Some(watch) = current.filter(|watch| watch.serial == ended.serial) else {
                continue;
            };
            let trigger = watch.trigger;
            match ended.fired {
                Fired::Reached => {
                    let task = self.wait(ended.subject.clone(), ended.serial, ended.armed);
                    if let Some(watch) = self.watches.get_mut(&ended.subject) {
                        watch.task = task;
                    }
                    return WatchEvent::Fired(ended.subject, trigger);
                }
                Fired::Gone => {
                    self.watches.remove(&ended.subject);
                    return WatchEvent::Gone(ended.subject);
                }
            }
        }
    }

    fn wait(&mut self, subject: Subject, serial: u64, armed: Armed) -> AbortHandle {
        self.waits.spawn(async move {
            let fired = armed.fired().await;
            Ended {
                subject,
                serial,
                armed,
                fired,
            }
        })
    }
}
