//! Hard filters: each has a name, and a donor must pass all of them.

use std::fmt;

use dynamicswap_types::{FailureDomain, NodeName};

use crate::index::{IndexedDevice, NodeAt};
use crate::ledger::{NodeRecord, ServerFacts, SetRecord};
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
    /// Its zone has as many copies of the set as it shall have.
    Zone,
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
            Self::Zone => "in a zone with a copy, while another zone has none",
            Self::Headroom => "full",
        })
    }
}

/// A donor as the filters see it.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) at: NodeAt,
    pub(crate) node: &'a NodeName,
    pub(crate) record: &'a NodeRecord,
    /// Its zone's number, see [`crate::choose::OpenDonors`].
    pub(crate) zone: usize,
}

/// Filters that hold for a device and all of its sets, of a donor that takes new slabs.
pub(crate) fn for_device(device: &IndexedDevice<'_>, donor: &Candidate<'_>) -> Result<(), Refusal> {
    let pass = |ok: bool, refusal: Refusal| if ok { Ok(()) } else { Err(refusal) };
    pass(*donor.node != device.record.node, Refusal::Self_)?;
    let slots = donor.record.server.as_ref().map(|facts| facts.slot_size);
    pass(slots == Some(device.record.slab.bytes()), Refusal::SlabSize)?;
    pass(device.known.well.has(donor.at), Refusal::NotReached)
}

/// Filters that hold for every device: whether a donor takes new slabs at all.
pub(crate) fn open<'a>(
    view: &ClusterView<'_>,
    (node, record): (&NodeName, &'a NodeRecord),
) -> Result<&'a ServerFacts, Refusal> {
    let pass = |ok: bool, refusal: Refusal| if ok { Ok(()) } else { Err(refusal) };
    let seen = view.nodes.get(node).ok_or(Refusal::NotConnected)?;
    pass(seen.session == Session::Open, Refusal::NotConnected)?;
    let ready = seen.server.is_some() && seen.server_error_since.is_none();
    let facts = record.server.as_ref().filter(|_| ready);
    let facts = facts.ok_or(Refusal::NotReady)?;
    pass(seen.protocol == view.settings.protocol, Refusal::Version)?;
    pass(!record.cordoned, Refusal::Cordoned)?;
    pass(!record.foreign, Refusal::Foreign)?;
    Ok(facts)
}

/// Where the other copies of a set are, those that stay.
pub(crate) struct Others<'a> {
    /// Failure domains of those that will stand beside the new one in the borrower's document.
    pub(crate) domains: Vec<&'a FailureDomain>,
    /// Zones of those that nothing asks to leave.
    pub(crate) zones: Vec<Option<&'a FailureDomain>>,
    /// Copies of the set that a zone may have.
    pub(crate) zone_max: usize,
}

/// Filters that depend on the set's other copies.
pub(crate) fn for_set(
    set: &SetRecord,
    others: &Others<'_>,
    donor: &Candidate<'_>,
) -> Result<(), Refusal> {
    if set.seat(donor.node).is_some() {
        return Err(Refusal::SameNode);
    }
    if others.domains.contains(&&donor.record.domain) {
        return Err(Refusal::FailureDomain);
    }
    let zone = donor.record.zone.as_ref();
    let here = others.zones.iter().filter(|other| **other == zone).count();
    if here >= others.zone_max {
        return Err(Refusal::Zone);
    }
    Ok(())
}
