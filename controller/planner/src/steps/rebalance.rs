//! The balance: copies move from the fullest donors to the emptiest ones, a few at a time, from the
//! moment at which the donors leave the dead band and until they are well inside it.
//!
//! Everything else comes first. Only copies of sets that are whole and at rest move, the coldest
//! first, and a set that moved rests for a while.

mod scale;

use std::collections::BTreeMap;

use dynamicswap_types::{Bytes, NodeName, SetId};

use super::Draft;
use super::moves::has_room;
use super::replace::others;
use crate::balance::{Band, Preview, PreviewDonor, PreviewMove};
use crate::brake::Brake;
use crate::choose::{Wish, choose_at};
use crate::filter;
use crate::index::IndexedNode;
use crate::ledger::{Mark, Seat, SetRecord, SetStage};
use crate::limits::{
    PREVIEW_MOVES_MAX, REBALANCE_MOVES_MAX, REBALANCE_PER_DONOR_MAX, REBALANCE_TRIES_MAX,
};
use crate::plan::Step;
use crate::reason::Reason;
use crate::view::Rebalance;
use scale::{Budget, Group, Scale, is_still, is_uneven};

pub(super) fn run(draft: &mut Draft<'_>) {
    if draft.view.settings.rebalance == Rebalance::Off {
        return;
    }
    let busy = under_way(draft);
    let inner = busy.is_some() || draft.view.settings.rebalance == Rebalance::Now;
    let busy = busy.unwrap_or_default();
    draft.rebalancing = !busy.is_empty();
    let mut budget = Budget {
        moves: REBALANCE_MOVES_MAX.saturating_sub(busy.values().sum::<usize>() / 2),
        per_donor: REBALANCE_PER_DONOR_MAX,
        busy,
        tries: REBALANCE_TRIES_MAX,
    };
    for loads in groups(draft).into_values() {
        let band = Band::around(loads.values().copied(), inner);
        if !is_uneven(&loads, band) {
            continue;
        }
        if held(draft).is_some() {
            draft.rebalancing = true;
            draft.note(Reason::RebalanceHeld);
            return;
        }
        if budget.moves == 0 {
            return;
        }
        let mut scale = Scale::new(loads, band);
        let moves = even_out(draft, &mut scale, &mut budget);
        draft.rebalancing |= !moves.is_empty();
        for one in &moves {
            let (from, to) = (one.from.clone(), one.to.clone());
            draft.note(Reason::Rebalance { from, to });
        }
        // Donors whose copies are under way are not stuck: they wait.
        if let Some((_, donor)) = scale.order.last().filter(|_| !draft.rebalancing) {
            let donor = donor.clone();
            draft.note(Reason::RebalanceStuck { donor });
        }
    }
}

/// What a rebalance would do from here on, as if every copy were made at once.
pub(super) fn preview(draft: &mut Draft<'_>) -> Preview {
    let mut preview = Preview {
        held: held(draft),
        ..Preview::default()
    };
    let mut budget = Budget {
        moves: PREVIEW_MOVES_MAX,
        per_donor: usize::MAX,
        busy: BTreeMap::new(),
        tries: REBALANCE_TRIES_MAX * REBALANCE_MOVES_MAX,
    };
    for loads in groups(draft).into_values() {
        let outer = Band::around(loads.values().copied(), false);
        preview.uneven |= is_uneven(&loads, outer);
        let inner = Band::around(loads.values().copied(), true);
        let mut scale = Scale::new(loads.clone(), inner);
        preview
            .moves
            .extend(even_out(draft, &mut scale, &mut budget));
        for (node, before) in loads {
            let after = scale.loads.get(&node).copied().unwrap_or(before);
            preview.donors.push(PreviewDonor {
                node,
                before,
                after,
            });
        }
    }
    preview.donors.sort_by(|a, b| a.node.cmp(&b.node));
    preview
}

/// What is more urgent than the balance.
fn held(draft: &Draft<'_>) -> Option<String> {
    if let Brake::On { gone, known, .. } = draft.brake {
        return Some(format!("{gone} of {known} donors are gone at once"));
    }
    let urgent = draft
        .reasons
        .iter()
        .find(|(why, _)| why.comes_before_balance());
    if let Some((reason, count)) = urgent {
        let (reason, count) = (reason.clone(), *count);
        return Some(crate::ReportLine { reason, count }.to_string());
    }
    let made = draft.pick(is_made_anew).len();
    (made > 0).then(|| format!("{made} copies are replaced, or leave donors that want them back"))
}

/// Whether a copy of a set is made, for another reason than the balance.
fn is_made_anew(set: &SetRecord) -> bool {
    let balances = |seat: &Seat| seat.mark == Some(Mark::Rebalanced);
    let made = |seat: &Seat| {
        seat.phase.is_asked_for() || (seat.mark == Some(Mark::Revoked) && seat.phase.is_listed())
    };
    set.stage == SetStage::Offered && set.seats.iter().any(made) && !set.seats.iter().any(balances)
}

/// Copies under way for the balance, off and onto each donor; none at all if there are none. Those
/// that are done and not yet off the record hold the inner band, and count no longer.
fn under_way(draft: &Draft<'_>) -> Option<BTreeMap<NodeName, usize>> {
    let mut busy: Option<BTreeMap<NodeName, usize>> = None;
    for set in draft.busy.iter().filter_map(|id| draft.ledger.sets.get(id)) {
        let marked = |mark| mark == Some(Mark::Rebalanced);
        let Some(from) = set.seats.iter().find(|seat| marked(seat.mark)) else {
            continue;
        };
        let busy = busy.get_or_insert_default();
        if !from.phase.is_listed() {
            continue;
        }
        let to = set
            .seats
            .iter()
            .filter(|seat| seat.stays())
            .max_by_key(|seat| {
                // The copy that is on its way was added last.
                let at = set.seats.iter().position(|it| it.node == seat.node);
                (seat.phase.is_asked_for(), at)
            });
        *busy.entry(from.node.clone()).or_default() += 1;
        let to = to.map_or_else(|| from.node.clone(), |to| to.node.clone());
        *busy.entry(to).or_default() += 1;
    }
    busy
}

/// Donors that take new slabs, with what they lend to copies that stay. Others take no part: a donor
/// that gets nothing must not draw the level down.
fn groups(draft: &Draft<'_>) -> BTreeMap<Bytes, Group> {
    let mut groups: BTreeMap<Bytes, Group> = BTreeMap::new();
    for (at, IndexedNode { name, record }) in draft.index.nodes.iter().enumerate() {
        if !record.donor || record.drain.is_some() {
            continue;
        }
        let node = *name;
        let Ok(facts) = filter::open(&draft.view, (node, record)) else {
            continue;
        };
        let load = draft.pools.load(at);
        if load.lendable > 0 {
            let group = groups.entry(facts.slot_size).or_default();
            group.insert(node.clone(), load);
        }
    }
    groups
}

/// Chooses copies and donors for them until the donors are inside the band, or nothing is left to
/// choose.
fn even_out(draft: &mut Draft<'_>, scale: &mut Scale, budget: &mut Budget) -> Vec<PreviewMove> {
    let mut moves = Vec::new();
    while budget.moves > 0 && scale.is_uneven() {
        let sources = scale.order.iter().rev();
        let source = sources
            .filter(|(share, _)| *share > scale.band.level)
            .map(|(_, node)| node)
            .find(|node| !scale.stuck.contains(*node) && budget.has_room(node))
            .cloned();
        let Some(source) = source else {
            break;
        };
        match choose_move(draft, scale, budget, &source) {
            Some(chosen) => {
                budget.take(&chosen);
                scale.move_one(&chosen);
                moves.push(chosen);
            }
            None => {
                scale.stuck.insert(source);
            }
        }
    }
    moves
}

/// Takes the coldest copy of a donor that an emptier one may have, and begins its move.
fn choose_move(
    draft: &mut Draft<'_>,
    scale: &mut Scale,
    budget: &mut Budget,
    from: &NodeName,
) -> Option<PreviewMove> {
    let mut rest = scale.take_movable(draft, from).into_iter();
    let mut refused = Vec::new();
    let mut chosen = None;
    for id in rest.by_ref() {
        chosen = begin(draft, scale, budget, (id, from));
        if chosen.is_some() || budget.tries == 0 {
            break;
        }
        refused.push(id);
    }
    refused.extend(rest);
    scale.give_movable(from, refused);
    chosen
}

/// Begins the move of a set's copy to the emptiest donor that may have it.
fn begin(
    draft: &mut Draft<'_>,
    scale: &Scale,
    budget: &mut Budget,
    (id, from): (SetId, &NodeName),
) -> Option<PreviewMove> {
    // A set on two full donors may have been chosen for the other one.
    let set = draft
        .ledger
        .sets
        .get(&id)
        .filter(|set| is_still(draft, set));
    let set = set?.clone();
    let heard = draft.view.device_heard(set.device)?;
    if !set.listed().all(|seat| Draft::is_live(heard, id, seat)) {
        return None;
    }
    let bound = heard.sets.get(&id).is_some_and(|said| said.bound);
    let replaces = (!has_room(&set)).then(|| from.clone());
    let source = *scale.loads.get(from)?;
    draft.make_eligible(set.device);
    // The copy that moves makes room in its zone: it is looked at as marked already.
    let mut marked = (*set).clone();
    for seat in marked.seats.iter_mut().filter(|seat| seat.node == *from) {
        seat.mark = Some(Mark::Rebalanced);
    }
    let others = others(draft, &marked, replaces.as_ref());
    let wish = Wish {
        device: set.device,
        id,
        set: &set,
        others: &others,
        seed: draft.view.seed,
    };
    let eligible = draft.eligible.get(&set.device)?;
    let mut found = None;
    for (share, to) in &scale.order {
        let target = *scale.loads.get(to)?;
        if *share >= source.share() || budget.tries == 0 {
            break;
        }
        if !target.may_take_from(source) || !budget.has_room(to) {
            continue;
        }
        budget.tries -= 1;
        let Some(at) = draft.index.node(to) else {
            continue;
        };
        if let Some(place) = choose_at(eligible, &mut draft.pools, &wish, at) {
            found = Some((place, (source, target)));
            break;
        }
    }
    let (place, loads) = found?;
    let to = place.node.clone();
    draft.push(Step::Rebalance {
        set: id,
        node: from.clone(),
    });
    draft.push(Step::AddSeat {
        set: id,
        place,
        replaces,
    });
    Some(PreviewMove {
        set: id,
        borrower: draft.borrower_of(set.device)?,
        from: from.clone(),
        to,
        loads,
        bound,
    })
}
