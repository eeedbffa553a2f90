//! Sessions: they open, report and close.

use std::collections::BTreeSet;

use dynamicswap_planner::{Absorbed, Ledger, NodeFacts, NodeObservation, Session as Seen, absorb};
use dynamicswap_proto::control::v1::NodeReport;
use dynamicswap_types::{Bytes, Generation, MonotonicTime, NodeName};
use tokio::sync::watch;
use tonic::Status;
use tracing::{info, warn};

use super::kept_report::KeptReport;
use super::{Hello, Outgoing, Owner, Session, SessionNumber};
use crate::convert;
use crate::limits::NODES_MAX;

impl Owner {
    pub(super) fn open(
        &mut self,
        hello: &Hello,
        number: SessionNumber,
        outbox: watch::Sender<Outgoing>,
    ) {
        let node = &hello.node;
        if let Err(status) = self.admit(hello) {
            warn!(%node, reason = status.message(), "session refused");
            self.events
                .note(node.as_str(), "SessionRefused", status.message());
            outbox.send_replace(Outgoing::Close(status));
            return;
        }
        if let Some(older) = self.sessions.remove(node) {
            let sentence = format!("another agent of node {node} opened a session");
            self.events
                .note(node.as_str(), "SessionReplaced", sentence.clone());
            let status = Status::aborted(sentence);
            older.outbox.send_replace(Outgoing::Close(status));
        }
        info!(%node, borrower = hello.borrower, donor = hello.donor, "session opened");
        self.events.note(node.as_str(), "SessionOpened", "");
        let facts = NodeFacts::Hello {
            domain: hello.domain.clone(),
            zone: hello.zone.clone(),
            borrower: hello.borrower,
            donor: hello.donor,
        };
        self.absorb(node, &facts);
        let now = self.clock.now();
        let seen = self
            .seen
            .entry(node.clone())
            .or_insert_with(|| NodeObservation::silent(now));
        seen.session = Seen::Open;
        seen.protocol = hello.protocol;
        // What swapd said in an earlier session is no news: wait for its first report.
        seen.device_error = true;
        self.memory.entry(node.clone()).or_default().last_seen = now;
        let session = Session {
            number,
            outbox,
            sent: None,
        };
        self.sessions.insert(node.clone(), session);
        self.dirty = true;
    }

    /// Whether a session may begin.
    fn admit(&self, hello: &Hello) -> Result<(), Status> {
        let node = &hello.node;
        let published = self
            .kept
            .nodes
            .get(node)
            .map_or(Generation::ZERO, |record| record.published.generation);
        if hello.generation > published {
            return Err(Status::failed_precondition(format!(
                "node {node} keeps a document of generation {}, and this controller's store has \
                 only handed out {published}: give the controller the store that it had, or \
                 detach the node's swap device and remove its agent's state",
                hello.generation
            )));
        }
        // Those that were forgotten keep a record, and take no place.
        let shown = || {
            let all = self.draft.nodes.iter();
            all.filter(|(node, it)| self.is_shown(node, it)).count()
        };
        if !self.kept.nodes.contains_key(node) && shown() >= NODES_MAX {
            return Err(Status::resource_exhausted(format!(
                "{NODES_MAX} nodes are known, which is the limit: node {node} cannot join"
            )));
        }
        Ok(())
    }

    pub(super) fn closed(&mut self, node: &NodeName, number: SessionNumber) {
        let current = self.sessions.get(node).map(|session| session.number);
        if current != Some(number) {
            return;
        }
        self.sessions.remove(node);
        info!(%node, "session ended");
        self.events.note(node.as_str(), "SessionLost", "");
        let since = self.clock.now();
        if let Some(seen) = self.seen.get_mut(node) {
            seen.session = Seen::Lost { since };
        }
        self.dirty = true;
    }

    pub(super) fn report(&mut self, node: &NodeName, number: SessionNumber, mut kept: KeptReport) {
        let current = self.sessions.get(node).map(|session| session.number);
        if current != Some(number) {
            return;
        }
        kept.look(|report| self.take_in(node, report));
        let memory = self.memory.entry(node.clone()).or_default();
        memory.last_seen = self.clock.now();
        memory.report = Some(kept);
    }

    fn take_in(&mut self, node: &NodeName, report: &NodeReport) {
        let now = self.clock.now();
        let before = self.seen.get(node).cloned();
        let mut seen = before
            .clone()
            .unwrap_or_else(|| NodeObservation::silent(now));
        self.see_server(node, report, &mut seen, now);
        self.see_device(node, report, &mut seen, now);
        seen.lendable = report.lendable_bytes.map(Bytes::new);
        self.dirty |= before.as_ref() != Some(&seen);
        self.seen.insert(node.clone(), seen);
        self.forward_events(node, report);
        let overlaps = self
            .overlaps_told
            .news(node.as_str(), &report.containers, &self.policies);
        for sentence in overlaps {
            self.events.note("", "PoliciesOverlap", sentence);
        }
    }

    fn see_server(
        &mut self,
        node: &NodeName,
        report: &NodeReport,
        seen: &mut NodeObservation,
        now: MonotonicTime,
    ) {
        match report.memory_server.as_ref().map(convert::server) {
            Some(Ok((facts, observation))) => {
                let sets: BTreeSet<_> = observation.grants.values().map(|(_, set)| *set).collect();
                self.absorb(node, &NodeFacts::Server { facts, sets });
                seen.take_server(observation);
            }
            Some(Err(error)) => self.refuse_report(node, &error.to_string()),
            None => {}
        }
        if report.memory_server_error.is_empty() {
            seen.server_error_since = None;
        } else {
            seen.server_error_since.get_or_insert(now);
        }
    }

    fn see_device(
        &mut self,
        node: &NodeName,
        report: &NodeReport,
        seen: &mut NodeObservation,
        now: MonotonicTime,
    ) {
        let device = report
            .swap_device
            .as_ref()
            .map(|it| convert::device(it, &self.draft.nodes, seen.device.as_deref(), now));
        match device {
            Some(Ok((facts, observation))) => {
                self.absorb(node, &NodeFacts::Device(facts));
                seen.take_device(observation);
                seen.device_error = !report.swap_device_error.is_empty();
            }
            Some(Err(error)) => {
                self.refuse_report(node, &error.to_string());
                seen.device_error = true;
            }
            None => seen.device_error = true,
        }
    }

    fn refuse_report(&mut self, node: &NodeName, why: &str) {
        let known = self
            .memory
            .get(node)
            .and_then(|memory| memory.report.as_ref());
        if known.is_none() {
            warn!(%node, why, "part of a report is not taken");
        }
        self.events.note(
            node.as_str(),
            "ReportRefused",
            format!("part of its report is not taken: {why}"),
        );
    }

    /// Takes a fact into the draft and notes what is worth an event.
    fn absorb(&mut self, node: &NodeName, facts: &NodeFacts) {
        let recorded = |draft: &Ledger| {
            let device = match facts {
                NodeFacts::Device(device) => draft.devices.get(&device.id),
                NodeFacts::Hello { .. } | NodeFacts::Server { .. } => None,
            };
            let integrity = device.map(|device| device.integrity);
            (draft.nodes.get(node).cloned(), integrity)
        };
        let before = recorded(&self.draft);
        let absorbed = absorb(&mut self.draft, node, facts);
        self.dirty |= before != recorded(&self.draft);
        if let Some(absorbed) = absorbed {
            let kind = match absorbed {
                Absorbed::NodeJoined => "NodeJoined",
                Absorbed::DomainKept { .. } => "FailureDomainKept",
                Absorbed::ServerReborn { .. } => "MemoryLost",
                Absorbed::ForeignGrants => "ForeignGrants",
                Absorbed::DeviceReplaced { .. } => "DeviceReplaced",
            };
            self.events.note(node.as_str(), kind, absorbed.to_string());
        }
    }

    /// Events of the node's daemons, those that the last report did not have.
    fn forward_events(&mut self, node: &NodeName, report: &NodeReport) {
        let before = self
            .memory
            .get(node)
            .and_then(|memory| memory.report.as_ref());
        let none = NodeReport::default();
        let before = before.map_or(&none, |before| &before.light);
        let name = node.as_str();
        self.events.forward(name, &before.events, &report.events);
        if let Some(now) = &report.swap_device {
            let before = before.swap_device.as_ref();
            let before = before.map_or(&[][..], |before| &before.events);
            self.events.forward(name, before, &now.events);
        }
        if let Some(now) = &report.memory_server {
            let before = before.memory_server.as_ref();
            let before = before.map_or(&[][..], |before| &before.events);
            self.events.forward(name, before, &now.events);
        }
        for refusal in &report.refusals {
            if !before.refusals.contains(refusal) {
                warn!(%node, refusal, "a daemon refused its document");
                self.events.note(name, "DocumentRefused", refusal.clone());
            }
        }
    }
}
