//! Who is reached by anybody, and since when the others are not: one pass over every link.

use dynamicswap_types::{MonotonicTime, NodeName};

use crate::hash::Lookup;
use crate::view::{ClusterView, LinkState, Session};

/// What the borrowers' links say of one donor.
#[derive(Debug, Clone, Copy, Default)]
struct Links {
    up: bool,
    /// The latest moment at which a link that ever worked broke.
    not_up_since: Option<MonotonicTime>,
}

/// What the borrowers' links say of all donors.
pub(crate) struct Reach<'a> {
    links: Lookup<&'a NodeName, Links>,
}

impl<'a> Reach<'a> {
    pub(crate) fn of(view: &ClusterView<'a>) -> Self {
        let mut links: Lookup<&NodeName, Links> = Lookup::default();
        let heard = view.nodes.values();
        let heard = heard.filter(|node| node.session == Session::Open && !node.device_error);
        for (donor, link) in heard
            .filter_map(|node| node.device.as_ref())
            .flat_map(|device| &device.links)
        {
            if links.get(donor).is_none() {
                links.insert(donor, Links::default());
            }
            let Some(known) = links.get_mut(donor) else {
                continue;
            };
            known.up |= link.state == LinkState::Up;
            if link.was_up || link.state != LinkState::Connecting {
                known.not_up_since = known.not_up_since.max(link.not_up_since);
            }
        }
        Self { links }
    }

    /// Whether any borrower that is heard has a working link to `donor`.
    pub(crate) fn is_reached(&self, donor: &NodeName) -> bool {
        self.links.get(donor).is_some_and(|links| links.up)
    }

    /// Since when `donor` is gone for everybody: out of reach of every borrower that has a link
    /// to it, and, where none has, silent itself.
    pub(crate) fn gone_since(
        &self,
        view: &ClusterView<'_>,
        donor: &NodeName,
    ) -> Option<MonotonicTime> {
        let links = self.links.get(donor).copied().unwrap_or_default();
        if links.up {
            return None;
        }
        let own = view.nodes.get(donor).and_then(|node| match node.session {
            Session::Open => node.server_error_since,
            Session::Lost { since } | Session::Never { since } => Some(since),
        });
        links.not_up_since.or(own)
    }
}
