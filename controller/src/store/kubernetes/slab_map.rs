//! A device's record as a `SlabMap` has it under `spec`, and back.

use dynamicswap_crds::{SlabMapSpec, SlabSeat, SlabSeatPhase, SlabSet, SlabSetStage};
use dynamicswap_planner::{DeviceRecord, Ledger, Mark, Seat, SeatPhase, SetRecord, SetStage};
use dynamicswap_types::{SetId, SwapDeviceId};

use super::super::mark;

/// The record of `device`, with its sets.
pub fn spec_of(ledger: &Ledger, device: SwapDeviceId, record: &DeviceRecord) -> SlabMapSpec {
    let sets = ledger.sets.of(device);
    SlabMapSpec {
        node: record.node.clone(),
        device_id: device,
        size_bytes: record.size,
        slab_bytes: record.slab,
        integrity: record.integrity,
        durability: record.class,
        reserve_sets_max: record.reserve_sets_max,
        gone: record.gone,
        sets: sets.map(|(id, set)| set_of(id, set)).collect(),
    }
}

/// Takes the record into the ledger; its device, or why it makes no sense.
pub fn absorb(spec: SlabMapSpec, ledger: &mut Ledger) -> Result<SwapDeviceId, String> {
    let device = spec.device_id;
    let record = DeviceRecord {
        node: spec.node,
        size: spec.size_bytes,
        slab: spec.slab_bytes,
        integrity: spec.integrity,
        class: spec.durability,
        reserve_sets_max: spec.reserve_sets_max,
        gone: spec.gone,
    };
    if ledger.devices.insert(device, record).is_some() {
        return Err(format!("device {device} has another SlabMap too"));
    }
    for set in spec.sets {
        let id = set.id;
        let record = set_record(set, device)?;
        if ledger.sets.insert(id, record.into()).is_some() {
            return Err(format!("set {id} stands in another SlabMap too"));
        }
    }
    Ok(device)
}

fn set_of(id: SetId, set: &SetRecord) -> SlabSet {
    SlabSet {
        id,
        stage: match set.stage {
            SetStage::Composing => SlabSetStage::Composing,
            SetStage::Offered => SlabSetStage::Offered,
            SetStage::Closing => SlabSetStage::Closing,
        },
        seats: set.seats.iter().map(seat_of).collect(),
    }
}

fn set_record(set: SlabSet, device: SwapDeviceId) -> Result<SetRecord, String> {
    let seats: Result<Vec<Seat>, String> = set.seats.into_iter().map(seat_record).collect();
    Ok(SetRecord {
        device,
        stage: match set.stage {
            SlabSetStage::Composing => SetStage::Composing,
            SlabSetStage::Offered => SetStage::Offered,
            SlabSetStage::Closing => SetStage::Closing,
        },
        seats: seats?,
    })
}

fn seat_of(seat: &Seat) -> SlabSeat {
    let (mut replaces, mut previous, mut since) = (None, None, None);
    let phase = match &seat.phase {
        SeatPhase::Granting { replaces: other } => {
            replaces.clone_from(other);
            SlabSeatPhase::Granting
        }
        SeatPhase::Serving => SlabSeatPhase::Serving,
        SeatPhase::Regranting { previous: life } => {
            previous = Some(*life);
            SlabSeatPhase::Regranting
        }
        SeatPhase::Leaving { since: published } => {
            since = *published;
            SlabSeatPhase::Leaving
        }
        SeatPhase::Freeing { since: published } => {
            since = *published;
            SlabSeatPhase::Freeing
        }
    };
    SlabSeat {
        node: seat.node.clone(),
        slot: seat.slot,
        incarnation: seat.incarnation,
        phase,
        revoked: seat.mark == Some(Mark::Revoked),
        rebalanced: seat.mark == Some(Mark::Rebalanced),
        replaces,
        previous,
        since,
    }
}

fn seat_record(seat: SlabSeat) -> Result<Seat, String> {
    let SlabSeat { node, since, .. } = seat;
    let phase = match seat.phase {
        SlabSeatPhase::Granting => SeatPhase::Granting {
            replaces: seat.replaces,
        },
        SlabSeatPhase::Serving => SeatPhase::Serving,
        SlabSeatPhase::Regranting => SeatPhase::Regranting {
            previous: seat.previous.ok_or_else(|| {
                format!("the seat on {node} is Regranting and does not say its previous life")
            })?,
        },
        SlabSeatPhase::Leaving => SeatPhase::Leaving { since },
        SlabSeatPhase::Freeing => SeatPhase::Freeing { since },
    };
    Ok(Seat {
        node,
        slot: seat.slot,
        incarnation: seat.incarnation,
        phase,
        mark: mark(seat.revoked, seat.rebalanced),
    })
}
