//! A device's record as a `SlabMap` has it under `spec`.

use dynamicswap_planner::{DeviceRecord, Ledger, Seat, SeatPhase, SetRecord, SetStage};
use dynamicswap_types::{
    Bytes, Durability, Generation, IncarnationId, NodeName, SetId, SlabSize, SlotIndex,
    SwapDeviceId,
};
use serde::{Deserialize, Serialize};

/// The whole record of one device.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlabMapRecord {
    node: NodeName,
    device_id: SwapDeviceId,
    size_bytes: u64,
    slab_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    reserve_sets_max: u32,
    gone: bool,
    sets: Vec<SetItem>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SetItem {
    id: SetId,
    stage: StageWord,
    seats: Vec<SeatItem>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum StageWord {
    Composing,
    Offered,
    Closing,
}

/// A seat; what a phase knows besides its word lies beside it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeatItem {
    node: NodeName,
    slot: SlotIndex,
    incarnation: IncarnationId,
    phase: PhaseWord,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<NodeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<IncarnationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Generation>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum PhaseWord {
    Granting,
    Serving,
    Regranting,
    Leaving,
    Freeing,
}

impl SlabMapRecord {
    /// The record of `device`, with its sets.
    pub fn of(ledger: &Ledger, device: SwapDeviceId, record: &DeviceRecord) -> Self {
        let sets = ledger.sets.iter().filter(|(_, set)| set.device == device);
        Self {
            node: record.node.clone(),
            device_id: device,
            size_bytes: record.size.get(),
            slab_bytes: record.slab.bytes().get(),
            durability: record.class,
            reserve_sets_max: record.reserve_sets_max,
            gone: record.gone,
            sets: sets.map(|(id, set)| SetItem::of(*id, set)).collect(),
        }
    }

    /// Takes the record into the ledger; its device, or why it makes no sense.
    pub fn absorb(self, ledger: &mut Ledger) -> Result<SwapDeviceId, String> {
        let slab = SlabSize::try_from(Bytes::new(self.slab_bytes));
        let device = self.device_id;
        let record = DeviceRecord {
            node: self.node,
            size: Bytes::new(self.size_bytes),
            slab: slab.map_err(|error| error.to_string())?,
            class: self.durability,
            reserve_sets_max: self.reserve_sets_max,
            gone: self.gone,
        };
        if ledger.devices.insert(device, record).is_some() {
            return Err(format!("device {device} has another SlabMap too"));
        }
        for set in self.sets {
            let id = set.id;
            let record = set.record(device)?;
            if ledger.sets.insert(id, record).is_some() {
                return Err(format!("set {id} stands in another SlabMap too"));
            }
        }
        Ok(device)
    }
}

impl SetItem {
    fn of(id: SetId, set: &SetRecord) -> Self {
        Self {
            id,
            stage: match set.stage {
                SetStage::Composing => StageWord::Composing,
                SetStage::Offered => StageWord::Offered,
                SetStage::Closing => StageWord::Closing,
            },
            seats: set.seats.iter().map(SeatItem::of).collect(),
        }
    }

    fn record(self, device: SwapDeviceId) -> Result<SetRecord, String> {
        let seats: Result<Vec<Seat>, String> = self.seats.into_iter().map(SeatItem::seat).collect();
        Ok(SetRecord {
            device,
            stage: match self.stage {
                StageWord::Composing => SetStage::Composing,
                StageWord::Offered => SetStage::Offered,
                StageWord::Closing => SetStage::Closing,
            },
            seats: seats?,
        })
    }
}

impl SeatItem {
    fn of(seat: &Seat) -> Self {
        let (mut replaces, mut previous, mut since) = (None, None, None);
        let phase = match &seat.phase {
            SeatPhase::Granting { replaces: other } => {
                replaces.clone_from(other);
                PhaseWord::Granting
            }
            SeatPhase::Serving => PhaseWord::Serving,
            SeatPhase::Regranting { previous: life } => {
                previous = Some(*life);
                PhaseWord::Regranting
            }
            SeatPhase::Leaving { since: published } => {
                since = *published;
                PhaseWord::Leaving
            }
            SeatPhase::Freeing { since: published } => {
                since = *published;
                PhaseWord::Freeing
            }
        };
        Self {
            node: seat.node.clone(),
            slot: seat.slot,
            incarnation: seat.incarnation,
            phase,
            revoked: seat.revoked,
            replaces,
            previous,
            since,
        }
    }

    fn seat(self) -> Result<Seat, String> {
        let Self { node, since, .. } = self;
        let phase = match self.phase {
            PhaseWord::Granting => SeatPhase::Granting {
                replaces: self.replaces,
            },
            PhaseWord::Serving => SeatPhase::Serving,
            PhaseWord::Regranting => SeatPhase::Regranting {
                previous: self.previous.ok_or_else(|| {
                    format!("the seat on {node} is Regranting and does not say its previous life")
                })?,
            },
            PhaseWord::Leaving => SeatPhase::Leaving { since },
            PhaseWord::Freeing => SeatPhase::Freeing { since },
        };
        Ok(Seat {
            node,
            slot: self.slot,
            incarnation: self.incarnation,
            phase,
            revoked: self.revoked,
        })
    }
}
