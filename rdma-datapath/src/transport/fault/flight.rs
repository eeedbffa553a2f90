//! Operations between the engine and the inner transport, each with its own copy of the payload.

use dynamicswap_engine::buffer::{BufferRange, Buffers};
use dynamicswap_engine::limits::REQUEST_PAGES_MAX;
use dynamicswap_engine::operation::{Direction, Operation, OperationId, OperationResult};
use dynamicswap_types::{MonotonicTime, ServerIndex};

use super::random::SeededRandom;

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// On its way to the server until `at`.
    Held { at: MonotonicTime },
    /// With the inner transport.
    Posted,
    /// On its way back until `at`.
    Answered {
        result: OperationResult,
        at: MonotonicTime,
    },
    /// With the inner transport, although the engine was told that the link is down.
    Late,
    /// Gone; waits for the link to go down.
    Lost,
}

pub(super) struct Flight {
    pub(super) operation: Operation,
    pub(super) stage: Stage,
    /// Place in the pool, which is also its name for the inner transport.
    place: usize,
    serial: u64,
    abandoned: bool,
    copy: Vec<u8>,
}

impl Flight {
    fn inner_id(&self) -> OperationId {
        OperationId((self.serial << 16) | u64::try_from(self.place).unwrap_or_default())
    }

    /// The operation as the inner transport gets it.
    pub(super) fn inner_operation(&self) -> Operation {
        let place = u32::try_from(self.place).unwrap_or_default();
        Operation {
            id: self.inner_id(),
            buffer: BufferRange {
                first: place * REQUEST_PAGES_MAX,
                pages: self.operation.buffer.pages,
            },
            ..self.operation
        }
    }

    pub(super) const fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Gives a read's bytes to the engine.
    pub(super) fn copy_out(&self, buffers: &mut dyn Buffers) {
        if self.operation.direction == Direction::Read {
            buffers
                .bytes_mut(self.operation.buffer)
                .copy_from_slice(&self.copy);
        }
    }
}

/// All of them. It is the inner transport's buffer pool as well.
#[derive(Default)]
pub(super) struct Flights {
    places: Vec<Option<Flight>>,
    next_serial: u64,
}

fn place_of(id: OperationId) -> usize {
    usize::try_from(id.0 & 0xffff).unwrap_or_default()
}

impl Flights {
    pub(super) fn insert(
        &mut self,
        operation: &Operation,
        stage: Stage,
        buffers: &dyn Buffers,
    ) -> OperationId {
        let place = self.places.iter().position(Option::is_none);
        let place = place.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.next_serial += 1;
        let flight = Flight {
            operation: *operation,
            stage,
            place,
            serial: self.next_serial,
            abandoned: false,
            copy: buffers.bytes(operation.buffer).to_vec(),
        };
        let id = flight.inner_id();
        self.places[place] = Some(flight);
        id
    }

    pub(super) fn by_inner(&self, id: OperationId) -> Option<&Flight> {
        let flight = self.places.get(place_of(id))?.as_ref()?;
        (flight.inner_id() == id).then_some(flight)
    }

    fn by_inner_mut(&mut self, id: OperationId) -> Option<&mut Flight> {
        let flight = self.places.get_mut(place_of(id))?.as_mut()?;
        (flight.inner_id() == id).then_some(flight)
    }

    pub(super) fn set_stage(&mut self, id: OperationId, stage: Stage) {
        if let Some(flight) = self.by_inner_mut(id) {
            flight.stage = stage;
        }
    }

    pub(super) fn remove(&mut self, id: OperationId) {
        if self.by_inner(id).is_some() {
            self.places[place_of(id)] = None;
        }
    }

    pub(super) fn is_read(&self, id: OperationId) -> bool {
        let flight = self.by_inner(id);
        flight.is_some_and(|flight| flight.operation.direction == Direction::Read)
    }

    pub(super) fn flip_bit(&mut self, id: OperationId, random: &mut SeededRandom) {
        if let Some(flight) = self.by_inner_mut(id) {
            let bits = u64::try_from(flight.copy.len() * 8).unwrap_or_default();
            let bit = usize::try_from(random.below(bits)).unwrap_or_default();
            if let Some(byte) = flight.copy.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Operations of the server that the engine still waits for.
    pub(super) fn count(&self, server: ServerIndex) -> usize {
        let flights = self.places.iter().flatten();
        flights
            .filter(|flight| flight.operation.server == server && !flight.abandoned)
            .count()
    }

    fn ids(&self, wanted: impl Fn(&Flight) -> bool) -> Vec<(u64, OperationId)> {
        let flights = self.places.iter().flatten();
        let mut ids: Vec<_> = flights
            .filter(|flight| wanted(flight))
            .map(|flight| (flight.serial, flight.inner_id()))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Requests whose delay is over, in the order of their posts.
    pub(super) fn due_requests(&self, now: MonotonicTime) -> Vec<OperationId> {
        let due = |flight: &Flight| matches!(flight.stage, Stage::Held { at } if at <= now);
        self.ids(due).into_iter().map(|(_, id)| id).collect()
    }

    /// Answers whose delay is over, in the order of their posts.
    pub(super) fn due_answers(&self, now: MonotonicTime) -> Vec<(OperationId, OperationResult)> {
        let due = |flight: &Flight| match flight.stage {
            Stage::Answered { result, at } if at <= now => Some(result),
            _ => None,
        };
        let ids = self.ids(|flight| due(flight).is_some()).into_iter();
        ids.filter_map(|(_, id)| Some((id, due(self.by_inner(id)?)?)))
            .collect()
    }

    /// Takes the server's operations from the engine, in the order of their posts. Writes that
    /// are under way may still be carried out: by the toss of a coin if they were not released.
    pub(super) fn abandon(
        &mut self,
        server: ServerIndex,
        random: &mut SeededRandom,
    ) -> Vec<OperationId> {
        let open = |flight: &Flight| flight.operation.server == server && !flight.abandoned;
        let mut told = Vec::new();
        for (_, id) in self.ids(open) {
            let Some(flight) = self.by_inner_mut(id) else {
                continue;
            };
            told.push(flight.operation.id);
            flight.abandoned = true;
            let write = flight.operation.direction == Direction::Write;
            match flight.stage {
                Stage::Posted => flight.stage = Stage::Late,
                Stage::Held { .. } if write && random.per_mille(500) => {}
                Stage::Held { .. } | Stage::Answered { .. } | Stage::Late | Stage::Lost => {
                    self.remove(id);
                }
            }
        }
        told
    }

    /// Drops what is late and was not handed to the inner transport: it is fenced now.
    pub(super) fn forget_late(&mut self, server: ServerIndex) {
        let late = |flight: &Flight| {
            let held = matches!(flight.stage, Stage::Held { .. });
            flight.operation.server == server && flight.abandoned && held
        };
        for (_, id) in self.ids(late) {
            self.remove(id);
        }
    }

    /// When the next operation moves on; `open` tells whether its way is.
    pub(super) fn next_time(
        &self,
        open: impl Fn(ServerIndex, bool) -> bool,
    ) -> Option<MonotonicTime> {
        let flights = self.places.iter().flatten();
        let times = flights.filter_map(|flight| match flight.stage {
            Stage::Held { at } => open(flight.operation.server, false).then_some(at),
            Stage::Answered { at, .. } => open(flight.operation.server, true).then_some(at),
            Stage::Posted | Stage::Late | Stage::Lost => None,
        });
        times.min()
    }

    fn copy(&self, range: BufferRange) -> Option<&[u8]> {
        let place = usize::try_from(range.first / REQUEST_PAGES_MAX).ok()?;
        let flight = self.places.get(place)?.as_ref()?;
        Some(&flight.copy)
    }
}

impl Buffers for Flights {
    fn bytes(&self, range: BufferRange) -> &[u8] {
        self.copy(range).unwrap_or_default()
    }

    fn bytes_mut(&mut self, range: BufferRange) -> &mut [u8] {
        let place = usize::try_from(range.first / REQUEST_PAGES_MAX).unwrap_or(usize::MAX);
        let flight = self.places.get_mut(place).and_then(Option::as_mut);
        flight
            .map(|flight| flight.copy.as_mut_slice())
            .unwrap_or_default()
    }
}
