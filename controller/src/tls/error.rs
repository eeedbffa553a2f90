//! What can go wrong with keys and certificates.

use std::path::PathBuf;

use thiserror::Error;

/// Why a key or a certificate is of no use.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A key or certificate could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// A text holds no certificate or key, or one that does not fit.
    #[error("{what} makes no sense: {why}")]
    Nonsense {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the host says.
        #[source]
        source: std::io::Error,
    },
}

impl TlsError {
    /// An error for a text that is not what it should be.
    pub fn nonsense(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Nonsense {
            what: what.into(),
            why: why.to_string(),
        }
    }
}
