//! The operator's side of the control plane: blocking calls with a deadline.
//!
//! Owns one connection to a controller. Prints nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use dynamicswap_proto::control::v1 as pb;
use dynamicswap_proto::identity::Right;
use pb::operator_client::OperatorClient;
use tokio::runtime::Runtime;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::credentials::{Credentials, Token};
use crate::failure::Refusal;
use crate::kubectl::{Place, Way};

/// A controller that takes longer does not work.
const DEADLINE: Duration = Duration::from_secs(5);
/// A large cluster's status may be longer than tonic's 4 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to the controller.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    operator: OperatorClient<InterceptedService<Channel, Token>>,
    address: String,
    /// What leads there, if kubectl does.
    way: Option<Way>,
}

impl Client {
    /// Prepares a connection to `address` (`http://IP:PORT`); it is made at the first call and
    /// again whenever it was lost.
    ///
    /// # Errors
    /// A refusal if the address is none.
    pub fn new(address: &str) -> Result<Self> {
        Self::with(address, &Credentials::default())
    }

    /// The same to a controller that wants to know who calls.
    ///
    /// # Errors
    /// A refusal if the address is none, or `credentials` do not fit it.
    pub fn with(address: &str, credentials: &Credentials) -> Result<Self> {
        // With a thread of its own: the connection answers the controller's pings between two
        // calls, so that it is not closed as dead.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start the client's runtime")?;
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| {
            Refusal::error(format!(
                "'{address}' is no controller address ({error}): write http://IP:PORT"
            ))
        })?;
        let endpoint = credentials.protect(endpoint)?;
        let channel = {
            let _guard = runtime.enter();
            endpoint
                .connect_timeout(DEADLINE)
                .timeout(DEADLINE)
                .connect_lazy()
        };
        let operator = OperatorClient::with_interceptor(channel, credentials.token());
        Ok(Self {
            runtime,
            operator: operator.max_decoding_message_size(ANSWER_BYTES_MAX),
            address: address.to_owned(),
            way: None,
        })
    }

    /// Opens a way to the controller of a Kubernetes cluster, with a right.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn through(place: Place, right: Right) -> Result<Self> {
        let (scheme, credentials) = match place.authorities()? {
            Some(authorities) => {
                let token = place.token(right)?;
                ("https", Credentials::given(authorities, token))
            }
            None => ("http", Credentials::default()),
        };
        let way = Way::open(place)?;
        let address = format!("{scheme}://127.0.0.1:{}", way.port());
        let client = Self::with(&address, &credentials)?;
        Ok(Self {
            way: Some(way),
            ..client
        })
    }

    /// What the cluster looks like now, with the events after a sequence number.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub fn status(&mut self, events_after: u64) -> Result<pb::ClusterStatus> {
        let request = pb::StatusRequest { events_after };
        let mut answer = self.runtime.block_on(self.operator.status(request));
        if answer.as_ref().is_err_and(is_connection_lost) {
            // A controller that was restarted since the last call: a second try finds the new one.
            if let Some(way) = &mut self.way {
                way.renew()?;
            }
            answer = self.runtime.block_on(self.operator.status(request));
        }
        self.answer(answer)
    }

    /// Stores objects; returns a line for each.
    ///
    /// # Errors
    /// A refusal with the controller's sentence if an object is not valid.
    pub fn apply(&mut self, yaml: String) -> Result<Vec<String>> {
        let request = Request::new(pb::ApplyRequest { yaml });
        let answer = self.runtime.block_on(self.operator.apply(request));
        Ok(self.answer(answer)?.results)
    }

    /// Closes, drains or opens a donor; returns the controller's line.
    ///
    /// # Errors
    /// A refusal with the controller's sentence if there is no such donor.
    pub fn admit(&mut self, request: pb::AdmitRequest) -> Result<String> {
        let answer = self.runtime.block_on(self.operator.admit(request));
        Ok(self.answer(answer)?.result)
    }

    /// Has donors evened out, or says what that would do.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub fn rebalance(&mut self, dry_run: bool) -> Result<pb::RebalanceResponse> {
        let request = Request::new(pb::RebalanceRequest { dry_run });
        let answer = self.runtime.block_on(self.operator.rebalance(request));
        self.answer(answer)
    }

    /// Takes policies away; returns a line for each.
    ///
    /// # Errors
    /// A refusal with the controller's sentence if there is no such policy.
    pub fn delete(&mut self, request: pb::DeleteRequest) -> Result<Vec<String>> {
        let answer = self
            .runtime
            .block_on(self.operator.delete(Request::new(request)));
        Ok(self.answer(answer)?.results)
    }

    /// Tells the controller that a node has left for good.
    ///
    /// # Errors
    /// A refusal with the controller's sentence if its agent is connected.
    pub fn forget(&mut self, node: String) -> Result<String> {
        let request = pb::ForgetRequest { node };
        let answer = self.runtime.block_on(self.operator.forget(request));
        Ok(self.answer(answer)?.result)
    }

    /// Objects as JSON texts.
    ///
    /// # Errors
    /// A refusal with the controller's sentence if there is no such kind or object.
    pub fn get(&mut self, request: pb::GetRequest) -> Result<Vec<String>> {
        let answer = self
            .runtime
            .block_on(self.operator.get(Request::new(request)));
        Ok(self.answer(answer)?.objects_json)
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => match status.code() {
                Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
                    Err(Refusal::error(status.message()))
                }
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => bail!(
                    "the controller at {} does not answer: {}",
                    self.address,
                    status.message()
                ),
                Code::Unauthenticated | Code::PermissionDenied => Err(Refusal::error(format!(
                    "the controller at {} refuses: {}",
                    self.address,
                    status.message()
                ))),
                code => bail!("the controller answers {code}: {}", status.message()),
            },
        }
    }
}

/// Whether the connection broke, as it does when the controller is restarted between two calls.
fn is_connection_lost(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    source.is_some_and(|source| source.is::<tonic::transport::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_that_is_not_there_is_named() {
        let mut client = Client::new("http://127.0.0.1:1").expect("an address");
        let error = client.status(0).expect_err("nobody there");
        let text = error.to_string();
        assert!(
            text.starts_with("the controller at http://127.0.0.1:1 does not answer"),
            "{text}"
        );
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        let error = Client::new("a b").expect_err("no address");
        assert!(error.downcast_ref::<Refusal>().is_some());
    }
}
