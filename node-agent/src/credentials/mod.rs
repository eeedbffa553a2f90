//! What the agent shows the controller, and how it knows the controller.
//!
//! Owns the certificate and its key. One that was enrolled is in memory alone: an agent that starts
//! again enrolls again. [`renewal`] decides when, and is pure.

mod enroll;
pub mod renewal;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use dynamicswap_proto::identity::CONTROLLER_NAME;
use dynamicswap_types::NodeName;
use tokio::time::{Instant, sleep_until};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::limits::{CERTIFICATE_FILE_BYTES_MAX, ENROLL_LIMIT, RENEWAL_RETRY};
use renewal::Need;

/// How the agent and the controller know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all: the controller is on this machine.
    None,
    /// By files that somebody else makes, read anew for each connection.
    Given {
        /// Who has signed the controller's certificate.
        authorities: PathBuf,
        /// The agent's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// By a certificate that the controller signs for whoever has this token.
    Enrolled {
        /// Who has signed the controller's certificate.
        authorities: PathBuf,
        /// The agent's service account token.
        token: PathBuf,
    },
}

/// An enrolled certificate.
struct Held {
    identity: Identity,
    since: Instant,
    life: Duration,
    /// When it is tried to be renewed next.
    renew_at: Instant,
}

/// Credentials and what they have brought so far.
pub struct Wallet {
    credentials: Credentials,
    node: NodeName,
    held: Mutex<Option<Held>>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is nobody's to read.
        write!(f, "Wallet({:?}, {})", self.credentials, self.node)
    }
}

impl Wallet {
    /// A wallet for this node, with nothing in it yet.
    #[must_use]
    pub fn new(credentials: Credentials, node: NodeName) -> Arc<Self> {
        Arc::new(Self {
            credentials,
            node,
            held: Mutex::default(),
        })
    }

    /// The controller's endpoint, with what this agent shows there. Enrolls if that is due.
    ///
    /// # Errors
    /// If a file is missing or makes no sense, or the controller gives no certificate.
    pub async fn endpoint(&self, plain: &Endpoint) -> Result<Endpoint> {
        let (authorities, identity) = match &self.credentials {
            Credentials::None => return Ok(plain.clone()),
            Credentials::Given {
                authorities,
                certificate,
                key,
            } => {
                let certificate = read(certificate, "the agent's certificate")?;
                let key = read(key, "its key")?;
                (authorities, Identity::from_pem(certificate, key))
            }
            Credentials::Enrolled { authorities, token } => {
                let identity = self.enrolled(plain, authorities, token).await?;
                (authorities, identity)
            }
        };
        let tls = trusting(authorities)?.identity(identity);
        plain.clone().tls_config(tls).context("no TLS with these")
    }

    /// The certificate of the moment: a new one if it must be, or if it may be and can be had.
    async fn enrolled(
        &self,
        plain: &Endpoint,
        authorities: &Path,
        token: &Path,
    ) -> Result<Identity> {
        let (need, old) = self.look();
        let old = match (need, old) {
            (Need::None, Some(old)) => return Ok(old),
            (Need::Must, _) => None,
            (_, old) => old,
        };
        match (self.enroll(plain, authorities, token).await, old) {
            (Ok(identity), _) => Ok(identity),
            (Err(error), Some(old)) => {
                warn!("the certificate is not renewed yet, the old one is good still: {error:#}");
                Ok(old)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Whether a new certificate is needed, and the one that is there.
    fn look(&self) -> (Need, Option<Identity>) {
        let held = self.held();
        let Some(held) = held.as_ref() else {
            return (Need::Must, None);
        };
        let need = renewal::need(
            held.since.elapsed(),
            held.life,
            held.renew_at <= Instant::now(),
        );
        (need, Some(held.identity.clone()))
    }

    async fn enroll(&self, plain: &Endpoint, authorities: &Path, token: &Path) -> Result<Identity> {
        // Whatever becomes of it, the next try is not at once.
        if let Some(held) = self.held().as_mut() {
            held.renew_at = Instant::now() + RENEWAL_RETRY;
        }
        let token = read(token, "the service account's token")?;
        let tls = trusting(authorities)?;
        let endpoint = plain.clone().tls_config(tls).context("no TLS with these")?;
        let enrolling = enroll::enroll(endpoint, &token, &self.node);
        let enrolled = tokio::time::timeout(ENROLL_LIMIT, enrolling).await;
        let enrolled = enrolled.map_err(|_| anyhow!("no answer within {ENROLL_LIMIT:?}"));
        let enrolled = enrolled
            .flatten()
            .context("no certificate from the controller")?;
        let now = Instant::now();
        let after = renewal::after(enrolled.life, self.node.as_str());
        info!(
            "enrolled: the certificate of node {} is good for {} min, and renewed after {} min",
            self.node,
            enrolled.life.as_secs() / 60,
            after.as_secs() / 60
        );
        let identity = enrolled.identity;
        *self.held() = Some(Held {
            identity: identity.clone(),
            since: now,
            life: enrolled.life,
            renew_at: now + after,
        });
        Ok(identity)
    }

    /// Waits until the certificate is renewed; for ever if it is not one that was enrolled.
    pub async fn renewed(&self, plain: &Endpoint) {
        let Credentials::Enrolled { authorities, token } = &self.credentials else {
            return std::future::pending().await;
        };
        loop {
            let at = self.held().as_ref().map(|held| held.renew_at);
            // Without one the session that asks is one of before it was put away.
            let Some(at) = at else { return };
            sleep_until(at).await;
            match self.enroll(plain, authorities, token).await {
                Ok(_) => return,
                Err(error) => warn!("the certificate is not renewed yet: {error:#}"),
            }
        }
    }

    /// Puts the certificate away if `error` says that the controller does not take it.
    pub fn note(&self, error: &anyhow::Error) {
        if is_distrust(error) && self.held().take().is_some() {
            info!("the controller does not take the certificate: enrolling again");
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the controller has refused who we are: by its answer, or in the handshake. A client learns
/// of the latter by an alert, after its own side is done.
fn is_distrust(error: &anyhow::Error) -> bool {
    let is_refusal = |status: &Status| status.code() == Code::Unauthenticated;
    let mut causes = error.chain();
    causes.any(|cause| cause.downcast_ref().is_some_and(is_refusal))
        || format!("{error:#} {error:?}").contains("fatal alert")
}

/// A TLS configuration that knows the controller.
fn trusting(authorities: &Path) -> Result<ClientTlsConfig> {
    let what = "who has signed the controller's certificate";
    let pem = read(authorities, what)?;
    Ok(ClientTlsConfig::new()
        .domain_name(CONTROLLER_NAME)
        .ca_certificate(Certificate::from_pem(pem)))
}

/// A file with something in it. It is small, and read a few times a day: not worth a thread.
fn read(path: &Path, what: &str) -> Result<String> {
    let place = path.display();
    let known = || format!("{what} is not known yet: {place} is missing or cannot be read");
    let size = std::fs::metadata(path).with_context(known)?.len();
    anyhow::ensure!(
        size <= CERTIFICATE_FILE_BYTES_MAX,
        "{place} has {size} bytes, which is too much for {what}"
    );
    let text = std::fs::read_to_string(path).with_context(known)?;
    anyhow::ensure!(
        !text.trim().is_empty(),
        "{what} is not known yet: {place} is empty"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_who_we_are_puts_the_certificate_away() {
        let refused = anyhow::Error::from(Status::unauthenticated("run out"));
        assert!(is_distrust(
            &refused.context("the controller refused the session")
        ));
        let alert = anyhow!("received fatal alert: CertificateExpired");
        assert!(is_distrust(&alert.context("cannot connect")));
        for other in [
            Status::permission_denied("another node"),
            Status::unavailable("stops"),
        ] {
            assert!(!is_distrust(&other.into()));
        }
    }

    #[test]
    fn file_that_is_not_there_yet_is_said_to_be_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.crt");
        let said = |path: &Path| format!("{:#}", read(path, "who signs").expect_err("none"));
        assert!(said(&path).starts_with("who signs is not known yet"));
        std::fs::write(&path, "\n").expect("written");
        assert!(said(&path).contains("is empty"));
        std::fs::write(&path, "text").expect("written");
        assert_eq!(read(&path, "who signs").expect("read"), "text");
    }
}
