//! The part of the command line that says how agent and controller know each other.

use std::path::PathBuf;

use super::Credentials;
use crate::config::Refusal;

/// Flags; see the module.
#[derive(Debug, clap::Args)]
pub struct TlsArgs {
    /// Who has signed the controller's certificate, PEM; for --controller https://. Read anew for each
    /// connection: it may come later, and change.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This pod's service account token for the audience dynamicswap-controller: the controller signs a
    /// certificate for the node on which the pod runs.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_ca",
        conflicts_with = "tls_cert"
    )]
    enroll_token: Option<PathBuf>,
    /// This agent's certificate, with the URI dynamicswap://node/NAME; PEM.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// What they say, for a controller that is reached with TLS or without.
    ///
    /// # Errors
    /// A refusal if the address and the flags do not fit.
    pub fn credentials(self, is_https: bool) -> Result<Credentials, Refusal> {
        let Self {
            tls_ca,
            enroll_token,
            tls_cert,
            tls_key,
        } = self;
        match (is_https, tls_ca, enroll_token, tls_cert.zip(tls_key)) {
            (false, None, ..) => Ok(Credentials::None),
            (true, Some(authorities), Some(token), _) => {
                Ok(Credentials::Enrolled { authorities, token })
            }
            (true, Some(authorities), None, Some((certificate, key))) => Ok(Credentials::Given {
                authorities,
                certificate,
                key,
            }),
            (true, ..) => Err(Refusal::NoCredentials),
            (false, Some(_), ..) => Err(Refusal::PlainController),
        }
    }
}
