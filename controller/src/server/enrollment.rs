//! `Enrollment`: an agent that proves its node by its token gets a certificate that names it.

use std::sync::Arc;

use dynamicswap_proto::control::v1::enrollment_server::Enrollment;
use dynamicswap_proto::control::v1::{EnrollRequest, EnrollResponse};
use dynamicswap_proto::identity::Named;
use dynamicswap_types::NodeName;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::token::{self, Reviewer};
use crate::clock::unix_s;
use crate::limits::REQUEST_BYTES_MAX;
use crate::tls::{Serving, address_of};

/// The service.
#[derive(Clone)]
pub struct EnrollmentService {
    reviewer: Arc<dyn Reviewer>,
    serving: watch::Receiver<Serving>,
}

impl EnrollmentService {
    /// A service that has tokens reviewed, and signs by the authority of the moment.
    pub const fn new(reviewer: Arc<dyn Reviewer>, serving: watch::Receiver<Serving>) -> Self {
        Self { reviewer, serving }
    }

    async fn node_of<T: Sync>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        let reviewed = self.reviewer.review(token::of_request(request)?).await?;
        token::node_of(&reviewed, self.reviewer.agent_user())
    }

    fn sign(&self, request: &EnrollRequest, node: NodeName) -> Result<EnrollResponse, Status> {
        if request.request_der.len() > REQUEST_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "the request for a certificate is over {REQUEST_BYTES_MAX} bytes long"
            )));
        }
        let signer = self.serving.borrow().signer.clone();
        let signer =
            signer.ok_or_else(|| Status::unimplemented("this controller signs no certificates"))?;
        let (name, now) = (node.to_string(), unix_s());
        let issued = signer.sign(&request.request_der, &Named::Node(node), now);
        let issued = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(EnrollResponse {
            certificates_pem: issued.chain_pem,
            valid_for_s: issued.life.ends.saturating_sub(now),
            node: name,
        })
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let address = address_of(&request);
        let proven = self.node_of(&request).await;
        let signed = proven.and_then(|node| self.sign(request.get_ref(), node));
        match signed {
            Ok(response) => {
                let (node, hours) = (&response.node, response.valid_for_s / 3_600);
                info!(
                    node,
                    ?address,
                    "enrolled: its certificate is good for {hours} h"
                );
                Ok(Response::new(response))
            }
            Err(status) => {
                warn!(?address, reason = status.message(), "enrollment refused");
                Err(status)
            }
        }
    }
}
