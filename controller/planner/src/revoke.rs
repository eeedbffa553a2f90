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
        whole_slots(lendable, facts).min(facts.slots_total)
    })
}

fn whole_slots(bytes: Bytes, facts: &ServerFacts) -> u32 {
    let slots = bytes.get() / facts.slot_size.get().max(1);
    u32::try_from(slots).unwrap_or(u32::MAX)
}

/// Slots of a donor on record in its present memory, in any phase: it has lent them or is about to.
fn lent(ledger: &Ledger, node: &NodeName, record: &NodeRecord) -> u32 {
    let now = record.server.as_ref().map(|server| server.incarnation);
    let sets = ledger.sets.on(node);
    let seats = sets.filter_map(|(_, set)| set.seat(node));
    let here = seats.filter(|seat| Some(seat.incarnation) == now).count();
    u32::try_from(here).unwrap_or(u32::MAX)
}

/// Whether a donor wants any slot back now. Looks at its sets only where there are so many of them.
pub(crate) fn wants_any(
    ledger: &Ledger,
    node: &NodeName,
    record: &NodeRecord,
    seen: &NodeObservation,
) -> bool {
    let most = u32::try_from(ledger.sets.count_on(node)).unwrap_or(u32::MAX);
    wanted_back(most, record, seen) > 0 && wanted_back(lent(ledger, node, record), record, seen) > 0
}

/// Slots that a donor wants back now of so many that it has lent, those on their way back included.
pub(crate) fn wanted_back(lent: u32, record: &NodeRecord, seen: &NodeObservation) -> u32 {
    let Some(facts) = &record.server else {
        return 0;
    };
    if record.drain.is_some() {
        return lent;
    }
    let Some(lendable) = seen.lendable else {
        return 0;
    };
    lent.saturating_sub(whole_slots(lendable, facts))
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
        let wants = record.filter(|record| wants_any(ledger, node, record, seen));
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
