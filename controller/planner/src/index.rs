//! What one plan looks up again and again: the records of nodes and devices by their positions, and
//! what the cache knows of them.

use dynamicswap_types::{NodeName, SwapDeviceId};

use crate::cache::{Cache, CachedDevice};
use crate::ledger::{DeviceRecord, NodeRecord};
use crate::view::{ClusterView, DeviceObservation};

/// A position in [`Index::nodes`].
pub(crate) type NodeAt = usize;
/// A position in [`Index::devices`].
pub(crate) type DeviceAt = usize;

/// A node on record.
pub(crate) struct IndexedNode<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) record: &'a NodeRecord,
}

/// A device on record.
pub(crate) struct IndexedDevice<'a> {
    pub(crate) record: &'a DeviceRecord,
    pub(crate) known: &'a CachedDevice,
}

/// The index.
pub(crate) struct Index<'a> {
    pub(crate) nodes: Vec<IndexedNode<'a>>,
    pub(crate) devices: Vec<IndexedDevice<'a>>,
    cache: &'a Cache,
}

impl<'a> Index<'a> {
    /// The index of a view that the cache has followed.
    pub(crate) fn of(view: &ClusterView<'a>, cache: &'a Cache) -> Self {
        let nodes = view.ledger.nodes.iter();
        let devices = view.ledger.devices.values().zip(&cache.devices);
        Self {
            nodes: nodes
                .map(|(name, record)| IndexedNode { name, record })
                .collect(),
            devices: devices
                .map(|(record, known)| IndexedDevice { record, known })
                .collect(),
            cache,
        }
    }

    /// Where a node stands.
    pub(crate) fn node(&self, name: &NodeName) -> Option<NodeAt> {
        self.cache.node(name)
    }

    /// A device.
    pub(crate) fn device(&self, id: SwapDeviceId) -> Option<&IndexedDevice<'a>> {
        self.cache.device(id).map(|at| &self.devices[at])
    }

    /// What a device last said, if it is heard.
    pub(crate) fn heard(&self, id: SwapDeviceId) -> Option<&'a DeviceObservation> {
        let device = self.device(id)?;
        device.known.heard.as_deref()
    }

    /// Whether a donor is well for a device beyond doubt.
    pub(crate) fn is_well(&self, device: SwapDeviceId, donor: NodeAt) -> bool {
        self.device(device)
            .is_some_and(|it| it.known.well.has(donor))
    }
}

/// Copies that the sets of a device shall have: of the stricter one of the class in force and the
/// class wanted. None where the device has no class, or the disk alone.
pub(crate) fn copies_required(view: &ClusterView<'_>, device: &DeviceRecord) -> Option<usize> {
    let in_force = device.class?;
    let wanted = view.intent.map_or(in_force, |intent| intent.class);
    let required = in_force.remote_copies().max(wanted.remote_copies());
    (required > 0).then_some(required)
}
