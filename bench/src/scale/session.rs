//! An agent's session with a real controller, over gRPC as a real agent's is, with daemons that are not
//! there. Owns the session's task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::{AgentMessage, Hello};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::daemons::Daemons;

/// Longest document, as for a real agent (`DOCUMENT_BYTES_MAX` of its limits).
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Time between two reports of a real agent to which nothing happens (`TICK` of its limits).
const TICK: Duration = Duration::from_secs(1);

/// A node's agent; its session ends with it.
#[derive(Debug)]
pub struct Session {
    daemons: Arc<Mutex<Daemons>>,
    task: JoinHandle<Result<()>>,
}

impl Session {
    /// Opens the session of the node with this name. `first` is how long its first regular report waits:
    /// agents do not all start in one moment.
    pub async fn open(
        controller: &str,
        node: String,
        daemons: Daemons,
        first: Duration,
    ) -> Result<Self> {
        let client = AgentSessionClient::connect(controller.to_owned()).await;
        let client = client
            .with_context(|| format!("{node} cannot reach the controller"))?
            .max_decoding_message_size(DOCUMENT_BYTES_MAX);
        let (borrower, donor) = daemons.roles();
        let hello = Hello {
            failure_domain: node.clone(),
            node,
            agent_version: "bench".to_owned(),
            protocol: SESSION_PROTOCOL,
            borrower,
            donor,
            ..Hello::default()
        };
        let daemons = Arc::new(Mutex::new(daemons));
        let task = tokio::spawn(run(client, hello, Arc::clone(&daemons), first));
        Ok(Self { daemons, task })
    }

    /// Looks at its daemons.
    pub fn daemons<T>(&self, look: impl FnOnce(&Daemons) -> T) -> T {
        look(&self.daemons.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the controller has ended it.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut client: AgentSessionClient<tonic::transport::Channel>,
    hello: Hello,
    daemons: Arc<Mutex<Daemons>>,
    first: Duration,
) -> Result<()> {
    let locked = || daemons.lock().unwrap_or_else(PoisonError::into_inner);
    let (up, messages) = mpsc::channel(1);
    let message = |kind| AgentMessage { kind: Some(kind) };
    up.send(message(Kind::Hello(hello))).await?;
    let answer = client.open(ReceiverStream::new(messages)).await;
    let mut documents = answer.context("the session is refused")?.into_inner();
    let mut report_at = Instant::now() + first;
    loop {
        tokio::select! {
            document = documents.message() => {
                let Some(document) = document? else {
                    bail!("the controller ended the session");
                };
                locked().take(&document);
                report_at = Instant::now();
            }
            () = tokio::time::sleep_until(report_at) => {
                let report = locked().report();
                up.send(message(Kind::Report(report))).await?;
                report_at = Instant::now() + TICK;
            }
        }
    }
}
