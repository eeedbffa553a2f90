//! The session with the controller: connects, backs off, carries documents down and reports up.
//!
//! Owns the stream and the pauses between streams. Decides nothing about documents.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::{AgentMessage, DesiredDocument, Hello, NodeReport};
use dynamicswap_types::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::credentials::Wallet;
use crate::limits::{
    BACK_OFF_MAX, BACK_OFF_MIN, DOCUMENT_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    SESSION_OPEN_LIMIT, SESSION_WORKED,
};

/// What a session has to tell.
#[derive(Debug)]
pub enum SessionEvent {
    /// The pause is over: [`Session::connect`] is wanted.
    PauseOver,
    /// The controller has taken the session.
    Opened,
    /// A document came.
    Document(Box<DesiredDocument>),
    /// The report that was due can be sent now.
    MaySend,
    /// The session is over, or did not begin; a pause follows.
    Lost(anyhow::Error),
    /// There is a new certificate: the session is over, and one with it follows.
    Renewed,
}

/// An open stream.
struct Stream {
    documents: Streaming<DesiredDocument>,
    /// One report waits at most: a controller that reads slowly gets the newest figures later
    /// instead of old ones.
    up: mpsc::Sender<AgentMessage>,
    /// Ends when there is a new certificate.
    renewal: Renewal,
    opened: Instant,
    had_document: bool,
}

type Renewal = Pin<Box<dyn Future<Output = ()> + Send>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Stream>> + Send>>;

enum State {
    /// Waits for the end of the pause.
    Pausing { until: Instant },
    /// Waits for the controller's answer, at most [`SESSION_OPEN_LIMIT`].
    Connecting(Connecting),
    /// Waits for documents, and for room to send.
    Open(Box<Stream>),
}

/// The session; see the module.
pub struct Session {
    endpoint: Endpoint,
    wallet: Arc<Wallet>,
    state: State,
    pauses: Backoff,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Pausing { .. } => "pausing",
            State::Connecting(_) => "connecting",
            State::Open(_) => "open",
        };
        write!(f, "Session({state})")
    }
}

impl Session {
    /// A session that wants to connect at once, and shows what is in `wallet`.
    #[must_use]
    pub fn new(endpoint: Endpoint, wallet: Arc<Wallet>) -> Self {
        let endpoint = endpoint
            .connect_timeout(SESSION_OPEN_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Self {
            endpoint,
            wallet,
            state: State::Pausing {
                until: Instant::now(),
            },
            pauses: Backoff::new(BACK_OFF_MIN, BACK_OFF_MAX),
        }
    }

    /// Whether the controller has taken it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Begins to connect.
    pub fn connect(&mut self, hello: Hello) {
        let (endpoint, wallet) = (self.endpoint.clone(), Arc::clone(&self.wallet));
        let connecting = async move {
            let shown = wallet.endpoint(&endpoint).await?;
            let renewal: Renewal = Box::pin(async move { wallet.renewed(&endpoint).await });
            let opening = tokio::time::timeout(SESSION_OPEN_LIMIT, open(shown, hello, renewal));
            opening.await.context("the controller does not answer")?
        };
        self.state = State::Connecting(Box::pin(connecting));
    }

    /// Waits for the next event. A report is due at `send_at`. Cancelling loses nothing.
    pub async fn next(&mut self, send_at: Instant) -> SessionEvent {
        let error = match &mut self.state {
            State::Pausing { until } => {
                sleep_until(*until).await;
                return SessionEvent::PauseOver;
            }
            State::Connecting(connecting) => match connecting.await {
                Ok(stream) => {
                    self.state = State::Open(Box::new(stream));
                    return SessionEvent::Opened;
                }
                Err(error) => error,
            },
            State::Open(stream) => match stream.next(send_at).await {
                Ok(SessionEvent::Renewed) => {
                    let until = Instant::now();
                    self.state = State::Pausing { until };
                    return SessionEvent::Renewed;
                }
                Ok(event) => return event,
                Err(error) => error,
            },
        };
        self.wallet.note(&error);
        self.back_off();
        SessionEvent::Lost(error)
    }

    /// Sends a report if the session is open and has room.
    pub fn send(&mut self, report: NodeReport) {
        if let State::Open(stream) = &self.state {
            let kind = Some(Kind::Report(report));
            // Without room there was no MaySend; without a receiver the stream's end comes next.
            let _sent = stream.up.try_send(AgentMessage { kind });
        }
    }

    /// Sets the next pause: the shortest after a session that worked, else twice the last one.
    fn back_off(&mut self) {
        let worked = matches!(&self.state, State::Open(stream) if stream.worked());
        if worked {
            self.pauses.reset();
        }
        let until = Instant::now() + self.pauses.pause();
        self.state = State::Pausing { until };
    }
}

impl Stream {
    /// A controller that takes a session and ends it at once has not made it work.
    fn worked(&self) -> bool {
        self.had_document || self.opened.elapsed() >= SESSION_WORKED
    }

    async fn next(&mut self, send_at: Instant) -> Result<SessionEvent> {
        let Self {
            documents,
            up,
            renewal,
            ..
        } = self;
        let room = async {
            sleep_until(send_at).await;
            up.reserve().await.map(drop)
        };
        tokio::select! {
            document = documents.message() => {
                let document = document?.ok_or_else(|| anyhow!("the controller ended the session"))?;
                self.had_document = true;
                Ok(SessionEvent::Document(Box::new(document)))
            }
            () = renewal => Ok(SessionEvent::Renewed),
            room = room => {
                room.context("the session is gone")?;
                Ok(SessionEvent::MaySend)
            }
        }
    }
}

async fn open(endpoint: Endpoint, hello: Hello, renewal: Renewal) -> Result<Stream> {
    let channel = endpoint.connect().await.context("cannot connect")?;
    let client = AgentSessionClient::new(channel);
    let mut client = client.max_decoding_message_size(DOCUMENT_BYTES_MAX);
    let (up, messages) = mpsc::channel(1);
    let kind = Some(Kind::Hello(hello));
    up.send(AgentMessage { kind }).await?;
    let answer = client.open(ReceiverStream::new(messages)).await;
    let documents = answer
        .context("the controller refused the session")?
        .into_inner();
    Ok(Stream {
        documents,
        up,
        renewal,
        opened: Instant::now(),
        had_document: false,
    })
}
