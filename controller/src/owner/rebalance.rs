//! The balance of donors, as operators ask for it.

use dynamicswap_planner::{Load, PreviewDonor, PreviewMove, Rebalance};
use dynamicswap_proto::control::v1::{DonorUse, RebalanceMove, RebalanceResponse, SlotUse};

use super::Owner;

impl Owner {
    /// Says what a rebalance would do, and begins it unless it is a dry run. What it leads to depends
    /// on what happens meanwhile: each plan looks afresh. It is not persisted: a controller that starts
    /// anew has to be asked again.
    pub(super) fn even_out(&mut self, dry_run: bool) -> RebalanceResponse {
        let shown = self.with_planner(|planner, view| planner.preview(view));
        let started = !dry_run && !shown.moves.is_empty();
        if started {
            self.rebalance_now = true;
            self.dirty = true;
            let sentence = format!("{} copies are to move", shown.moves.len());
            self.events.note("", "RebalanceAsked", sentence);
        }
        RebalanceResponse {
            moves: shown.moves.iter().map(one_move).collect(),
            donors: shown.donors.iter().map(donor_use).collect(),
            uneven: shown.uneven,
            automatic: self.rebalance == Rebalance::Auto,
            held: shown.held.unwrap_or_default(),
            started,
        }
    }
}

fn one_move(chosen: &PreviewMove) -> RebalanceMove {
    RebalanceMove {
        set_id: chosen.set.get(),
        borrower: chosen.borrower.to_string(),
        from: chosen.from.to_string(),
        to: chosen.to.to_string(),
        from_use: Some(slot_use(chosen.loads.0)),
        to_use: Some(slot_use(chosen.loads.1)),
        bound: chosen.bound,
    }
}

fn donor_use(donor: &PreviewDonor) -> DonorUse {
    DonorUse {
        node: donor.node.to_string(),
        before: Some(slot_use(donor.before)),
        after: Some(slot_use(donor.after)),
    }
}

const fn slot_use(load: Load) -> SlotUse {
    SlotUse {
        lent: load.lent,
        lendable: load.lendable,
    }
}
