//! What a plan is made from: the ledger, what the nodes say, what the policies want, the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_types::{
    Bytes, Durability, Generation, IncarnationId, Integrity, MonotonicTime, NodeName, SetId,
    SlotIndex, Spill, SwapDeviceId,
};

use crate::ledger::{DeviceRecord, Ledger};

/// Everything that a plan depends on. All rules of one plan judge the same view.
#[derive(Debug, Clone, Copy)]
pub struct ClusterView<'a> {
    /// What is on record.
    pub ledger: &'a Ledger,
    /// What each node last said.
    pub nodes: &'a BTreeMap<NodeName, NodeObservation>,
    /// What the policies want; absent while there is none.
    pub intent: Option<&'a DeviceIntent>,
    /// Settings.
    pub settings: Settings,
    /// When sets were last moved for the balance. See [`crate::stamp_rebalanced`].
    pub rebalanced: &'a BTreeMap<SetId, MonotonicTime>,
    /// The time.
    pub now: MonotonicTime,
    /// Seed for sampling.
    pub seed: u64,
}

/// What an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Time from the loss of a donor to the replacement of its copies.
    pub replace_after: Duration,
    /// Version of the session's protocol that a donor must speak.
    pub protocol: u32,
    /// Whether donors that are unevenly full are evened out.
    pub rebalance: Rebalance,
}

/// Whether copies move from fuller donors to emptier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rebalance {
    /// Never.
    Off,
    /// When the donors leave the dead band.
    #[default]
    Auto,
    /// Now, to the middle of the dead band.
    Now,
}

/// What the policies together want of every swap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceIntent {
    /// The strictest class of all policies.
    pub class: Durability,
    /// Whether any policy is in force, so that devices shall be attached.
    pub attach: bool,
    /// The strictest integrity of the policies in force: a device that has less is not attached.
    pub integrity: Integrity,
    /// How long a write waits for a repair.
    pub write_hold: Duration,
    /// How long a read waits for a copy.
    pub read_stall: Duration,
    /// How long an empty slab keeps its set.
    pub empty_slab_hold: Duration,
    /// Bytes a second that a device's copies may move; absent for as fast as it goes.
    pub copy_bandwidth: Option<Bytes>,
    /// The policies themselves, for the agents.
    pub policies: Vec<String>,
}

impl DeviceIntent {
    /// Whether this device shall be attached.
    #[must_use]
    pub fn attaches(&self, device: &DeviceRecord) -> bool {
        self.attach && device.lacks(self.integrity).is_none()
    }
}

/// An agent's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Not heard of since the controller's own start.
    Never {
        /// That start.
        since: MonotonicTime,
    },
    /// Open.
    Open,
    /// Was open.
    Lost {
        /// Since when.
        since: MonotonicTime,
    },
}

/// What a node last said. Copies share what its servers said: a plan finds what is new by looking at
/// what is not shared with the plan before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObservation {
    /// Its session.
    pub session: Session,
    /// Version of the session's protocol that it speaks.
    pub protocol: u32,
    /// Its memory server, if it has reported.
    pub server: Option<Arc<ServerObservation>>,
    /// Since when its memory server does not answer.
    pub server_error_since: Option<MonotonicTime>,
    /// Its swap device, if it has reported.
    pub device: Option<Arc<DeviceObservation>>,
    /// Whether swapd does not answer.
    pub device_error: bool,
    /// Memory that it can lend in all, as its agent says; all of its slots if it says nothing.
    pub lendable: Option<Bytes>,
    /// By when slots that it wants back must be free; absent while it wants none. See
    /// [`crate::stamp_revokes`].
    pub revoke_by: Option<MonotonicTime>,
}

impl NodeObservation {
    /// A node that nothing is known of.
    #[must_use]
    pub const fn silent(since: MonotonicTime) -> Self {
        Self {
            session: Session::Never { since },
            protocol: 0,
            server: None,
            server_error_since: None,
            device: None,
            device_error: false,
            lendable: None,
            revoke_by: None,
        }
    }

    /// Its memory server says this. What it said before already stays shared with earlier views.
    pub fn take_server(&mut self, said: ServerObservation) {
        take(&mut self.server, said);
    }

    /// Its swap device says this. What it said before already stays shared with earlier views.
    pub fn take_device(&mut self, said: DeviceObservation) {
        take(&mut self.device, said);
    }

    /// What its swap device last said, if its session is open and swapd answers.
    pub(crate) fn heard(&self) -> Option<&Arc<DeviceObservation>> {
        let heard = self.session == Session::Open && !self.device_error;
        self.device.as_ref().filter(|_| heard)
    }
}

fn take<T: PartialEq>(kept: &mut Option<Arc<T>>, said: T) {
    if kept.as_deref() != Some(&said) {
        *kept = Some(Arc::new(said));
    }
}

/// What a memory server last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerObservation {
    /// The life of its memory.
    pub incarnation: IncarnationId,
    /// The last document that it took.
    pub generation: Generation,
    /// Granted slots with their owner.
    pub grants: BTreeMap<SlotIndex, (SwapDeviceId, SetId)>,
}

/// What a swap device last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceObservation {
    /// Its life.
    pub id: SwapDeviceId,
    /// The last document that it took.
    pub generation: Generation,
    /// Whether it has a spill file.
    pub spill: bool,
    /// Its links to memory servers.
    pub links: BTreeMap<NodeName, LinkObservation>,
    /// Its sets.
    pub sets: BTreeMap<SetId, SetObservation>,
}

impl DeviceObservation {
    /// Whether it can have this class: one that spills needs a spill file.
    #[must_use]
    pub fn can_have(&self, class: Durability) -> bool {
        class.spill == Spill::None || self.spill
    }
}

/// State of a link from a borrower to a memory server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Being opened.
    Connecting,
    /// Works.
    Up,
    /// Broken.
    Down,
    /// Answered with another memory.
    Lost,
    /// Refused this device.
    Refused,
}

/// A link as its borrower sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkObservation {
    /// Its state.
    pub state: LinkState,
    /// Whether it was up before in this controller's time.
    pub was_up: bool,
    /// Since when it does not work; absent while it does.
    pub not_up_since: Option<MonotonicTime>,
}

/// State of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaState {
    /// Whole.
    Live,
    /// Being made.
    Rebuilding,
    /// Not whole.
    Stale,
}

/// One copy as its borrower sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaObservation {
    /// The donor.
    pub node: NodeName,
    /// The slot there.
    pub slot: SlotIndex,
    /// Its state.
    pub state: ReplicaState,
}

/// A set as its borrower sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetObservation {
    /// Bound to a slab.
    pub bound: bool,
    /// Never used again.
    pub released: bool,
    /// How much its slab is read and written: thousandths of a page a second, decayed by time.
    pub heat: u64,
    /// Whether the spill file holds every page of its slab.
    pub on_disk: bool,
    /// Its copies.
    pub replicas: Vec<ReplicaObservation>,
}

impl<'a> ClusterView<'a> {
    /// What a device last said, if its borrower's session is open and swapd answers.
    #[must_use]
    pub fn device_heard(&self, id: SwapDeviceId) -> Option<&'a DeviceObservation> {
        let record = self.ledger.devices.get(&id)?;
        self.heard_of(id, record).map(|device| &**device)
    }

    /// The same, for who has the device's record at hand.
    pub(crate) fn heard_of(
        &self,
        id: SwapDeviceId,
        record: &DeviceRecord,
    ) -> Option<&'a Arc<DeviceObservation>> {
        let node = self.nodes.get(&record.node).filter(|_| !record.gone)?;
        node.heard().filter(|device| device.id == id)
    }

    /// What a memory server last said.
    #[must_use]
    pub fn server(&self, node: &NodeName) -> Option<&'a ServerObservation> {
        self.nodes.get(node)?.server.as_deref()
    }
}
