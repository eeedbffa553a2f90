//! What the engine does because time has passed.

use dynamicswap_types::MonotonicTime;

use crate::buffer::Buffers;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::in_flight::{Purpose, RequestState, Stage, Work};
use crate::limits::TICK;
use crate::request::RequestError;

impl Engine<'_> {
    /// Looks at every deadline. Call it at [`Self::next_deadline`] or later.
    pub fn tick(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        if now < self.next_tick || self.fenced {
            return;
        }
        self.next_tick = now.after(TICK);
        self.repair_what_was_answered(buffers, now);
        self.reset_overdue(now);
        self.fail_what_waits_too_long(buffers, now);
        self.return_empty_slabs(now);
        self.release_surplus();
        self.drive_all(buffers, now);
    }

    /// Fails writes that have waited for others for as long as a write may: what is before them may be on its
    /// way to a disk that hangs.
    fn fail_what_waits_too_long(&mut self, buffers: &mut dyn Buffers, now: MonotonicTime) {
        let Some(desired) = self.desired.filter(|_| self.waiting > 0) else {
            return;
        };
        let is_late = |state: &RequestState| {
            let waits = state.stage == Stage::Waiting && state.work == Work::Write;
            waits && now.since(state.submitted) >= desired.write_hold
        };
        let late = |engine: &Self| {
            let mut active = engine.active.iter().copied();
            active.find(|place| is_late(&engine.requests[*place]))
        };
        while let Some(place) = late(self) {
            self.waiting -= 1;
            self.answer(place, Err(RequestError::NotDurable), (buffers, now));
        }
    }

    /// Asks for a reset of each link with an overdue operation, once per operation.
    fn reset_overdue(&mut self, now: MonotonicTime) {
        for index in 0..self.operations.len() {
            let state = &mut self.operations[index];
            if !state.taken || state.overdue || now <= state.due {
                continue;
            }
            state.overdue = true;
            match state.purpose {
                Purpose::ReadReplica(place)
                | Purpose::WriteReplica(place)
                | Purpose::Repair(place) => {
                    self.servers[place.server.as_usize()].patience.overdue(now);
                    self.effect(Effect::Reset(place.server));
                }
                Purpose::ReadDisk | Purpose::WriteDisk => self.disk_late += 1,
            }
        }
    }

    /// When the engine next wants a [`Self::tick`]: soon while anything is under way.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicTime> {
        let copying = self.copy.is_busy() || self.copy.is_due();
        let busy = !self.active.is_empty() || copying || self.has_empty_slabs();
        busy.then_some(self.next_tick)
    }
}
