//! The way to a certificate: a new key, a request for it, and a token that says whose it is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynamicswap_proto::control::v1::EnrollRequest;
use dynamicswap_proto::control::v1::enrollment_client::EnrollmentClient;
use dynamicswap_proto::identity::{AUTHORIZATION, bearer};
use dynamicswap_types::NodeName;
use rcgen::{CertificateParams, KeyPair};
use tonic::Request;
use tonic::transport::{Endpoint, Identity};

/// A certificate with its key, and for how long it is good.
pub struct Enrolled {
    /// Both.
    pub identity: Identity,
    /// From now on.
    pub life: Duration,
}

/// Asks the controller for a certificate of `node`.
pub async fn enroll(endpoint: Endpoint, token: &str, node: &NodeName) -> Result<Enrolled> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.context("cannot make a request")?;
    let mut request = Request::new(EnrollRequest {
        request_der: request.der().to_vec(),
    });
    let token = bearer(token).parse().context("the token is no text")?;
    request.metadata_mut().insert(AUTHORIZATION, token);
    let channel = endpoint.connect().await.context("cannot connect")?;
    let answer = EnrollmentClient::new(channel).enroll(request).await;
    let answer = answer.context("it refuses")?.into_inner();
    ensure!(
        answer.node == node.as_str(),
        "it says that this pod runs on node {}, and --node says {node}: --node must be the pod's \
         spec.nodeName",
        answer.node
    );
    Ok(Enrolled {
        identity: Identity::from_pem(answer.certificates_pem, key.serialize_pem()),
        life: Duration::from_secs(answer.valid_for_s),
    })
}
