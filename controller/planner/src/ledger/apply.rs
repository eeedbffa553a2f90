//! What each step does to the ledger. The planner drafts with it and the shell applies with it,
//! so that both mean the same.

use std::sync::Arc;

use dynamicswap_types::{NodeName, SetId, SwapDeviceId};
use thiserror::Error;

use super::{Ledger, Mark, Seat, SeatPhase, SetRecord, SetStage};
use crate::plan::{Place, Step};

/// A step that the ledger cannot take.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IllegalStep {
    /// No such set.
    #[error("set {0} is not on record")]
    NoSet(SetId),
    /// The set has no seat there, or one in another phase.
    #[error("set {0} has no seat on {1} that this step fits")]
    NoSeat(SetId, NodeName),
    /// No such device.
    #[error("device {0} is not on record")]
    NoDevice(SwapDeviceId),
    /// The id was given out before.
    #[error("set id {0} was given out before")]
    SetIdUsed(SetId),
    /// The set is in another stage of its life.
    #[error("set {0} is in a stage that this step does not fit")]
    Stage(SetId),
    /// The set has a seat there already.
    #[error("set {0} has a seat on {1} already")]
    SeatTaken(SetId, NodeName),
}

impl Ledger {
    /// Applies one step.
    ///
    /// # Errors
    /// [`IllegalStep`]; the ledger is unchanged then.
    pub fn apply(&mut self, step: &Step) -> Result<(), IllegalStep> {
        match step {
            Step::Compose { set, device, seats } => self.compose(*set, *device, seats),
            Step::AddSeat {
                set,
                place,
                replaces,
            } => self.add_seat(*set, place, replaces.clone()),
            Step::Offer { set } => self.offer(*set),
            Step::Promote { set, node } => self.promote(*set, node),
            Step::Regrant { set, node } => self.regrant(*set, node),
            Step::Flip { device, node } => self.flip(*device, node),
            Step::Retire { set, node } => self.move_seat(*set, node, |phase| {
                phase
                    .is_listed()
                    .then_some(SeatPhase::Leaving { since: None })
            }),
            Step::Revoke { set, node } => self.mark_seat(*set, node, Some(Mark::Revoked)),
            Step::Rebalance { set, node } => self.mark_seat(*set, node, Some(Mark::Rebalanced)),
            Step::Pardon { set, node } => self.mark_seat(*set, node, None),
            Step::Recall { set, node } => self.recall(*set, node),
            Step::Abandon { set, node } => self.move_seat(*set, node, |phase| {
                phase
                    .is_asked_for()
                    .then_some(SeatPhase::Freeing { since: None })
            }),
            Step::Free { set, node } => self.move_seat(*set, node, |phase| {
                matches!(phase, SeatPhase::Leaving { .. })
                    .then_some(SeatPhase::Freeing { since: None })
            }),
            Step::Close { set } => self.close(*set),
            Step::Reclaim { set } => self.reclaim(*set),
            Step::Forget { set, node } => self.forget(*set, node),
            Step::SetClass { device, class } => self.device_mut(*device).map(|device| {
                device.class = Some(*class);
            }),
            Step::SetReserve { device, sets } => self.device_mut(*device).map(|device| {
                device.reserve_sets_max = *sets;
            }),
            Step::ForgetDevice { device } => self
                .devices
                .remove(device)
                .map(|_| ())
                .ok_or(IllegalStep::NoDevice(*device)),
        }
    }

    /// Changes a set, unless the change finds that the step does not fit.
    fn change(
        &mut self,
        set: SetId,
        change: impl FnOnce(&mut SetRecord) -> Result<(), IllegalStep>,
    ) -> Result<(), IllegalStep> {
        let changed = self.sets.change(set, change);
        changed.unwrap_or(Err(IllegalStep::NoSet(set)))
    }

    fn device_mut(
        &mut self,
        device: SwapDeviceId,
    ) -> Result<&mut super::DeviceRecord, IllegalStep> {
        self.devices
            .get_mut(&device)
            .ok_or(IllegalStep::NoDevice(device))
    }

    fn compose(
        &mut self,
        set: SetId,
        device: SwapDeviceId,
        places: &[Place],
    ) -> Result<(), IllegalStep> {
        if set < self.next_set {
            return Err(IllegalStep::SetIdUsed(set));
        }
        self.device_mut(device)?;
        let seats = places.iter().map(|place| place.seat(None)).collect();
        self.next_set = SetId::new(set.get().saturating_add(1));
        let record = SetRecord {
            device,
            stage: SetStage::Composing,
            seats,
        };
        self.sets.insert(set, Arc::new(record));
        Ok(())
    }

    fn add_seat(
        &mut self,
        set: SetId,
        place: &Place,
        replaces: Option<NodeName>,
    ) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            if record.stage != SetStage::Offered {
                return Err(IllegalStep::Stage(set));
            }
            if record.seat(&place.node).is_some() {
                return Err(IllegalStep::SeatTaken(set, place.node.clone()));
            }
            record.seats.push(place.seat(replaces));
            Ok(())
        })
    }

    fn offer(&mut self, set: SetId) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            let all_asked_for = record.seats.iter().all(|seat| seat.phase.is_asked_for());
            if record.stage != SetStage::Composing || !all_asked_for {
                return Err(IllegalStep::Stage(set));
            }
            record.stage = SetStage::Offered;
            for seat in &mut record.seats {
                seat.phase = SeatPhase::Serving;
            }
            Ok(())
        })
    }

    fn promote(&mut self, set: SetId, node: &NodeName) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            if record.stage != SetStage::Offered {
                return Err(IllegalStep::Stage(set));
            }
            let index = record.seats.iter().position(|seat| seat.node == *node);
            let index = index.ok_or_else(|| IllegalStep::NoSeat(set, node.clone()))?;
            let SeatPhase::Granting { replaces } = record.seats[index].phase.clone() else {
                return Err(IllegalStep::NoSeat(set, node.clone()));
            };
            record.seats[index].phase = SeatPhase::Serving;
            let leaves =
                |seat: &Seat| replaces.as_ref() == Some(&seat.node) && seat.phase.is_listed();
            if let Some(old) = record.seats.iter().position(leaves) {
                record.seats[old].phase = SeatPhase::Leaving { since: None };
                // The new copy takes the old one's position: the engine counts acknowledgements by
                // position, and those of the others shall stay.
                record.seats.swap(old, index);
            }
            Ok(())
        })
    }

    fn regrant(&mut self, set: SetId, node: &NodeName) -> Result<(), IllegalStep> {
        let now = self.incarnation_of(node);
        let missing = || IllegalStep::NoSeat(set, node.clone());
        let now = now.ok_or_else(missing)?;
        self.change(set, |record| {
            let seat = record.seats.iter_mut().find(|seat| seat.node == *node);
            let seat = seat
                .filter(|seat| seat.incarnation != now)
                .ok_or_else(missing)?;
            match seat.phase {
                SeatPhase::Granting { .. } | SeatPhase::Regranting { .. } => {}
                SeatPhase::Serving => {
                    seat.phase = SeatPhase::Regranting {
                        previous: seat.incarnation,
                    };
                }
                SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. } => return Err(missing()),
            }
            seat.incarnation = now;
            Ok(())
        })
    }

    fn flip(&mut self, device: SwapDeviceId, node: &NodeName) -> Result<(), IllegalStep> {
        self.device_mut(device)?;
        let moves =
            |seat: &Seat| seat.node == *node && matches!(seat.phase, SeatPhase::Regranting { .. });
        let sets = self.sets.of(device);
        let sets = sets.filter(|(_, set)| set.seats.iter().any(moves));
        let sets: Vec<SetId> = sets.map(|(id, _)| id).collect();
        for set in sets {
            self.change(set, |record| {
                for seat in record.seats.iter_mut().filter(|seat| moves(seat)) {
                    seat.phase = SeatPhase::Serving;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn move_seat(
        &mut self,
        set: SetId,
        node: &NodeName,
        next: impl Fn(&SeatPhase) -> Option<SeatPhase>,
    ) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            let seat = record.seats.iter_mut().find(|seat| seat.node == *node);
            let moved = seat.and_then(|seat| next(&seat.phase).map(|phase| seat.phase = phase));
            moved.ok_or_else(|| IllegalStep::NoSeat(set, node.clone()))
        })
    }

    fn mark_seat(
        &mut self,
        set: SetId,
        node: &NodeName,
        mark: Option<Mark>,
    ) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            let mut seats = record.seats.iter_mut();
            let seat = seats.find(|seat| seat.node == *node && seat.phase.is_listed());
            let seat = seat.filter(|seat| seat.mark.is_some() != mark.is_some());
            let seat = seat.ok_or_else(|| IllegalStep::NoSeat(set, node.clone()))?;
            seat.mark = mark;
            Ok(())
        })
    }

    fn recall(&mut self, set: SetId, node: &NodeName) -> Result<(), IllegalStep> {
        let record = self.sets.get(&set).ok_or(IllegalStep::NoSet(set))?;
        if record.stage != SetStage::Offered {
            return Err(IllegalStep::Stage(set));
        }
        self.move_seat(set, node, |phase| {
            matches!(phase, SeatPhase::Leaving { .. }).then_some(SeatPhase::Serving)
        })
    }

    fn close(&mut self, set: SetId) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            if record.stage != SetStage::Offered {
                return Err(IllegalStep::Stage(set));
            }
            record.stage = SetStage::Closing;
            for seat in &mut record.seats {
                if seat.phase.is_listed() {
                    seat.phase = SeatPhase::Leaving { since: None };
                } else if seat.phase.is_asked_for() {
                    seat.phase = SeatPhase::Freeing { since: None };
                }
            }
            Ok(())
        })
    }

    fn reclaim(&mut self, set: SetId) -> Result<(), IllegalStep> {
        self.change(set, |record| {
            record.stage = SetStage::Closing;
            for seat in &mut record.seats {
                if !matches!(seat.phase, SeatPhase::Freeing { .. }) {
                    seat.phase = SeatPhase::Freeing { since: None };
                }
            }
            Ok(())
        })
    }

    fn forget(&mut self, set: SetId, node: &NodeName) -> Result<(), IllegalStep> {
        let mut is_empty = false;
        self.change(set, |record| {
            let before = record.seats.len();
            record.seats.retain(|seat| seat.node != *node);
            if record.seats.len() == before {
                return Err(IllegalStep::NoSeat(set, node.clone()));
            }
            is_empty = record.seats.is_empty();
            Ok(())
        })?;
        if is_empty {
            self.sets.remove(&set);
        }
        Ok(())
    }
}
