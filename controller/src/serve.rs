//! Start and stop: what can be refused is refused before anything is served.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use dynamicswap_proto::control::v1::agent_session_server::AgentSessionServer;
use dynamicswap_proto::control::v1::operator_server::OperatorServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::config::{Config, StoreChoice};
use crate::kubernetes;
use crate::limits::{
    ACCEPT_PAUSE, EVENTS_QUEUED_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX,
    STOP_TIMEOUT,
};
use crate::owner::{Event, Owner};
use crate::server::{OperatorService, SessionService};
use crate::store::{EmbeddedStore, KubernetesStore, Store, StoreError, highest_term};

/// One sentence for whoever started the controller: what, to what, what next. Exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    /// Refuses with this sentence.
    #[must_use]
    pub const fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// A [`Refusal`] for what whoever started it can mend; anything else is a failure.
pub fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(STOP_TIMEOUT);
    result
}

async fn serve(config: Config) -> Result<()> {
    let mut signals = Signals::listen()?;
    match &config.store {
        StoreChoice::File(path) => {
            let listener = listen(&config).await?;
            let store = EmbeddedStore::open(path).map_err(refuse)?;
            serve_until(&config, listener, Box::new(store), &mut signals, Vec::new()).await
        }
        StoreChoice::Kubernetes {
            namespace,
            identity,
        } => lead(&config, namespace, identity, &mut signals).await,
    }
}

/// Waits for the leadership, serves while it lasts. Who does not lead listens all the same, for
/// probes, and turns everybody away.
async fn lead(
    config: &Config,
    namespace: &str,
    identity: &str,
    signals: &mut Signals,
) -> Result<()> {
    let client = kube::Client::try_default().await.map_err(no_cluster)?;
    let listener = listen(config).await?;
    let floor = async || highest_term(&client, namespace).await;
    let seat = tokio::select! {
        seat = kubernetes::acquire(&client, namespace, identity, floor) => seat.map_err(refuse)?,
        () = turn_away(&listener) => return Ok(()),
        () = signals.any() => return Ok(()),
    };
    let leadership = seat.leadership();
    info!(term = %leadership.term(), identity, "leading");
    let stop = CancellationToken::new();
    let mut keeper = tokio::spawn(seat.keep(stop.clone()));
    let served = async {
        let client = client.clone();
        let store = KubernetesStore::open(&client, namespace, leadership.clone()).await;
        let store = Box::new(store.map_err(refuse)?);
        let port = listener
            .local_addr()
            .context("asking for the address")?
            .port();
        if let Some(ip) = config.advertise {
            let (client, namespace) = (client.clone(), namespace.to_owned());
            let (address, leadership) = (SocketAddr::new(ip, port), leadership.clone());
            tokio::spawn(kubernetes::lead_here(
                client, namespace, address, leadership,
            ));
        }
        let (watched, shown, told) = (client.clone(), client.clone(), client.clone());
        let (teller, identity) = (leadership.clone(), identity.to_owned());
        let followers: Vec<Follower> = vec![
            Box::new(|events| {
                tokio::spawn(kubernetes::policies(watched, events));
            }),
            Box::new(|events| {
                tokio::spawn(kubernetes::memory_servers(shown, events));
            }),
            Box::new(|events| {
                tokio::spawn(kubernetes::tell(told, identity, teller, events));
            }),
            Box::new(|events| {
                tokio::spawn(kubernetes::publish(client, leadership, events));
            }),
        ];
        serve_until(config, listener, store, signals, followers).await
    };
    tokio::select! {
        lost = &mut keeper => {
            let lost = lost.context("the lease's task")?;
            let why = lost.unwrap_or_else(|| "the lease was given up".to_owned());
            anyhow::bail!("{why}: this controller leads no more and ends");
        }
        result = served => {
            // Given up after the last write, so that the next leader need not wait.
            stop.cancel();
            if tokio::time::timeout(STOP_TIMEOUT, keeper).await.is_err() {
                warn!("the lease is not given up: the next leader waits until it runs out");
            }
            result
        }
    }
}

/// Takes connections and closes them, for ever.
async fn turn_away(listener: &TcpListener) {
    loop {
        if let Err(error) = listener.accept().await {
            warn!("a connection cannot be taken: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Starts something that feeds the owner, or reads from it.
type Follower = Box<dyn FnOnce(mpsc::Sender<Event>) + Send>;

async fn listen(config: &Config) -> Result<TcpListener> {
    TcpListener::bind(config.listen)
        .await
        .map_err(|error| cannot_listen(config.listen, &error).into())
}

/// Serves until a signal comes.
async fn serve_until(
    config: &Config,
    listener: TcpListener,
    store: Box<dyn Store>,
    signals: &mut Signals,
    followers: Vec<Follower>,
) -> Result<()> {
    let address = listener.local_addr().context("asking for the address")?;
    let owner = Owner::new(store, config.replace_after).map_err(refuse)?;
    let (events, inbox) = mpsc::channel(EVENTS_QUEUED_MAX);
    let stop = CancellationToken::new();
    let owner = tokio::spawn(owner.run(inbox, stop.clone()));
    for follower in followers {
        follower(events.clone());
    }

    let sessions = AgentSessionServer::new(SessionService::new(events.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operator = OperatorServer::new(OperatorService::new(events))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(sessions)
        .add_service(operator)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.clone().cancelled_owned(),
        );
    let mut server = tokio::spawn(server);
    write_ready(config.ready_file.as_deref(), address)?;
    info!(%address, store = %config.store, "serving");

    tokio::select! {
        () = signals.any() => {}
        ended = &mut server => {
            return ended.context("the server's task")?.context("serving");
        }
    }
    info!("stopping");
    stop.cancel();
    // The owner ends the sessions, and the server waits for those; a peer that does not let go
    // is left behind.
    let both = async { tokio::join!(owner, server) };
    if tokio::time::timeout(STOP_TIMEOUT, both).await.is_err() {
        warn!("a session did not end in time");
    }
    if let Some(path) = &config.ready_file {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
        })
    }

    /// Waits for either.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn no_cluster(error: kube::Error) -> Refusal {
    Refusal(format!(
        "no Kubernetes cluster is configured ({error}): run this in a pod with a service account, \
         or set KUBECONFIG"
    ))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Refusal {
    Refusal(match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "address {address} is in use: stop what listens there, or choose another --listen"
        ),
        std::io::ErrorKind::AddrNotAvailable => format!(
            "address {address} is none of this machine: choose another --listen, such as \
             127.0.0.1:7700"
        ),
        _ => format!("cannot listen on {address} ({error}): choose another --listen"),
    })
}

/// The store's own sentences are meant for whoever started the controller.
fn refuse(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Refused(sentence) => Refusal(sentence).into(),
        StoreError::Corrupt { .. } => Refusal(format!(
            "{error}: give the controller an intact copy of its store, or another --store"
        ))
        .into(),
        StoreError::Io(_) | StoreError::Api(_) | StoreError::Deposed => anyhow::Error::from(error),
    }
}

/// Written under another name first, so that whoever waits for it never reads half of it.
fn write_ready(path: Option<&Path>, address: SocketAddr) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|error| {
            Refusal(format!(
                "ready file {} cannot be written ({error}): choose another --ready-file",
                path.display()
            ))
            .into()
        })
}
