//! The store: what must not be forgotten, behind one trait: in a file, or in Kubernetes.
//!
//! A commit is durable when it returns, and nothing is handed out before. One that fails leaves a
//! ledger that the planner can go on from.

mod embedded;
mod kubernetes;
mod record;

use std::sync::Arc;

use dynamicswap_crds::{ObjectKey, RemoteMemoryPolicy};
use dynamicswap_planner::{DeviceRecord, Ledger, Mark, NodeRecord, SetRecord};
use dynamicswap_types::{NodeName, SetId, SwapDeviceId, Term};
use thiserror::Error;

pub use embedded::EmbeddedStore;
pub use kubernetes::{KubernetesStore, highest_term, slab_map_spec};

use crate::kubernetes::ApiError;
use crate::policies::Policies;

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be used at all: the sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// What it holds makes no sense.
    #[error("the store's entry {entry} cannot be read: {reason}")]
    Corrupt {
        /// The entry.
        entry: String,
        /// Why.
        reason: String,
    },
    /// The disk, or the database on it.
    #[error("the store failed")]
    Io(#[source] redb::Error),
    /// The API server, or the way to it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Another controller leads: this one must not write.
    #[error("another controller leads now: this one stops writing")]
    Deposed,
}

impl StoreError {
    /// The API server is in trouble: it will go better later.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_trouble())
    }
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// Leadership of the last controller.
    pub term: Term,
    /// What is on record.
    pub ledger: Ledger,
    /// The policies.
    pub policies: Policies,
    /// Names of objects that lie among the records and are none.
    pub ignored: Vec<String>,
}

/// One entry that changes; `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The leadership.
    Term(Term),
    /// Id of the next set.
    NextSet(SetId),
    /// A node.
    Node(NodeName, Option<NodeRecord>),
    /// A device.
    Device(SwapDeviceId, Option<DeviceRecord>),
    /// A set.
    Set(SetId, Option<Arc<SetRecord>>),
    /// A policy.
    Policy(ObjectKey, Option<Box<RemoteMemoryPolicy>>),
}

/// Where the controller's state outlives it.
pub trait Store: Send {
    /// Everything that is kept.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    fn load(&mut self) -> Result<Kept, StoreError>;

    /// Keeps all of the changes; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`]; the next commit then brings the store to what it says.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Whether users write into `MemoryServer` objects what a donor shall take: then these have the last
    /// word, and nobody else is listened to.
    fn has_donor_objects(&self) -> bool {
        false
    }
}

/// What leads from one ledger to another.
#[must_use]
pub fn changes_between(before: &Ledger, after: &Ledger) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.next_set != after.next_set {
        changes.push(Change::NextSet(after.next_set));
    }
    differing(&before.nodes, &after.nodes, |node, record| {
        changes.push(Change::Node(node.clone(), record.cloned()));
    });
    differing(&before.devices, &after.devices, |device, record| {
        changes.push(Change::Device(*device, record.cloned()));
    });
    for set in after.sets.differences(&before.sets) {
        let record = after.sets.get(&set);
        if record != before.sets.get(&set) {
            changes.push(Change::Set(set, record.cloned()));
        }
    }
    changes
}

/// A seat's mark, as records keep it: older ones know the first alone.
const fn mark(revoked: bool, rebalanced: bool) -> Option<Mark> {
    match (revoked, rebalanced) {
        (true, _) => Some(Mark::Revoked),
        (false, true) => Some(Mark::Rebalanced),
        (false, false) => None,
    }
}

fn differing<K: Ord, V: PartialEq>(
    before: &std::collections::BTreeMap<K, V>,
    after: &std::collections::BTreeMap<K, V>,
    mut change: impl FnMut(&K, Option<&V>),
) {
    for (key, value) in after {
        if before.get(key) != Some(value) {
            change(key, Some(value));
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        change(key, None);
    }
}
