//! Whether a donor still holds what it was given, as one borrower sees it.
//!
//! The borrower's link counts most: a donor whose agent is away serves pages as before, and a
//! donor that is well but out of reach does not.

use std::fmt;
use std::time::Duration;

use dynamicswap_types::{MonotonicTime, NodeName, SwapDeviceId};

use crate::limits::{CONNECT_GRACE, STARTUP_GRACE};
use crate::view::{ClusterView, LinkObservation, LinkState, NodeObservation, Session};

/// Why a donor counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The borrower's link is down.
    LinkDown,
    /// The donor answers with another memory.
    MemoryLost,
    /// The donor refuses the borrower.
    Refused,
    /// The borrower never got a link.
    NeverConnected,
    /// The donor's agent says that its memory server does not answer.
    ServerSilent,
    /// The donor's agent has no session.
    SessionLost,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkDown => "its link is down",
            Self::MemoryLost => "it answers with another memory",
            Self::Refused => "it refuses the device",
            Self::NeverConnected => "no link to it was ever up",
            Self::ServerSilent => "its memory server does not answer",
            Self::SessionLost => "its agent has no session",
        })
    }
}

/// A donor's health, as one borrower sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Holds what it was given.
    Good,
    /// Seems gone; dead when the grace is over.
    Suspect {
        /// The end of the grace.
        until: MonotonicTime,
    },
    /// Gone.
    Dead(Cause),
}

impl Health {
    fn after(cause: Cause, since: MonotonicTime, grace: Duration, now: MonotonicTime) -> Self {
        let until = since.after(grace);
        if now >= until {
            Self::Dead(cause)
        } else {
            Self::Suspect { until }
        }
    }

    /// Whether it is dead.
    #[must_use]
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

impl ClusterView<'_> {
    /// The health of `donor` for `device`.
    #[must_use]
    pub fn health(&self, device: SwapDeviceId, donor: &NodeName) -> Health {
        self.health_where(device, donor, |donor| self.is_reached(donor))
    }

    /// The same, for who knows already whom anybody reaches.
    pub(crate) fn health_where(
        &self,
        device: SwapDeviceId,
        donor: &NodeName,
        is_reached: impl Fn(&NodeName) -> bool,
    ) -> Health {
        let link = self
            .device_heard(device)
            .and_then(|heard| heard.links.get(donor));
        match link {
            Some(link) => self.link_health(link, donor),
            None if is_reached(donor) => Health::Good,
            None => self.donor_health(donor),
        }
    }

    fn link_health(&self, link: &LinkObservation, donor: &NodeName) -> Health {
        let since = link.not_up_since.unwrap_or(self.now);
        let grace = self.settings.replace_after;
        let (cause, grace) = match link.state {
            LinkState::Up => return Health::Good,
            LinkState::Down => (Cause::LinkDown, grace),
            LinkState::Connecting if link.was_up => (Cause::LinkDown, grace),
            LinkState::Lost => (Cause::MemoryLost, grace),
            LinkState::Refused => (Cause::Refused, grace),
            LinkState::Connecting => {
                let donor = self.donor_health(donor);
                if donor != Health::Good {
                    return donor;
                }
                (Cause::NeverConnected, CONNECT_GRACE.max(grace))
            }
        };
        Health::after(cause, since, grace, self.now)
    }

    /// What the donor's own agent says, or its silence.
    #[must_use]
    pub fn donor_health(&self, donor: &NodeName) -> Health {
        let grace = self.settings.replace_after;
        let Some(node) = self.nodes.get(donor) else {
            return Health::Suspect {
                until: self.now.after(STARTUP_GRACE.max(grace)),
            };
        };
        match (node.session, node.server_error_since) {
            (Session::Open, None) => Health::Good,
            (Session::Open, Some(since)) => {
                Health::after(Cause::ServerSilent, since, grace, self.now)
            }
            (Session::Lost { since }, _) => {
                Health::after(Cause::SessionLost, since, grace, self.now)
            }
            (Session::Never { since }, _) => {
                let grace = STARTUP_GRACE.max(grace);
                Health::after(Cause::SessionLost, since, grace, self.now)
            }
        }
    }

    /// Whether any borrower that is heard has a working link to `donor`.
    #[must_use]
    pub fn is_reached(&self, donor: &NodeName) -> bool {
        self.nodes
            .values()
            .filter_map(NodeObservation::heard)
            .filter_map(|device| device.links.get(donor))
            .any(|link| link.state == LinkState::Up)
    }
}
