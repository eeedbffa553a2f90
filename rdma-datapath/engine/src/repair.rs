//! Repairs: copies that gave a wrong page are overwritten with the right one, once the read that
//! found it has been answered.

use dynamicswap_types::{MonotonicTime, PageIndex, ServerIndex};

use crate::buffer::Buffers;
use crate::document::ReplicaPlace;
use crate::effect::EngineEvent;
use crate::engine::Engine;
use crate::in_flight::{OperationState, Part, Purpose, RequestPlace, Stage};
use crate::limits::OPERATIONS_RESERVED;
use crate::operation::OperationResult;
use crate::tables::Counter;

impl Engine<'_> {
    /// Starts repairs for reads that were answered. Not before the shell has taken the answer: it
    /// is made from the buffer, and what is written to the copies is not what the kernel reads.
    pub(crate) fn repair_what_was_answered(
        &mut self,
        buffers: &mut dyn Buffers,
        now: MonotonicTime,
    ) {
        if self.has_effects() {
            return;
        }
        let mut index = 0;
        while let Some(place) = self.active.get(index).copied() {
            index += 1;
            if std::mem::take(&mut self.requests[place].repair_due) {
                self.protect_again(place, buffers);
                self.repair(place, now);
                if self.requests[place].outstanding == 0 {
                    index -= 1;
                    self.release_if_idle(place, buffers, now);
                }
            }
        }
    }

    /// Turns a read's pages back into what left for the copies.
    fn protect_again(&mut self, place: RequestPlace, buffers: &mut dyn Buffers) {
        let state = &self.requests[place];
        for share in &state.parts[..state.part_count] {
            for page in 0..share.pages {
                let index = self.page_of(share.slab, share.first + page);
                let entry = &self.tables.pages[index];
                if !entry.is_empty() {
                    let bytes = buffers.bytes_mut(state.buffer.part(share.skip + page, 1));
                    let version = entry.load().version;
                    self.guard
                        .protect(bytes, PageIndex::new(index as u64), version);
                }
            }
        }
    }

    /// Whether an operation would leave those that requests need.
    pub(crate) fn has_room_for_repair(&self) -> bool {
        self.free_operations.len() > OPERATIONS_RESERVED
    }

    /// Overwrites copies that gave a wrong page with what another copy gave.
    fn repair(&mut self, place: RequestPlace, now: MonotonicTime) {
        for part in 0..self.requests[place].part_count {
            let share = self.requests[place].parts[part];
            let Some(set) = self.tables.slabs[share.slab as usize].set() else {
                continue;
            };
            for index in 0..self.tables.sets[set].len() {
                let replica = self.tables.sets[set].replica(index);
                if share.bad & (1 << index) == 0 || !self.is_usable(replica) {
                    continue;
                }
                let mut page = 0;
                while let Some(run) = self.used_run(&share, page)
                    && self.has_room_for_repair()
                {
                    page = run.0 + run.1;
                    self.post((place, part), Purpose::Repair(replica.place), run, now);
                }
            }
        }
    }

    /// The next run of pages that hold something, within a part.
    fn used_run(&self, share: &Part, from: u32) -> Option<(u32, u32)> {
        let used = |page: &u32| {
            !self.tables.pages[self.page_of(share.slab, share.first + *page)].is_empty()
        };
        let first = (from..share.pages).find(used)?;
        let end = (first..share.pages)
            .find(|page| !used(page))
            .unwrap_or(share.pages);
        Some((first, end - first))
    }

    pub(crate) fn repair_done(
        &mut self,
        operation: &OperationState,
        target: ReplicaPlace,
        result: OperationResult,
    ) {
        if result.is_err() {
            return;
        }
        let share = &self.requests[operation.request].parts[operation.part];
        debug_assert_eq!(self.requests[operation.request].stage, Stage::Answered);
        let page = self.page_of(share.slab, share.first + operation.run.0);
        self.tables
            .header
            .count(Counter::PagesRepaired, u64::from(operation.run.1));
        let server: ServerIndex = target.server;
        self.event(EngineEvent::PageRepaired(
            PageIndex::new(page as u64),
            server,
        ));
    }
}
