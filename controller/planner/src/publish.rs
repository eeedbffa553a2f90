//! Generations: a part's generation grows exactly when its content changes. Documents that nothing
//! touched since they were last published are not rendered again.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use dynamicswap_types::{Generation, NodeName, SwapDeviceId};

use crate::desired::{Content, NodeDocument, render};
use crate::ledger::{Ledger, NodeRecord, Published, PublishedPart, Seat, SeatPhase};
use crate::view::DeviceIntent;

/// Renders all documents, advances the generations of what changed, and notes in the ledger in
/// which generation each leaving slot was left out for the first time.
pub fn publish(
    ledger: &mut Ledger,
    intent: Option<&DeviceIntent>,
) -> BTreeMap<NodeName, Arc<NodeDocument>> {
    Publisher::default().publish(ledger, intent)
}

/// The documents as last published, and what they followed from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publisher {
    ledger: Ledger,
    intent: Option<DeviceIntent>,
    documents: BTreeMap<NodeName, Arc<NodeDocument>>,
}

impl Publisher {
    /// Does what [`publish`] does, and renders only what may differ from the last time.
    pub(crate) fn publish(
        &mut self,
        ledger: &mut Ledger,
        intent: Option<&DeviceIntent>,
    ) -> BTreeMap<NodeName, Arc<NodeDocument>> {
        let stale = self.stale(ledger, intent);
        let devices = devices_by_borrower(ledger);
        let nodes = &ledger.nodes;
        self.documents.retain(|node, _| nodes.contains_key(node));
        for node in stale {
            let Some(record) = ledger.nodes.get(&node) else {
                continue;
            };
            let device = devices.get(&node).copied();
            let content = render(ledger, intent, (&node, record), device);
            if let Some(record) = ledger.nodes.get_mut(&node) {
                let document = advance(&mut record.published, content);
                self.documents.insert(node, Arc::new(document));
            }
        }
        stamp(ledger);
        self.ledger.clone_from(ledger);
        self.intent = intent.cloned();
        self.documents.clone()
    }

    /// Nodes whose documents may differ from those that were published last.
    fn stale(&self, ledger: &Ledger, intent: Option<&DeviceIntent>) -> BTreeSet<NodeName> {
        if self.documents.is_empty() || self.intent.as_ref() != intent {
            return ledger.nodes.keys().cloned().collect();
        }
        let mut stale = BTreeSet::new();
        let ledgers = [&self.ledger, ledger];
        let known = self.ledger.nodes.keys().chain(ledger.nodes.keys());
        for node in known {
            let [before, now] = ledgers.map(|ledger| ledger.nodes.get(node));
            if before == now {
                continue;
            }
            stale.insert(node.clone());
            if before.map(named) != now.map(named) {
                // Borrowers' documents name it.
                let sets = ledger.sets.on(node);
                let devices = sets.filter_map(|(_, set)| ledger.devices.get(&set.device));
                stale.extend(devices.map(|device| device.node.clone()));
            }
        }
        let known = self.ledger.devices.keys().chain(ledger.devices.keys());
        for device in known {
            let [before, now] = ledgers.map(|ledger| ledger.devices.get(device));
            if before != now {
                let records = [before, now].into_iter().flatten();
                stale.extend(records.map(|record| record.node.clone()));
            }
        }
        for id in ledger.sets.differences(&self.ledger.sets) {
            for ledger in ledgers {
                let Some(set) = ledger.sets.get(&id) else {
                    continue;
                };
                let borrower = ledger.devices.get(&set.device);
                stale.extend(borrower.map(|device| device.node.clone()));
                stale.extend(set.seats.iter().map(|seat| seat.node.clone()));
            }
        }
        stale
    }
}

/// What borrowers' documents say of a memory server.
fn named(record: &NodeRecord) -> impl PartialEq + use<'_> {
    (&record.domain, &record.server)
}

/// The device that each borrower has now.
fn devices_by_borrower(ledger: &Ledger) -> BTreeMap<NodeName, SwapDeviceId> {
    let present = ledger.devices.iter().filter(|(_, device)| !device.gone);
    present
        .map(|(id, device)| (device.node.clone(), *id))
        .collect()
}

fn advance(published: &mut Published, content: Content) -> NodeDocument {
    let next = published.generation.next();
    let mut changed = false;
    changed |= advance_part(&mut published.swap_device, &content.swap_device, next);
    changed |= advance_part(&mut published.memory_server, &content.memory_server, next);
    changed |= advance_part(&mut published.policies, &content.policies, next);
    if changed {
        published.generation = next;
    }
    NodeDocument {
        generation: published.generation,
        swap_device: content
            .swap_device
            .map(|document| (published.swap_device.generation, document)),
        memory_server: content
            .memory_server
            .map(|document| (published.memory_server.generation, document)),
        policies: content.policies,
    }
}

fn advance_part(part: &mut PublishedPart, content: &impl Hash, next: Generation) -> bool {
    // Keyed with constants, so that a restart compares alike. Another version of the standard
    // library may hash differently; the generation then grows once more, which does no harm.
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let digest = hasher.finish();
    if part.generation > Generation::ZERO && part.digest == digest {
        return false;
    }
    *part = PublishedPart {
        generation: next,
        digest,
    };
    true
}

fn stamp(ledger: &mut Ledger) {
    let unstamped = |seat: &Seat| {
        matches!(
            seat.phase,
            SeatPhase::Leaving { since: None } | SeatPhase::Freeing { since: None }
        )
    };
    let moving = ledger.sets.moving();
    let left_out = moving.filter(|(_, set)| set.seats.iter().any(unstamped));
    let left_out: Vec<_> = left_out.map(|(id, set)| (id, (**set).clone())).collect();
    for (id, mut set) in left_out {
        let before = set.clone();
        let borrower = ledger.devices.get(&set.device).map(|device| &device.node);
        let left = borrower
            .and_then(|node| ledger.nodes.get(node))
            .map(|record| record.published.swap_device.generation);
        for seat in &mut set.seats {
            match &mut seat.phase {
                SeatPhase::Leaving { since } if since.is_none() => *since = left,
                SeatPhase::Freeing { since } if since.is_none() => {
                    let donor = ledger.nodes.get(&seat.node);
                    *since = donor.map(|record| record.published.memory_server.generation);
                }
                _ => {}
            }
        }
        if set != before {
            ledger.sets.insert(id, Arc::new(set));
        }
    }
}
