//! What this donor lends: reads its memory, has the law decide, tells the memory server.
//!
//! Owns the offer and what the memory server was last told of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynamicswap_policy::{
    Explain, Explanation, Lend, LendDeed, LendSettings, LendSight, Lender, Pressure, Seasons,
};
use dynamicswap_proto::common::v1::MemoryServerReport;
use dynamicswap_proto::daemon::v1::{HoldSlots, request};
use dynamicswap_types::{Bytes, MonotonicTime, SlabSize};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::daemon::hand_over;
use crate::node::NodeMemory;

/// Milliseconds of an hour.
const MS_PER_HOUR: u64 = 3_600_000;

/// The donor's side of the agent; see the module.
#[derive(Debug)]
pub struct Lending {
    socket: PathBuf,
    lend_max: Option<Bytes>,
    lender: Lender,
    /// The last decision, in the memory server's life of that process number.
    decided: Option<Lend>,
    /// What the memory server has taken: its process number, and the slots that it may hold.
    told: Arc<Mutex<Option<(u32, u32)>>>,
    under_way: Option<JoinHandle<()>>,
}

/// A node at one look.
#[derive(Debug, Clone, Copy)]
pub struct DonorFigures {
    /// When, on the clock of the looks.
    pub now: MonotonicTime,
    /// When, by the wall clock.
    pub unix_ms: u64,
    /// Its memory.
    pub memory: NodeMemory,
    /// Its pressure.
    pub pressure: Option<Pressure>,
}

impl Lending {
    /// Nothing is decided yet.
    #[must_use]
    pub fn new(socket: PathBuf, lend_max: Option<Bytes>) -> Self {
        Self {
            socket,
            lend_max,
            lender: Lender::new(None, Seasons::default()),
            decided: None,
            told: Arc::default(),
            under_way: None,
        }
    }

    /// What the node can lend in all now; what it was started with before the first decision.
    #[must_use]
    pub fn offer(&self) -> Option<Bytes> {
        self.decided
            .map(|decided| decided.headroom)
            .or(self.lend_max)
    }

    /// Why; empty before the first decision.
    #[must_use]
    pub fn reason(&self) -> String {
        let explained = self.decided.as_ref().map(Explain::explain);
        explained.map(|it| it.to_string()).unwrap_or_default()
    }

    /// One look. Gives the decision's words if the offer has changed.
    pub fn look(
        &mut self,
        figures: &DonorFigures,
        server: &MemoryServerReport,
    ) -> Option<Explanation> {
        let slab = SlabSize::try_from(Bytes::new(server.slot_bytes)).ok()?;
        let settings = LendSettings {
            slab,
            ..LendSettings::default()
        };
        let sight = sight(figures, server, self.lend_max, &settings);
        let before = self.decided;
        let decided = self.lender.decide(&sight, &settings);
        self.decided = Some(decided);
        self.tell(decided.headroom, slab, server);
        let is_news = before.is_none_or(|before| before.headroom != decided.headroom);
        if !is_news || decided.deed == LendDeed::Keep {
            return None;
        }
        let explained = decided.explain();
        info!("lends {}: {explained}", decided.headroom);
        Some(explained)
    }

    /// Tells the memory server for how many slots it may hold memory, if it was not told so.
    fn tell(&mut self, offer: Bytes, slab: SlabSize, server: &MemoryServerReport) {
        self.under_way.take_if(|task| task.is_finished());
        let slots = offer.get() / slab.bytes().get();
        let slots_max = u32::try_from(slots).unwrap_or(u32::MAX);
        let wanted = (server.pid, slots_max);
        if self.under_way.is_some() || *locked(&self.told) == Some(wanted) {
            return;
        }
        let (socket, told) = (self.socket.clone(), Arc::clone(&self.told));
        self.under_way = Some(tokio::spawn(async move {
            let kind = request::Kind::HoldSlots(HoldSlots { slots_max });
            match hand_over(&socket, kind).await {
                Ok(()) => *locked(&told) = Some(wanted),
                // The next look tells it again.
                Err(error) => warn!(
                    "{}: does not hold {slots_max} slots: {error:#}",
                    socket.display()
                ),
            }
        }));
    }
}

/// No holder of the lock can panic between two of its words.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the law sees.
///
/// The node's pressure counts containers that wait at limits of their own, which lending could not
/// help: it says something of the node only where the node itself is near its reserve.
fn sight(
    figures: &DonorFigures,
    server: &MemoryServerReport,
    lend_max: Option<Bytes>,
    settings: &LendSettings,
) -> LendSight {
    let memory = figures.memory;
    let capacity = Bytes::new(u64::from(server.slots_total).saturating_mul(server.slot_bytes));
    let reserve = settings.reserve(memory.total);
    let is_near = memory.available < reserve.saturating_add(reserve);
    LendSight {
        at: figures.now,
        hour: figures.unix_ms / MS_PER_HOUR,
        total: memory.total,
        available: memory.available,
        lent: Bytes::new(server.memory_bytes),
        capacity: capacity.min(lend_max.unwrap_or(capacity)),
        pressure: figures.pressure.filter(|_| is_near),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(available: Bytes) -> DonorFigures {
        DonorFigures {
            now: MonotonicTime::ZERO,
            unix_ms: 0,
            memory: NodeMemory {
                total: Bytes::from_mib(16_384),
                available,
                ..NodeMemory::default()
            },
            pressure: Some(Pressure::default()),
        }
    }

    fn server() -> MemoryServerReport {
        MemoryServerReport {
            slots_total: 64,
            slot_bytes: 16 << 20,
            memory_bytes: 1 << 30,
            pid: 7,
            ..MemoryServerReport::default()
        }
    }

    #[tokio::test]
    async fn donor_with_room_lends_all_it_has_and_says_why() {
        let mut lending = Lending::new(PathBuf::from("/nonexistent"), None);
        let told = lending.look(&figures(Bytes::from_mib(12_000)), &server());
        assert!(told.is_some());
        assert_eq!(lending.offer(), Some(Bytes::from_mib(1_024)));
        assert!(lending.reason().contains("reserve"), "{}", lending.reason());
    }

    #[tokio::test]
    async fn offer_that_the_memory_server_has_not_taken_is_told_again() {
        let mut lending = Lending::new(PathBuf::from("/nonexistent"), None);
        for _ in 0..2 {
            lending.look(&figures(Bytes::from_mib(12_000)), &server());
            let telling = lending.under_way.take().expect("it is told");
            telling.await.expect("it ends");
            assert_eq!(*locked(&lending.told), None);
        }
        *locked(&lending.told) = Some((7, 64));
        lending.look(&figures(Bytes::from_mib(12_000)), &server());
        assert!(lending.under_way.is_none(), "it knows");
    }

    #[tokio::test]
    async fn capacity_that_the_administrator_bounds_is_not_exceeded() {
        let mut lending = Lending::new(PathBuf::from("/nonexistent"), Some(Bytes::from_mib(100)));
        assert_eq!(lending.offer(), Some(Bytes::from_mib(100)));
        lending.look(&figures(Bytes::from_mib(12_000)), &server());
        assert_eq!(lending.offer(), Some(Bytes::from_mib(96)), "whole slabs");
    }

    #[test]
    fn pressure_counts_only_where_the_node_is_near_its_reserve() {
        let settings = LendSettings::default();
        let seen = |available| sight(&figures(available), &server(), None, &settings).pressure;
        assert!(seen(Bytes::from_mib(12_000)).is_none());
        assert!(seen(Bytes::from_mib(2_000)).is_some());
    }
}
