//! What the engine tells about itself: for reports, `status` and metrics. Not on the I/O path.

use dynamicswap_types::{Generation, ServerIndex, SetId, SlabIndex};

use crate::engine::{Engine, ServerState};
use crate::sets::{Replica, ReplicaState};
use crate::tables::Tables;

/// One set as the engine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetView {
    /// Its id.
    pub id: SetId,
    /// Slab that it is bound to; none while it is in the reserve.
    pub slab: Option<SlabIndex>,
    /// Pages of that slab that hold something.
    pub pages_used: u32,
    /// Whether it will not be used again.
    pub released: bool,
    /// Its copies.
    pub replicas: [Option<Replica>; 3],
}

impl<'m> Engine<'m> {
    /// The tables that it works on.
    #[must_use]
    pub fn tables(&self) -> Tables<'m> {
        self.tables
    }

    /// Generation of the document in force; zero before the first.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.desired
            .map_or(Generation::ZERO, |desired| desired.generation)
    }

    /// The newest generation that is settled: it is in force, and nothing is under way any more to
    /// a copy that it, or one before it, dropped. A slot that is taken back before that breaks its
    /// link where servers are reached by RDMA, and with it whatever else is under way there.
    #[must_use]
    pub fn settled_generation(&self) -> Generation {
        let mut operations = self.operations.iter();
        if operations.any(|operation| operation.taken && operation.disowned) {
            self.settled
        } else {
            self.generation()
        }
    }

    /// One server's state.
    #[must_use]
    pub fn server(&self, server: ServerIndex) -> Option<ServerState> {
        self.servers.get(server.as_usize()).copied()
    }

    /// All granted sets.
    pub fn sets(&self) -> impl Iterator<Item = SetView> + '_ {
        self.tables
            .sets
            .iter()
            .enumerate()
            .filter_map(|(place, entry)| {
                let slab = self.set_slab[place];
                Some(SetView {
                    id: entry.id()?,
                    slab: slab.map(SlabIndex::new),
                    pages_used: slab.map_or(0, |slab| self.slab_used[slab as usize]),
                    released: entry.is_released(),
                    replicas: [0, 1, 2].map(|i| (i < entry.len()).then(|| entry.replica(i))),
                })
            })
    }

    /// Pages that hold something.
    #[must_use]
    pub fn pages_used(&self) -> u64 {
        self.slab_used.iter().map(|used| u64::from(*used)).sum()
    }

    /// Pages whose class is not satisfied now: fewer LIVE reachable copies than it asks for.
    #[must_use]
    pub fn pages_degraded(&self) -> u64 {
        let required = self
            .desired
            .map_or(0, |desired| desired.durability.remote_copies());
        let degraded = |set: &SetView| {
            let live =
                set.replicas.iter().flatten().filter(|replica| {
                    replica.state == ReplicaState::Live && self.is_usable(**replica)
                });
            set.slab.is_some() && live.count() < required
        };
        self.sets()
            .filter(degraded)
            .map(|set| u64::from(set.pages_used))
            .sum()
    }

    /// Sets that are free to be bound now.
    #[must_use]
    pub fn sets_in_reserve(&self) -> usize {
        let ready = |set: &SetView| {
            set.slab.is_none()
                && !set.released
                && set
                    .replicas
                    .iter()
                    .flatten()
                    .all(|replica| self.is_usable(*replica))
        };
        self.sets().filter(ready).count()
    }
}
