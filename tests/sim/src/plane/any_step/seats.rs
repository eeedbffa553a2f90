//! Steps that add, move and drop seats: any legal one, by seed.

use dynamicswap_engine::report::SetView;
use dynamicswap_engine::sets::ReplicaState;
use dynamicswap_types::MonotonicTime;

use super::{AnyStep, Phase, Seat, Set, Stage, copy_state};
use crate::kernel::pick;
use crate::plane::DeviceReport;

/// Where another copy may go.
#[derive(Clone, Copy)]
struct Wish<'a> {
    /// Seats whose domains are taken.
    kept: &'a [Seat],
    /// Donors that do not come into question.
    without: &'a [usize],
    /// Donor whose seat leaves for it.
    replaces: Option<usize>,
}

impl AnyStep {
    /// Free slots on donors that are heard and whose domain holds no seat of `seats`.
    fn places(&self, seats: &[Seat], without: &[usize]) -> Vec<(usize, u32)> {
        let taken_domain = |domain: u16| {
            seats
                .iter()
                .any(|seat| self.servers[seat.server].domain == domain)
        };
        let mut places = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            let replaceable = server.life.is_some()
                && server.named.is_none_or(|named| Some(named) == server.life);
            if !replaceable || taken_domain(server.domain) || without.contains(&number) {
                continue;
            }
            let here = self.sets.values().flat_map(|set| &set.seats);
            let used: Vec<u32> = here
                .filter(|seat| seat.server == number)
                .map(|seat| seat.slot)
                .collect();
            let free =
                (0..self.slots).find(|slot| !used.contains(slot) && !server.granted.contains(slot));
            places.extend(free.map(|slot| (number, slot)));
        }
        places
    }

    fn dead(&self, device: &DeviceReport, now: MonotonicTime) -> Vec<usize> {
        (0..self.servers.len())
            .filter(|number| self.is_dead(*number, device, now))
            .collect()
    }

    /// Asks for a slot elsewhere for each copy on a dead donor, one at a time for each set.
    pub(super) fn replace_dead(&mut self, device: &DeviceReport, now: MonotonicTime) {
        let dead = self.dead(device, now);
        let ids: Vec<u64> = self.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = self.sets.get(&id) else {
                continue;
            };
            let view = view_of(device, id);
            let gone = set
                .seats
                .iter()
                .copied()
                .find(|seat| seat.phase == Phase::Serving && dead.contains(&seat.server));
            if let Some(gone) = gone
                && self.may_replace(set, view, &gone)
            {
                self.move_seat(id, gone, &dead, "copy replaced");
            }
        }
    }

    /// Whether the set keeps a whole copy without this seat, or has none to keep.
    fn may_replace(&self, set: &Set, view: Option<&SetView>, gone: &Seat) -> bool {
        let idle = set.stage == Stage::Offered
            && !set
                .seats
                .iter()
                .any(|seat| matches!(seat.phase, Phase::Granting { .. }));
        let whole = |seat: &&Seat| {
            seat.phase == Phase::Serving && copy_state(view, seat) == Some(ReplicaState::Live)
        };
        let others = set.seats.iter().filter(|seat| seat.server != gone.server);
        // The borrower may bind it meanwhile: one of its copies stays in any case.
        let unused = set.seats.len() > 1 && view.is_some_and(|view| view.slab.is_none());
        // Of a slot that is granted anew, the report does not know yet that it serves again.
        let hopeless = view.filter(|_| !gone.granted).is_some_and(|view| {
            view.replicas
                .iter()
                .flatten()
                .all(|replica| replica.state == ReplicaState::Lost)
        });
        idle && (others.filter(whole).count() > 0 || unused || hopeless)
    }

    fn move_seat(&mut self, id: u64, gone: Seat, dead: &[usize], what: &'static str) {
        let Some(set) = self.sets.get(&id) else {
            return;
        };
        let kept: Vec<Seat> = set
            .seats
            .iter()
            .copied()
            .filter(|seat| seat.server != gone.server)
            .collect();
        let mut without = dead.to_vec();
        without.push(gone.server);
        let wish = Wish {
            kept: &kept,
            without: &without,
            replaces: Some(gone.server),
        };
        self.ask(id, wish, what);
    }

    fn ask(&mut self, id: u64, wish: Wish<'_>, what: &'static str) {
        let Wish {
            kept,
            without,
            replaces,
        } = wish;
        let places = self.places(kept, without);
        if places.is_empty() {
            return;
        }
        let (server, slot) = places[pick(&mut self.random, places.len())];
        let seat = Seat {
            server,
            slot,
            phase: Phase::Granting { replaces },
            granted: false,
        };
        if let Some(set) = self.sets.get_mut(&id) {
            set.seats.push(seat);
            self.deed(
                what,
                format!("set {id}: slot {slot} of donor {server} for {replaces:?}"),
            );
        }
    }

    /// Moves a copy of a healthy set, as a drain would.
    pub fn move_any(&mut self, draw: u64, device: &DeviceReport, now: MonotonicTime) {
        let dead = self.dead(device, now);
        let ids: Vec<u64> = self.sets.keys().copied().collect();
        let Some(id) = usize::try_from(draw >> 8)
            .ok()
            .filter(|_| !ids.is_empty())
            .map(|draw| ids[draw % ids.len()])
        else {
            return;
        };
        let Some(set) = self.sets.get(&id).filter(|set| set.stage == Stage::Offered) else {
            return;
        };
        let serving: Vec<Seat> = set
            .seats
            .iter()
            .copied()
            .filter(|seat| seat.phase == Phase::Serving)
            .collect();
        let view = view_of(device, id);
        let Some(gone) = serving
            .get(pick(&mut self.random, serving.len().max(1)))
            .copied()
        else {
            return;
        };
        // Nobody moves while a copy is not whole: only the loss of a donor is worth that.
        let whole = view.is_some_and(|view| {
            view.replicas
                .iter()
                .flatten()
                .all(|replica| replica.state == ReplicaState::Live)
        });
        if !whole || dead.contains(&gone.server) {
            return;
        }
        let Some(set) = self.sets.get(&id) else {
            return;
        };
        // Two whole copies stay: one may fail while the document is on its way.
        if serving.len() == 3 && self.may_replace(set, view, &gone) {
            return self.move_seat(id, gone, &dead, "trouble: copy moved");
        }
        // Fewer grow another one first, and shrink back once that one is whole.
        if serving.len() < 3 && set.seats.len() == serving.len() {
            let wish = Wish {
                kept: &serving,
                without: &dead,
                replaces: None,
            };
            self.ask(id, wish, "trouble: copy moved");
        }
    }

    /// Grows and shrinks sets to the copies that the policy asks for.
    pub(super) fn resize_sets(&mut self, device: &DeviceReport) {
        let wanted = self.wanted.get();
        let in_force = self.published.durability.copies.get();
        let next = self.published.generation.next();
        let ids: Vec<u64> = self.sets.keys().copied().collect();
        for id in ids {
            let Some(set) = self
                .sets
                .get_mut(&id)
                .filter(|set| set.stage == Stage::Offered)
            else {
                continue;
            };
            let serving = set
                .seats
                .iter()
                .filter(|seat| seat.phase == Phase::Serving)
                .count();
            let settled = serving == set.seats.len();
            let view = view_of(device, id);
            let all_whole = set
                .seats
                .iter()
                .all(|seat| copy_state(view, seat) == Some(ReplicaState::Live));
            let known = all_whole && device.generation == self.published.generation;
            if serving > wanted.max(in_force) && settled && (known || self.early_drop) {
                let leaving = pick(&mut self.random, serving);
                set.seats[leaving].phase = Phase::Leaving { since: next };
                self.deed("copy dropped", format!("set {id}: seat {leaving}"));
            } else if serving < wanted && settled {
                let kept = set.seats.clone();
                let wish = Wish {
                    kept: &kept,
                    without: &[],
                    replaces: None,
                };
                self.ask(id, wish, "copy added");
            }
        }
    }

    /// Keeps sets in reserve.
    pub(super) fn compose(&mut self, device: &DeviceReport) {
        let unbound = device
            .sets
            .iter()
            .filter(|view| view.slab.is_none() && !view.released)
            .count();
        let composing = self
            .sets
            .values()
            .filter(|set| set.stage == Stage::Composing)
            .count();
        if unbound + composing < self.reserve_target && self.sets.len() < self.sets_max {
            self.compose_one();
        }
    }

    /// The first sets, before the borrower has said anything.
    pub(super) fn compose_first(&mut self) {
        if self.sets.len() < self.reserve_target {
            self.compose_one();
        }
    }

    fn compose_one(&mut self) {
        let mut seats = Vec::new();
        while seats.len() < self.wanted.get() {
            let places = self.places(&seats, &[]);
            if places.is_empty() {
                return;
            }
            let (server, slot) = places[pick(&mut self.random, places.len())];
            let phase = Phase::Granting { replaces: None };
            seats.push(Seat {
                server,
                slot,
                phase,
                granted: false,
            });
        }
        let id = self.next_set;
        self.next_set += 1;
        self.deed(
            "set composed",
            format!(
                "set {id}: {:?}",
                seats
                    .iter()
                    .map(|seat| (seat.server, seat.slot))
                    .collect::<Vec<_>>()
            ),
        );
        self.sets.insert(
            id,
            Set {
                seats,
                stage: Stage::Composing,
            },
        );
    }
}

fn view_of(device: &DeviceReport, id: u64) -> Option<&SetView> {
    device.sets.iter().find(|view| view.id.get() == id)
}
