//! Connections with their handshakes done. One that is slow or wrong holds up nobody else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use super::service::Serving;
use crate::limits::{ACCEPT_PAUSE, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};

/// A connection, or why none can be had.
pub type Incoming = io::Result<TlsStream<TcpStream>>;

/// Takes connections of `listener`, each by what is served at its moment, until nobody wants more.
pub fn accept(
    listener: TcpListener,
    serving: watch::Receiver<Serving>,
) -> ReceiverStream<Incoming> {
    let (done, connections) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(take_all(listener, serving, done));
    ReceiverStream::new(connections)
}

async fn take_all(
    listener: TcpListener,
    serving: watch::Receiver<Serving>,
    done: mpsc::Sender<Incoming>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = done.closed() => return,
        };
        // It is never closed.
        let Ok(place) = place else { return };
        let (stream, address) = tokio::select! {
            taken = listener.accept() => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    warn!("a connection cannot be taken: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = done.closed() => return,
        };
        let config = Arc::clone(&serving.borrow().config);
        let handshake = shake(stream, address, TlsAcceptor::from(config));
        tokio::spawn(pass(handshake, done.clone(), place));
    }
}

/// Has a handshake done, and hands the connection on.
async fn pass(
    handshake: impl Future<Output = Option<TlsStream<TcpStream>>>,
    done: mpsc::Sender<Incoming>,
    place: OwnedSemaphorePermit,
) {
    let connection = handshake.await;
    drop(place);
    if let Some(connection) = connection {
        // Nobody wants it any more while the controller stops.
        let _ = done.send(Ok(connection)).await;
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    // As for connections without TLS: a report shall not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, "no TCP_NODELAY: {error}");
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(connection)) => Some(connection),
        // A probe, or somebody who thought better of it.
        Ok(Err(error)) if is_hang_up(&error) => None,
        Ok(Err(error)) => {
            warn!(%address, "a connection is refused: {error}{}", what_next(&error));
            None
        }
        Err(_) => {
            let limit = HANDSHAKE_TIMEOUT.as_secs();
            warn!(%address, "a connection is closed: no TLS handshake within {limit} s");
            None
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// What follows from a failed handshake, for the log.
fn what_next(error: &io::Error) -> &'static str {
    use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => ": the agent enrolls again by itself; a certificate given by hand is to be renewed",
        Some(Error::InvalidCertificate(_)) => {
            ": its certificate is of no authority that is trusted here; an agent enrolls again by \
             itself"
        }
        Some(Error::InvalidMessage(_)) => ": it speaks no TLS, write https:// instead of http://",
        Some(Error::AlertReceived(AlertDescription::UnknownCA)) => {
            ": it does not trust this controller yet; an agent does once it has the new ConfigMap"
        }
        _ => "",
    }
}
