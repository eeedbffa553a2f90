//! Requests to the API server that end in time, and what is said of those that fail.

use std::future::Future;

use thiserror::Error;
use tracing::warn;

use crate::limits::API_REQUEST_TIMEOUT;

/// Why a request to the API server gave nothing.
#[derive(Debug, Error)]
pub enum ApiError {
    /// It answered with an error, or not at all.
    #[error("the API server did not {what}")]
    Failed {
        /// The deed, as in "list the policies".
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error(
        "the API server did not {what} within {} s: is it reachable?",
        API_REQUEST_TIMEOUT.as_secs()
    )]
    Timeout {
        /// The deed.
        what: String,
    },
}

/// An error with its cause, in one line.
pub fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source();
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl ApiError {
    /// The HTTP code of the answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Failed { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// The server is in trouble, or not reached: nothing else will go better now.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        self.code().is_none_or(|code| code == 429 || code >= 500)
    }

    /// The object is not there, or its kind is not.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object is another one than was thought.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// What fails again and again in the same way is told once.
#[derive(Debug, Default)]
pub struct Trouble {
    told: String,
}

impl Trouble {
    /// Warns of `failure` unless it is the one before, with what comes of it; none ends it.
    pub fn note(&mut self, consequence: &str, failure: Option<&(impl std::fmt::Display + ?Sized)>) {
        let failure = failure.map_or_else(String::new, ToString::to_string);
        if failure != self.told && !failure.is_empty() {
            warn!("{consequence}: {failure}");
        }
        self.told = failure;
    }
}

/// A request's answer within [`API_REQUEST_TIMEOUT`].
///
/// # Errors
/// [`ApiError`] with the deed.
pub async fn within<T>(
    what: impl Into<String>,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(API_REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ApiError::Failed {
            what: what.into(),
            source: Box::new(source),
        }),
        Err(_) => Err(ApiError::Timeout { what: what.into() }),
    }
}
