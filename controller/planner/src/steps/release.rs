//! Sets that the borrower released: it will never use them again.

use dynamicswap_types::{NodeName, SetId};

use super::Draft;
use crate::ledger::SetStage;
use crate::plan::Step;
use crate::reason::Reason;

pub(super) fn run(draft: &mut Draft<'_>) {
    let mut released: Vec<(SetId, NodeName)> = Vec::new();
    for device in &draft.index.devices {
        let offered = device.known.released.iter().filter(|id| {
            let set = draft.ledger.sets.get(id);
            set.is_some_and(|set| set.stage == SetStage::Offered)
        });
        let borrower = &device.record.node;
        released.extend(offered.map(|id| (*id, borrower.clone())));
    }
    for (set, borrower) in released {
        draft.push(Step::Close { set });
        draft.note(Reason::Released { borrower });
    }
}
