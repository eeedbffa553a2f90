//! Sets that the borrower released: it will never use them again.

use super::Draft;
use crate::ledger::SetStage;
use crate::plan::Step;
use crate::reason::Reason;

pub(super) fn run(draft: &mut Draft<'_>) {
    for set in draft.pick(|set| set.stage == SetStage::Offered) {
        let Some(device) = draft.ledger.sets.get(&set).map(|record| record.device) else {
            continue;
        };
        let released = draft
            .view
            .device_heard(device)
            .and_then(|heard| heard.sets.get(&set))
            .is_some_and(|said| said.released && !said.bound);
        if released {
            draft.push(Step::Close { set });
            if let Some(borrower) = draft.borrower_of(device) {
                draft.note(Reason::Released { borrower });
            }
        }
    }
}
