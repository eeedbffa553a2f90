//! The address at which the services are reached: with TLS or without.

use std::sync::Arc;

use dynamicswap_proto::control::v1::agent_session_server::AgentSessionServer;
use dynamicswap_proto::control::v1::enrollment_server::EnrollmentServer;
use dynamicswap_proto::control::v1::operator_server::OperatorServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};

use super::{Access, EnrollmentService, OperatorService, Reviewer, SessionService};
use crate::limits::{
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX, SESSION_WINDOW_BYTES,
};
use crate::owner::Event;
use crate::tls::{Serving, accept};

/// What protects the address.
#[derive(Clone)]
pub enum Lock {
    /// Nothing.
    None,
    /// Certificates.
    Tls {
        /// What is served with.
        serving: watch::Receiver<Serving>,
        /// Who reviews tokens, if somebody does.
        reviewer: Option<Arc<dyn Reviewer>>,
    },
}

impl Lock {
    fn access(&self) -> Access {
        match self {
            Self::None => Access::Open,
            Self::Tls { reviewer, .. } => Access::Guarded(reviewer.clone()),
        }
    }

    /// Whether anybody may do anything.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Serves at `listener` until `stop`.
pub fn serve(
    listener: TcpListener,
    lock: Lock,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let router = services(&lock, events);
    let stopped = stop.clone().cancelled_owned();
    match lock {
        Lock::None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
        }
        Lock::Tls { serving, .. } => {
            let incoming = accept(listener, serving);
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
        }
    }
}

fn services(lock: &Lock, events: &mpsc::Sender<Event>) -> Router {
    let sessions = SessionService::new(events.clone(), lock.access());
    let sessions = AgentSessionServer::new(sessions)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operator = OperatorService::new(events.clone(), lock.access());
    let operator = OperatorServer::new(operator).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = Server::builder()
        .initial_stream_window_size(SESSION_WINDOW_BYTES)
        .initial_connection_window_size(SESSION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(sessions)
        .add_service(operator);
    match lock {
        Lock::Tls {
            serving,
            reviewer: Some(reviewer),
        } => {
            let service = EnrollmentService::new(Arc::clone(reviewer), serving.clone());
            router.add_service(EnrollmentServer::new(service))
        }
        Lock::None | Lock::Tls { .. } => router,
    }
}
