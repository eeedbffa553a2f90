//! Generations: a part's generation grows exactly when its content changes. Documents that nothing
//! touched since they were last published are not rendered again.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use dynamicswap_types::{Generation, NodeName};

use crate::desired::{Content, NodeDocument, Parts, Wanted, render};
use crate::ledger::{
    Ledger, NodeRecord, Published, PublishedPart, Seat, SeatPhase, nodes_that_differ,
};
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
        let nodes = &ledger.nodes;
        self.documents.retain(|node, _| nodes.contains_key(node));
        for (node, content) in render(ledger, intent, &stale) {
            if let Some(record) = ledger.nodes.get_mut(&node) {
                let before = self.documents.get(&node).map(|it| &**it);
                let document = advance(&mut record.published, content, before);
                self.documents.insert(node, Arc::new(document));
            }
        }
        stamp(ledger);
        self.ledger.clone_from(ledger);
        self.intent = intent.cloned();
        self.documents.clone()
    }

    /// What may differ from what was published last.
    fn stale(&self, ledger: &Ledger, intent: Option<&DeviceIntent>) -> Wanted {
        let mut stale = Wanted::new();
        if self.documents.is_empty() || self.intent.as_ref() != intent {
            let nodes = ledger.nodes.keys().cloned();
            stale.extend(nodes.map(|node| (node, Parts::BOTH)));
            return stale;
        }
        self.add_nodes(ledger, &mut stale);
        self.add_devices(ledger, &mut stale);
        self.add_sets(ledger, &mut stale);
        stale
    }

    fn add_nodes(&self, ledger: &Ledger, stale: &mut Wanted) {
        let known = self.ledger.nodes.keys().chain(ledger.nodes.keys());
        for node in known {
            let (before, now) = (self.ledger.nodes.get(node), ledger.nodes.get(node));
            if before == now {
                continue;
            }
            stale.insert(node.clone(), Parts::BOTH);
            if before.map(named) != now.map(named) {
                // Borrowers' documents name it.
                let sets = ledger.sets.on(node);
                let devices = sets.filter_map(|(_, set)| ledger.devices.get(&set.device));
                for device in devices {
                    parts_of(stale, &device.node).swap_device = true;
                }
            }
        }
    }

    fn add_devices(&self, ledger: &Ledger, stale: &mut Wanted) {
        let known = self.ledger.devices.keys().chain(ledger.devices.keys());
        for device in known {
            let (before, now) = (self.ledger.devices.get(device), ledger.devices.get(device));
            for record in [before, now]
                .into_iter()
                .flatten()
                .filter(|_| before != now)
            {
                parts_of(stale, &record.node).swap_device = true;
            }
        }
    }

    fn add_sets(&self, ledger: &Ledger, stale: &mut Wanted) {
        for id in ledger.sets.differences(&self.ledger.sets) {
            let before = self.ledger.sets.get(&id).map(|set| &**set);
            let now = ledger.sets.get(&id).map(|set| &**set);
            for node in nodes_that_differ(before, now) {
                parts_of(stale, node).memory_server = true;
            }
            let same_listing = match (before, now) {
                (Some(before), Some(now)) => {
                    (before.device, before.stage) == (now.device, now.stage)
                        && before.listed().eq(now.listed())
                }
                _ => false,
            };
            let sets = [before, now].into_iter().flatten();
            for set in sets.filter(|_| !same_listing) {
                if let Some(device) = ledger.devices.get(&set.device) {
                    parts_of(stale, &device.node).swap_device = true;
                }
            }
        }
    }
}

fn parts_of<'s>(stale: &'s mut Wanted, node: &NodeName) -> &'s mut Parts {
    stale.entry(node.clone()).or_default()
}

/// What borrowers' documents say of a memory server.
fn named(record: &NodeRecord) -> impl PartialEq + use<'_> {
    (&record.domain, &record.server)
}

fn advance(
    published: &mut Published,
    content: Content,
    before: Option<&NodeDocument>,
) -> NodeDocument {
    let next = published.generation.next();
    let mut changed = false;
    if let Some(document) = &content.swap_device {
        changed |= advance_part(&mut published.swap_device, document, next);
    }
    if let Some(document) = &content.memory_server {
        changed |= advance_part(&mut published.memory_server, document, next);
    }
    changed |= advance_part(&mut published.policies, &content.policies, next);
    if changed {
        published.generation = next;
    }
    let swap_device = content.swap_device.map_or_else(
        || before.and_then(|before| before.swap_device.clone()),
        |made| made.map(|made| (published.swap_device.generation, Arc::new(made))),
    );
    let memory_server = content.memory_server.map_or_else(
        || before.and_then(|before| before.memory_server.clone()),
        |made| made.map(|made| (published.memory_server.generation, Arc::new(made))),
    );
    NodeDocument {
        generation: published.generation,
        swap_device,
        memory_server,
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
