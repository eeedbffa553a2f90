//! An authority: a key and the certificate that says that it signs, and what it signs.

use dynamicswap_proto::identity::{CONTROLLER_NAME, Named};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;
use super::plan::Life;
use crate::limits::{AUTHORITY_LIFE_S, CERTIFICATE_LIFE_S, CERTIFICATE_SKEW_S};

/// An authority.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    certificates: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    life: Life,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its key is nobody's to read.
        write!(f, "Authority({:?})", self.life)
    }
}

/// A certificate that was signed, with what verifies it.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, then that of its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same as PEM.
    pub chain_pem: String,
    /// Its life.
    pub life: Life,
}

impl Authority {
    /// A new one, made now.
    ///
    /// # Errors
    /// If there is no randomness to make a key of.
    pub fn make(now: u64) -> Result<Self, TlsError> {
        let life = Life {
            made: now,
            ends: now.saturating_add(AUTHORITY_LIFE_S),
        };
        let mut params = params(life)?;
        // Each has a name of its own, so that nobody tries another one's key.
        params.distinguished_name = name(&format!("dynamicswap authority of {now}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let what = "an authority";
        let key = KeyPair::generate().map_err(|source| TlsError::Make { what, source })?;
        let certificate = params.self_signed(&key);
        let certificate = certificate.map_err(|source| TlsError::Make { what, source })?;
        Self::parse(&certificate.pem(), &key.serialize_pem())
    }

    /// One that is kept somewhere: its certificate, with those above it if there are any, and its key.
    ///
    /// # Errors
    /// If the texts are no certificate of an authority and its key.
    pub fn parse(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let what = "the authority";
        let certificates = certificates_of(what, certificate_pem)?;
        let (Some(own), Ok(key)) = (certificates.first(), KeyPair::from_pem(key_pem)) else {
            return Err(TlsError::nonsense(what, "it has no certificate or no key"));
        };
        let (is_ca, life) = facts(what, own)?;
        if !is_ca {
            let why = "its certificate is not one of an authority (basicConstraints CA:TRUE)";
            return Err(TlsError::nonsense(what, why));
        }
        let issuer = Issuer::from_ca_cert_der(own, key);
        let issuer = issuer.map_err(|error| TlsError::nonsense(what, error))?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            certificates,
            issuer,
            life,
        })
    }

    /// Its life.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Its certificate, as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its key, as PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Its certificate and those above it.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// A certificate for the controller itself, with a new key.
    ///
    /// # Errors
    /// If there is no randomness to make a key of.
    pub fn serve(&self, now: u64) -> Result<(Issued, PrivateKeyDer<'static>), TlsError> {
        let what = "the controller's certificate";
        let key = KeyPair::generate().map_err(|source| TlsError::Make { what, source })?;
        let life = self.leaf_life(now);
        let mut params = params(life)?;
        params.distinguished_name = name(CONTROLLER_NAME);
        let dns = Ia5String::try_from(CONTROLLER_NAME);
        let dns = dns.map_err(|source| TlsError::Make { what, source })?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key, &self.issuer);
        let signed = signed.map_err(|source| TlsError::Make { what, source })?;
        let private = PrivateKeyDer::try_from(key.serialize_der());
        let private = private.map_err(|why| TlsError::nonsense(what, why))?;
        Ok((self.issued(signed, life), private))
    }

    /// A certificate that names `named`, for the key of a request (PKCS #10, DER). Nothing else of
    /// the request counts.
    ///
    /// # Errors
    /// If the request makes no sense, or is not signed by its own key.
    pub fn sign(&self, request: &[u8], named: &Named, now: u64) -> Result<Issued, TlsError> {
        let what = "a certificate";
        let request = CertificateSigningRequestParams::from_der(&request.into());
        let mut request =
            request.map_err(|error| TlsError::nonsense("the request for it", error))?;
        let life = self.leaf_life(now);
        request.params = params(life)?;
        let uri = named.uri();
        request.params.distinguished_name = name(&uri);
        let uri = Ia5String::try_from(uri);
        let uri = uri.map_err(|source| TlsError::Make { what, source })?;
        request.params.subject_alt_names = vec![SanType::URI(uri)];
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = request.signed_by(&self.issuer);
        let signed = signed.map_err(|source| TlsError::Make { what, source })?;
        Ok(self.issued(signed, life))
    }

    fn issued(&self, signed: rcgen::Certificate, life: Life) -> Issued {
        let chain_pem = format!("{}{}", signed.pem(), self.certificate_pem);
        let mut chain = vec![signed.der().clone()];
        chain.extend(self.certificates.iter().cloned());
        Issued {
            chain,
            chain_pem,
            life,
        }
    }

    /// What it signs now ends before it does itself.
    fn leaf_life(&self, now: u64) -> Life {
        let ends = now.saturating_add(CERTIFICATE_LIFE_S);
        Life {
            made: now,
            ends: ends.min(self.life.ends),
        }
    }
}

fn params(life: Life) -> Result<CertificateParams, TlsError> {
    let date = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|error| TlsError::nonsense("the time of this host", error))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(life.made.saturating_sub(CERTIFICATE_SKEW_S))?;
    params.not_after = date(life.ends)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// The certificates in a PEM text: one at least.
///
/// # Errors
/// If there is none, or something else.
pub fn certificates_of(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| TlsError::nonsense(what, error))?;
    if found.is_empty() {
        return Err(TlsError::nonsense(what, "there is no certificate in it"));
    }
    Ok(found)
}

/// Whether a certificate is an authority's, and its life.
fn facts(what: &str, certificate: &CertificateDer<'_>) -> Result<(bool, Life), TlsError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| TlsError::nonsense(what, error))?;
    let validity = parsed.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let life = Life {
        made: seconds(validity.not_before).saturating_add(CERTIFICATE_SKEW_S),
        ends: seconds(validity.not_after),
    };
    Ok((parsed.is_ca(), life))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::peer::{Peer, peer_of};

    const NOW: u64 = 1_800_000_000;

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let name = "dynamicswap://node/another".try_into().expect("a URI");
        params.subject_alt_names = vec![SanType::URI(name)];
        let request = params.serialize_request(&key).expect("a request");
        request.der().to_vec()
    }

    #[test]
    fn authority_is_read_back_as_it_was_made() {
        let made = Authority::make(NOW).expect("made");
        assert_eq!(made.life().made, NOW);
        assert_eq!(made.life().ends, NOW + AUTHORITY_LIFE_S);
        let read = Authority::parse(made.certificate_pem(), made.key_pem()).expect("read");
        assert_eq!(read.life(), made.life());
    }

    #[test]
    fn certificate_names_whom_the_authority_says_and_not_whom_the_request_does() {
        let authority = Authority::make(NOW).expect("made");
        let named = Named::Node("n1".parse().expect("a name"));
        let issued = authority.sign(&request(), &named, NOW).expect("signed");
        assert_eq!(issued.life.ends, NOW + CERTIFICATE_LIFE_S);
        let peer = peer_of(&issued.chain[0]);
        let ends = NOW + CERTIFICATE_LIFE_S;
        assert_eq!(
            peer,
            Peer::Certified {
                named: Some(named),
                ends
            }
        );
        assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let authority = Authority::make(NOW).expect("made");
        let late = authority.life().ends - 10;
        let (issued, _) = authority.serve(late).expect("signed");
        assert_eq!(issued.life.ends, authority.life().ends);
    }

    #[test]
    fn request_that_was_changed_on_its_way_is_refused() {
        let authority = Authority::make(NOW).expect("made");
        let named = Named::Node("n1".parse().expect("a name"));
        let mut changed = request();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        let refused = authority.sign(&changed, &named, NOW).expect_err("refused");
        assert!(refused.to_string().starts_with("the request for it"));
        assert!(authority.sign(b"none", &named, NOW).is_err());
    }

    #[test]
    fn leaf_is_no_authority() {
        let authority = Authority::make(NOW).expect("made");
        let key = KeyPair::generate().expect("a key");
        let named = Named::Operator;
        let issued = authority.sign(&request(), &named, NOW).expect("signed");
        let refused = Authority::parse(&issued.chain_pem, &key.serialize_pem());
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains("CA:TRUE"), "{refused}");
        let empty = Authority::parse("", "").expect_err("refused").to_string();
        assert!(empty.contains("there is no certificate"), "{empty}");
    }
}
