//! The memory server as its agent sees it: documents in, reports out.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use dynamicswap_engine::slots::{ApplyError, Grant, GrantDocument, Owner, SlotGeometry};
use dynamicswap_proto::common::v1 as pb;
use dynamicswap_proto::daemon::v1::{Report, report};
use dynamicswap_types::{Generation, IdError, IncarnationId, PAGE_SIZE, SetId, SlotIndex};

use super::mailbox::{Command, Mailbox};
use super::shared::Shared;
use crate::daemon::change::ChangeCounter;
use crate::daemon::control_server::{ControlHandler, Refusal};
use crate::daemon::events::EventLog;
use crate::daemon::protection::Protection;

/// The I/O thread answers in microseconds; after this time it hangs.
const APPLY_TIME_MAX: Duration = Duration::from_secs(5);

/// Answers the agent.
pub(super) struct Control {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Arc<EventLog>,
    pub(super) incarnation: IncarnationId,
    /// The memory file.
    pub(super) held_file: OwnedFd,
    pub(super) geometry: SlotGeometry,
    pub(super) address: SocketAddr,
    pub(super) rdma_address: Option<SocketAddr>,
    pub(super) protection: Protection,
    pub(super) warnings: Vec<String>,
}

impl ControlHandler for Control {
    fn apply_memory_server(
        &self,
        document: pb::MemoryServerDocument,
    ) -> Result<Generation, Refusal> {
        let document = parse(&document).map_err(|error| Refusal {
            code: "Malformed",
            reason: format!("the document holds an id that is none: {error}"),
        })?;
        let generation = document.generation;
        let (answer, answered) = sync_channel(1);
        self.mailbox.send(Command::Apply(document, answer));
        match answered.recv_timeout(APPLY_TIME_MAX) {
            Ok(Ok(applied)) => {
                if applied.granted + applied.taken_back + applied.waiting > 0 {
                    let told = format!(
                        "generation {generation}: {} slots granted, {} taken back, {} wait to be \
                         zeroed",
                        applied.granted, applied.taken_back, applied.waiting
                    );
                    self.events.push("GrantsChanged", told);
                }
                Ok(generation)
            }
            Ok(Err(error)) => Err(self.refusal(&error)),
            Err(_) => Err(Refusal {
                code: "Stalled",
                reason: "the I/O thread has not taken the document within 5 s: restart this \
                         memory server, its memory stays"
                    .to_owned(),
            }),
        }
    }

    fn hold_slots(&self, slots_max: u32) -> Result<Generation, Refusal> {
        self.mailbox.send(Command::Hold(slots_max));
        Ok(self.shared.snapshot().generation)
    }

    fn report(&self) -> Report {
        let (snapshot, counters) = (self.shared.snapshot(), &self.shared.counters);
        let report = pb::MemoryServerReport {
            incarnation: self.incarnation.to_bytes().to_vec(),
            generation: snapshot.generation.get(),
            slot_bytes: self.geometry.slot_size.bytes().get(),
            slots_total: self.geometry.slots,
            grants: snapshot.grants.iter().map(slot_report).collect(),
            slots_ready: snapshot.slots_ready,
            tcp_address: self.address.to_string(),
            bytes_read: counters.bytes_read.load(Ordering::Relaxed),
            bytes_written: counters.bytes_written.load(Ordering::Relaxed),
            connections: counters.connections.load(Ordering::Relaxed),
            refused_epoch: counters.refused_epoch.load(Ordering::Relaxed),
            refused_owner: counters.refused_owner.load(Ordering::Relaxed),
            refused_malformed: counters.refused_malformed.load(Ordering::Relaxed),
            warnings: self.warnings.clone(),
            pid: std::process::id(),
            events: self.events.snapshot(),
            rss_bytes: resident_bytes(),
            rdma_address: self
                .rdma_address
                .map_or_else(String::new, |address| address.to_string()),
            refused_key: counters.refused_key.load(Ordering::Relaxed),
            slots_given_back: snapshot.slots_given_back,
            memory_bytes: allocated_bytes(&self.held_file),
            protection: Some(self.protection.report()),
        };
        Report {
            change: 0,
            kind: Some(report::Kind::MemoryServer(report)),
        }
    }

    fn change(&self) -> &ChangeCounter {
        &self.shared.change
    }
}

impl Control {
    fn refusal(&self, error: &ApplyError) -> Refusal {
        let reason = error.to_string();
        self.events.push("DocumentRefused", reason.clone());
        Refusal {
            code: error.code(),
            reason,
        }
    }
}

fn parse(document: &pb::MemoryServerDocument) -> Result<GrantDocument, IdError> {
    let grants = document.grants.iter().map(|grant| {
        Ok(Grant {
            slot: SlotIndex::new(grant.slot),
            owner: Owner {
                device: grant.device_id.as_slice().try_into()?,
                set: SetId::new(grant.set_id),
            },
        })
    });
    Ok(GrantDocument {
        generation: Generation::new(document.generation),
        incarnation: document.incarnation.as_slice().try_into()?,
        grants: grants.collect::<Result<_, IdError>>()?,
        emptied: document.emptied,
    })
}

fn slot_report(grant: &Grant) -> pb::SlotReport {
    pb::SlotReport {
        slot: grant.slot.get(),
        device_id: grant.owner.device.to_bytes().to_vec(),
        set_id: grant.owner.set.get(),
    }
}

/// What a file takes of the host's memory; 0 if the host does not tell.
fn allocated_bytes(file: &OwnedFd) -> u64 {
    const BLOCK: u64 = 512;
    let blocks = rustix::fs::fstat(file).map(|stat| u64::try_from(stat.st_blocks).unwrap_or(0));
    blocks.unwrap_or(0).saturating_mul(BLOCK)
}

/// Resident memory of this process; 0 if the host does not tell.
fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default().saturating_mul(PAGE_SIZE.get())
}
