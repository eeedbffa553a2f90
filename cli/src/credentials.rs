//! What the operator's side shows a controller that is reached over TLS.
//!
//! A token is read anew for each call: projected ones change while `top` runs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use dynamicswap_proto::identity::{AUTHORIZATION, CONTROLLER_NAME, bearer};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::failure::Refusal;

/// Flags that say who calls, and whom.
#[derive(Debug, Clone, Default, Args)]
pub struct Credentials {
    /// Who has signed the controller's certificate, PEM; for --controller https://.
    #[arg(long, env = "DYNAMICSWAP_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// A service account token for the audience dynamicswap-controller, on Kubernetes.
    #[arg(long, env = "DYNAMICSWAP_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A certificate with the URI dynamicswap://operator, elsewhere; PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// What kubectl was asked for instead.
    #[arg(skip)]
    given: Option<Given>,
}

/// Credentials that are in no file.
#[derive(Debug, Clone)]
struct Given {
    authorities: String,
    token: String,
}

impl Credentials {
    /// Those who have signed the controller's certificate, PEM, and a token to be shown.
    #[must_use]
    pub fn given(authorities: String, token: String) -> Self {
        Self {
            given: Some(Given { authorities, token }),
            ..Self::default()
        }
    }

    fn authorities(&self) -> Result<Option<String>> {
        if let Some(given) = &self.given {
            return Ok(Some(given.authorities.clone()));
        }
        let path = self.tls_ca.as_deref();
        path.map(|path| read("--tls-ca", path)).transpose()
    }

    /// `endpoint` as these reach it.
    ///
    /// # Errors
    /// A refusal if they do not fit the address, or a file cannot be read.
    pub fn protect(&self, endpoint: Endpoint) -> Result<Endpoint> {
        let is_https = endpoint.uri().scheme_str() == Some("https");
        if self.tls_ca.is_some() && !is_https {
            return Err(plain("--tls-ca"));
        }
        let Some(authorities) = self.authorities()? else {
            if is_https {
                return Err(Refusal::error(
                    "--controller https:// needs --tls-ca with who has signed its certificate: on \
                     Kubernetes the key ca.crt of the ConfigMap dynamicswap-trust",
                ));
            }
            if self.token_file.is_some() || self.tls_cert.is_some() {
                return Err(plain("a token or a certificate"));
            }
            return Ok(endpoint);
        };
        let mut tls = ClientTlsConfig::new()
            .domain_name(CONTROLLER_NAME)
            .ca_certificate(Certificate::from_pem(authorities));
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let (certificate, key) = (read("--tls-cert", certificate)?, read("--tls-key", key)?);
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let protected = endpoint.tls_config(tls);
        protected.context("these certificates are of no use")
    }

    /// What each call shows besides.
    #[must_use]
    pub fn token(&self) -> Token {
        match (&self.given, &self.token_file) {
            (Some(given), _) => Token::Text(given.token.clone()),
            (None, Some(path)) => Token::File(path.clone()),
            (None, None) => Token::None,
        }
    }
}

fn plain(what: &str) -> anyhow::Error {
    Refusal::error(format!(
        "{what} is of no use with http://, where everybody on the way can read it: write \
         --controller https://IP:PORT"
    ))
}

fn read(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Refusal::error(format!("{flag} {} cannot be read: {error}", path.display()))
    })
}

/// What is shown with each call.
#[derive(Debug, Clone)]
pub enum Token {
    /// Nothing.
    None,
    /// This.
    Text(String),
    /// What the file holds then.
    File(PathBuf),
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let (token, source) = match self {
            Self::None => return Ok(request),
            Self::Text(token) => (token.clone(), "what kubectl made".to_owned()),
            Self::File(path) => {
                let token = read("--token-file", path);
                let token =
                    token.map_err(|error| Status::failed_precondition(error.to_string()))?;
                (token, format!("--token-file {}", path.display()))
            }
        };
        let value = bearer(&token)
            .parse()
            .map_err(|_| Status::failed_precondition(format!("{source} holds no token")))?;
        request.metadata_mut().insert(AUTHORIZATION, value);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, credentials: &Credentials) -> String {
        let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
        let error = credentials.protect(endpoint).expect_err("refused");
        assert!(error.is::<Refusal>());
        error.to_string()
    }

    #[test]
    fn token_never_goes_out_in_clear() {
        let token = Credentials {
            token_file: Some("token".into()),
            ..Credentials::default()
        };
        assert!(refused("http://127.0.0.1:1", &token).contains("https://"));
        let authority = Credentials {
            tls_ca: Some("ca.crt".into()),
            ..Credentials::default()
        };
        assert!(refused("http://127.0.0.1:1", &authority).contains("https://"));
    }

    #[test]
    fn controller_with_tls_must_be_known() {
        let said = refused("https://127.0.0.1:1", &Credentials::default());
        assert!(said.contains("dynamicswap-trust"), "{said}");
        let missing = Credentials {
            tls_ca: Some("/nowhere/ca.crt".into()),
            ..Credentials::default()
        };
        let said = refused("https://127.0.0.1:1", &missing);
        assert!(said.contains("/nowhere/ca.crt cannot be read"), "{said}");
    }

    #[test]
    fn each_call_shows_what_the_file_holds_at_its_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let mut token = Token::File(path.clone());
        assert!(token.call(Request::new(())).is_err());
        for text in ["one\n", "two"] {
            std::fs::write(&path, text).expect("written");
            let request = token.call(Request::new(())).expect("a token");
            let shown = request.metadata().get(AUTHORIZATION).expect("shown");
            assert_eq!(shown.to_str().expect("text"), bearer(text));
        }
    }
}
