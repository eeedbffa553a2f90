//! Whom a connection's certificate names. The handshake has verified it already.

use std::net::SocketAddr;

use dynamicswap_proto::identity::Named;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use x509_parser::extensions::GeneralName;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Somebody without a certificate.
    Nobody,
    /// Somebody with one that an authority of ours has signed.
    Certified {
        /// Whom it names, if it is one of ours.
        named: Option<Named>,
        /// When it ends, in seconds of the wall clock.
        ends: u64,
    },
}

impl Peer {
    /// Who sent a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let certificates = request.peer_certs();
        let own = certificates.as_ref().and_then(|all| all.first());
        own.map_or(Self::Nobody, peer_of)
    }
}

/// Where a request comes from, for the log.
pub fn address_of<T>(request: &Request<T>) -> Option<SocketAddr> {
    let info = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()?;
    info.get_ref().remote_addr()
}

/// Whom a certificate names.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Peer {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Peer::Nobody;
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Named::of_uri(uri),
            _ => None,
        });
    // Of two names neither counts: nobody of ours has two.
    let named = uris.next().filter(|_| uris.next().is_none());
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Peer::Certified { named, ends }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn with_uris(uris: &[&str]) -> Peer {
        let mut params = CertificateParams::default();
        let uris = uris.iter().map(|uri| (*uri).try_into().expect("a URI"));
        params.subject_alt_names = uris.map(SanType::URI).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        peer_of(certificate.der())
    }

    fn named(peer: Peer) -> Option<Named> {
        match peer {
            Peer::Certified { named, .. } => named,
            Peer::Nobody => panic!("a certificate"),
        }
    }

    #[test]
    fn one_name_of_ours_counts() {
        let node = Named::Node("a".parse().expect("a name"));
        assert_eq!(named(with_uris(&["dynamicswap://node/a"])), Some(node));
        let foreign = ["spiffe://x/y", "dynamicswap://operator"];
        assert_eq!(named(with_uris(&foreign)), Some(Named::Operator));
        assert_eq!(named(with_uris(&[])), None);
    }

    #[test]
    fn of_two_names_neither_counts() {
        let two = ["dynamicswap://node/a", "dynamicswap://node/b"];
        assert_eq!(named(with_uris(&two)), None);
    }
}
