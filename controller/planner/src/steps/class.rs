//! The class that each device's document asks for, and how many unbound sets it may keep.
//!
//! A laxer class is in force at once. A stricter one waits until every set has the copies: a
//! document that asked for more than there are would make every write fail.

use dynamicswap_types::{Durability, Spill, SwapDeviceId};

use super::Draft;
use crate::ledger::{DeviceRecord, SetStage};
use crate::limits::{RESERVE_DIVISOR, RESERVE_SETS_MAX, RESERVE_SETS_MIN};
use crate::plan::Step;
use crate::reason::Reason;
use crate::view::DeviceObservation;

/// Unbound sets to keep for a device with so many bound ones.
pub(super) fn reserve_wanted(bound: u32) -> u32 {
    bound
        .div_ceil(RESERVE_DIVISOR)
        .clamp(RESERVE_SETS_MIN, RESERVE_SETS_MAX)
}

/// Unbound sets from which on a device releases some. Twice the wanted number, so that a slab
/// more or less moves nothing, and a power of two, so that the document seldom changes.
fn reserve_limit(bound: u32) -> u32 {
    (2 * reserve_wanted(bound)).next_power_of_two()
}

pub(super) fn run(draft: &mut Draft<'_>) {
    let present: Vec<(SwapDeviceId, DeviceRecord)> = draft
        .ledger
        .devices
        .iter()
        .filter(|(_, device)| !device.gone)
        .map(|(id, device)| (*id, device.clone()))
        .collect();
    for (id, device) in present {
        note_lack(draft, &device);
        let Some(heard) = draft.index.heard(id) else {
            continue;
        };
        set_class(draft, id, &device, heard);
        set_reserve(draft, id, &device);
    }
}

/// Says that a device stays detached because it protects its pages too little.
fn note_lack(draft: &mut Draft<'_>, device: &DeviceRecord) {
    let intent = draft.view.intent.filter(|intent| intent.attach);
    if let Some(lack) = intent.and_then(|intent| device.lacks(intent.integrity)) {
        let borrower = device.node.clone();
        draft.note(Reason::IntegrityTooWeak { borrower, lack });
    }
}

fn set_class(
    draft: &mut Draft<'_>,
    id: SwapDeviceId,
    device: &DeviceRecord,
    heard: &DeviceObservation,
) {
    let Some(wanted) = draft.view.intent.map(|intent| intent.class) else {
        return;
    };
    if !heard.can_have(wanted) {
        let borrower = device.node.clone();
        draft.note(Reason::NoSpillFile { borrower });
        return;
    }
    let class = match device.class {
        Some(now) if wanted.remote_copies() > now.remote_copies() => raised(draft, id, now, wanted),
        _ => wanted,
    };
    if device.class != Some(class) {
        draft.push(Step::SetClass { device: id, class });
        // What the sets shall have is another number of copies now.
        let sets = draft.pick_of(id, |_| true);
        draft.busy.extend(sets);
    }
}

/// The class on the way from `now` to a stricter one.
fn raised(
    draft: &mut Draft<'_>,
    id: SwapDeviceId,
    now: Durability,
    wanted: Durability,
) -> Durability {
    let short = draft.pick_of(id, |set| {
        set.stage == SetStage::Offered && set.listed().count() < wanted.remote_copies()
    });
    if short.is_empty() {
        return wanted;
    }
    if let Some(borrower) = draft.borrower_of(id) {
        let reason = Reason::ClassPending {
            borrower,
            wanted: wanted.copies,
        };
        draft.note_many(reason, short.len());
    }
    if now.spill == Spill::Only {
        return now;
    }
    Durability {
        copies: now.copies,
        spill: wanted.spill,
    }
}

fn set_reserve(draft: &mut Draft<'_>, id: SwapDeviceId, device: &DeviceRecord) {
    let wants_remote = draft
        .view
        .intent
        .is_some_and(|intent| intent.attaches(device) && intent.class.remote_copies() > 0);
    let sets = if wants_remote {
        reserve_limit(draft.bound_sets(id))
    } else {
        0
    };
    if device.reserve_sets_max != sets {
        draft.push(Step::SetReserve { device: id, sets });
    }
}

impl Draft<'_> {
    /// Sets that a device says are bound to a slab.
    pub(super) fn bound_sets(&self, device: SwapDeviceId) -> u32 {
        self.index
            .device(device)
            .map_or(0, |device| device.known.bound)
    }
}
