//! Who is reached by anybody, and since when the others are not. Kept from one plan to the next: a
//! borrower that says something new changes what is known of the donors that it names.

use std::collections::BTreeMap;

use dynamicswap_types::{MonotonicTime, NodeName};

use crate::hash::Lookup;
use crate::view::{ClusterView, DeviceObservation, LinkState, Session};

/// What the borrowers' links say of one donor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Links {
    /// Links that are up.
    up: u32,
    /// When a link that ever worked broke, by its borrower.
    broken: BTreeMap<NodeName, MonotonicTime>,
}

/// What the borrowers' links say of all donors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    links: Lookup<NodeName, Links>,
}

impl Reach {
    /// What every borrower that is heard says.
    pub(crate) fn of(view: &ClusterView<'_>) -> Self {
        let mut reach = Self::default();
        for (borrower, node) in view.nodes {
            reach.follow(borrower, None, node.heard().map(|device| &**device));
        }
        reach
    }

    /// A borrower says something else than before, or is heard no more.
    pub(crate) fn follow(
        &mut self,
        borrower: &NodeName,
        before: Option<&DeviceObservation>,
        now: Option<&DeviceObservation>,
    ) {
        for (donor, link) in before.iter().flat_map(|device| &device.links) {
            if let Some(known) = self.links.get_mut(donor) {
                known.up -= u32::from(link.state == LinkState::Up);
                known.broken.remove(borrower);
            }
        }
        for (donor, link) in now.iter().flat_map(|device| &device.links) {
            if self.links.get(donor).is_none() {
                self.links.insert(donor.clone(), Links::default());
            }
            let Some(known) = self.links.get_mut(donor) else {
                continue;
            };
            known.up += u32::from(link.state == LinkState::Up);
            let worked = link.was_up || link.state != LinkState::Connecting;
            if let Some(since) = link.not_up_since.filter(|_| worked) {
                known.broken.insert(borrower.clone(), since);
            }
        }
    }

    /// Whether any borrower that is heard has a working link to `donor`.
    pub(crate) fn is_reached(&self, donor: &NodeName) -> bool {
        self.links.get(donor).is_some_and(|links| links.up > 0)
    }

    /// Since when `donor` is gone for everybody: out of reach of every borrower that has a link
    /// to it, and, where none has, silent itself.
    pub(crate) fn gone_since(
        &self,
        view: &ClusterView<'_>,
        donor: &NodeName,
    ) -> Option<MonotonicTime> {
        if self.is_reached(donor) {
            return None;
        }
        let own = view.nodes.get(donor).and_then(|node| match node.session {
            Session::Open => node.server_error_since,
            Session::Lost { since } | Session::Never { since } => Some(since),
        });
        let links = self.links.get(donor);
        // The latest moment counts.
        let not_up_since = links.and_then(|links| links.broken.values().max().copied());
        not_up_since.or(own)
    }
}
