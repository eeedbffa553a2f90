//! What must hold between any two calls, for tests and simulations.

use crate::engine::Engine;
use crate::limits::OPERATIONS_MAX;

impl Engine<'_> {
    /// Checks what must always hold. For tests and simulations: it looks at everything.
    ///
    /// # Panics
    /// If something does not hold.
    pub fn check_invariants(&self) {
        let taken = self.requests.iter().filter(|request| request.taken).count();
        assert_eq!(taken, self.active.len(), "requests in use are in the list");
        assert_eq!(taken + self.free_requests.len(), self.requests.len());
        let under_way = self
            .operations
            .iter()
            .filter(|operation| operation.taken)
            .count();
        assert_eq!(under_way + self.free_operations.len(), OPERATIONS_MAX);
        let counted: u32 = self
            .requests
            .iter()
            .filter(|r| r.taken)
            .map(|r| r.outstanding)
            .sum();
        assert_eq!(
            counted as usize, under_way,
            "each operation belongs to a request"
        );
        let in_flight: u32 = self.servers.iter().map(|server| server.in_flight).sum();
        assert!(in_flight as usize <= under_way);
        for server in &self.servers {
            assert!(server.pages_in_flight >= server.in_flight);
            assert!(server.in_flight > 0 || server.pages_in_flight == 0);
        }
        for (slab, used) in self.slab_used.iter().enumerate() {
            let first = slab * self.config.geometry.slab_pages as usize;
            let end = self
                .tables
                .pages
                .len()
                .min(first + self.config.geometry.slab_pages as usize);
            let counted = self.tables.pages[first..end]
                .iter()
                .filter(|p| !p.is_empty())
                .count();
            assert_eq!(*used as usize, counted, "used pages of slab {slab}");
            if let Some(place) = self.tables.slabs[slab].set() {
                assert_eq!(self.set_slab[place].map(|s| s as usize), Some(slab));
                assert!(
                    self.tables.sets[place].id().is_some(),
                    "slab {slab} has a real set"
                );
                assert!(!self.tables.sets[place].is_released());
            }
        }
        for (place, slab) in self.set_slab.iter().enumerate() {
            if let Some(slab) = slab {
                assert_eq!(self.tables.slabs[*slab as usize].set(), Some(place));
            }
        }
    }
}
