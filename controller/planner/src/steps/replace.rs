//! Copies of offered sets: dead ones are replaced, missing ones added, surplus ones given back, and
//! those that a donor wants back moved (`moves.rs`).

use std::cmp::Reverse;

use dynamicswap_types::{NodeName, SetId};

use super::{Draft, moves};
use crate::brake::Brake;
use crate::choose::{Wish, choose};
use crate::filter::Others;
use crate::health::{Cause, Health};
use crate::ledger::{Seat, SeatPhase, SetRecord, SetStage};
use crate::plan::Step;
use crate::reason::Reason;

/// The copies of one set, sorted by what is known of them.
pub(super) struct Copies {
    pub(super) good: Vec<NodeName>,
    /// Well, and to leave once another copy is whole in their stead.
    pub(super) marked: Vec<NodeName>,
    pub(super) dead: Vec<(NodeName, Cause)>,
    /// Asked for and not granted yet.
    pub(super) pending: Vec<NodeName>,
    /// Copies that a pending one replaces already.
    pub(super) replaced: Vec<NodeName>,
}

pub(super) fn run(draft: &mut Draft<'_>) {
    for id in draft.pick(|set| set.stage == SetStage::Offered) {
        let Some(set) = draft.ledger.sets.get(&id).cloned() else {
            continue;
        };
        let Some(required) = copies_required(draft, &set) else {
            continue;
        };
        let copies = sort(draft, &set);
        let still = copies.dead.is_empty() && copies.pending.is_empty();
        let quiet = still && copies.marked.is_empty() && copies.good.len() == required;
        if quiet {
            continue;
        }
        if draft.view.device_heard(set.device).is_none() {
            if let Some(borrower) = draft.borrower_of(set.device) {
                draft.note(Reason::BorrowerSilent { borrower });
            }
            continue;
        }
        moves::run(draft, id, &copies, required);
        let have = copies.good.len() + copies.pending.len();
        let Some(set) = draft.ledger.sets.get(&id).cloned() else {
            continue;
        };
        if have < required {
            add(draft, id, &set, copies, required - have);
        } else {
            give_back(draft, id, &set, &copies, required);
        }
    }
}

fn copies_required(draft: &Draft<'_>, set: &SetRecord) -> Option<usize> {
    let device = draft.ledger.devices.get(&set.device)?;
    crate::index::copies_required(&draft.view, device)
}

fn sort(draft: &mut Draft<'_>, set: &SetRecord) -> Copies {
    let mut copies = Copies {
        good: Vec::new(),
        marked: Vec::new(),
        dead: Vec::new(),
        pending: Vec::new(),
        replaced: Vec::new(),
    };
    for seat in &set.seats {
        match &seat.phase {
            SeatPhase::Serving | SeatPhase::Regranting { .. } => {
                let health = if draft.ledger.is_void(seat) {
                    Health::Dead(Cause::MemoryLost)
                } else {
                    draft.health(set.device, &seat.node)
                };
                match health {
                    Health::Dead(cause) => copies.dead.push((seat.node.clone(), cause)),
                    Health::Good if seat.mark.is_some() => copies.marked.push(seat.node.clone()),
                    Health::Good => copies.good.push(seat.node.clone()),
                    Health::Suspect { .. } => {
                        let copies = &mut copies;
                        let list = if seat.mark.is_some() {
                            &mut copies.marked
                        } else {
                            &mut copies.good
                        };
                        list.push(seat.node.clone());
                        note_suspect(draft, set, seat);
                    }
                }
            }
            SeatPhase::Granting { replaces } => {
                copies.pending.push(seat.node.clone());
                copies.replaced.extend(replaces.clone());
            }
            SeatPhase::Leaving { .. } | SeatPhase::Freeing { .. } => {}
        }
    }
    copies
}

fn note_suspect(draft: &mut Draft<'_>, set: &SetRecord, seat: &Seat) {
    if let Some(borrower) = draft.borrower_of(set.device) {
        let donor = seat.node.clone();
        draft.note(Reason::Suspect { borrower, donor });
    }
}

fn add(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, copies: Copies, missing: usize) {
    let Some(borrower) = draft.borrower_of(set.device) else {
        return;
    };
    let mut dead = copies
        .dead
        .into_iter()
        .filter(|(node, _)| !copies.replaced.contains(node));
    for _ in 0..missing {
        let replaces = dead.next();
        if replaces.is_none() && !copies.marked.is_empty() {
            // What is missing is what shall move.
            return;
        }
        if let Some((node, _)) = &replaces {
            if let Brake::On { gone, known, until } = draft.brake {
                draft.wake(until);
                draft.note(Reason::BrakeOn { gone, known });
                return;
            }
            if !draft.has_live_beside(id, set, node) {
                draft.note(Reason::NoLiveCopy { borrower });
                return;
            }
        }
        let donor = replaces.as_ref().map(|(node, _)| node.clone());
        if !add_one(draft, id, donor) {
            return;
        }
        draft.note(match replaces {
            Some((donor, cause)) => Reason::Replace {
                borrower: borrower.clone(),
                donor,
                cause,
            },
            None => Reason::Raise {
                borrower: borrower.clone(),
            },
        });
    }
}

/// Adds one copy on a donor that fits beside all that stay.
pub(super) fn add_one(draft: &mut Draft<'_>, id: SetId, replaces: Option<NodeName>) -> bool {
    let Some(set) = draft.ledger.sets.get(&id).cloned() else {
        return false;
    };
    draft.make_eligible(set.device);
    let others = others(draft, &set, replaces.as_ref());
    let wish = Wish {
        device: set.device,
        id,
        set: &set,
        others: &others,
        seed: draft.view.seed,
    };
    let Some(eligible) = draft.eligible.get(&set.device) else {
        return false;
    };
    match choose(eligible, &mut draft.pools, &wish) {
        Ok(place) => {
            draft.push(Step::AddSeat {
                set: id,
                place,
                replaces,
            });
            true
        }
        Err(refusals) => {
            if let Some(borrower) = draft.borrower_of(set.device) {
                draft.note(Reason::NoDonor { borrower, refusals });
            }
            false
        }
    }
}

/// Where the copies are that a new one stands beside: all but the one that it replaces itself. One that
/// another new one replaces may stay after all, should that one come to nothing.
pub(super) fn others<'v>(
    draft: &Draft<'v>,
    set: &SetRecord,
    replaces: Option<&NodeName>,
) -> Others<'v> {
    let nodes = &draft.view.ledger.nodes;
    let is_replaced = |node: &NodeName| set.seats.iter().any(|seat| seat.replaces(node));
    let beside = |seat: &&Seat| {
        seat.phase.is_asked_for() || (seat.phase.is_listed() && replaces != Some(&seat.node))
    };
    let copies = copies_required(draft, set).unwrap_or(1);
    let eligible = draft.eligible.get(&set.device);
    let mut others = Others {
        domains: Vec::with_capacity(set.seats.len()),
        zones: Vec::with_capacity(set.seats.len()),
        zone_max: eligible.map_or(usize::MAX, |eligible| eligible.zone_max(copies)),
    };
    for seat in set.seats.iter().filter(beside) {
        if let Some(record) = nodes.get(&seat.node) {
            others.domains.push(&record.domain);
            if seat.mark.is_none() && !is_replaced(&seat.node) {
                others.zones.push(record.zone.as_ref());
            }
        }
    }
    others
}

/// More copies than the class asks for: what is only asked for goes first.
fn give_back(draft: &mut Draft<'_>, id: SetId, set: &SetRecord, copies: &Copies, required: usize) {
    let surplus = copies.good.len() + copies.pending.len() - required;
    for node in copies.pending.iter().rev().take(surplus) {
        let (donor, node) = (node.clone(), node.clone());
        draft.push(Step::Abandon { set: id, node });
        draft.note(Reason::Abandon { donor });
    }
    if copies.good.len() < required {
        return;
    }
    for node in surplus_copies(draft, id, set, copies, required) {
        draft.push(Step::Retire { set: id, node });
        if let Some(borrower) = draft.borrower_of(set.device) {
            draft.note(Reason::Lower { borrower });
        }
    }
}

/// The least useful copies above the class, as long as enough live ones stay: dead ones first,
/// then those that are not live, then those that share a zone, then those on the fullest donor.
fn surplus_copies(
    draft: &Draft<'_>,
    id: SetId,
    set: &SetRecord,
    copies: &Copies,
    required: usize,
) -> Vec<NodeName> {
    let Some(heard) = draft.view.device_heard(set.device) else {
        return Vec::new();
    };
    let is_dead = |seat: &Seat| copies.dead.iter().any(|(node, _)| *node == seat.node);
    let is_live = |seat: &Seat| Draft::is_live(heard, id, seat) && !is_dead(seat);
    let mut order: Vec<&Seat> = set
        .listed()
        .filter(|seat| !copies.replaced.contains(&seat.node))
        .filter(|seat| !copies.marked.contains(&seat.node))
        .collect();
    let listed = order.len();
    let zone = |seat: &Seat| {
        let record = draft.view.ledger.nodes.get(&seat.node);
        record.and_then(|record| record.zone.as_ref())
    };
    let zones: Vec<_> = order.iter().map(|seat| zone(seat)).collect();
    let shares_zone = |seat: &Seat| zones.iter().filter(|it| **it == zone(seat)).count() > 1;
    order.sort_by_key(|seat| {
        let node = draft.index.node(&seat.node);
        let free = node.map_or(0, |node| draft.pools.slot_use(node).free);
        let alone = !shares_zone(seat);
        (
            is_live(seat),
            !is_dead(seat),
            alone,
            free,
            Reverse(&seat.node),
        )
    });
    let live = order.iter().filter(|seat| is_live(seat)).count();
    let mut spare_live = live.saturating_sub(required);
    let mut leaving = Vec::new();
    let count = listed.saturating_sub(required);
    for seat in order.into_iter().take(count) {
        let affordable = if is_live(seat) {
            spare_live > 0
        } else {
            live >= required
        };
        if !affordable {
            break;
        }
        spare_live -= usize::from(is_live(seat));
        leaving.push(seat.node.clone());
    }
    leaving
}
