//! New sets for the reserve: a first write to a slab must find one granted already.

use std::collections::BTreeMap;

use dynamicswap_types::{NodeName, SetId, SwapDeviceId};

use super::Draft;
use super::class::reserve_wanted;
use crate::choose::{Wish, choose};
use crate::filter::Others;
use crate::health::Health;
use crate::ledger::{SetRecord, SetStage};
use crate::limits::SETS_SPARE_MAX;
use crate::plan::{Place, Step};
use crate::reason::Reason;

/// A device that lacks sets.
struct Want {
    device: SwapDeviceId,
    borrower: NodeName,
    missing: u32,
    /// Copies of the class that is wanted, and of the one in force where that is laxer.
    copies: Vec<usize>,
}

pub(super) fn run(draft: &mut Draft<'_>) {
    let devices: Vec<SwapDeviceId> = draft
        .ledger
        .devices
        .iter()
        .filter(|(_, device)| !device.gone)
        .map(|(id, _)| *id)
        .collect();
    let mut busy = Busy::new();
    for id in &draft.busy {
        if let Some(set) = draft.ledger.sets.get(id) {
            busy.entry(set.device).or_default().push(*id);
        }
    }
    let mut wants: Vec<Want> = devices
        .into_iter()
        .filter_map(|device| want(draft, device, &busy))
        .collect();
    // One set for each in turn, so that scarce slots are shared.
    while !wants.is_empty() {
        wants.retain_mut(|want| {
            if compose_one(draft, want) {
                want.missing -= 1;
                let borrower = want.borrower.clone();
                draft.note(Reason::Reserve { borrower });
                want.missing > 0
            } else {
                false
            }
        });
    }
}

/// The sets of each device that are not at rest.
type Busy = BTreeMap<SwapDeviceId, Vec<SetId>>;

fn want(draft: &mut Draft<'_>, id: SwapDeviceId, busy: &Busy) -> Option<Want> {
    let heard = draft.index.heard(id)?;
    let device = draft.ledger.devices.get(&id)?.clone();
    let intent = draft
        .view
        .intent
        .filter(|intent| intent.attaches(&device))?;
    let in_force = device.class?;
    // Where the device cannot have the class that is wanted, the one in force goes on: whom it
    // serves must not suffer from a policy that nothing can come of.
    let wanted = if heard.can_have(intent.class) {
        intent.class
    } else {
        in_force
    };
    if wanted.remote_copies() == 0 || !heard.can_have(wanted) {
        return None;
    }
    let slabs = u32::try_from(device.slab.slabs_for(device.size)).unwrap_or(u32::MAX);
    let bound = draft.bound_sets(id);
    let target = reserve_wanted(bound).min(slabs.saturating_sub(bound));
    let all = draft.sets_of(id);
    let usable = usable_sets(draft, id, busy);
    let places = slabs.saturating_add(SETS_SPARE_MAX).saturating_sub(all);
    let missing = target.saturating_sub(usable).min(places);
    let mut copies = vec![wanted.remote_copies()];
    if in_force.remote_copies() > 0 && in_force.remote_copies() < wanted.remote_copies() {
        copies.push(in_force.remote_copies());
    }
    (missing > 0).then_some(Want {
        device: id,
        borrower: device.node,
        missing,
        copies,
    })
}

/// Sets of a device that are, or soon will be, ready to be bound.
fn usable_sets(draft: &mut Draft<'_>, id: SwapDeviceId, busy: &Busy) -> u32 {
    let unbound = draft.index.device(id).map(|device| &device.known.unbound);
    let resting = unbound.into_iter().flatten();
    let mut usable = resting.filter(|set| !draft.busy.contains(set)).count();
    for set in busy.get(&id).into_iter().flatten() {
        usable += usize::from(is_usable(draft, *set));
    }
    u32::try_from(usable).unwrap_or(u32::MAX)
}

/// Whether an unbound set is, or soon will be, ready to be bound: the engine binds one only
/// while every copy is reached.
fn is_usable(draft: &mut Draft<'_>, id: SetId) -> bool {
    let Some(set) = draft.ledger.sets.get(&id).cloned() else {
        return false;
    };
    let said = draft
        .view
        .device_heard(set.device)
        .and_then(|heard| heard.sets.get(&id));
    if said.is_some_and(|said| said.bound || said.released) {
        return false;
    }
    let relevant: Vec<NodeName> = match set.stage {
        SetStage::Closing => return false,
        SetStage::Composing => set.seats.iter().map(|seat| seat.node.clone()).collect(),
        SetStage::Offered => set.listed().map(|seat| seat.node.clone()).collect(),
    };
    !relevant.is_empty()
        && relevant
            .iter()
            .all(|node| !matches!(draft.health(set.device, node), Health::Dead(_)))
}

/// Composes one set, with fewer copies if the class wanted finds no room and the class in force
/// does.
fn compose_one(draft: &mut Draft<'_>, want: &Want) -> bool {
    draft.make_eligible(want.device);
    let mut refusals = Vec::new();
    for copies in &want.copies {
        match pick_places(draft, want.device, *copies) {
            Ok(seats) => {
                let (set, device) = (draft.ledger.next_set, want.device);
                draft.push(Step::Compose { set, device, seats });
                return true;
            }
            Err(why) => refusals = why,
        }
    }
    let borrower = want.borrower.clone();
    let reason = Reason::NoDonor { borrower, refusals };
    draft.note_many(reason, want.missing as usize);
    false
}

fn pick_places(
    draft: &mut Draft<'_>,
    device: SwapDeviceId,
    copies: usize,
) -> Result<Vec<Place>, Vec<(crate::filter::Refusal, usize)>> {
    let id = draft.ledger.next_set;
    let nodes = &draft.view.ledger.nodes;
    let mut set = SetRecord {
        device,
        stage: SetStage::Composing,
        seats: Vec::with_capacity(copies),
    };
    let mut places: Vec<Place> = Vec::with_capacity(copies);
    let Some(eligible) = draft.eligible.get(&device) else {
        return Err(Vec::new());
    };
    let mut others = Others {
        domains: Vec::with_capacity(copies),
        zones: Vec::with_capacity(copies),
        zone_max: eligible.zone_max(copies),
    };
    for _ in 0..copies {
        let wish = Wish {
            device,
            id,
            set: &set,
            others: &others,
            seed: draft.view.seed,
        };
        match choose(eligible, &mut draft.pools, &wish) {
            Ok(place) => {
                if let Some(record) = nodes.get(&place.node) {
                    others.domains.push(&record.domain);
                    others.zones.push(record.zone.as_ref());
                }
                set.seats.push(place.seat(None));
                places.push(place);
            }
            Err(refusals) => {
                for place in &places {
                    if let Some(node) = draft.index.node(&place.node) {
                        draft.pools.give_back(node, place.slot, device);
                    }
                }
                return Err(refusals);
            }
        }
    }
    Ok(places)
}
