//! Keys and certificates that somebody else makes: read from files, and again when they change.

use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use super::authority::{Authority, certificates_of};
use super::error::TlsError;
use super::service::{Credentials, Serving};
use crate::limits::CERTIFICATES_LOOK;

/// The controller's certificate, its key, and the authorities of its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenFiles {
    /// The certificate, with those above it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of agents and operators.
    pub peers: PathBuf,
}

impl GivenFiles {
    /// What they hold now.
    ///
    /// # Errors
    /// If one cannot be read, or they do not belong together.
    pub fn load(&self) -> Result<Serving, TlsError> {
        let certificate = read(&self.certificate)?;
        let credentials = Credentials {
            chain: certificates_of(&self.certificate.display().to_string(), &certificate)?,
            key: key_of(&self.key)?,
            trusted: certificates_of(&self.peers.display().to_string(), &read(&self.peers)?)?,
        };
        Ok(Serving {
            config: credentials.into_config()?,
            signer: None,
        })
    }

    /// Serves with what they hold after each change, for ever.
    pub async fn follow(self, serving: watch::Sender<Serving>) {
        let texts = || [&self.certificate, &self.key, &self.peers].map(|path| read(path).ok());
        let mut known = texts();
        loop {
            tokio::time::sleep(CERTIFICATES_LOOK).await;
            let now = texts();
            if now == known {
                continue;
            }
            known = now;
            match self.load() {
                Ok(loaded) => {
                    info!("certificates have changed: in force for new connections");
                    serving.send_replace(loaded);
                }
                Err(error) => {
                    warn!("the changed certificates are not taken, the old ones stay: {error}");
                }
            }
        }
    }
}

/// An authority's files, as cert-manager names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenAuthority(pub PathBuf);

impl GivenAuthority {
    /// What they hold now: the authority, and what is trusted besides.
    ///
    /// # Errors
    /// If one cannot be read, or they are no authority.
    pub fn load(&self) -> Result<(Authority, Option<String>), TlsError> {
        let file = |name: &str| self.0.join(name);
        let authority = Authority::parse(&read(&file("tls.crt"))?, &read(&file("tls.key"))?)?;
        let above = file("ca.crt");
        let above = above.exists().then(|| read(&above)).transpose()?;
        // An issuer that has nobody above it leaves the file empty.
        Ok((authority, above.filter(|text| !text.trim().is_empty())))
    }
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(read(path)?.as_bytes());
    key.map_err(|error| TlsError::nonsense(path.display().to_string(), error))
}

/// Certificates as one PEM text, each once.
pub fn bundle<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut bundle = String::new();
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        if !bundle.contains(text) {
            bundle.push_str(text);
            bundle.push('\n');
        }
    }
    bundle
}

/// The certificates of a bundle.
///
/// # Errors
/// If there is none in it.
pub fn certificates_in(bundle: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_of("the trusted certificates", bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn authority_in_a_folder_is_taken_with_what_is_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let given = GivenAuthority(folder.path().to_owned());
        let missing = given.load().expect_err("nothing there").to_string();
        assert!(missing.contains("tls.crt cannot be read"), "{missing}");
        let authority = Authority::make(NOW).expect("made");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("tls.crt", authority.certificate_pem());
        write("tls.key", authority.key_pem());
        write("ca.crt", "");
        let (read, above) = given.load().expect("read");
        assert_eq!((read.life(), above), (authority.life(), None));
        write("ca.crt", "above");
        assert_eq!(given.load().expect("read").1.as_deref(), Some("above"));
    }

    #[test]
    fn certificate_and_key_must_belong_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let files = GivenFiles {
            certificate: path("tls.crt"),
            key: path("tls.key"),
            peers: path("ca.crt"),
        };
        let authority = Authority::make(NOW).expect("made");
        let other = Authority::make(NOW).expect("made");
        std::fs::write(&files.peers, authority.certificate_pem()).expect("written");
        std::fs::write(&files.certificate, authority.certificate_pem()).expect("written");
        std::fs::write(&files.key, other.key_pem()).expect("written");
        let refused = files.load().expect_err("refused").to_string();
        assert!(refused.contains("with its key"), "{refused}");
        std::fs::write(&files.key, authority.key_pem()).expect("written");
        files.load().expect("taken");
    }

    #[test]
    fn bundle_has_each_certificate_once() {
        assert_eq!(bundle(["a\n", "b", " a ", ""].into_iter()), "a\nb\n");
    }
}
