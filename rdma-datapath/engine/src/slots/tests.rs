//! Rules of the memory server's core, one test each, and a model for all of them together.

use std::collections::{BTreeMap, BTreeSet};

use dynamicswap_types::{Bytes, Epoch, Generation, SessionId, SetId, SlabSize};
use proptest::prelude::*;

use super::*;

const SLOTS: u32 = 4;
const SLOT_PAGES: u32 = 256;

fn id(n: u8) -> SwapDeviceId {
    SwapDeviceId::from_bytes([n; 16])
}

fn incarnation() -> IncarnationId {
    IncarnationId::from_bytes([9; 16])
}

fn limits() -> CoreLimits {
    CoreLimits {
        geometry: SlotGeometry {
            slot_size: SlabSize::try_from(Bytes::from_mib(1)).expect("a slab size"),
            slots: SLOTS,
        },
        connections_max: 6,
        devices_max: 3,
    }
}

fn core() -> MemoryServerCore {
    let mut effects = Vec::new();
    let core = MemoryServerCore::restore(limits(), &Kept::fresh(incarnation()), &mut effects);
    assert!(effects.is_empty());
    core
}

fn document(generation: u64, grants: &[(u32, u8, u64)]) -> GrantDocument {
    GrantDocument {
        generation: Generation::new(generation),
        incarnation: incarnation(),
        grants: grants
            .iter()
            .map(|&(slot, device, set)| Grant {
                slot: SlotIndex::new(slot),
                owner: Owner {
                    device: id(device),
                    set: SetId::new(set),
                },
            })
            .collect(),
        emptied: false,
    }
}

fn hello(device: u8, epoch: u64, session: u64) -> Hello {
    Hello {
        device: id(device),
        epoch: Epoch::new(epoch),
        session: SessionId::new(session),
        queue: 0,
    }
}

/// Pages of a slot that was granted for set 10.
fn pages(slot: u32, page: u32, pages: u32) -> SlotPages {
    SlotPages {
        set: SetId::new(10),
        slot: SlotIndex::new(slot),
        page,
        pages,
    }
}

const A: ConnectionIndex = ConnectionIndex::new(0);
const B: ConnectionIndex = ConnectionIndex::new(1);

#[test]
fn granted_slot_is_served_to_its_owner_only() {
    let mut core = core();
    core.apply(&document(1, &[(1, 1, 10)]), &mut Vec::new())
        .expect("valid");
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    core.open(B, hello(2, 1, 8), &mut Vec::new()).expect("new");
    let permit = core.check(A, pages(1, 3, 2)).expect("owner");
    assert_eq!((permit.offset, permit.len), ((256 + 3) * 4096, 8192));
    assert_eq!(core.check(B, pages(1, 3, 2)), Err(OperationError::NotOwner));
    assert_eq!(core.check(A, pages(0, 0, 1)), Err(OperationError::NotOwner));
    assert_eq!(core.counters().refused_owner, 2);
}

#[test]
fn late_operation_for_a_set_that_left_the_slot_is_refused() {
    let mut core = core();
    core.apply(&document(1, &[(1, 1, 10)]), &mut Vec::new())
        .expect("valid");
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    assert!(core.check(A, pages(1, 0, 1)).is_ok());
    for (generation, grants) in [(2, &[][..]), (3, &[(1, 1, 11)][..])] {
        core.apply(&document(generation, grants), &mut Vec::new())
            .expect("valid");
        core.zeroed(SlotIndex::new(1), &mut Vec::new());
    }
    assert_eq!(core.check(A, pages(1, 0, 1)), Err(OperationError::NotOwner));
    let of_new_set = SlotPages {
        set: SetId::new(11),
        ..pages(1, 0, 1)
    };
    assert!(core.check(A, of_new_set).is_ok());
}

#[test]
fn range_beyond_the_slot_is_refused() {
    let mut core = core();
    core.apply(&document(1, &[(1, 1, 10)]), &mut Vec::new())
        .expect("valid");
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    assert!(core.check(A, pages(1, SLOT_PAGES - 1, 1)).is_ok());
    for bad in [
        pages(1, SLOT_PAGES, 1),
        pages(1, SLOT_PAGES - 1, 2),
        pages(1, u32::MAX, u32::MAX),
        pages(1, 0, 0),
        pages(SLOTS, 0, 1),
    ] {
        assert_eq!(
            core.check(A, bad),
            Err(OperationError::OutOfRange),
            "{bad:?}"
        );
    }
}

#[test]
fn second_owner_is_refused_and_nothing_changes() {
    let mut core = core();
    core.apply(&document(1, &[(1, 1, 10)]), &mut Vec::new())
        .expect("valid");
    let before: Vec<_> = core.grants().collect();
    for other in [(1, 2, 10), (1, 1, 11)] {
        let mut effects = Vec::new();
        let refused = core.apply(&document(2, &[(0, 1, 12), other]), &mut effects);
        assert!(matches!(refused, Err(ApplyError::SecondOwner { .. })));
        assert!(effects.is_empty());
    }
    assert_eq!(core.grants().collect::<Vec<_>>(), before);
    assert_eq!(core.generation(), Generation::new(1));
}

#[test]
fn older_generation_other_incarnation_and_bad_slots_are_refused() {
    let mut core = core();
    core.apply(&document(5, &[]), &mut Vec::new())
        .expect("valid");
    let mut foreign = document(6, &[]);
    foreign.incarnation = IncarnationId::from_bytes([1; 16]);
    for (bad, code) in [
        (document(4, &[]), "OlderGeneration"),
        (foreign, "OtherIncarnation"),
        (document(6, &[(SLOTS, 1, 1)]), "NoSuchSlot"),
        (document(6, &[(1, 1, 1), (1, 1, 1)]), "SlotTwice"),
    ] {
        let refused = core.apply(&bad, &mut Vec::new()).expect_err("bad");
        assert_eq!(refused.code(), code);
    }
    assert!(core.apply(&document(5, &[]), &mut Vec::new()).is_ok());
}

#[test]
fn slot_taken_back_is_zeroed_before_the_next_owner_gets_it() {
    let mut core = core();
    core.apply(&document(1, &[(1, 1, 10)]), &mut Vec::new())
        .expect("valid");
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    core.open(B, hello(2, 1, 8), &mut Vec::new()).expect("new");
    let old = core.check(A, pages(1, 0, 1)).expect("owner");
    let slot = SlotIndex::new(1);
    let mut effects = Vec::new();
    core.apply(&document(2, &[]), &mut effects).expect("valid");
    assert_eq!(
        effects[..2],
        [
            SlotEffect::Record(slot, SlotRecord::Dirty { next: None }),
            SlotEffect::Zero(slot)
        ]
    );
    assert!(!core.still_valid(old), "work under way ends with the grant");
    core.apply(&document(3, &[(1, 2, 10)]), &mut Vec::new())
        .expect("waits");
    assert_eq!(core.grants().count(), 0);
    assert_eq!(core.check(B, pages(1, 0, 1)), Err(OperationError::NotOwner));
    assert!(core.zeroed(slot, &mut Vec::new()));
    assert!(core.check(B, pages(1, 0, 1)).is_ok());
    assert!(!core.still_valid(old));
    assert!(!core.zeroed(slot, &mut Vec::new()), "only once");
}

#[test]
fn memory_of_free_slots_goes_back_and_comes_again() {
    let mut core = core();
    core.apply(&document(1, &[(3, 1, 10)]), &mut Vec::new())
        .expect("valid");
    let mut effects = Vec::new();
    core.hold(2, &mut effects);
    let given: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, SlotEffect::GiveBack(_)))
        .collect();
    // The last free ones; the granted one stays.
    let slot = SlotIndex::new;
    assert_eq!(
        given,
        [
            &SlotEffect::GiveBack(slot(2)),
            &SlotEffect::GiveBack(slot(1))
        ]
    );
    assert_eq!((core.slots_given_back(), core.slots_ready()), (2, 1));
    // A document that grants one all the same gets it, zeroed; another one goes back for it.
    effects.clear();
    core.apply(&document(2, &[(3, 1, 10), (2, 1, 11)]), &mut effects)
        .expect("valid");
    assert!(effects.contains(&SlotEffect::Zero(slot(2))));
    assert!(effects.contains(&SlotEffect::GiveBack(slot(0))));
    assert!(core.zeroed(slot(2), &mut Vec::new()));
    assert_eq!(core.grants().count(), 2);
    // More may have memory again: the first ones get it, zeroed.
    effects.clear();
    core.hold(4, &mut effects);
    assert_eq!(
        effects,
        [SlotEffect::Zero(slot(0)), SlotEffect::Zero(slot(1))]
    );
    assert!(core.zeroed(slot(0), &mut Vec::new()));
    assert_eq!((core.slots_given_back(), core.slots_ready()), (0, 1));
}

#[test]
fn emptied_donor_keeps_no_memory_of_free_slots() {
    let mut core = core();
    core.apply(&document(1, &[(0, 1, 10)]), &mut Vec::new())
        .expect("valid");
    let emptied = GrantDocument {
        emptied: true,
        ..document(2, &[(0, 1, 10)])
    };
    core.apply(&emptied, &mut Vec::new()).expect("valid");
    assert_eq!((core.slots_given_back(), core.grants().count()), (3, 1));
    let emptied = GrantDocument {
        emptied: true,
        ..document(3, &[])
    };
    core.apply(&emptied, &mut Vec::new()).expect("valid");
    let mut effects = Vec::new();
    assert!(core.zeroed(SlotIndex::new(0), &mut effects));
    assert!(effects.contains(&SlotEffect::GiveBack(SlotIndex::new(0))));
    assert_eq!(core.slots_given_back(), SLOTS);
    core.apply(&document(4, &[]), &mut effects).expect("valid");
    assert_eq!(core.slots_given_back(), 0, "its memory comes again");
}

#[test]
fn restart_keeps_grants_and_epochs_and_zeroes_again_what_was_dirty() {
    let owner = Owner {
        device: id(1),
        set: SetId::new(10),
    };
    let kept = Kept {
        incarnation: incarnation(),
        generation: Generation::new(4),
        slots: vec![
            SlotRecord::Granted(owner),
            SlotRecord::Dirty { next: Some(owner) },
        ],
        devices: vec![DeviceEpoch {
            place: 1,
            device: id(1),
            epoch: Epoch::new(3),
        }],
    };
    let mut effects = Vec::new();
    let mut core = MemoryServerCore::restore(limits(), &kept, &mut effects);
    assert_eq!(effects, [SlotEffect::Zero(SlotIndex::new(1))]);
    assert_eq!(core.slots_ready(), 2);
    let refused = core.open(A, hello(1, 2, 1), &mut Vec::new());
    assert!(matches!(refused, Err(SessionRefusal::OldEpoch { .. })));
    core.open(A, hello(1, 3, 1), &mut Vec::new())
        .expect("the engine that was there before");
    assert!(core.check(A, pages(0, 0, 1)).is_ok());
    assert!(core.zeroed(SlotIndex::new(1), &mut Vec::new()));
    assert!(
        core.check(A, pages(1, 0, 1)).is_ok(),
        "the grant was kept too"
    );
}

#[test]
fn newer_epoch_closes_older_sessions_first_and_older_is_refused() {
    let mut core = core();
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    let mut effects = Vec::new();
    core.open(B, hello(1, 2, 8), &mut effects).expect("newer");
    assert_eq!(effects[0], SessionEffect::Close(A));
    assert_eq!(core.check(A, pages(0, 0, 1)), Err(OperationError::OldEpoch));
    let refused = core.open(A, hello(1, 1, 7), &mut Vec::new());
    assert!(matches!(refused, Err(SessionRefusal::OldEpoch { .. })));
    let refused = core.open(A, hello(1, 2, 9), &mut Vec::new());
    assert!(matches!(refused, Err(SessionRefusal::EpochTaken { .. })));
    assert_eq!(core.epoch(id(1)), Some(Epoch::new(2)));
}

#[test]
fn reconnect_of_a_queue_closes_only_that_queue() {
    let mut core = core();
    core.open(A, hello(1, 1, 7), &mut Vec::new()).expect("new");
    let second = Hello {
        queue: 1,
        ..hello(1, 1, 7)
    };
    let mut effects = Vec::new();
    core.open(B, second, &mut effects).expect("same session");
    assert!(effects.is_empty());
    core.open(ConnectionIndex::new(2), hello(1, 1, 7), &mut effects)
        .expect("same session");
    assert_eq!(effects, [SessionEffect::Close(A)]);
}

#[test]
fn full_device_table_forgets_idle_devices_only() {
    let mut core = core();
    core.apply(&document(1, &[(0, 1, 10)]), &mut Vec::new())
        .expect("valid");
    for (index, device) in [(0, 1), (1, 2), (2, 3)] {
        core.open(
            ConnectionIndex::new(index),
            hello(device, 1, 1),
            &mut Vec::new(),
        )
        .expect("a free place");
    }
    let fourth = ConnectionIndex::new(3);
    let refused = core.open(fourth, hello(4, 1, 1), &mut Vec::new());
    assert_eq!(refused, Err(SessionRefusal::TooManyDevices));
    core.close(ConnectionIndex::new(0));
    core.close(ConnectionIndex::new(1));
    core.open(fourth, hello(4, 1, 1), &mut Vec::new())
        .expect("device 2 has neither slot nor session");
    assert_eq!(core.epoch(id(2)), None);
    assert_eq!(core.epoch(id(1)), Some(Epoch::new(1)), "it owns a slot");
}

/// A step of the model test.
#[derive(Debug, Clone)]
enum Step {
    Apply(BTreeMap<u32, (u8, u64)>),
    Zeroed(u32),
    Hold(u32),
    Open(u16, u8, u64),
    Close(u16),
    Check(u16, u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::btree_map(0..SLOTS, (1_u8..4, 1_u64..3), 0..4).prop_map(Step::Apply),
        (0..SLOTS).prop_map(Step::Zeroed),
        (0..=SLOTS).prop_map(Step::Hold),
        (0_u16..6, 1_u8..4, 1_u64..5).prop_map(|(c, d, e)| Step::Open(c, d, e)),
        (0_u16..6).prop_map(Step::Close),
        (0_u16..6, 0..SLOTS, 1_u64..3).prop_map(|(c, s, set)| Step::Check(c, s, set)),
    ]
}

/// The rules in their plainest form.
struct Model {
    /// Slots without memory, and how many may have it.
    given_back: BTreeSet<u32>,
    held_max: u32,
    granted: BTreeMap<u32, (u8, u64)>,
    dirty: BTreeMap<u32, Option<(u8, u64)>>,
    epochs: BTreeMap<u8, u64>,
    open: BTreeMap<u16, (u8, u64)>,
}

impl Model {
    fn new() -> Self {
        Self {
            given_back: BTreeSet::new(),
            held_max: u32::MAX,
            granted: BTreeMap::new(),
            dirty: BTreeMap::new(),
            epochs: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    fn held(&self) -> u32 {
        SLOTS - u32::try_from(self.given_back.len()).expect("few")
    }

    fn balance(&mut self) {
        let is_free = |model: &Self, slot: u32| {
            let busy = model.granted.contains_key(&slot) || model.dirty.contains_key(&slot);
            !busy && !model.given_back.contains(&slot)
        };
        for slot in (0..SLOTS).rev() {
            if self.held() > self.held_max && is_free(self, slot) {
                self.given_back.insert(slot);
            }
        }
        while self.held() < self.held_max {
            let Some(slot) = self.given_back.pop_first() else {
                return;
            };
            self.dirty.insert(slot, None);
        }
    }

    fn apply(&mut self, wanted: &BTreeMap<u32, (u8, u64)>) -> bool {
        let conflict = wanted
            .iter()
            .any(|(slot, owner)| self.granted.get(slot).is_some_and(|had| had != owner));
        if conflict {
            return false;
        }
        for slot in 0..SLOTS {
            let wish = wanted.get(&slot).copied();
            if let Some(next) = self.dirty.get_mut(&slot) {
                *next = wish;
            } else if wish.is_some() && self.given_back.remove(&slot) {
                self.dirty.insert(slot, wish);
            } else if let Some(owner) = wish {
                self.granted.insert(slot, owner);
            } else if self.granted.remove(&slot).is_some() {
                self.dirty.insert(slot, None);
            }
        }
        self.balance();
        true
    }

    fn open(&mut self, connection: u16, device: u8, epoch: u64) -> bool {
        if self.epochs.get(&device).is_some_and(|known| *known > epoch) {
            return false;
        }
        self.open.retain(|_, (other, _)| *other != device);
        self.epochs.insert(device, epoch);
        self.open.insert(connection, (device, epoch));
        true
    }
}

proptest! {
    #[test]
    fn core_follows_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut core, mut model) = (core(), Model::new());
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Apply(wanted) => {
                    generation += 1;
                    let list: Vec<_> = wanted.iter().map(|(s, (d, set))| (*s, *d, *set)).collect();
                    let taken = core.apply(&document(generation, &list), &mut Vec::new()).is_ok();
                    prop_assert_eq!(taken, model.apply(&wanted));
                }
                Step::Zeroed(slot) => {
                    let was = model.dirty.remove(&slot);
                    if let Some(Some(owner)) = was {
                        model.granted.insert(slot, owner);
                    }
                    if was.is_some() {
                        model.balance();
                    }
                    prop_assert_eq!(core.zeroed(SlotIndex::new(slot), &mut Vec::new()), was.is_some());
                }
                Step::Hold(slots_max) => {
                    core.hold(slots_max, &mut Vec::new());
                    model.held_max = slots_max;
                    model.balance();
                    prop_assert_eq!(core.slots_given_back(), SLOTS - model.held());
                }
                Step::Open(connection, device, epoch) if !model.open.contains_key(&connection) => {
                    let taken = core.open(
                        ConnectionIndex::new(connection),
                        hello(device, epoch, epoch),
                        &mut Vec::new(),
                    );
                    prop_assert_eq!(taken.is_ok(), model.open(connection, device, epoch));
                }
                Step::Open(..) => {}
                Step::Close(connection) => {
                    core.close(ConnectionIndex::new(connection));
                    model.open.remove(&connection);
                }
                Step::Check(connection, slot, set) => {
                    let expected = match model.open.get(&connection) {
                        None => Err(OperationError::OldEpoch),
                        Some((device, _)) if model.granted.get(&slot) == Some(&(*device, set)) => Ok(()),
                        Some(_) => Err(OperationError::NotOwner),
                    };
                    let range = SlotPages { set: SetId::new(set), ..pages(slot, 0, 1) };
                    let got = core.check(ConnectionIndex::new(connection), range);
                    prop_assert_eq!(got.map(|_| ()), expected);
                }
            }
            let granted: Vec<_> = core.grants().map(|g| g.slot.get()).collect();
            prop_assert_eq!(granted, model.granted.keys().copied().collect::<Vec<_>>());
        }
    }
}
