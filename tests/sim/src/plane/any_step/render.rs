//! Documents from the record: the whole of it each time, with a generation.

use std::collections::BTreeMap;

use dynamicswap_engine::document::{Document, ReplicaPlace, ServerDescriptor, SetGrant};
use dynamicswap_engine::slots::{Grant, GrantDocument, Owner};
use dynamicswap_types::{Copies, Durability, Generation, ServerIndex, SetId, SlotIndex};

use super::{AnyStep, Phase, Seat, Stage};
use crate::plane::Documents;
use crate::scenario::Scenario;

/// A scenario's document before anything is granted.
pub fn empty(scenario: &Scenario) -> Document {
    Document {
        generation: Generation::ZERO,
        durability: scenario.class,
        write_hold: scenario.write_hold,
        read_stall: scenario.read_stall,
        empty_slab_hold: scenario.empty_slab_hold,
        reserve_sets_max: scenario.reserve_sets_max,
        servers: Vec::new(),
        sets: Vec::new(),
    }
}

impl AnyStep {
    /// Documents whose content has changed since they were last handed out.
    pub(super) fn documents(&mut self) -> Documents {
        let mut documents = Documents::default();
        let mut device = self.device_document();
        if device != self.published {
            device.generation = device.generation.next();
            self.published = device.clone();
            documents.device = Some(device);
        }
        for number in 0..self.servers.len() {
            documents
                .servers
                .extend(self.server_document(number).map(|it| (number, it)));
        }
        documents
    }

    fn device_document(&self) -> Document {
        let servers = self.servers.iter();
        let servers = servers.map(|server| ServerDescriptor {
            incarnation: server.named,
            domain: server.domain,
        });
        let offered = self
            .sets
            .iter()
            .filter(|(_, set)| set.stage == Stage::Offered);
        let sets: Vec<SetGrant> = offered
            .map(|(id, set)| {
                let serving = set.seats.iter().filter(|seat| seat.phase == Phase::Serving);
                SetGrant {
                    id: SetId::new(*id),
                    replicas: serving.map(place).collect(),
                }
            })
            .collect();
        Document {
            durability: Durability {
                copies: self.copies(&sets),
                ..self.published.durability
            },
            servers: servers.collect(),
            sets,
            ..self.published.clone()
        }
    }

    /// Copies to ask of the engine: lowered at once, raised when every set has grown.
    fn copies(&self, sets: &[SetGrant]) -> Copies {
        let fewest = sets.iter().map(|set| set.replicas.len()).min();
        let fewest = fewest.and_then(|count| Copies::try_from(u32::try_from(count).ok()?).ok());
        let in_force = self.published.durability.copies;
        if self.wanted < in_force {
            return self.wanted;
        }
        fewest.map_or(in_force, |fewest| fewest.min(self.wanted).max(in_force))
    }

    fn server_document(&mut self, number: usize) -> Option<GrantDocument> {
        let life = self.servers[number].life?;
        let seats = self
            .sets
            .iter()
            .flat_map(|(id, set)| set.seats.iter().map(move |seat| (*id, seat)));
        let here = seats.filter(|(_, seat)| seat.server == number);
        let grants: BTreeMap<u32, u64> = here.map(|(id, seat)| (seat.slot, id)).collect();
        let server = &mut self.servers[number];
        let granted: BTreeMap<u32, u64> = server.published.clone();
        if granted == grants && server.document_life == Some(life) {
            return None;
        }
        server.published.clone_from(&grants);
        server.document_life = Some(life);
        server.generation = server.generation.next();
        let owner = |set: u64| Owner {
            device: self.device,
            set: SetId::new(set),
        };
        let grants = grants.into_iter();
        let grants = grants.map(|(slot, set)| Grant {
            slot: SlotIndex::new(slot),
            owner: owner(set),
        });
        Some(GrantDocument {
            generation: server.generation,
            incarnation: life,
            grants: grants.collect(),
            emptied: false,
        })
    }
}

fn place(seat: &Seat) -> ReplicaPlace {
    ReplicaPlace {
        server: ServerIndex::new(u16::try_from(seat.server).unwrap_or(u16::MAX)),
        slot: SlotIndex::new(seat.slot),
    }
}
