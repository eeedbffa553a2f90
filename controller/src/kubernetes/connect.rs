//! The client with which all of the controller speaks to the API server.

use kube::client::ClientBuilder;
use kube::client::retry::{InvalidBackoff, RetryPolicy};
use kube::{Client, Config};
use thiserror::Error;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::limits::{
    API_REQUESTS_QUEUED_MAX, API_RETRIES_MAX, API_RETRY_MAX, API_RETRY_MIN, API_SILENCE,
};

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Neither a service account nor a kubeconfig is there.
    #[error(transparent)]
    Config(#[from] kube::config::InferConfigError),
    /// What is there is of no use.
    #[error(transparent)]
    Client(#[from] kube::Error),
    /// Pauses that are none.
    #[error(transparent)]
    Pauses(#[from] InvalidBackoff),
}

/// A client of the cluster that this runs in, or that KUBECONFIG names. Asks for nothing yet.
///
/// An overloaded server is asked again after the time that it says itself. kube's own pauses begin
/// at 5 ms, which is ten requests within [`crate::limits::API_REQUEST_TIMEOUT`] instead of one.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    // Without it a list or the begin of a watch that nobody answers is waited for until TCP gives
    // up the connection, which is never on an idle one.
    config.read_timeout = Some(API_SILENCE);
    let patience = RetryPolicy::new(API_RETRY_MIN, API_RETRY_MAX, API_RETRIES_MAX, true)?;
    let client = ClientBuilder::try_from(config)?
        .with_layer(&BufferLayer::new(API_REQUESTS_QUEUED_MAX))
        .with_layer(&RetryLayer::new(patience))
        .build();
    Ok(client)
}
