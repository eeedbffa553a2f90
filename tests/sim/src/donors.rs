//! Donors: the memory server's real core over ordinary memory, its agent, and how both fail.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use dynamicswap_datapath::transport::loopback::{LoopbackNetwork, LoopbackServer};
use dynamicswap_engine::slots::{GrantDocument, SlotGeometry};
use dynamicswap_types::{Bytes, IncarnationId, MonotonicTime, SlabSize, SlotIndex};

use crate::plane::ServerReport;
use crate::scenario::Scenario;

/// One donor.
pub struct Donor {
    /// Address of its data path.
    pub address: SocketAddr,
    /// Failure domain.
    pub domain: u16,
    /// When its process comes back.
    pub back_at: Option<MonotonicTime>,
    /// Until when its agent is away.
    pub agent_away: MonotonicTime,
    /// When its memory was lost last.
    pub lost_at: Option<MonotonicTime>,
    /// The last document that its agent has for it.
    pub wanted: Option<GrantDocument>,
    server: Rc<RefCell<LoopbackServer>>,
    number: usize,
    lives: u8,
    geometry: SlotGeometry,
}

impl Donor {
    /// Donor `number` of a scenario, running, with fresh memory.
    #[must_use]
    pub fn new(number: usize, scenario: &Scenario, network: &LoopbackNetwork) -> Self {
        let port = 7000 + u16::try_from(number).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let geometry = SlotGeometry {
            slot_size: slot_size(),
            slots: scenario.slots,
        };
        let server = LoopbackServer::new(geometry, incarnation(number, 0));
        let last = scenario.shared_domain && number + 1 == scenario.servers;
        Self {
            address,
            domain: u16::try_from(number - usize::from(last)).unwrap_or_default(),
            back_at: None,
            agent_away: MonotonicTime::ZERO,
            lost_at: None,
            wanted: None,
            server: network.add(address, server),
            number,
            lives: 0,
            geometry,
        }
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.borrow().is_running()
    }

    /// What its agent says of it.
    #[must_use]
    pub fn report(&self) -> ServerReport {
        let server = self.server.borrow();
        let grants = server.core().grants();
        ServerReport {
            incarnation: server.incarnation(),
            generation: server.core().generation(),
            grants: grants
                .map(|grant| (grant.slot.get(), grant.owner.set.get()))
                .collect(),
        }
    }

    /// Looks at a page of a slot.
    pub fn with_page<R>(
        &self,
        slot: u32,
        page: u32,
        look: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let mut server = self.server.borrow_mut();
        let start = page as usize * 4096;
        let bytes = server.range_mut(SlotIndex::new(slot), start..start + 4096);
        bytes.map(look)
    }

    /// kill -9.
    pub fn kill(&mut self, back_at: MonotonicTime) {
        self.server.borrow_mut().stop();
        self.back_at = Some(back_at);
    }

    /// kill -9, and the memory file is gone. With `kept` it lies about that.
    pub fn kill_and_lose(
        &mut self,
        network: &LoopbackNetwork,
        kept: bool,
        times: (MonotonicTime, MonotonicTime),
    ) {
        self.kill(times.1);
        self.lost_at = Some(times.0);
        if kept {
            for slot in 0..self.geometry.slots {
                if let Some(bytes) = self.server.borrow_mut().slot_mut(SlotIndex::new(slot)) {
                    bytes.fill(0);
                }
            }
            return;
        }
        self.lives += 1;
        let mut fresh = LoopbackServer::new(self.geometry, incarnation(self.number, self.lives));
        fresh.stop();
        self.server = network.add(self.address, fresh);
    }

    /// The process comes back, and its agent gives it its document.
    pub fn start(&mut self) {
        self.back_at = None;
        self.server.borrow_mut().start();
        self.apply();
    }

    /// The agent gives the server its document; gives the number of slots taken back.
    pub fn apply(&mut self) -> u32 {
        let Some(document) = &self.wanted else {
            return 0;
        };
        let mut server = self.server.borrow_mut();
        if !server.is_running() {
            return 0;
        }
        // A document for another life is refused; the next one will be right.
        server
            .apply(document)
            .map_or(0, |applied| applied.taken_back)
    }
}

/// Size of every slot, and of the slabs as the controller counts them.
pub fn slot_size() -> SlabSize {
    SlabSize::try_from(Bytes::from_mib(1)).unwrap_or(SlabSize::DEFAULT)
}

fn incarnation(number: usize, life: u8) -> IncarnationId {
    let mut bytes = [0; 16];
    bytes[0] = 1 + u8::try_from(number).unwrap_or_default();
    bytes[1] = life;
    IncarnationId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_memory_has_another_incarnation_unless_it_lies() {
        let network = LoopbackNetwork::default();
        let mut donor = Donor::new(0, &Scenario::of(1), &network);
        let first = donor.report().incarnation;
        let zero = MonotonicTime::ZERO;
        donor.with_page(0, 0, |bytes| bytes[0] = 7);
        donor.kill_and_lose(&network, true, (zero, zero));
        assert!(!donor.is_running());
        assert_eq!(
            (
                donor.report().incarnation,
                donor.with_page(0, 0, |bytes| bytes[0])
            ),
            (first, Some(0))
        );
        donor.kill_and_lose(&network, false, (zero, zero));
        donor.start();
        assert!(donor.is_running());
        assert_ne!(donor.report().incarnation, first);
    }

    #[test]
    fn killed_server_keeps_its_memory() {
        let network = LoopbackNetwork::default();
        let mut donor = Donor::new(0, &Scenario::of(1), &network);
        donor.with_page(1, 2, |bytes| bytes[3] = 7);
        donor.kill(MonotonicTime::ZERO);
        donor.start();
        assert_eq!(donor.with_page(1, 2, |bytes| bytes[3]), Some(7));
    }
}
