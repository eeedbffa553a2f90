//! What the I/O thread shows to the control thread: counters, a snapshot of the grants, events.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use dynamicswap_engine::slots::{Grant, MemoryServerCore, SessionRefusal};
use dynamicswap_engine::wire::WireError;
use dynamicswap_types::{Epoch, Generation, SlotIndex, SwapDeviceId};
use rustix::io::Errno;

use crate::daemon::change::ChangeCounter;

/// Counters since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Payload sent to borrowers.
    pub bytes_read: AtomicU64,
    /// Payload stored for borrowers.
    pub bytes_written: AtomicU64,
    /// Handshakes and operations of an outdated epoch.
    pub refused_epoch: AtomicU64,
    /// Operations on slots of somebody else.
    pub refused_owner: AtomicU64,
    /// RDMA operations with keys that the session does not have.
    pub refused_key: AtomicU64,
    /// Malformed handshakes and frames.
    pub refused_malformed: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU32,
    /// Events that were dropped because nobody took them.
    pub events_dropped: AtomicU64,
}

/// The slots, as they stood after the last change.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Of the last document taken.
    pub generation: Generation,
    /// Granted now.
    pub grants: Vec<Grant>,
    /// Zeroed and free.
    pub slots_ready: u32,
    /// Without memory.
    pub slots_given_back: u32,
}

impl Snapshot {
    /// Of the core as it is.
    #[must_use]
    pub fn of(core: &MemoryServerCore) -> Self {
        Self {
            generation: core.generation(),
            grants: core.grants().collect(),
            slots_ready: core.slots_ready(),
            slots_given_back: core.slots_given_back(),
        }
    }
}

/// Something that happened on the I/O thread; the event thread makes the sentence.
#[derive(Debug, Clone, Copy)]
pub enum ServerEvent {
    /// A borrower connected.
    SessionOpened {
        /// From where.
        peer: SocketAddr,
        /// Its device.
        device: SwapDeviceId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A borrower's connection ended.
    SessionClosed {
        /// From where.
        peer: SocketAddr,
        /// Its device.
        device: SwapDeviceId,
        /// Why.
        reason: CloseReason,
    },
    /// A handshake was refused.
    SessionRefused {
        /// From where.
        peer: SocketAddr,
        /// Why.
        refusal: SessionRefusal,
    },
    /// A handshake or frame was malformed.
    Malformed {
        /// From where.
        peer: SocketAddr,
        /// What is wrong.
        error: WireError,
    },
    /// No room for another connection.
    TooManyConnections {
        /// From where.
        peer: SocketAddr,
    },
    /// A slot could not be zeroed; it will not be granted again.
    ZeroingFailed {
        /// The slot.
        slot: SlotIndex,
        /// The host's answer.
        errno: Errno,
    },
    /// The host did not take a slot's memory.
    GivingBackFailed {
        /// The slot.
        slot: SlotIndex,
        /// The host's answer.
        errno: Errno,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The borrower closed it.
    ByPeer,
    /// A newer session took its place.
    Superseded,
    /// Nothing was heard for too long.
    Idle,
    /// A malformed frame.
    Malformed,
    /// A slot was taken back in the middle of an answer.
    SlotTakenBack,
    /// It used a key that it does not have.
    ForeignKey,
    /// The network.
    Network(Errno),
}

impl CloseReason {
    fn sentence(self) -> String {
        match self {
            Self::ByPeer => "the borrower closed it".to_owned(),
            Self::Superseded => "a newer session of the device took its place".to_owned(),
            Self::Idle => "nothing was heard for 30 seconds".to_owned(),
            Self::Malformed => "a frame was malformed".to_owned(),
            Self::SlotTakenBack => "its slot was taken back in the middle of an answer".to_owned(),
            Self::ForeignKey => "it used a key that is not its own, or was taken back".to_owned(),
            Self::Network(errno) => format!("network: {errno}"),
        }
    }
}

impl ServerEvent {
    /// Kind and sentence, for the event ring.
    #[must_use]
    pub fn tell(&self) -> (&'static str, String) {
        match self {
            Self::SessionOpened {
                peer,
                device,
                epoch,
            } => (
                "SessionOpened",
                format!("device {device} connected from {peer} with epoch {epoch}"),
            ),
            Self::SessionClosed {
                peer,
                device,
                reason,
            } => (
                "SessionClosed",
                format!(
                    "the connection of device {device} from {peer} ended: {}",
                    reason.sentence()
                ),
            ),
            Self::SessionRefused { peer, refusal } => (
                "SessionRefused",
                format!("a handshake from {peer} was refused: {refusal}"),
            ),
            Self::Malformed { peer, error } => (
                "Malformed",
                format!("{peer} sent something malformed and was disconnected: {error}"),
            ),
            Self::TooManyConnections { peer } => (
                "TooManyConnections",
                format!("a connection from {peer} was refused: raise --connections-max"),
            ),
            Self::ZeroingFailed { slot, errno } => (
                "ZeroingFailed",
                format!("slot {slot} could not be zeroed ({errno}) and stays out of use"),
            ),
            Self::GivingBackFailed { slot, errno } => (
                "GivingBackFailed",
                format!("the memory of slot {slot} could not be given back to the host ({errno})"),
            ),
        }
    }
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Shared {
    /// Counters.
    pub counters: Counters,
    /// Changes of consequence.
    pub change: Arc<ChangeCounter>,
    snapshot: Mutex<Snapshot>,
    events: SyncSender<ServerEvent>,
}

impl Shared {
    /// With a first snapshot; events go to `events`.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        change: Arc<ChangeCounter>,
        events: SyncSender<ServerEvent>,
    ) -> Self {
        Self {
            counters: Counters::default(),
            change,
            snapshot: Mutex::new(snapshot),
            events,
        }
    }

    /// The last snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.clone()
    }

    /// The slots have changed.
    pub fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.change.bump();
    }

    /// Tells of an event; drops it, counted, if too many wait.
    pub fn tell(&self, event: ServerEvent) {
        if self.events.try_send(event).is_err() {
            self.counters.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
