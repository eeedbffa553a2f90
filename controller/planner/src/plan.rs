//! A plan: the steps to take, in order, and why each happens or waits.

use std::fmt;

use dynamicswap_types::{
    Durability, IncarnationId, MonotonicTime, NodeName, SetId, SlotIndex, SwapDeviceId,
};

use crate::ledger::{Seat, SeatPhase};
use crate::reason::ReportLine;

/// A slot on a donor, in one life of the donor's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The donor.
    pub node: NodeName,
    /// The slot there.
    pub slot: SlotIndex,
    /// The life of its memory.
    pub incarnation: IncarnationId,
}

impl Place {
    /// A seat that waits for its grant.
    #[must_use]
    pub fn seat(&self, replaces: Option<NodeName>) -> Seat {
        Seat {
            node: self.node.clone(),
            slot: self.slot,
            incarnation: self.incarnation,
            phase: SeatPhase::Granting { replaces },
            mark: None,
        }
    }
}

/// One change of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new set of free slots.
    Compose {
        /// Its id.
        set: SetId,
        /// The device that it is for.
        device: SwapDeviceId,
        /// Its slots.
        seats: Vec<Place>,
    },
    /// One more slot for an offered set.
    AddSeat {
        /// The set.
        set: SetId,
        /// The slot.
        place: Place,
        /// The seat that leaves when this one enters the borrower's document.
        replaces: Option<NodeName>,
    },
    /// Every slot of a new set is granted: it enters the borrower's document.
    Offer {
        /// The set.
        set: SetId,
    },
    /// An added slot is granted: it enters the borrower's document.
    Promote {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// The donor's memory is a new one: the same slot is asked for in it.
    Regrant {
        /// The set.
        set: SetId,
        /// The donor.
        node: NodeName,
    },
    /// Every slot of the device on this donor is granted anew: its document names the new
    /// memory.
    Flip {
        /// The device.
        device: SwapDeviceId,
        /// The donor.
        node: NodeName,
    },
    /// A slot leaves the borrower's document.
    Retire {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// A donor wants a slot back: another copy shall be made in its stead.
    Revoke {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// A donor is fuller than others: another copy, on an emptier one, shall take this one's place.
    Rebalance {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// A copy that was to leave stays: its donor no longer wants it back, or nothing came of the move.
    Pardon {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// A slot that was to leave enters the borrower's document again: the borrower has not let go of
    /// it, and has no other whole copy any more.
    Recall {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// A slot that waits for its grant is no longer wanted.
    Abandon {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// The borrower no longer uses the slot: it leaves the donor's document.
    Free {
        /// The set.
        set: SetId,
        /// Where the slot is.
        node: NodeName,
    },
    /// The borrower released the set: it leaves the borrower's document.
    Close {
        /// The set.
        set: SetId,
    },
    /// Nobody uses the set: its slots leave the donors' documents at once.
    Reclaim {
        /// The set.
        set: SetId,
    },
    /// The donor has taken the slot back, or its memory is gone: off the record.
    Forget {
        /// The set.
        set: SetId,
        /// Where the slot was.
        node: NodeName,
    },
    /// The class that the device's document asks for.
    SetClass {
        /// The device.
        device: SwapDeviceId,
        /// The class.
        class: Durability,
    },
    /// The limit on unbound sets that the device's document says.
    SetReserve {
        /// The device.
        device: SwapDeviceId,
        /// The limit.
        sets: u32,
    },
    /// A device that is gone holds nothing any more: off the record.
    ForgetDevice {
        /// The device.
        device: SwapDeviceId,
    },
}

impl Step {
    /// The set that it changes, if it is one.
    pub(crate) const fn set(&self) -> Option<SetId> {
        match self {
            Self::Compose { set, .. }
            | Self::AddSeat { set, .. }
            | Self::Offer { set }
            | Self::Promote { set, .. }
            | Self::Regrant { set, .. }
            | Self::Retire { set, .. }
            | Self::Revoke { set, .. }
            | Self::Rebalance { set, .. }
            | Self::Pardon { set, .. }
            | Self::Recall { set, .. }
            | Self::Abandon { set, .. }
            | Self::Free { set, .. }
            | Self::Close { set }
            | Self::Reclaim { set }
            | Self::Forget { set, .. } => Some(*set),
            Self::Flip { .. }
            | Self::SetClass { .. }
            | Self::SetReserve { .. }
            | Self::ForgetDevice { .. } => None,
        }
    }
}

/// What to do now, and why. Immutable once made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, in the order in which they are applied.
    pub steps: Vec<Step>,
    /// Why steps happen and what waits.
    pub report: Vec<ReportLine>,
    /// Copies are on their way for the balance, or wait for something more urgent.
    pub rebalancing: bool,
    /// When to plan again even if nothing is heard: the next deadline that waits.
    pub wake_at: Option<MonotonicTime>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps", self.steps.len())?;
        self.report
            .iter()
            .try_for_each(|line| write!(f, "; {line}"))
    }
}
