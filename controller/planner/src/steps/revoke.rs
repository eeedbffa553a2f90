//! Copies on donors that want memory back are marked, the coldest first and a few at a time; what
//! becomes of marked ones stands in `replace.rs`.

use std::collections::BTreeMap;

use dynamicswap_types::{NodeName, SetId};

use super::Draft;
use crate::index::NodeAt;
use crate::ledger::{Mark, SeatPhase, SetRecord, SetStage};
use crate::limits::{MOVES_MAX, MOVES_PER_DONOR_MAX, PARDON_BAND};
use crate::plan::Step;
use crate::reason::Reason;

/// Sets with a marked copy, by the copy's donor.
type Marked = BTreeMap<NodeName, Vec<SetId>>;

pub(super) fn run(draft: &mut Draft<'_>) {
    let marked = marked(draft);
    let mut moving = marked.values().map(Vec::len).sum();
    for at in 0..draft.index.nodes.len() {
        let donor = draft.index.nodes[at].name;
        let wanted = wanted_back(draft, at);
        let marked = marked.get(donor).map_or(&[][..], Vec::as_slice);
        if wanted == 0 && marked.is_empty() {
            continue;
        }
        if wanted > 0 {
            stop_composing(draft, donor);
        }
        let on_their_way = on_their_way(draft, donor);
        let missing = (wanted as usize).saturating_sub(on_their_way + marked.len());
        let asked_for = only_revoked(draft, donor, marked);
        pardon(draft, donor, wanted, on_their_way, &asked_for);
        let room = MOVES_PER_DONOR_MAX.saturating_sub(marked.len());
        let room = room.min(MOVES_MAX.saturating_sub(moving)).min(missing);
        let victims = if room > 0 {
            victims(draft, donor)
        } else {
            Vec::new()
        };
        let chosen = victims.len().min(room);
        for set in victims.into_iter().take(chosen) {
            let node = donor.clone();
            draft.push(Step::Revoke { set, node });
        }
        moving += chosen;
        if chosen > 0 {
            let donor = donor.clone();
            draft.note_many(Reason::Revoke { donor }, chosen);
        }
        if missing > chosen {
            let donor = donor.clone();
            draft.note_many(Reason::RevokePending { donor }, missing - chosen);
        }
    }
}

fn wanted_back(draft: &Draft<'_>, donor: NodeAt) -> u32 {
    let node = &draft.index.nodes[donor];
    let seen = draft.view.nodes.get(node.name);
    seen.map_or(0, |seen| {
        crate::revoke::wanted_back(draft.pools.lent(donor), node.record, seen)
    })
}

/// Slots that no borrower's document lists yet are asked for elsewhere.
fn stop_composing(draft: &mut Draft<'_>, donor: &NodeName) {
    let here = |set: &SetRecord| set.stage == SetStage::Composing && set.seat(donor).is_some();
    for set in draft.pick(here) {
        draft.push(Step::Reclaim { set });
        let donor = donor.clone();
        draft.note(Reason::Abandon { donor });
    }
    let added = |set: &SetRecord| {
        let seat = set.seat(donor);
        set.stage == SetStage::Offered && seat.is_some_and(|seat| seat.phase.is_asked_for())
    };
    for set in draft.pick(added) {
        let (node, donor) = (donor.clone(), donor.clone());
        draft.push(Step::Abandon { set, node });
        draft.note(Reason::Abandon { donor });
    }
}

/// Slots of a donor that come back without a copy being made.
fn on_their_way(draft: &Draft<'_>, donor: &NodeName) -> usize {
    let leaving =
        |phase: &SeatPhase| matches!(phase, SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. });
    let here = |set: &SetRecord| set.seat(donor).is_some_and(|seat| leaving(&seat.phase));
    draft.pick(here).len()
}

fn marked(draft: &Draft<'_>) -> Marked {
    let mut marked = Marked::new();
    for id in &draft.busy {
        let set = draft.ledger.sets.get(id);
        let seats = set.into_iter().flat_map(|set| set.listed());
        for seat in seats.filter(|seat| seat.mark.is_some()) {
            marked.entry(seat.node.clone()).or_default().push(*id);
        }
    }
    marked
}

/// The marked sets of a donor whose copy there it asked for: the others move for another reason.
fn only_revoked(draft: &Draft<'_>, donor: &NodeName, marked: &[SetId]) -> Vec<SetId> {
    let asked = |id: &&SetId| {
        let set = draft.ledger.sets.get(id);
        let seat = set.and_then(|set| set.seat(donor));
        seat.is_some_and(|seat| seat.mark == Some(Mark::Revoked))
    };
    marked.iter().filter(asked).copied().collect()
}

/// Takes marks back that are no longer needed, from the hottest.
fn pardon(
    draft: &mut Draft<'_>,
    donor: &NodeName,
    wanted: u32,
    on_their_way: usize,
    marked: &[SetId],
) {
    let needed = (wanted as usize).saturating_sub(on_their_way);
    let surplus = marked.len().saturating_sub(needed);
    if surplus == 0 || (wanted > 0 && surplus < PARDON_BAND as usize) {
        return;
    }
    let mut hottest = marked.to_vec();
    hottest.sort_by_key(|set| std::cmp::Reverse(temperature(draft, *set)));
    for set in hottest.into_iter().take(surplus) {
        let node = donor.clone();
        draft.push(Step::Pardon { set, node });
    }
    let donor = donor.clone();
    draft.note_many(Reason::Pardon { donor }, surplus);
}

/// Sets that may give up their copy on a donor, the coldest first: those without a slab before all
/// others. One copy of a set moves at a time, and none while the set is in motion for another
/// reason, or nobody hears its borrower.
fn victims(draft: &Draft<'_>, donor: &NodeName) -> Vec<SetId> {
    let still = |set: &SetRecord| {
        set.stage == SetStage::Offered
            && draft.index.heard(set.device).is_some()
            && set
                .seats
                .iter()
                .all(|seat| seat.phase == SeatPhase::Serving && seat.mark.is_none())
    };
    let sets = draft.ledger.sets.on(donor);
    let sets = sets.filter(|(_, set)| still(set)).map(|(id, _)| id);
    let mut sets: Vec<SetId> = sets.collect();
    sets.sort_by_key(|set| (temperature(draft, *set), *set));
    sets
}

/// How much a set is used: whether a slab is bound to it, then its heat. One that its borrower
/// says nothing of counts as the hottest.
pub(super) fn temperature(draft: &Draft<'_>, set: SetId) -> (bool, u64) {
    let device = draft.ledger.sets.get(&set).map(|record| record.device);
    let heard = device.and_then(|device| draft.index.heard(device));
    let said = heard.and_then(|heard| heard.sets.get(&set));
    said.map_or((true, u64::MAX), |said| (said.bound, said.heat))
}
