//! Facts from sessions and reports into the ledger: what documents are made of.

use std::collections::BTreeSet;
use std::fmt;

use dynamicswap_types::{
    Bytes, FailureDomain, IncarnationId, Integrity, NodeName, SetId, SlabSize, SwapDeviceId,
};

use crate::ledger::{DeviceRecord, Ledger, NodeRecord, Published, ServerFacts};

/// A swap device as its borrower reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its life.
    pub id: SwapDeviceId,
    /// Its size.
    pub size: Bytes,
    /// Its slabs' size.
    pub slab: SlabSize,
    /// What protects its pages; absent if its daemon does not say.
    pub integrity: Option<Integrity>,
}

/// What a node says that outlives its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFacts {
    /// It has opened a session.
    Hello {
        /// What fails together with it.
        domain: FailureDomain,
        /// Its zone, if it is in one.
        zone: Option<FailureDomain>,
        /// It has swapd.
        borrower: bool,
        /// It has a memory server.
        donor: bool,
    },
    /// Its memory server.
    Server {
        /// What it is.
        facts: ServerFacts,
        /// Sets that its granted slots belong to.
        sets: BTreeSet<SetId>,
    },
    /// Its swap device.
    Device(DeviceFacts),
}

/// What became of a fact, where that is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absorbed {
    /// A node that was not known.
    NodeJoined,
    /// The node names another failure domain but holds slots under the old one.
    DomainKept {
        /// The domain that stays in force.
        kept: FailureDomain,
        /// The domain that it names.
        named: FailureDomain,
    },
    /// Its memory server has a new memory.
    ServerReborn {
        /// The life that is over.
        before: IncarnationId,
    },
    /// Its memory server holds slots that another controller store granted.
    ForeignGrants,
    /// It has a new swap device.
    DeviceReplaced {
        /// The device that is gone.
        before: SwapDeviceId,
    },
}

impl fmt::Display for Absorbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeJoined => f.write_str("opened its first session"),
            Self::DomainKept { kept, named } => write!(
                f,
                "names failure domain {named} but holds slots as part of {kept}: it stays there \
                 until it holds none"
            ),
            Self::ServerReborn { before } => write!(
                f,
                "its memory server has a new memory; what incarnation {before} held is gone"
            ),
            Self::ForeignGrants => f.write_str(
                "its memory server holds slots that another controller store granted: it is left \
                 alone until that store is back or the donor is emptied",
            ),
            Self::DeviceReplaced { before } => {
                write!(
                    f,
                    "has a new swap device; what device {before} held is freed"
                )
            }
        }
    }
}

/// Takes a fact into the ledger. Returns what is worth an event.
pub fn absorb(ledger: &mut Ledger, node: &NodeName, facts: &NodeFacts) -> Option<Absorbed> {
    match facts {
        NodeFacts::Hello {
            domain,
            zone,
            borrower,
            donor,
        } => absorb_hello(ledger, node, (domain, zone.as_ref()), (*borrower, *donor)),
        NodeFacts::Server { facts, sets } => absorb_server(ledger, node, facts, sets),
        NodeFacts::Device(facts) => absorb_device(ledger, node, facts),
    }
}

fn absorb_hello(
    ledger: &mut Ledger,
    node: &NodeName,
    (domain, zone): (&FailureDomain, Option<&FailureDomain>),
    (borrower, donor): (bool, bool),
) -> Option<Absorbed> {
    let holds = ledger.holds_slots(node);
    let Some(record) = ledger.nodes.get_mut(node) else {
        let record = NodeRecord {
            domain: domain.clone(),
            zone: zone.cloned(),
            borrower,
            donor,
            cordoned: false,
            drain: None,
            foreign: false,
            server: None,
            published: Published::default(),
        };
        ledger.nodes.insert(node.clone(), record);
        return Some(Absorbed::NodeJoined);
    };
    record.borrower = borrower;
    record.donor = donor;
    // No document names it: it may change at any time.
    record.zone = zone.cloned();
    if record.domain == *domain {
        return None;
    }
    if holds {
        return Some(Absorbed::DomainKept {
            kept: record.domain.clone(),
            named: domain.clone(),
        });
    }
    record.domain = domain.clone();
    None
}

fn absorb_server(
    ledger: &mut Ledger,
    node: &NodeName,
    facts: &ServerFacts,
    sets: &BTreeSet<SetId>,
) -> Option<Absorbed> {
    let unissued = sets.last().is_some_and(|set| *set >= ledger.next_set);
    let on_record = sets.iter().all(|set| ledger.sets.contains_key(set));
    let record = ledger.nodes.get_mut(node)?;
    let was_foreign = record.foreign;
    // Ids that this store gave out and took back are no sign; once there was one, only a donor
    // without unknown sets is this store's own again.
    record.foreign = unissued || (was_foreign && !on_record);
    let before = record.server.replace(facts.clone());
    if record.foreign && !was_foreign {
        return Some(Absorbed::ForeignGrants);
    }
    let before = before?.incarnation;
    (before != facts.incarnation).then_some(Absorbed::ServerReborn { before })
}

fn absorb_device(ledger: &mut Ledger, node: &NodeName, facts: &DeviceFacts) -> Option<Absorbed> {
    if let Some(device) = ledger.devices.get_mut(&facts.id) {
        // An id that was gone before is a late report of an old life. It stays gone.
        if !device.gone && device.node == *node {
            // It never changes; what is on record may be from before anybody said it.
            device.integrity = facts.integrity;
        }
        return None;
    }
    let before = ledger.device_of(node).map(|(id, _)| id);
    if let Some(device) = before.and_then(|id| ledger.devices.get_mut(&id)) {
        device.gone = true;
    }
    let record = DeviceRecord {
        node: node.clone(),
        size: facts.size,
        slab: facts.slab,
        integrity: facts.integrity,
        class: None,
        reserve_sets_max: 0,
        gone: false,
    };
    ledger.devices.insert(facts.id, record);
    before.map(|before| Absorbed::DeviceReplaced { before })
}
