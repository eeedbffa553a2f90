//! Devices that are gone: nobody reads what they left, so their slots go back at once.

use super::Draft;
use crate::ledger::SeatPhase;
use crate::plan::Step;
use crate::reason::Reason;

pub(super) fn run(draft: &mut Draft<'_>) {
    let gone: Vec<_> = draft
        .ledger
        .devices
        .iter()
        .filter(|(_, device)| device.gone)
        .map(|(id, device)| (*id, device.node.clone()))
        .collect();
    for (device, borrower) in gone {
        let held = draft.pick_of(device, |_| true);
        if held.is_empty() {
            draft.push(Step::ForgetDevice { device });
            continue;
        }
        for set in held {
            let freeing = draft.ledger.sets.get(&set).is_some_and(|record| {
                let mut seats = record.seats.iter();
                seats.all(|seat| matches!(seat.phase, SeatPhase::Freeing { .. }))
            });
            if !freeing {
                let borrower = borrower.clone();
                draft.push(Step::Reclaim { set });
                draft.note(Reason::DeviceGone { borrower });
            }
        }
    }
}
