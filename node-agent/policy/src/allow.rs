//! Which containers may swap, and how much: the law of `memory.swap.max`.
//!
//! The kernel's swap is the whole node's; this limit of each container is what keeps the pages of
//! a stranger off the device. A container that no policy selects keeps what its runtime gave it.

use std::collections::BTreeMap;
use std::fmt;

use dynamicswap_types::{Bytes, PAGE_SIZE};

use crate::observation::ContainerName;

/// A value of `memory.swap.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SwapLimit {
    /// So much and no more.
    Bytes(Bytes),
    /// No limit.
    Max,
}

impl SwapLimit {
    /// Nothing may be swapped out.
    pub const NONE: Self = Self::Bytes(Bytes::ZERO);

    /// The bytes; none without a limit.
    #[must_use]
    pub const fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Max => None,
        }
    }

    /// Whole pages, as the kernel keeps them.
    fn whole_pages(self) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let page = PAGE_SIZE.get();
                Self::Bytes(Bytes::new(bytes.get() / page * page))
            }
            Self::Max => Self::Max,
        }
    }
}

impl From<Option<Bytes>> for SwapLimit {
    fn from(limit: Option<Bytes>) -> Self {
        limit.map_or(Self::Max, Self::Bytes)
    }
}

impl fmt::Display for SwapLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Max => f.pad("max"),
        }
    }
}

/// What a policy allots the containers that it selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allotment {
    /// The policy, as namespace/name.
    pub policy: String,
    /// Upper bound of one container; none for no bound.
    pub per_container: Option<Bytes>,
    /// Upper bound of the namespace's containers on this node together.
    pub per_namespace: Option<Bytes>,
}

impl Allotment {
    /// Several, the strictest first: the lowest bound of a container, then of the namespace, then the
    /// first by name.
    #[must_use]
    pub fn by_strictness(several: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut sorted: Vec<Self> = several.collect();
        sorted.sort_by(|a, b| a.rank().cmp(&b.rank()));
        sorted
    }

    fn rank(&self) -> (SwapLimit, SwapLimit, &str) {
        (
            self.per_container.into(),
            self.per_namespace.into(),
            &self.policy,
        )
    }
}

/// Why a container is never let out, whatever policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// Its pod has opted out.
    OptedOut,
    /// Its pod is one that node or cluster cannot do without, as kubelet sees it. What the device's
    /// daemons are started and reached by may be among them.
    Critical,
}

/// What the policies say about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// One in force selects it.
    Allowed(Allotment),
    /// None in force does, but one in a dry run.
    DryRun(Allotment),
    /// They do not matter.
    Barred(Barred),
    /// None selects it.
    None,
}

/// Whether the node's swap device may take pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It is attached and shall stay so.
    Open,
    /// There is none, it is not attached, or it shall be detached.
    Closed,
    /// Its daemon has not said.
    Unknown,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the policies say.
    pub selection: Selection,
    /// Its limit now.
    pub limit: SwapLimit,
    /// What it has swapped out.
    pub swapped: Bytes,
    /// Its limit before it was first changed; none if it never was.
    pub original: Option<SwapLimit>,
}

/// What shall happen to a container's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It stays.
    Leave,
    /// It becomes this one.
    Set(SwapLimit),
    /// It becomes what it was before it was first changed.
    Restore(SwapLimit),
}

/// A decision and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What shall happen.
    pub deed: Deed,
    /// The limit after that.
    pub limit: SwapLimit,
    /// Why.
    pub reason: AllowReason,
}

/// Why a container has its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowReason {
    /// The policy allots it, within its bound of one container.
    Allowed {
        /// The policy.
        policy: String,
        /// Its bound of one container.
        per_container: Option<Bytes>,
    },
    /// What the namespace has left is less than that.
    Namespace {
        /// The policy.
        policy: String,
        /// Its bound of the namespace.
        per_namespace: Bytes,
        /// What the namespace's containers have swapped out on this node.
        swapped: Bytes,
    },
    /// A dry run would allot this.
    DryRun {
        /// The policy.
        policy: String,
        /// What it would be.
        limit: SwapLimit,
    },
    /// It is never let out.
    Barred(Barred),
    /// No policy in force selects it.
    NotSelected,
    /// The node has no swap device to go to, or it shall be detached.
    DeviceClosed,
    /// It is not known whether it has one.
    DeviceUnknown,
}

impl fmt::Display for AllowReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed {
                policy,
                per_container: Some(bound),
            } => write!(f, "{policy} allots each container {bound}"),
            Self::Allowed {
                policy,
                per_container: None,
            } => write!(f, "{policy} allots it without a bound"),
            Self::Namespace {
                policy,
                per_namespace,
                swapped,
            } => write!(
                f,
                "{policy} allots the namespace {per_namespace} on each node, of which {swapped} \
                 are in use here"
            ),
            Self::DryRun { policy, limit } => {
                write!(f, "{policy} is a dry run, the limit would be {limit}")
            }
            Self::Barred(Barred::OptedOut) => f.write_str("its pod has opted out"),
            Self::Barred(Barred::Critical) => {
                f.write_str("its pod's priority says that node or cluster cannot do without it")
            }
            Self::NotSelected => f.write_str("no policy in force selects it"),
            Self::DeviceClosed => {
                f.write_str("the node's swap device is not attached, or shall be detached")
            }
            Self::DeviceUnknown => {
                f.write_str("the node's swapd does not say whether its device is attached")
            }
        }
    }
}

/// Rules on all containers of a node.
#[must_use]
pub fn allow(
    claims: &BTreeMap<ContainerName, Claim>,
    device: Device,
) -> BTreeMap<ContainerName, Ruling> {
    let mut swapped: BTreeMap<&str, Bytes> = BTreeMap::new();
    for (name, claim) in claims {
        // One that was let out counts for as long as its limit is not its own again.
        let counts = claim.original.is_some() || matches!(claim.selection, Selection::Allowed(_));
        let sum = swapped.entry(&name.namespace).or_default();
        if counts {
            *sum = sum.saturating_add(claim.swapped);
        }
    }
    let rule = |(name, claim): (&ContainerName, &Claim)| {
        let of_namespace = swapped.get(&*name.namespace).copied().unwrap_or_default();
        (name.clone(), rule(claim, of_namespace, device))
    };
    claims.iter().map(rule).collect()
}

fn rule(claim: &Claim, of_namespace: Bytes, device: Device) -> Ruling {
    match (&claim.selection, device) {
        (Selection::Allowed(allotment), Device::Open) => {
            let (limit, reason) = bound(allotment, claim.swapped, of_namespace);
            let deed = if limit == claim.limit {
                Deed::Leave
            } else {
                Deed::Set(limit)
            };
            Ruling {
                deed,
                limit,
                reason,
            }
        }
        // Neither let out nor taken back on a guess.
        (Selection::Allowed(_), Device::Unknown) => Ruling {
            deed: Deed::Leave,
            limit: claim.limit,
            reason: AllowReason::DeviceUnknown,
        },
        (Selection::Allowed(_), Device::Closed) => take_back(claim, AllowReason::DeviceClosed),
        (Selection::DryRun(allotment), _) => {
            let (limit, _) = bound(allotment, claim.swapped, of_namespace);
            let policy = allotment.policy.clone();
            take_back(claim, AllowReason::DryRun { policy, limit })
        }
        (Selection::Barred(why), _) => take_back(claim, AllowReason::Barred(*why)),
        (Selection::None, _) => take_back(claim, AllowReason::NotSelected),
    }
}

/// What an allotment comes to: the container's bound, or what it has and what its namespace has left.
fn bound(allotment: &Allotment, swapped: Bytes, of_namespace: Bytes) -> (SwapLimit, AllowReason) {
    let own = SwapLimit::from(allotment.per_container).whole_pages();
    if let Some(per_namespace) = allotment.per_namespace {
        let left = per_namespace.saturating_sub(of_namespace);
        let shared = SwapLimit::Bytes(swapped.saturating_add(left)).whole_pages();
        if shared < own {
            let reason = AllowReason::Namespace {
                policy: allotment.policy.clone(),
                per_namespace,
                swapped: of_namespace,
            };
            return (shared, reason);
        }
    }
    let reason = AllowReason::Allowed {
        policy: allotment.policy.clone(),
        per_container: allotment.per_container,
    };
    (own, reason)
}

/// A limit that was changed becomes what it was; one that was not is none of our business.
fn take_back(claim: &Claim, reason: AllowReason) -> Ruling {
    match claim.original {
        Some(original) => Ruling {
            deed: Deed::Restore(original),
            limit: original,
            reason,
        },
        None => Ruling {
            deed: Deed::Leave,
            limit: claim.limit,
            reason,
        },
    }
}

#[cfg(test)]
mod tests;
