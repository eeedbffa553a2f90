//! What the listener serves with: the controller's certificate, and whom it trusts.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::authority::Authority;
use super::error::TlsError;

/// What a TLS listener is given: it may change at any time.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For handshakes from now on.
    pub config: Arc<ServerConfig>,
    /// Who signs certificates of agents, if this controller does.
    pub signer: Option<Arc<Authority>>,
}

/// A certificate with its key, and whose certificates are taken.
#[derive(Debug)]
pub struct Credentials {
    /// The controller's certificate and those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Authorities of peers.
    pub trusted: Vec<CertificateDer<'static>>,
}

impl Credentials {
    /// A configuration that takes peers without a certificate too: those that have none yet, and
    /// those that prove who they are by a token. What they may do is decided for each call.
    ///
    /// # Errors
    /// If key and certificate do not belong together, or an authority is none.
    pub fn into_config(self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in self.trusted {
            let added = roots.add(authority);
            added.map_err(|error| TlsError::nonsense("an authority of peers", error))?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::nonsense("the authorities of peers", error))?;
        let what = "the controller's certificate with its key";
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let builder = builder.with_client_cert_verifier(verifier);
                builder.with_single_cert(self.chain, self.key)
            })
            .map_err(|error| TlsError::nonsense(what, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that goes on from an earlier one would go on with its certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(tokio_rustls::rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}
