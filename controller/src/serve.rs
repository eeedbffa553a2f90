//! Start and stop: what can be refused is refused before anything is served.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use dynamicswap_proto::control::v1::agent_session_server::AgentSessionServer;
use dynamicswap_proto::control::v1::operator_server::OperatorServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::config::Config;
use crate::limits::{
    EVENTS_QUEUED_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX, STOP_TIMEOUT,
};
use crate::owner::Owner;
use crate::server::{OperatorService, SessionService};
use crate::store::{EmbeddedStore, StoreError};

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
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| cannot_listen(config.listen, &error))?;
    let address = listener.local_addr().context("asking for the address")?;
    let store = EmbeddedStore::open(&config.store).map_err(refuse)?;
    let owner = Owner::new(Box::new(store), config.replace_after).map_err(refuse)?;
    let (events, inbox) = mpsc::channel(EVENTS_QUEUED_MAX);
    let stop = CancellationToken::new();
    let owner = tokio::spawn(owner.run(inbox, stop.clone()));

    let sessions = AgentSessionServer::new(SessionService::new(events.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operator = OperatorServer::new(OperatorService::new(events))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
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
    info!(%address, store = %config.store.display(), "serving");

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
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
        StoreError::Io(_) => anyhow::Error::from(error),
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
