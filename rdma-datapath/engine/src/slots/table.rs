//! The slot table: ownership and the zeroing between two owners.

use dynamicswap_types::SwapDeviceId;
use dynamicswap_types::{Generation, IncarnationId, PAGE_SIZE, SetId, SlabSize, SlotIndex};
use thiserror::Error;

use super::{Kept, Permit, SlotPages};
use crate::operation::OperationError;

/// Number and size of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotGeometry {
    /// Size of each.
    pub slot_size: SlabSize,
    /// How many.
    pub slots: u32,
}

impl SlotGeometry {
    /// Bytes of all slots.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.slot_size.bytes().get() * self.slots as u64
    }
}

/// Who a slot belongs to: one device, for one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The device.
    pub device: SwapDeviceId,
    /// The set of which the slot is a replica.
    pub set: SetId,
}

/// A slot and its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The slot.
    pub slot: SlotIndex,
    /// Its owner.
    pub owner: Owner,
}

/// Desired state: the whole of it. A granted slot that is absent here is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantDocument {
    /// Version; an older one is refused.
    pub generation: Generation,
    /// The life of the memory in which the grants are valid.
    pub incarnation: IncarnationId,
    /// Slots that shall be granted.
    pub grants: Vec<Grant>,
    /// The donor is being emptied: memory of slots that are not granted goes back to the host.
    pub emptied: bool,
}

/// What the memory file keeps of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRecord {
    /// Zeroed and free.
    Ready,
    /// Owned; its content counts.
    Granted(Owner),
    /// Was owned and is not zeroed yet; granted to `next` after that.
    Dirty {
        /// What the document wants for it.
        next: Option<Owner>,
    },
}

/// What the shell does, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotEffect {
    /// Keep the record in the memory file.
    Record(SlotIndex, SlotRecord),
    /// Keep the generation in the memory file.
    Generation(Generation),
    /// Zero the slot, then call `zeroed`.
    Zero(SlotIndex),
    /// Give the slot's memory back to the host. A later [`Self::Zero`] takes it again.
    GiveBack(SlotIndex),
}

/// What a document changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Slots granted at once.
    pub granted: u32,
    /// Slots taken back.
    pub taken_back: u32,
    /// Slots that are granted as soon as they are zeroed.
    pub waiting: u32,
}

/// Why a document is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// It was made for another life of this memory.
    #[error(
        "the document is for incarnation {document}, this memory is {memory}: read this server's \
         report and plan again"
    )]
    OtherIncarnation {
        /// The document's.
        document: IncarnationId,
        /// This server's.
        memory: IncarnationId,
    },
    /// A newer one was taken before.
    #[error("generation {document} is older than {known}, which was taken before")]
    OlderGeneration {
        /// The document's.
        document: Generation,
        /// The last one taken.
        known: Generation,
    },
    /// No such slot.
    #[error("slot {slot} does not exist: this server has {slots}")]
    NoSuchSlot {
        /// The slot.
        slot: SlotIndex,
        /// Number of slots.
        slots: u32,
    },
    /// The document names a slot twice.
    #[error("the document grants slot {0} twice")]
    SlotTwice(SlotIndex),
    /// The slot is still granted to somebody else.
    #[error(
        "slot {slot} still belongs to device {} for set {}: take it back before it is granted \
         again", owner.device, owner.set
    )]
    SecondOwner {
        /// The slot.
        slot: SlotIndex,
        /// Its present owner.
        owner: Owner,
    },
}

impl ApplyError {
    /// One word for counting.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OtherIncarnation { .. } => "OtherIncarnation",
            Self::OlderGeneration { .. } => "OlderGeneration",
            Self::NoSuchSlot { .. } => "NoSuchSlot",
            Self::SlotTwice(_) => "SlotTwice",
            Self::SecondOwner { .. } => "SecondOwner",
        }
    }
}

/// The life of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// Zeroed; waits for a document that grants it.
    Ready,
    /// In use; waits for a document that takes it back.
    Granted(Owner),
    /// Being zeroed; waits for the shell, then goes to `next` if there is one.
    Zeroing { next: Option<Owner> },
    /// Without memory; waits until more slots may have it, or for a document that grants it.
    GivenBack,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: SlotState,
    /// Grows with each change of hands, so that work begun for one owner never ends for another.
    serial: u64,
}

/// All slots of a memory server.
#[derive(Debug, Clone)]
pub(super) struct SlotTable {
    geometry: SlotGeometry,
    incarnation: IncarnationId,
    generation: Generation,
    slots: Vec<Slot>,
    /// Slots that may have memory, as the agent says.
    held_max: u32,
    /// The last document wants the donor emptied.
    emptied: bool,
    /// Slots whose memory the host has.
    given_back: u32,
}

impl SlotTable {
    pub(super) fn restore(
        geometry: SlotGeometry,
        kept: &Kept,
        effects: &mut Vec<SlotEffect>,
    ) -> Self {
        let mut slots = Vec::with_capacity(SlotIndex::new(geometry.slots).as_usize());
        for index in 0..geometry.slots {
            let slot = SlotIndex::new(index);
            let record = kept.slots.get(slot.as_usize()).copied();
            let state = match record.unwrap_or(SlotRecord::Ready) {
                SlotRecord::Ready => SlotState::Ready,
                SlotRecord::Granted(owner) => SlotState::Granted(owner),
                SlotRecord::Dirty { next } => {
                    effects.push(SlotEffect::Zero(slot));
                    SlotState::Zeroing { next }
                }
            };
            slots.push(Slot { state, serial: 0 });
        }
        Self {
            geometry,
            incarnation: kept.incarnation,
            generation: kept.generation,
            slots,
            held_max: u32::MAX,
            emptied: false,
            given_back: 0,
        }
    }

    pub(super) fn apply(
        &mut self,
        document: &GrantDocument,
        effects: &mut Vec<SlotEffect>,
    ) -> Result<Applied, ApplyError> {
        let wanted = self.wanted(document)?;
        let mut applied = Applied::default();
        for (index, owner) in (0..self.geometry.slots).zip(wanted) {
            self.settle(SlotIndex::new(index), owner, &mut applied, effects);
        }
        self.emptied = document.emptied;
        self.balance(effects);
        self.generation = document.generation;
        effects.push(SlotEffect::Generation(self.generation));
        Ok(applied)
    }

    /// The document as one wish per slot, if nothing speaks against it.
    fn wanted(&self, document: &GrantDocument) -> Result<Vec<Option<Owner>>, ApplyError> {
        if document.incarnation != self.incarnation {
            return Err(ApplyError::OtherIncarnation {
                document: document.incarnation,
                memory: self.incarnation,
            });
        }
        if document.generation < self.generation {
            return Err(ApplyError::OlderGeneration {
                document: document.generation,
                known: self.generation,
            });
        }
        let mut wanted = vec![None; self.slots.len()];
        for grant in &document.grants {
            let slot = grant.slot;
            let (Some(wish), Some(present)) = (
                wanted.get_mut(slot.as_usize()),
                self.slots.get(slot.as_usize()),
            ) else {
                let slots = self.geometry.slots;
                return Err(ApplyError::NoSuchSlot { slot, slots });
            };
            if wish.replace(grant.owner).is_some() {
                return Err(ApplyError::SlotTwice(slot));
            }
            match present.state {
                SlotState::Granted(owner) if owner != grant.owner => {
                    return Err(ApplyError::SecondOwner { slot, owner });
                }
                _ => {}
            }
        }
        Ok(wanted)
    }

    fn settle(
        &mut self,
        index: SlotIndex,
        wish: Option<Owner>,
        applied: &mut Applied,
        effects: &mut Vec<SlotEffect>,
    ) {
        let slot = &mut self.slots[index.as_usize()];
        match (slot.state, wish) {
            (SlotState::Ready, None) | (SlotState::Granted(_), Some(_)) => {}
            (SlotState::Ready, Some(owner)) => {
                slot.state = SlotState::Granted(owner);
                slot.serial += 1;
                applied.granted += 1;
                effects.push(SlotEffect::Record(index, SlotRecord::Granted(owner)));
            }
            (SlotState::Granted(_), None) => {
                slot.state = SlotState::Zeroing { next: None };
                slot.serial += 1;
                applied.taken_back += 1;
                effects.push(SlotEffect::Record(index, SlotRecord::Dirty { next: None }));
                effects.push(SlotEffect::Zero(index));
            }
            (SlotState::Zeroing { next: before }, next) => {
                slot.state = SlotState::Zeroing { next };
                if before != next {
                    effects.push(SlotEffect::Record(index, SlotRecord::Dirty { next }));
                }
                applied.waiting += u32::from(next.is_some());
            }
            (SlotState::GivenBack, None) => {}
            (SlotState::GivenBack, next) => {
                self.given_back -= 1;
                slot.state = SlotState::Zeroing { next };
                applied.waiting += 1;
                effects.push(SlotEffect::Record(index, SlotRecord::Dirty { next }));
                effects.push(SlotEffect::Zero(index));
            }
        }
    }

    pub(super) fn hold(&mut self, slots_max: u32, effects: &mut Vec<SlotEffect>) {
        self.held_max = slots_max;
        self.balance(effects);
    }

    /// Gives memory of free slots back, the last ones first, or takes it again, the first ones first,
    /// so that as many have it as may.
    fn balance(&mut self, effects: &mut Vec<SlotEffect>) {
        let held_max = if self.emptied { 0 } else { self.held_max };
        let held = self.geometry.slots - self.given_back;
        let (mut over, mut under) = (held.saturating_sub(held_max), held_max.saturating_sub(held));
        // As a rule; and this is called for each slot that is zeroed.
        if over == 0 && (under == 0 || self.given_back == 0) {
            return;
        }
        for (index, slot) in (0..self.geometry.slots).zip(&mut self.slots).rev() {
            if over > 0 && slot.state == SlotState::Ready {
                over -= 1;
                self.given_back += 1;
                slot.state = SlotState::GivenBack;
                slot.serial += 1;
                let index = SlotIndex::new(index);
                // A process that starts anew knows no bound yet: it zeroes the slot, which takes its
                // memory again.
                effects.push(SlotEffect::Record(index, SlotRecord::Dirty { next: None }));
                effects.push(SlotEffect::GiveBack(index));
            }
        }
        for (index, slot) in (0..self.geometry.slots).zip(&mut self.slots) {
            if under > 0 && slot.state == SlotState::GivenBack {
                under -= 1;
                self.given_back -= 1;
                slot.state = SlotState::Zeroing { next: None };
                effects.push(SlotEffect::Zero(SlotIndex::new(index)));
            }
        }
    }

    pub(super) fn zeroed(&mut self, index: SlotIndex, effects: &mut Vec<SlotEffect>) -> bool {
        let Some(slot) = self.slots.get_mut(index.as_usize()) else {
            return false;
        };
        let SlotState::Zeroing { next } = slot.state else {
            return false;
        };
        effects.push(SlotEffect::Record(index, SlotRecord::Ready));
        slot.state = SlotState::Ready;
        if let Some(owner) = next {
            slot.state = SlotState::Granted(owner);
            slot.serial += 1;
            effects.push(SlotEffect::Record(index, SlotRecord::Granted(owner)));
        }
        self.balance(effects);
        true
    }

    pub(super) fn check(
        &self,
        device: SwapDeviceId,
        range: SlotPages,
    ) -> Result<Permit, OperationError> {
        let slot = self.slots.get(range.slot.as_usize());
        let slot = slot.ok_or(OperationError::OutOfRange)?;
        match slot.state {
            // The device alone is not enough: its own late write for a set that has left the slot
            // must not land in the set that was given the slot after it.
            SlotState::Granted(owner) if owner.device == device && owner.set == range.set => {}
            _ => return Err(OperationError::NotOwner),
        }
        let end = u64::from(range.page) + u64::from(range.pages);
        if range.pages == 0 || end > self.geometry.slot_size.pages().get() {
            return Err(OperationError::OutOfRange);
        }
        let first = u64::from(range.slot.get()) * self.geometry.slot_size.pages().get();
        Ok(Permit {
            slot: range.slot,
            serial: slot.serial,
            offset: (first + u64::from(range.page)) * PAGE_SIZE.get(),
            len: range.pages as usize * PAGE_SIZE.as_usize(),
        })
    }

    /// Whether any slot is granted to the device, or will be.
    pub(super) fn serves(&self, device: SwapDeviceId) -> bool {
        self.slots.iter().any(|slot| match slot.state {
            SlotState::Granted(owner) | SlotState::Zeroing { next: Some(owner) } => {
                owner.device == device
            }
            SlotState::Ready | SlotState::Zeroing { next: None } | SlotState::GivenBack => false,
        })
    }

    pub(super) fn serial(&self, slot: SlotIndex) -> Option<u64> {
        self.slots.get(slot.as_usize()).map(|slot| slot.serial)
    }

    pub(super) fn grants(&self) -> impl Iterator<Item = Grant> + '_ {
        (0_u32..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| match slot.state {
                SlotState::Granted(owner) => Some(Grant {
                    slot: SlotIndex::new(index),
                    owner,
                }),
                SlotState::Ready | SlotState::Zeroing { .. } | SlotState::GivenBack => None,
            })
    }

    pub(super) const fn slots_given_back(&self) -> u32 {
        self.given_back
    }

    pub(super) fn slots_ready(&self) -> u32 {
        self.slots
            .iter()
            .map(|slot| u32::from(slot.state == SlotState::Ready))
            .sum()
    }

    pub(super) const fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) const fn geometry(&self) -> SlotGeometry {
        self.geometry
    }
}
