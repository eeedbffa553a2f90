//! Copies on donors that want memory back are marked, the coldest first and a few at a time; what
//! becomes of marked ones stands in `replace.rs`.

use dynamicswap_types::{NodeName, SetId};

use super::Draft;
use crate::ledger::{SeatPhase, SetRecord, SetStage};
use crate::limits::{MOVES_MAX, MOVES_PER_DONOR_MAX, PARDON_BAND};
use crate::plan::Step;
use crate::reason::Reason;
use crate::revoke::slots_wanted_back;

pub(super) fn run(draft: &mut Draft<'_>) {
    let donors: Vec<NodeName> = draft.view.ledger.nodes.keys().cloned().collect();
    let all_marked = marked(draft, None);
    let mut moving = all_marked.len();
    for donor in donors {
        let wanted = wanted_back(draft, &donor);
        if wanted == 0 && all_marked.is_empty() {
            continue;
        }
        if wanted > 0 {
            stop_composing(draft, &donor);
        }
        let on_their_way = on_their_way(draft, &donor);
        let marked = marked(draft, Some(&donor));
        let missing = (wanted as usize).saturating_sub(on_their_way + marked.len());
        pardon(draft, &donor, wanted, on_their_way, &marked);
        let room = MOVES_PER_DONOR_MAX.saturating_sub(marked.len());
        let room = room.min(MOVES_MAX.saturating_sub(moving)).min(missing);
        let victims = if room > 0 {
            victims(draft, &donor)
        } else {
            Vec::new()
        };
        let chosen = victims.len().min(room);
        for set in victims.into_iter().take(chosen) {
            draft.push(Step::Revoke {
                set,
                node: donor.clone(),
            });
        }
        moving += chosen;
        if chosen > 0 {
            let donor = donor.clone();
            draft.note_many(Reason::Revoke { donor }, chosen);
        }
        if missing > chosen {
            draft.note_many(Reason::RevokePending { donor }, missing - chosen);
        }
    }
}

fn wanted_back(draft: &Draft<'_>, donor: &NodeName) -> u32 {
    let record = draft.ledger.nodes.get(donor);
    let seen = draft.view.nodes.get(donor);
    record.zip(seen).map_or(0, |(record, seen)| {
        slots_wanted_back(&draft.ledger, donor, record, seen)
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
        let granting = |phase: &SeatPhase| matches!(phase, SeatPhase::Granting { .. });
        set.stage == SetStage::Offered && seat.is_some_and(|seat| granting(&seat.phase))
    };
    for set in draft.pick(added) {
        let (node, donor) = (donor.clone(), donor.clone());
        draft.push(Step::Abandon { set, node });
        draft.note(Reason::Abandon { donor });
    }
}

/// Slots of a donor that come back without a copy being made.
fn on_their_way(draft: &Draft<'_>, donor: &NodeName) -> usize {
    let seats = draft.ledger.sets.values().filter_map(|set| set.seat(donor));
    let leaving =
        |phase: &SeatPhase| matches!(phase, SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. });
    seats.filter(|seat| leaving(&seat.phase)).count()
}

/// Sets with a marked copy, on this donor or on any.
fn marked(draft: &Draft<'_>, donor: Option<&NodeName>) -> Vec<SetId> {
    draft.pick(|set| {
        let mut seats = set.listed();
        seats.any(|seat| seat.revoked && donor.is_none_or(|donor| seat.node == *donor))
    })
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
            && draft.view.device_heard(set.device).is_some()
            && set.seat(donor).is_some()
            && set
                .seats
                .iter()
                .all(|seat| seat.phase == SeatPhase::Serving && !seat.revoked)
    };
    let mut sets = draft.pick(still);
    sets.sort_by_key(|set| (temperature(draft, *set), *set));
    sets
}

/// How much a set is used: whether a slab is bound to it, then its heat. One that its borrower
/// says nothing of counts as the hottest.
fn temperature(draft: &Draft<'_>, set: SetId) -> (bool, u64) {
    let device = draft.ledger.sets.get(&set).map(|record| record.device);
    let heard = device.and_then(|device| draft.view.device_heard(device));
    let said = heard.and_then(|heard| heard.sets.get(&set));
    said.map_or((true, u64::MAX), |said| (said.bound, said.heat))
}
