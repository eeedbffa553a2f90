//! Generations: a part's generation grows exactly when its content changes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use dynamicswap_types::{Generation, NodeName};

use crate::desired::{Content, NodeDocument, render};
use crate::ledger::{Ledger, Published, PublishedPart, Seat, SeatPhase};
use crate::view::DeviceIntent;

/// Renders all documents, advances the generations of what changed, and notes in the ledger in
/// which generation each leaving slot was left out for the first time.
pub fn publish(
    ledger: &mut Ledger,
    intent: Option<&DeviceIntent>,
) -> BTreeMap<NodeName, NodeDocument> {
    let contents = render(ledger, intent);
    let mut documents = BTreeMap::new();
    for (node, content) in contents {
        if let Some(record) = ledger.nodes.get_mut(&node) {
            let document = advance(&mut record.published, content);
            documents.insert(node, document);
        }
    }
    stamp(ledger);
    documents
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
    let Ledger {
        nodes,
        devices,
        sets,
        ..
    } = ledger;
    for set in sets.values_mut() {
        if !set.seats.iter().any(unstamped) {
            continue;
        }
        let set = Arc::make_mut(set);
        let borrower = devices.get(&set.device).map(|device| &device.node);
        let left = borrower
            .and_then(|node| nodes.get(node))
            .map(|record| record.published.swap_device.generation);
        for seat in &mut set.seats {
            match &mut seat.phase {
                SeatPhase::Leaving { since } if since.is_none() => *since = left,
                SeatPhase::Freeing { since } if since.is_none() => {
                    *since = nodes
                        .get(&seat.node)
                        .map(|record| record.published.memory_server.generation);
                }
                _ => {}
            }
        }
    }
}
