//! The kept document's way to one daemon.
//!
//! Owns what is known of the daemon, and the one hand-over that may be under way. A daemon that
//! is slow or refuses holds up nothing else.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use dynamicswap_proto::control::v1::DesiredDocument;
use dynamicswap_proto::daemon::v1::{Report, report, request};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::daemon::{self, Known};
use crate::limits::TICK;

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// swapd: the node borrows.
    SwapDevice,
    /// The memory server: the node lends.
    MemoryServer,
}

/// The last time that a document was handed over.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    generation: u64,
    at: Instant,
}

/// One daemon; see the module.
#[derive(Debug)]
pub struct Courier {
    role: Role,
    socket: PathBuf,
    known: watch::Receiver<Known>,
    /// False once the follower has ended, which it does not do while it is wanted.
    follower_lives: bool,
    under_way: Option<JoinHandle<Result<()>>>,
    last: Option<Attempt>,
    refusal: Option<String>,
}

impl Courier {
    /// Starts to follow a daemon.
    #[must_use]
    pub fn start(role: Role, socket: PathBuf) -> Self {
        let (sender, known) = watch::channel(Known::Unknown);
        tokio::spawn(daemon::follow(socket.clone(), sender));
        Self {
            role,
            socket,
            known,
            follower_lives: true,
            under_way: None,
            last: None,
            refusal: None,
        }
    }

    /// Why the daemon has not taken the document, if it has said so.
    #[must_use]
    pub fn refusal(&self) -> Option<&String> {
        self.refusal.as_ref()
    }

    /// The daemon's last report.
    #[must_use]
    pub fn report(&self) -> Option<report::Kind> {
        match &*self.known.borrow() {
            Known::Report(report) => report.kind.clone(),
            Known::Unknown | Known::Gone(_) => None,
        }
    }

    /// Why there is no report; empty if there is one, or nobody has asked yet.
    #[must_use]
    pub fn error(&self) -> String {
        match &*self.known.borrow() {
            _ if !self.follower_lives => "the agent has stopped following it".to_owned(),
            Known::Gone(reason) => reason.clone(),
            Known::Unknown | Known::Report(_) => String::new(),
        }
    }

    /// Waits for news: another report, or the end of a hand-over. Cancelling loses nothing.
    pub async fn next(&mut self) {
        let Self {
            known, under_way, ..
        } = self;
        let outcome = async {
            match under_way {
                Some(task) => task.await.context("the hand-over has failed"),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = known.changed(), if self.follower_lives => {
                // A follower that is gone must not be asked again and again.
                self.follower_lives = changed.is_ok();
                if matches!(&*self.known.borrow(), Known::Gone(_)) {
                    self.last = None;
                    self.refusal = None;
                }
            }
            outcome = outcome => {
                self.under_way = None;
                self.note(outcome.and_then(|result| result));
            }
        }
    }

    fn note(&mut self, outcome: Result<()>) {
        let refusal = outcome.err().map(|error| {
            let socket = self.socket.display();
            format!("{socket}: {error:#}")
        });
        if let Some(sentence) = refusal.as_ref().filter(|_| self.refusal != refusal) {
            let generation = self.last.map(|last| last.generation);
            warn!(generation, "document refused: {sentence}");
        }
        self.refusal = refusal;
    }

    /// Hands `document` over if the daemon has not taken it in its present life, and was not
    /// asked to a moment ago. Unless `may_attach`, one that would attach a device that is not
    /// attached yet is held back as a whole: nothing is on that device.
    pub fn offer(&mut self, document: &DesiredDocument, may_attach: bool) {
        if self.under_way.is_some() {
            return;
        }
        let wanted = match &*self.known.borrow() {
            Known::Report(report) => self.role.wanted(document, report, may_attach),
            Known::Unknown | Known::Gone(_) => None,
        };
        let Some((kind, generation)) = wanted else {
            return;
        };
        let now = Instant::now();
        let recent = |last: Attempt| last.generation == generation && now < last.at + TICK;
        if self.last.is_some_and(recent) {
            return;
        }
        info!(generation, "document goes to {}", self.socket.display());
        self.last = Some(Attempt {
            generation,
            at: now,
        });
        let socket = self.socket.clone();
        self.under_way = Some(tokio::spawn(async move {
            daemon::hand_over(&socket, kind).await
        }));
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        if let Some(task) = &self.under_way {
            task.abort();
        }
    }
}

impl Role {
    /// The daemon's part of the document with its generation, if it is newer than what the daemon
    /// has and meant for its present life.
    fn wanted(
        self,
        document: &DesiredDocument,
        known: &Report,
        may_attach: bool,
    ) -> Option<(request::Kind, u64)> {
        match (self, known.kind.as_ref()?) {
            (Self::SwapDevice, report::Kind::SwapDevice(now)) => {
                let part = document.swap_device.as_ref()?;
                let held = part.attached && !now.attached && !may_attach;
                let wanted = now.generation < part.generation && now.device_id == part.device_id;
                let wanted = wanted && !held;
                let kind = || request::Kind::ApplySwapDevice(part.clone());
                wanted.then(|| (kind(), part.generation))
            }
            (Self::MemoryServer, report::Kind::MemoryServer(now)) => {
                let part = document.memory_server.as_ref()?;
                let wanted =
                    now.generation < part.generation && now.incarnation == part.incarnation;
                let kind = || request::Kind::ApplyMemoryServer(part.clone());
                wanted.then(|| (kind(), part.generation))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use dynamicswap_proto::common::v1::{
        MemoryServerDocument, MemoryServerReport, SwapDeviceDocument, SwapDeviceReport,
    };

    use super::*;

    fn document(generation: u64, life: u8) -> DesiredDocument {
        DesiredDocument {
            generation,
            swap_device: Some(SwapDeviceDocument {
                generation,
                device_id: vec![life; 16],
                ..SwapDeviceDocument::default()
            }),
            memory_server: Some(MemoryServerDocument {
                generation,
                incarnation: vec![life; 16],
                ..MemoryServerDocument::default()
            }),
            ..DesiredDocument::default()
        }
    }

    fn reports(generation: u64, life: u8) -> [(Role, Report); 2] {
        let report = |kind| Report {
            change: 1,
            kind: Some(kind),
        };
        let device = report::Kind::SwapDevice(SwapDeviceReport {
            generation,
            device_id: vec![life; 16],
            ..SwapDeviceReport::default()
        });
        let server = report::Kind::MemoryServer(MemoryServerReport {
            generation,
            incarnation: vec![life; 16],
            ..MemoryServerReport::default()
        });
        [
            (Role::SwapDevice, report(device)),
            (Role::MemoryServer, report(server)),
        ]
    }

    #[test]
    fn daemon_gets_a_newer_document_of_its_own_life_only() {
        for (role, report) in reports(4, 7) {
            let wanted = |generation, life| {
                let part = role.wanted(&document(generation, life), &report, true);
                part.map(|(_, generation)| generation)
            };
            assert_eq!(wanted(5, 7), Some(5));
            assert_eq!(wanted(4, 7), None, "it has it");
            assert_eq!(wanted(3, 7), None, "it has a newer one");
            assert_eq!(wanted(5, 8), None, "another life's");
        }
    }

    #[test]
    fn answer_of_the_other_daemon_gets_nothing() {
        let [(_, device), (_, server)] = reports(4, 7);
        let document = document(5, 7);
        assert!(Role::SwapDevice.wanted(&document, &server, true).is_none());
        let server = Role::MemoryServer;
        assert!(server.wanted(&document, &device, true).is_none());
    }

    #[test]
    fn device_is_not_attached_before_it_may_be_and_one_that_is_goes_on() {
        let [(role, mut report), _] = reports(4, 7);
        let mut document = document(5, 7);
        assert!(role.wanted(&document, &report, false).is_some());
        let part = document.swap_device.as_mut().expect("there");
        part.attached = true;
        assert!(role.wanted(&document, &report, false).is_none());
        assert!(role.wanted(&document, &report, true).is_some());
        let Some(report::Kind::SwapDevice(now)) = &mut report.kind else {
            panic!("of a device");
        };
        now.attached = true;
        assert!(role.wanted(&document, &report, false).is_some());
    }

    #[tokio::test]
    async fn follower_that_ended_is_told_once_and_never_spins() {
        let (sender, known) = watch::channel(Known::Unknown);
        let mut courier = Courier {
            role: Role::SwapDevice,
            socket: PathBuf::from("/nonexistent"),
            known,
            follower_lives: true,
            under_way: None,
            last: None,
            refusal: None,
        };
        drop(sender);
        courier.next().await;
        assert!(courier.error().contains("stopped following"));
        let again = tokio::time::timeout(TICK / 20, courier.next()).await;
        assert!(again.is_err(), "there is no more news");
    }
}
