//! The session with the controller, and the documents' way to the daemons.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::agent_message::Kind as Up;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::{AgentMessage, DesiredDocument, Hello, NodeReport};
use dynamicswap_proto::daemon::v1::{report, request, response};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tracing::{info, warn};

use crate::daemon::{self, Known};
use crate::document::KeptDocument;
use crate::{containers, node};

/// Longest pause between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// First and longest pause before a session is opened again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A document of a large device.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What an agent is told on its command line.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Node.
    pub node: String,
    /// Failure domain.
    pub failure_domain: String,
    /// `http://IP:PORT`.
    pub controller: String,
    /// Socket of swapd, on a borrower.
    pub swapd: Option<PathBuf>,
    /// Socket of the memory server, on a donor.
    pub memory_server: Option<PathBuf>,
    /// Descriptors of containers.
    pub containers: Option<PathBuf>,
}

/// The agent's one task: owns the kept document and what is known of the daemons.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    kept: KeptDocument,
    swapd: watch::Receiver<Known>,
    memory_server: watch::Receiver<Known>,
    refusals: Vec<String>,
}

impl Agent {
    /// Starts to follow the daemons.
    #[must_use]
    pub fn new(settings: Settings, kept: KeptDocument) -> Self {
        let follow = |socket: &Option<PathBuf>| {
            let (sender, receiver) = watch::channel(Known::Unknown);
            if let Some(socket) = socket.clone() {
                tokio::spawn(daemon::follow(socket, sender));
            }
            receiver
        };
        Self {
            swapd: follow(&settings.swapd),
            memory_server: follow(&settings.memory_server),
            refusals: Vec::new(),
            settings,
            kept,
        }
    }

    /// Runs for ever: one session after another, and the kept document in between.
    pub async fn run(mut self) {
        let mut pause = BACK_OFF.0;
        loop {
            match self.session().await {
                Ok(()) => pause = BACK_OFF.0,
                Err(error) => {
                    warn!("no session with {}: {error:#}", self.settings.controller);
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
            // The node goes on by the kept document while the controller is away.
            let until = tokio::time::Instant::now() + pause;
            while tokio::time::Instant::now() < until {
                self.apply().await;
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    _ = self.swapd.changed(), if self.settings.swapd.is_some() => {}
                    _ = self.memory_server.changed(), if self.settings.memory_server.is_some() => {}
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            node: self.settings.node.clone(),
            failure_domain: self.settings.failure_domain.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: SESSION_PROTOCOL,
            borrower: self.settings.swapd.is_some(),
            donor: self.settings.memory_server.is_some(),
            generation: self.kept.current().generation,
        }
    }

    async fn session(&mut self) -> Result<()> {
        let endpoint = Endpoint::from_shared(self.settings.controller.clone())?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.context("cannot connect")?;
        let mut client =
            AgentSessionClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (up, messages) = mpsc::channel(4);
        up.send(AgentMessage {
            kind: Some(Up::Hello(self.hello())),
        })
        .await?;
        up.send(AgentMessage {
            kind: Some(Up::Report(self.report())),
        })
        .await?;
        let answer = client.open(ReceiverStream::new(messages)).await;
        let mut documents = answer
            .context("the controller refused the session")?
            .into_inner();
        info!("session with {}", self.settings.controller);
        loop {
            tokio::select! {
                document = documents.message() => match document? {
                    Some(document) => self.take(document),
                    None => bail!("the controller ended the session"),
                },
                _ = self.swapd.changed(), if self.settings.swapd.is_some() => {}
                _ = self.memory_server.changed(), if self.settings.memory_server.is_some() => {}
                () = tokio::time::sleep(REPORT_EVERY) => {}
            }
            self.apply().await;
            let report = AgentMessage {
                kind: Some(Up::Report(self.report())),
            };
            up.send(report).await.context("the session is gone")?;
        }
    }

    fn take(&mut self, document: DesiredDocument) {
        let generation = document.generation;
        match self.kept.take(document) {
            Ok(true) => info!(generation, "document taken"),
            Ok(false) => {}
            Err(error) => warn!("{error}"),
        }
    }

    /// Brings the kept document to each daemon that has not taken it in its present life.
    async fn apply(&mut self) {
        self.refusals.clear();
        let document = self.kept.current();
        let mut wanted = Vec::with_capacity(2);
        if let (Some(device), Known::Report(known), Some(socket)) = (
            &document.swap_device,
            &*self.swapd.borrow(),
            &self.settings.swapd,
        ) && let Some(report::Kind::SwapDevice(now)) = &known.kind
            && now.generation < device.generation
            && now.device_id == device.device_id
        {
            let kind = request::Kind::ApplySwapDevice(device.clone());
            wanted.push((kind, device.generation, socket.clone()));
        }
        if let (Some(server), Known::Report(known), Some(socket)) = (
            &document.memory_server,
            &*self.memory_server.borrow(),
            &self.settings.memory_server,
        ) && let Some(report::Kind::MemoryServer(now)) = &known.kind
            && now.generation < server.generation
            && now.incarnation == server.incarnation
        {
            let kind = request::Kind::ApplyMemoryServer(server.clone());
            wanted.push((kind, server.generation, socket.clone()));
        }
        for (kind, generation, socket) in wanted {
            if let Err(error) = hand_over(&socket, kind).await {
                let sentence = format!("{}: {error:#}", socket.display());
                warn!(generation, "document refused: {sentence}");
                self.refusals.push(sentence);
            }
        }
    }

    fn report(&self) -> NodeReport {
        let mut message = NodeReport {
            generation: self.kept.current().generation,
            node_pressure: Some(node::pressure()),
            refusals: self.refusals.clone(),
            agent_rss_bytes: node::own_resident_bytes(),
            ..NodeReport::default()
        };
        for known in [&*self.swapd.borrow(), &*self.memory_server.borrow()] {
            if let Known::Report(report) = known {
                match &report.kind {
                    Some(report::Kind::SwapDevice(device)) => {
                        message.swap_device = Some(device.clone());
                    }
                    Some(report::Kind::MemoryServer(server)) => {
                        message.memory_server = Some(server.clone());
                    }
                    None => {}
                }
            }
        }
        if let Known::Gone(reason) = &*self.swapd.borrow() {
            message.swap_device_error = reason.clone();
        }
        if let Known::Gone(reason) = &*self.memory_server.borrow() {
            message.memory_server_error = reason.clone();
        }
        if let Some(directory) = &self.settings.containers {
            message.containers = containers::discover(directory)
                .iter()
                .map(containers::report)
                .collect();
        }
        message
    }
}

async fn hand_over(socket: &std::path::Path, kind: request::Kind) -> Result<()> {
    let mut stream = daemon::connect(socket).await?;
    match daemon::ask(&mut stream, kind).await? {
        response::Kind::Applied(_) => Ok(()),
        response::Kind::Refused(refused) => bail!("{}", refused.reason),
        response::Kind::Report(_) => bail!("the daemon answered a document with a report"),
    }
}
