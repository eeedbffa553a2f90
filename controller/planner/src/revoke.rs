//! Revoke: how many slots a donor wants back, and by when.
//!
//! A donor wants back what it has lent beyond its headroom, or everything while it is drained.

use std::collections::BTreeMap;

use dynamicswap_types::{Bytes, MonotonicTime, NodeName};

use crate::ledger::{Ledger, NodeRecord, ServerFacts};
use crate::limits::REVOKE_DEADLINE;
use crate::view::{ClusterView, NodeObservation};

/// Slots that a donor can lend in all.
pub(crate) fn lendable_slots(view: &ClusterView<'_>, node: &NodeName, facts: &ServerFacts) -> u32 {
    let said = view.nodes.get(node).and_then(|seen| seen.lendable);
    said.map_or(facts.slots_total, |lendable| {
        let slots = lendable.get() / facts.slot_size.get().max(1);
        u32::try_from(slots)
            .unwrap_or(u32::MAX)
            .min(facts.slots_total)
    })
}

/// Slots of a donor on record in its present memory, in any phase: it has lent them or is about to.
fn lent(ledger: &Ledger, node: &NodeName, facts: &ServerFacts) -> u32 {
    let seats = ledger.sets.values().filter_map(|set| set.seat(node));
    let here = seats.filter(|seat| seat.incarnation == facts.incarnation);
    u32::try_from(here.count()).unwrap_or(u32::MAX)
}

/// Slots that a donor wants back now, those on their way back included.
#[must_use]
pub fn slots_wanted_back(
    ledger: &Ledger,
    node: &NodeName,
    record: &NodeRecord,
    seen: &NodeObservation,
) -> u32 {
    let Some(facts) = &record.server else {
        return 0;
    };
    // Most donors want nothing back: only of the others are the slots counted.
    if record.drain.is_none() && seen.lendable.is_none() {
        return 0;
    }
    let lent = lent(ledger, node, facts);
    if record.drain.is_some() {
        return lent;
    }
    let lendable = seen.lendable.unwrap_or(Bytes::ZERO);
    let slots = lendable.get() / facts.slot_size.get().max(1);
    lent.saturating_sub(u32::try_from(slots).unwrap_or(u32::MAX))
}

/// Notes by when each donor must have its slots back, from the moment at which it first wants any.
/// To be called before each plan. A controller that starts anew counts from its own start: a deadline
/// comes late then, never early.
pub fn stamp_revokes(
    ledger: &Ledger,
    nodes: &mut BTreeMap<NodeName, NodeObservation>,
    now: MonotonicTime,
) {
    for (node, seen) in nodes {
        let record = ledger.nodes.get(node);
        let wants = record.filter(|record| slots_wanted_back(ledger, node, record, seen) > 0);
        match wants {
            None => seen.revoke_by = None,
            Some(record) => {
                let time = record.drain.unwrap_or(REVOKE_DEADLINE);
                let by = now.after(time);
                // A drain that is asked for again with less time is due sooner.
                seen.revoke_by = Some(seen.revoke_by.map_or(by, |before| before.min(by)));
            }
        }
    }
}
