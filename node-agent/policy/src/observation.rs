//! The facts of one moment, which every rule judges: nothing in them changes while they are
//! judged.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dynamicswap_types::{Bytes, MonotonicTime};

use crate::share::Share;
use crate::trigger::{Line, Trigger};

/// Namespace and name of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName {
    /// Its namespace.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stall {
    /// Share of the last 10 s, as the kernel averages it.
    pub avg10: Share,
    /// Share of the last 60 s.
    pub avg60: Share,
    /// Share of the last 300 s.
    pub avg300: Share,
    /// All stall since the cgroup was made.
    pub total: Duration,
}

/// A pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Some task waits.
    pub some: Stall,
    /// All tasks wait.
    pub full: Stall,
}

impl Pressure {
    /// A line of it.
    #[must_use]
    pub const fn line(&self, line: Line) -> &Stall {
        match line {
            Line::Some => &self.some,
            Line::Full => &self.full,
        }
    }
}

/// Memory of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// In RAM.
    pub used: Bytes,
    /// Where the kernel begins to hold it down; none if nothing does.
    pub limit: Option<Bytes>,
    /// Swapped out.
    pub swapped: Bytes,
}

/// What is seen of a container, or of the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When it was seen.
    pub at: MonotonicTime,
    /// Its pressure; none if the host does not say.
    pub pressure: Option<Pressure>,
    /// Its memory. The node's limit is its size.
    pub memory: Memory,
    /// The trigger that has fired since the last sight.
    pub fired: Option<Trigger>,
}

/// The node and its containers. Each sight carries its own time: a trigger refreshes the
/// container that it guards, the timer all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The node as a whole.
    pub node: Sight,
    /// Its containers.
    pub containers: BTreeMap<ContainerName, Sight>,
}
