//! Hard filters: each has a name, and a donor must pass all of them.

use std::fmt;

use dynamicswap_types::{FailureDomain, NodeName, SwapDeviceId};

use crate::health::Health;
use crate::ledger::{DeviceRecord, NodeRecord, SetRecord};
use crate::view::{ClusterView, Session};

/// The filter that refused a donor. The order is the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It is the borrower itself.
    Self_,
    /// Its agent has no session.
    NotConnected,
    /// Its memory server has not reported or does not answer.
    NotReady,
    /// It speaks another version.
    Version,
    /// An operator closed it for new slabs.
    Cordoned,
    /// It holds slots of another controller store.
    Foreign,
    /// Its slots have another size than the device's slabs.
    SlabSize,
    /// The borrower does not reach it.
    NotReached,
    /// The set has a copy there.
    SameNode,
    /// The set has a copy in its failure domain.
    FailureDomain,
    /// No slot is free.
    Headroom,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Self_ => "the borrower itself",
            Self::NotConnected => "without a session",
            Self::NotReady => "whose memory server is not ready",
            Self::Version => "of another version",
            Self::Cordoned => "cordoned",
            Self::Foreign => "with slots of another controller store",
            Self::SlabSize => "with another slot size",
            Self::NotReached => "out of the borrower's reach",
            Self::SameNode => "with a copy already",
            Self::FailureDomain => "in a failure domain with a copy",
            Self::Headroom => "full",
        })
    }
}

/// A donor as the filters see it.
pub(crate) struct Candidate<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) record: &'a NodeRecord,
}

/// Filters that hold for a device and all of its sets.
pub(crate) fn for_device(
    view: &ClusterView<'_>,
    id: SwapDeviceId,
    device: &DeviceRecord,
    donor: &Candidate<'_>,
) -> Result<(), Refusal> {
    let pass = |ok: bool, refusal: Refusal| if ok { Ok(()) } else { Err(refusal) };
    pass(*donor.node != device.node, Refusal::Self_)?;
    let seen = view.nodes.get(donor.node).ok_or(Refusal::NotConnected)?;
    pass(seen.session == Session::Open, Refusal::NotConnected)?;
    let ready = seen.server.is_some() && seen.server_error_since.is_none();
    let facts = donor.record.server.as_ref().filter(|_| ready);
    let facts = facts.ok_or(Refusal::NotReady)?;
    pass(seen.protocol == view.settings.protocol, Refusal::Version)?;
    pass(!donor.record.cordoned, Refusal::Cordoned)?;
    pass(!donor.record.foreign, Refusal::Foreign)?;
    pass(facts.slot_size == device.slab.bytes(), Refusal::SlabSize)?;
    pass(
        view.health(id, donor.node) == Health::Good,
        Refusal::NotReached,
    )
}

/// Filters that depend on the set's other copies.
pub(crate) fn for_set(
    set: &SetRecord,
    taken: &[&FailureDomain],
    donor: &Candidate<'_>,
) -> Result<(), Refusal> {
    if set.seat(donor.node).is_some() {
        return Err(Refusal::SameNode);
    }
    if taken.contains(&&donor.record.domain) {
        return Err(Refusal::FailureDomain);
    }
    Ok(())
}
