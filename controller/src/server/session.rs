//! `AgentSession`: one task per session, between the stream and the owner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_server::AgentSession;
use dynamicswap_proto::control::v1::{AgentMessage, DesiredDocument, Hello as HelloMessage};
use dynamicswap_types::{Generation, NodeName};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::access::{Access, expired};
use super::stopping;
use crate::clock::unix_s;
use crate::convert;
use crate::limits::HELLO_TIMEOUT;
use crate::owner::{Event, Hello, KeptReport, Outgoing, SessionNumber};
use crate::tls::{Peer, address_of};

/// The service.
#[derive(Debug, Clone)]
pub struct SessionService {
    events: mpsc::Sender<Event>,
    access: Access,
    sessions: Arc<AtomicU64>,
}

impl SessionService {
    /// A service that hands the sessions which `access` lets through to the owner behind `events`.
    pub fn new(events: mpsc::Sender<Event>, access: Access) -> Self {
        Self {
            events,
            access,
            sessions: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl AgentSession for SessionService {
    type OpenStream = ReceiverStream<Result<DesiredDocument, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        // The answer's headers go out before the hello comes in: a client may wait for them.
        let (downward, stream) = mpsc::channel(1);
        let session = SessionTask {
            peer: Peer::of(&request),
            address: address_of(&request),
            access: self.access.clone(),
            upward: request.into_inner(),
            downward,
            events: self.events.clone(),
            number: self.sessions.fetch_add(1, Ordering::Relaxed),
        };
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One session.
struct SessionTask {
    peer: Peer,
    address: Option<SocketAddr>,
    access: Access,
    upward: Streaming<AgentMessage>,
    downward: mpsc::Sender<Result<DesiredDocument, Status>>,
    events: mpsc::Sender<Event>,
    number: SessionNumber,
}

impl SessionTask {
    async fn run(mut self) {
        let named = self.hello().await;
        let named = named.and_then(|hello| Ok((parse_name(&hello)?, hello)));
        let (node, hello) = match named {
            Ok(named) => named,
            Err(status) => {
                // The peer may be gone already; then there is nobody to tell.
                let _ = self.downward.send(Err(status)).await;
                return;
            }
        };
        let ends = match self.access.session(&self.peer, &node) {
            Ok(ends) => ends,
            Err(status) => return self.refuse(node, status).await,
        };
        let hello = match check(&hello, node.clone()) {
            Ok(hello) => hello,
            Err(status) => return self.refuse(node, status).await,
        };
        let number = self.number;
        let (outbox, inbox) = watch::channel(Outgoing::Nothing);
        let open = Event::Open {
            hello,
            number,
            outbox,
        };
        if self.events.send(open).await.is_err() {
            let _ = self.downward.send(Err(stopping())).await;
            return;
        }
        tokio::select! {
            () = self.pump(&node, inbox) => {}
            () = end_of(ends) => {
                let _ = self.downward.send(Err(expired(&node))).await;
            }
        }
        // If the owner is gone, nobody needs to know.
        let _ = self.events.send(Event::Closed { node, number }).await;
    }

    /// Ends a session that is not this peer's to open: told to the peer, and to whoever looks.
    async fn refuse(self, node: NodeName, status: Status) {
        let (address, reason) = (self.address, status.message().to_owned());
        warn!(%node, ?address, reason, "session refused");
        let _ = self.downward.send(Err(status)).await;
        let refused = Event::Refused { node, reason };
        let _ = self.events.send(refused).await;
    }

    /// Reports up, documents down, until one side ends.
    ///
    /// A report says everything, so only the latest waits for an owner that is busy: with a thousand nodes
    /// that report each second it would else work on what was true long ago.
    async fn pump(&mut self, node: &NodeName, mut inbox: watch::Receiver<Outgoing>) {
        let mut latest: Option<KeptReport> = None;
        loop {
            tokio::select! {
                room = self.events.reserve(), if latest.is_some() => {
                    let (Ok(room), Some(report)) = (room, latest.take()) else {
                        return;
                    };
                    room.send(self.event(node, report));
                }
                message = self.upward.message() => {
                    let Ok(Some(message)) = message else {
                        break;
                    };
                    match message.kind {
                        Some(Kind::Report(report)) => {
                            latest = Some(KeptReport::pack(Box::new(report)));
                        }
                        Some(Kind::Hello(_)) => {
                            let one = "a session has one hello, at its beginning";
                            let status = Status::invalid_argument(one);
                            let _ = self.downward.send(Err(status)).await;
                            break;
                        }
                        // A kind of a later version: nothing to do.
                        None => {}
                    }
                }
                changed = inbox.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let outgoing = inbox.borrow_and_update().clone();
                    if !self.send(outgoing).await {
                        return;
                    }
                }
                () = self.downward.closed() => return,
            }
        }
        if let Some(report) = latest {
            // If the owner is gone, nobody needs it.
            let _ = self.events.send(self.event(node, report)).await;
        }
    }

    fn event(&self, node: &NodeName, report: KeptReport) -> Event {
        Event::Report {
            node: node.clone(),
            number: self.number,
            report,
        }
    }

    /// Whether the session goes on.
    async fn send(&self, outgoing: Outgoing) -> bool {
        match outgoing {
            Outgoing::Nothing => true,
            Outgoing::Document(document, term) => {
                let message = convert::document(&document, term);
                self.downward.send(Ok(message)).await.is_ok()
            }
            Outgoing::Close(status) => {
                let _ = self.downward.send(Err(status)).await;
                false
            }
        }
    }

    async fn hello(&mut self) -> Result<HelloMessage, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, self.upward.message())
            .await
            .map_err(|_| {
                Status::deadline_exceeded(format!(
                    "no hello within {} s: a session begins with one",
                    HELLO_TIMEOUT.as_secs()
                ))
            })??;
        match first.and_then(|message| message.kind) {
            Some(Kind::Hello(hello)) => Ok(hello),
            _ => Err(Status::invalid_argument(
                "the first message of a session must be its hello",
            )),
        }
    }
}

/// Waits until a certificate has run out; for ever without one.
async fn end_of(ends: Option<u64>) {
    match ends {
        Some(ends) => {
            let left = Duration::from_secs(ends.saturating_sub(unix_s()));
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}

fn parse_name(hello: &HelloMessage) -> Result<NodeName, Status> {
    let name = hello.node.parse();
    name.map_err(|error| Status::invalid_argument(format!("node name: {error}")))
}

fn check(hello: &HelloMessage, node: NodeName) -> Result<Hello, Status> {
    if hello.protocol != SESSION_PROTOCOL {
        return Err(Status::failed_precondition(format!(
            "agent {} speaks session protocol {}, this controller speaks {SESSION_PROTOCOL}: \
             upgrade the older one",
            hello.agent_version, hello.protocol
        )));
    }
    let domain = hello
        .failure_domain
        .parse()
        .map_err(|error| Status::invalid_argument(format!("failure domain: {error}")))?;
    let zone = Some(hello.zone.as_str()).filter(|zone| !zone.is_empty());
    let zone = zone
        .map(str::parse)
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("zone: {error}")))?;
    Ok(Hello {
        node,
        domain,
        zone,
        protocol: hello.protocol,
        borrower: hello.borrower,
        donor: hello.donor,
        generation: Generation::new(hello.generation),
    })
}
