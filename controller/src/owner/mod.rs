//! The owner of the cluster's state: one task that takes an event, has a plan made, persists it
//! and sends the documents. Nobody else touches the state.

mod admission;
mod departure;
mod kept_report;
mod operator;
mod rebalance;
mod round;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_crds::ConditionTimes;
use dynamicswap_planner::{
    DeviceIntent, Ledger, NodeDocument, NodeObservation, Plan, Planner, Rebalance,
};
use dynamicswap_proto::control::v1::{
    AdmitRequest, ClusterEvent, ClusterStatus, DeleteRequest, GetRequest, RebalanceResponse,
};
use dynamicswap_types::{Backoff, FailureDomain, Generation, MonotonicTime, NodeName, SetId, Term};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use self::kept_report::KeptReport;
use crate::clock::Clock;
use crate::events::EventRing;
use crate::limits::{EVENTS_PER_ROUND_MAX, ROUND_INTERVAL, STORE_RETRY, STORE_RETRY_MAX};
use crate::overlaps::Told;
use crate::policies::{Policies, RefusedPolicy, intent};
use crate::store::{Change, Kept, Store, StoreError};

/// A checked hello.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The node.
    pub node: NodeName,
    /// What fails together with it.
    pub domain: FailureDomain,
    /// Its zone, if it is in one.
    pub zone: Option<FailureDomain>,
    /// Version of the session's protocol.
    pub protocol: u32,
    /// It has swapd.
    pub borrower: bool,
    /// It has a memory server.
    pub donor: bool,
    /// Generation of the last document that the agent kept.
    pub generation: Generation,
}

/// Number of a session within this process.
pub type SessionNumber = u64;

/// What a session's task is to send. Only the latest counts: documents are whole.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// Nothing yet.
    Nothing,
    /// This document, of this leadership. It becomes a message when it is sent: a thousand messages
    /// that wait would take more memory than all else.
    Document(Arc<NodeDocument>, Term),
    /// This, and then the end.
    Close(Status),
}

/// What the owner is told.
#[derive(Debug)]
pub enum Event {
    /// A session begins.
    Open {
        /// Its hello.
        hello: Hello,
        /// Its number.
        number: SessionNumber,
        /// Where its documents go.
        outbox: watch::Sender<Outgoing>,
    },
    /// A session's node reports.
    Report {
        /// The node.
        node: NodeName,
        /// The session.
        number: SessionNumber,
        /// The report, packed: those that wait are many.
        report: KeptReport,
    },
    /// A session was refused before it began: its peer is not the node's agent.
    Refused {
        /// The node that it was for.
        node: NodeName,
        /// Why, for `status`.
        reason: String,
    },
    /// A session has ended.
    Closed {
        /// The node.
        node: NodeName,
        /// The session.
        number: SessionNumber,
    },
    /// The policies are these now: users write them elsewhere, where they are kept as well.
    Policies {
        /// All of them.
        policies: Policies,
        /// Those that are not understood.
        refused: Vec<RefusedPolicy>,
    },
    /// An operator applies YAML.
    Apply {
        /// The documents.
        yaml: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<String>, Status>>,
    },
    /// An operator takes policies away.
    Delete {
        /// Which.
        request: DeleteRequest,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<String>, Status>>,
    },
    /// A node has left for good.
    Forget {
        /// Its node.
        node: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<String, Status>>,
    },
    /// An operator asks for objects.
    Get {
        /// Which.
        request: GetRequest,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<String>, Status>>,
    },
    /// An operator closes, drains or opens a donor.
    Admit {
        /// Which, and how.
        request: AdmitRequest,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<String, Status>>,
    },
    /// A `MemoryServer` object says what its donor shall take. Nobody waits for an answer: it is said
    /// again now and then.
    Admission {
        /// Which, and how.
        request: AdmitRequest,
        /// The object's generation.
        generation: Option<i64>,
    },
    /// An operator has donors evened out, or asks what that would do.
    Rebalance {
        /// Only asks.
        dry_run: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<RebalanceResponse>,
    },
    /// Somebody asks for the events after a sequence number.
    News {
        /// The number.
        after: u64,
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<ClusterEvent>>,
    },
    /// An operator asks for the status.
    Status {
        /// Events after this sequence number.
        events_after: u64,
        /// Where the answer goes.
        reply: oneshot::Sender<ClusterStatus>,
    },
}

/// An open session.
#[derive(Debug)]
struct Session {
    number: SessionNumber,
    outbox: watch::Sender<Outgoing>,
    /// Generation of the last document that was handed to it.
    sent: Option<Generation>,
}

/// What is remembered of a node besides what the planner sees.
#[derive(Debug, Default)]
struct NodeMemory {
    report: Option<KeptReport>,
    /// Generation of the `MemoryServer` that is in force.
    generation: Option<i64>,
    last_seen: MonotonicTime,
}

/// The state.
pub struct Owner {
    clock: Clock,
    store: Box<dyn Store>,
    term: Term,
    replace_after: Duration,
    rebalance: Rebalance,
    /// An operator asked for a rebalance, and it is not done.
    rebalance_now: bool,
    /// When sets were last moved for the balance.
    rebalanced: BTreeMap<SetId, MonotonicTime>,
    policies: Policies,
    intent: Option<DeviceIntent>,
    /// Policies that were written and are not understood, a sentence each.
    policies_refused: Vec<RefusedPolicy>,
    /// Policies that select the same containers, as far as it was told.
    overlaps_told: Told,
    /// As persisted. What is handed out follows from this one alone.
    kept: Ledger,
    /// The persisted one with facts that came since.
    draft: Ledger,
    seen: BTreeMap<NodeName, NodeObservation>,
    memory: BTreeMap<NodeName, NodeMemory>,
    sessions: BTreeMap<NodeName, Session>,
    documents: BTreeMap<NodeName, Arc<NodeDocument>>,
    /// Follows the draft and what is seen from round to round.
    planner: Planner,
    plan: Plan,
    /// What stands in the way of planning or persisting, for the report.
    trouble: Option<String>,
    /// The store has failed, and is not asked before.
    store_rests_until: MonotonicTime,
    store_pauses: Backoff,
    events: EventRing,
    /// Since when the conditions that were last shown are as they are.
    condition_times: ConditionTimes,
    /// Something changed that a plan depends on.
    dirty: bool,
}

impl Owner {
    /// Loads what is kept and begins the next term.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or written.
    pub fn new(
        mut store: Box<dyn Store>,
        replace_after: Duration,
        rebalance: Rebalance,
    ) -> Result<Self, StoreError> {
        let Kept {
            term,
            mut ledger,
            policies,
            ignored,
        } = store.load()?;
        ledger.share_names();
        let term = term.next();
        store.commit(&[Change::Term(term)])?;
        let clock = Clock::start();
        let seen = ledger
            .nodes
            .keys()
            .map(|node| (node.clone(), NodeObservation::silent(clock.now())))
            .collect();
        let mut events = EventRing::default();
        events.note(
            "",
            "ControllerStarted",
            format!(
                "term {term} begins with {} nodes, {} sets and {} policies on record",
                ledger.nodes.len(),
                ledger.sets.len(),
                policies.len()
            ),
        );
        for name in ignored {
            let sentence = "no controller made it: it is no record, and is left alone. Delete it";
            events.note(&name, "RecordIgnored", sentence);
        }
        Ok(Self {
            clock,
            store,
            term,
            replace_after,
            rebalance,
            rebalance_now: false,
            rebalanced: BTreeMap::new(),
            intent: intent(&policies),
            policies,
            policies_refused: Vec::new(),
            overlaps_told: Told::default(),
            kept: ledger.clone(),
            draft: ledger,
            seen,
            memory: BTreeMap::new(),
            sessions: BTreeMap::new(),
            documents: BTreeMap::new(),
            planner: Planner::default(),
            plan: Plan::default(),
            trouble: None,
            store_rests_until: MonotonicTime::ZERO,
            store_pauses: Backoff::new(STORE_RETRY, STORE_RETRY_MAX),
            events,
            condition_times: ConditionTimes::default(),
            dirty: true,
        })
    }

    /// Takes events until it is told to stop, then ends every session.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>, stop: CancellationToken) {
        self.round();
        loop {
            let timeout = tokio::time::sleep(self.time_to_round());
            let event = tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => Some(event),
                    None => break,
                },
                () = timeout => None,
                () = stop.cancelled() => break,
            };
            let timer = event.is_none();
            if let Some(event) = event {
                self.take(event);
            }
            // What came meanwhile goes into the same plan.
            for _ in 0..EVENTS_PER_ROUND_MAX {
                match inbox.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            let due = self.plan.wake_at.is_some_and(|at| at <= self.clock.now());
            if self.dirty || timer || due {
                self.round();
            }
        }
        for (_, session) in std::mem::take(&mut self.sessions) {
            let status = Status::unavailable("the controller stops: connect again later");
            session.outbox.send_replace(Outgoing::Close(status));
        }
    }

    fn time_to_round(&self) -> Duration {
        let wake = self.plan.wake_at.map(|at| self.clock.until(at));
        wake.map_or(ROUND_INTERVAL, |wake| wake.min(ROUND_INTERVAL))
            .max(Duration::from_millis(1))
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Open {
                hello,
                number,
                outbox,
            } => self.open(&hello, number, outbox),
            Event::Report {
                node,
                number,
                report,
            } => self.report(&node, number, report),
            Event::Refused { node, reason } => {
                self.events.note(node.as_str(), "SessionRefused", reason);
            }
            Event::Closed { node, number } => self.closed(&node, number),
            Event::Policies { policies, refused } => self.follow_policies(policies, refused),
            Event::Apply { yaml, reply } => {
                // Nobody waits any more if the receiver is gone; the policies hold all the same.
                let _ = reply.send(self.apply(&yaml));
            }
            Event::Forget { node, reply } => {
                // As with Apply: nobody may wait any more.
                let _ = reply.send(self.forget_node(&node));
            }
            Event::Admit { request, reply } => {
                let _ = reply.send(self.admit_by_operator(&request));
            }
            Event::Admission {
                request,
                generation,
            } => self.admit_by_object(&request, generation),
            Event::Rebalance { dry_run, reply } => {
                let _ = reply.send(self.even_out(dry_run));
            }
            Event::Delete { request, reply } => {
                // As with Apply: nobody may wait any more.
                let _ = reply.send(self.delete(&request));
            }
            Event::Get { request, reply } => {
                let _ = reply.send(self.get(&request));
            }
            Event::News { after, reply } => {
                let _ = reply.send(self.events.after(after));
            }
            Event::Status {
                events_after,
                reply,
            } => {
                let _ = reply.send(self.status(events_after));
            }
        }
    }
}
