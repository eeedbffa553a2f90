//! The ledger: every replica set that was ever granted and not yet taken back, and the facts
//! that documents are made of. What is persisted is this and nothing else.
//!
//! Documents are rendered from the ledger alone, so that a controller which starts anew hands
//! out the same ones before it has heard of anybody.

mod apply;
mod sets;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dynamicswap_types::{
    Bytes, Durability, FailureDomain, Generation, IncarnationId, Integrity, NodeName, SetId,
    SlabSize, SlotIndex, SwapDeviceId,
};

pub use apply::IllegalStep;
pub use sets::{Sets, SetsIter};

/// Where a slot of a set is in its life. The order is the order of that life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeatPhase {
    /// In the donor's document, not in the borrower's. Waits for the donor's report to show the
    /// slot granted.
    Granting {
        /// The seat that leaves the borrower's document when this one enters it.
        replaces: Option<NodeName>,
    },
    /// In both documents.
    Serving,
    /// The donor's memory is a new one. The slot is asked for anew in it; the borrower's
    /// document still names the old memory. Waits for every seat of this device on this donor
    /// to be granted again, because a document can name one memory of a server only.
    Regranting {
        /// The memory that the borrower's document names.
        previous: IncarnationId,
    },
    /// No longer in the borrower's document, still in the donor's. Waits for the borrower's
    /// report to show that generation taken.
    Leaving {
        /// Generation of the borrower's document that was the first without it; absent until
        /// that document is published.
        since: Option<Generation>,
    },
    /// In neither document. Waits for the donor's report of that generation without the slot.
    Freeing {
        /// Generation of the donor's document that was the first without it; absent until that
        /// document is published.
        since: Option<Generation>,
    },
}

impl SeatPhase {
    /// A word for people.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Granting { .. } => "Granting",
            Self::Serving => "Serving",
            Self::Regranting { .. } => "Regranting",
            Self::Leaving { .. } => "Leaving",
            Self::Freeing { .. } => "Freeing",
        }
    }

    /// Whether the borrower's document lists it.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        matches!(self, Self::Serving | Self::Regranting { .. })
    }

    /// Whether its slot is asked for and not granted yet.
    #[must_use]
    pub const fn is_asked_for(&self) -> bool {
        matches!(self, Self::Granting { .. })
    }

    /// Whether the borrower's document lists it, or soon will.
    #[must_use]
    pub const fn stands(&self) -> bool {
        self.is_listed() || self.is_asked_for()
    }

    /// Whether the donor's document lists it.
    #[must_use]
    pub const fn is_granted(&self) -> bool {
        !matches!(self, Self::Freeing { .. })
    }
}

/// One slot of a set. A set has one seat on a node at the most.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seat {
    /// The donor.
    pub node: NodeName,
    /// The slot there.
    pub slot: SlotIndex,
    /// The life of the donor's memory in which the slot is granted.
    pub incarnation: IncarnationId,
    /// Where it is in its life.
    pub phase: SeatPhase,
    /// Why it leaves once another copy is whole in its stead; absent if it stays.
    pub mark: Option<Mark>,
}

/// Why a copy shall leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Its donor wants the slot back.
    Revoked,
    /// Its donor is fuller than others. The copy stays after all if the other one comes to nothing.
    Rebalanced,
}

impl Seat {
    /// Whether it holds a copy, or soon will, that nothing asks to leave.
    #[must_use]
    pub const fn stays(&self) -> bool {
        self.phase.stands() && self.mark.is_none()
    }

    /// Whether its slot is asked for in the stead of the copy on `node`.
    #[must_use]
    pub fn replaces(&self, node: &NodeName) -> bool {
        matches!(&self.phase, SeatPhase::Granting { replaces } if replaces.as_ref() == Some(node))
    }

    /// The memory that the borrower's document names for this seat, if it lists the seat.
    #[must_use]
    pub const fn listed_incarnation(&self) -> Option<IncarnationId> {
        match self.phase {
            SeatPhase::Serving => Some(self.incarnation),
            SeatPhase::Regranting { previous } => Some(previous),
            SeatPhase::Granting { .. } | SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. } => {
                None
            }
        }
    }
}

/// Where a set is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetStage {
    /// Not yet in the borrower's document. Waits for every donor to grant its slot.
    Composing,
    /// In the borrower's document.
    Offered,
    /// Being taken back: the borrower released it, or never had it, or is gone.
    Closing,
}

/// A replica set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetRecord {
    /// The device that it is for.
    pub device: SwapDeviceId,
    /// Where it is in its life.
    pub stage: SetStage,
    /// Its slots.
    pub seats: Vec<Seat>,
}

impl SetRecord {
    /// The seat on `node`.
    #[must_use]
    pub fn seat(&self, node: &NodeName) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.node == *node)
    }

    /// The seats that the borrower's document lists.
    pub fn listed(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.phase.is_listed())
    }
}

/// Nodes whose seat is not the same in two records of a set, or not of the same device.
pub(crate) fn nodes_that_differ<'a>(
    before: Option<&'a SetRecord>,
    now: Option<&'a SetRecord>,
) -> impl Iterator<Item = &'a NodeName> {
    let other_device = before.map(|set| set.device) != now.map(|set| set.device);
    let seats_of = |set: Option<&'a SetRecord>| set.map_or(&[][..], |set| &set.seats);
    let (before, now) = (seats_of(before), seats_of(now));
    let nodes = before.iter().chain(now).map(|seat| &seat.node);
    nodes.filter(move |node| {
        let here = |seat: &&Seat| seat.node == **node;
        other_device || !before.iter().filter(here).eq(now.iter().filter(here))
    })
}

/// One life of a swap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its borrower.
    pub node: NodeName,
    /// Its size.
    pub size: Bytes,
    /// Its slabs' size.
    pub slab: SlabSize,
    /// What protects its pages for its whole life; absent while its daemon has not said it.
    pub integrity: Option<Integrity>,
    /// The class that its document asks for; absent until a policy exists.
    pub class: Option<Durability>,
    /// The limit on unbound sets that its document says.
    pub reserve_sets_max: u32,
    /// The borrower has another device now: what is on record for this one is taken back.
    pub gone: bool,
}

impl DeviceRecord {
    /// What the device lacks of this integrity; nothing if it has it, or more. One that does not
    /// say what it has counts as having none.
    #[must_use]
    pub fn lacks(&self, wanted: Integrity) -> Option<IntegrityLack> {
        let offered = self.integrity;
        let lacks = offered.unwrap_or(Integrity::None) < wanted;
        lacks.then_some(IntegrityLack { offered, wanted })
    }
}

/// A device protects its pages less than a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntegrityLack {
    /// What it has; absent if its daemon does not say.
    pub offered: Option<Integrity>,
    /// What is asked for.
    pub wanted: Integrity,
}

impl fmt::Display for IntegrityLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, wanted } = self;
        match offered {
            Some(offered) => write!(f, "it has integrity {offered}")?,
            None => f.write_str("its swapd does not say what integrity it has")?,
        }
        write!(
            f,
            ", and a policy in force asks for {wanted}; start swapd anew with --integrity {wanted} \
             (swapd.integrity={wanted} in the chart), or write less in spec.integrity"
        )
    }
}

/// What documents say of a memory server, and what bounds its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// The life of its memory.
    pub incarnation: IncarnationId,
    /// Size of its slots.
    pub slot_size: Bytes,
    /// Number of its slots.
    pub slots_total: u32,
    /// ip:port of its data path.
    pub tcp_address: String,
    /// ip:port of its RDMA data path; empty if it offers none.
    pub rdma_address: String,
}

/// One part of a node's document, as last published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishedPart {
    /// Generation in which its content last changed.
    pub generation: Generation,
    /// Digest of that content, for the comparison after a restart.
    pub digest: u64,
}

/// A node's document, as last published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Generation of the whole.
    pub generation: Generation,
    /// The swap device's part.
    pub swap_device: PublishedPart,
    /// The memory server's part.
    pub memory_server: PublishedPart,
    /// The policies.
    pub policies: PublishedPart,
}

/// A node that has opened a session once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// What fails together with it. Kept as it is while the node holds slots.
    pub domain: FailureDomain,
    /// Its zone, if it is in one: copies of a set are spread over zones, as far as there are any.
    pub zone: Option<FailureDomain>,
    /// It has swapd.
    pub borrower: bool,
    /// It has a memory server.
    pub donor: bool,
    /// Takes no new slabs.
    pub cordoned: bool,
    /// Every copy shall leave it, within this time.
    pub drain: Option<Duration>,
    /// Its memory server holds slots that another controller store granted: no document is made
    /// for it, because one that does not list them would have them zeroed.
    pub foreign: bool,
    /// Its memory server, once it has reported.
    pub server: Option<ServerFacts>,
    /// Its document.
    pub published: Published,
}

/// Everything on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// Devices by id, present and gone ones.
    pub devices: BTreeMap<SwapDeviceId, DeviceRecord>,
    /// Sets by id. A copy of the ledger shares those that do not change.
    pub sets: Sets,
    /// Id of the next set: ids are never used again.
    pub next_set: SetId,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            devices: BTreeMap::new(),
            sets: Sets::default(),
            // The engine keeps zero for "no set".
            next_set: SetId::new(1),
        }
    }
}

impl Ledger {
    /// The device that a borrower has now.
    #[must_use]
    pub fn device_of(&self, node: &NodeName) -> Option<(SwapDeviceId, &DeviceRecord)> {
        self.devices
            .iter()
            .find(|(_, device)| device.node == *node && !device.gone)
            .map(|(id, device)| (*id, device))
    }

    /// Has every seat share its donor's name with the donor's record, as seats do that the planner made.
    /// To be called once on what a store has kept: a plan asks for a donor by each seat's name.
    pub fn share_names(&mut self) {
        let ids: Vec<SetId> = self.sets.iter().map(|(id, _)| *id).collect();
        for id in ids {
            self.sets.change(id, |set| {
                for seat in &mut set.seats {
                    if let Some((name, _)) = self.nodes.get_key_value(&seat.node) {
                        seat.node = name.clone();
                    }
                }
            });
        }
    }

    /// The life of a donor's memory, as it last reported.
    #[must_use]
    pub fn incarnation_of(&self, node: &NodeName) -> Option<IncarnationId> {
        self.nodes
            .get(node)
            .and_then(|record| record.server.as_ref())
            .map(|server| server.incarnation)
    }

    /// Whether the memory in which a seat was granted is gone.
    #[must_use]
    pub fn is_void(&self, seat: &Seat) -> bool {
        self.incarnation_of(&seat.node)
            .is_some_and(|now| now != seat.incarnation)
    }

    /// Whether any set has a seat on this node, in any phase.
    #[must_use]
    pub fn holds_slots(&self, node: &NodeName) -> bool {
        self.sets.count_on(node) > 0
    }
}
