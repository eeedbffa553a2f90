//! Start and stop: what can be refused is refused before anything is served.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use dynamicswap_types::Backoff;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, StoreChoice, TlsChoice};
use crate::kubernetes::{
    self, Certificates, CertificatesError, ConnectError, Leadership, TokenReviewer,
};
use crate::limits::{ACCEPT_PAUSE, EVENTS_QUEUED_MAX, STOP_TIMEOUT, STORE_RETRY, STORE_RETRY_MAX};
use crate::owner::{Event, Owner};
use crate::server::{self, Lock};
use crate::store::{EmbeddedStore, KubernetesStore, Store, StoreError, highest_term};
use crate::tls::GivenFiles;

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
            let part = Part {
                store: Box::new(store),
                lock: given_lock(&config)?,
                followers: Vec::new(),
            };
            serve_until(&config, listener, part, &mut signals).await
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
    let client = kubernetes::connect().await.map_err(no_cluster)?;
    let listener = listen(config).await?;
    let floor = async || highest_term(&client, namespace).await;
    let seat = tokio::select! {
        seat = kubernetes::acquire(&client, namespace, identity, floor) => seat,
        () = turn_away(&listener) => return Ok(()),
        () = signals.any() => return Ok(()),
    };
    let leadership = seat.leadership();
    info!(term = %leadership.term(), identity, "leading");
    let stop = CancellationToken::new();
    let mut keeper = tokio::spawn(seat.keep(stop.clone()));
    let served = async {
        let client = client.clone();
        let open = async || KubernetesStore::open(&client, namespace, leadership.clone()).await;
        let store = Box::new(insist(open, StoreError::is_trouble).await.map_err(refuse)?);
        let lock = lock(config, &client, namespace, &leadership).await?;
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
        let part = Part {
            store,
            lock,
            followers,
        };
        serve_until(config, listener, part, signals).await
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

/// Tries again what fails because the API server is in trouble; whoever asks ends with the leadership.
async fn insist<T, E: std::error::Error>(
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
    is_trouble: fn(&E) -> bool,
) -> Result<T, E> {
    let mut pauses = Backoff::new(STORE_RETRY, STORE_RETRY_MAX);
    loop {
        match attempt().await {
            Err(error) if is_trouble(&error) => {
                warn!("not serving yet: {}", kubernetes::with_cause(&error));
                tokio::time::sleep(pauses.pause()).await;
            }
            result => return result,
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

/// What protects the address of a controller in a cluster.
async fn lock(
    config: &Config,
    client: &kube::Client,
    namespace: &str,
    leadership: &Arc<Leadership>,
) -> Result<Lock> {
    let TlsChoice::Issued(source) = &config.tls else {
        return given_lock(config);
    };
    let prepare = async || {
        let (source, leadership) = (source.clone(), Arc::clone(leadership));
        Certificates::prepare(client, namespace, leadership, source).await
    };
    let prepared = insist(prepare, CertificatesError::is_trouble).await;
    let (certificates, serving) = prepared.map_err(refuse_certificates)?;
    tokio::spawn(certificates.keep());
    let reviewer: Arc<dyn server::Reviewer> = Arc::new(TokenReviewer::new(client, namespace));
    Ok(Lock::Tls {
        serving,
        reviewer: Some(reviewer),
    })
}

/// What protects an address by files, or nothing.
fn given_lock(config: &Config) -> Result<Lock> {
    let TlsChoice::Given(files) = &config.tls else {
        return Ok(Lock::None);
    };
    let loaded = files.load().map_err(|error| {
        let error = anyhow::Error::from(error);
        Refusal(format!(
            "--tls-cert, --tls-key and --tls-client-ca: {error:#}"
        ))
    })?;
    let (sender, serving) = watch::channel(loaded);
    tokio::spawn(GivenFiles::follow(files.clone(), sender));
    Ok(Lock::Tls {
        serving,
        reviewer: None,
    })
}

/// What a controller serves with.
struct Part {
    store: Box<dyn Store>,
    lock: Lock,
    followers: Vec<Follower>,
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
    part: Part,
    signals: &mut Signals,
) -> Result<()> {
    let address = listener.local_addr().context("asking for the address")?;
    let Part {
        store,
        lock,
        followers,
    } = part;
    let owner = Owner::new(store, config.replace_after, config.rebalance).map_err(refuse)?;
    let (events, inbox) = mpsc::channel(EVENTS_QUEUED_MAX);
    let stop = CancellationToken::new();
    let owner = tokio::spawn(owner.run(inbox, stop.clone()));
    for follower in followers {
        follower(events.clone());
    }

    if lock.is_open() && !address.ip().is_loopback() {
        warn!(
            %address,
            "no TLS: whoever reaches this address may order everything. Give --tls-cert, --tls-key \
             and --tls-client-ca, or --tls-issue on Kubernetes"
        );
    }
    let tls = !lock.is_open();
    let mut server = server::serve(listener, lock, &events, &stop);
    drop(events);
    write_ready(config.ready_file.as_deref(), address)?;
    info!(%address, store = %config.store, tls, "serving");

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

fn no_cluster(error: ConnectError) -> Refusal {
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

fn refuse_certificates(error: CertificatesError) -> anyhow::Error {
    match error {
        CertificatesError::Tls(_) | CertificatesError::Secret(_) => {
            Refusal(format!("no certificates: {error}")).into()
        }
        CertificatesError::Api(_) | CertificatesError::Busy | CertificatesError::Deposed => {
            anyhow::Error::from(error)
        }
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
