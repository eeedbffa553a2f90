//! What a service account token proves, once the API server has reviewed it.

use std::collections::BTreeMap;

use dynamicswap_proto::identity::{AUDIENCE, AUTHORIZATION, Right, token_of};
use dynamicswap_types::NodeName;
use tonic::{Request, Status};

use crate::limits::TOKEN_BYTES_MAX;

/// Where the API server says on which node the token's pod runs: from Kubernetes 1.30 on.
pub const NODE_OF_POD: &str = "authentication.kubernetes.io/node-name";

/// What the API server says of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// It is one of this cluster's, and has not run out.
    pub authenticated: bool,
    /// Why not.
    pub error: String,
    /// Those of the wanted audiences that it is for.
    pub audiences: Vec<String>,
    /// Whose it is.
    pub user: String,
    /// The user's uid.
    pub uid: String,
    /// Groups of the user.
    pub groups: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What rules call the controller's calls: a resource of our group, of which there are no objects.
pub const OPERATIONS: &str = "operations";

/// Asks the API server. Its errors are the answer to whoever called.
#[tonic::async_trait]
pub trait Reviewer: Send + Sync + 'static {
    /// Whose a token is.
    async fn review(&self, token: &str) -> Result<Reviewed, Status>;
    /// Whether its owner has a right.
    async fn may(&self, who: &Reviewed, right: Right) -> Result<bool, Status>;
    /// The user that agents run as.
    fn agent_user(&self) -> &str;
}

/// The token of a request.
///
/// # Errors
/// UNAUTHENTICATED without one.
pub fn of_request<T>(request: &Request<T>) -> Result<&str, Status> {
    let value = request.metadata().get(AUTHORIZATION);
    let value = value.and_then(|value| value.to_str().ok());
    match value.and_then(token_of) {
        Some(token) if token.len() <= TOKEN_BYTES_MAX => Ok(token),
        Some(_) => Err(Status::unauthenticated(format!(
            "the token is over {TOKEN_BYTES_MAX} bytes long, which no service account's is"
        ))),
        None => Err(Status::unauthenticated(format!(
            "who calls? Send a service account token for the audience {AUDIENCE}: kubectl create \
             token ACCOUNT --audience {AUDIENCE}"
        ))),
    }
}

/// Refuses a token that is none, or is not meant for this controller.
///
/// # Errors
/// UNAUTHENTICATED, with what to do.
pub fn check(reviewed: &Reviewed) -> Result<(), Status> {
    let is_ours = reviewed.audiences.iter().any(|it| it == AUDIENCE);
    if reviewed.authenticated && is_ours {
        return Ok(());
    }
    let why = match (reviewed.authenticated, reviewed.error.as_str()) {
        (true, _) => "it is for another audience",
        (false, "") => "the API server does not know it, or it has run out",
        (false, error) => error,
    };
    Err(Status::unauthenticated(format!(
        "the token is not taken: {why}; send one for the audience {AUDIENCE}"
    )))
}

/// The node for which a token's owner may have a certificate.
///
/// # Errors
/// UNAUTHENTICATED or PERMISSION_DENIED, with what to do.
pub fn node_of(reviewed: &Reviewed, agent_user: &str) -> Result<NodeName, Status> {
    check(reviewed)?;
    if reviewed.user != agent_user {
        return Err(Status::permission_denied(format!(
            "{} is no agent: only {agent_user} gets a certificate for its node",
            reviewed.user
        )));
    }
    let named = reviewed.extra.get(NODE_OF_POD).map(Vec::as_slice);
    let Some([node]) = named else {
        return Err(Status::permission_denied(
            "the token does not say on which node its pod runs: use a projected one of the agent's \
             own pod, on Kubernetes 1.30 or later",
        ));
    };
    node.parse().map_err(|error| {
        Status::permission_denied(format!(
            "the token's node '{node}' has no usable name: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const AGENT: &str = "system:serviceaccount:dynamicswap-system:dynamicswap-agent";

    fn reviewed() -> Reviewed {
        Reviewed {
            authenticated: true,
            audiences: vec![AUDIENCE.to_owned()],
            user: AGENT.to_owned(),
            extra: BTreeMap::from([(NODE_OF_POD.to_owned(), vec!["n1".to_owned()])]),
            ..Reviewed::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut Reviewed)) -> (Code, String) {
        let mut reviewed = reviewed();
        change(&mut reviewed);
        let status = node_of(&reviewed, AGENT).expect_err("refused");
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn agent_s_token_proves_its_node() {
        let node = node_of(&reviewed(), AGENT).expect("proven");
        assert_eq!(node.as_str(), "n1");
    }

    #[test]
    fn token_for_another_audience_is_refused() {
        let (code, said) = refusal(|it| it.audiences = vec!["https://kubernetes".to_owned()]);
        assert_eq!(code, Code::Unauthenticated);
        assert!(said.contains("for another audience"), "{said}");
        assert!(said.contains(AUDIENCE), "{said}");
    }

    #[test]
    fn token_that_is_none_is_refused_with_the_api_server_s_words() {
        let (code, said) = refusal(|it| {
            it.authenticated = false;
            it.error = "token has expired".to_owned();
        });
        assert_eq!(code, Code::Unauthenticated);
        assert!(said.contains("token has expired"), "{said}");
    }

    #[test]
    fn other_account_and_token_of_no_node_are_refused() {
        let other = "system:serviceaccount:dynamicswap-system:default";
        let (code, said) = refusal(|it| it.user = other.to_owned());
        assert_eq!(code, Code::PermissionDenied);
        assert!(said.contains(other) && said.contains(AGENT), "{said}");
        let (code, said) = refusal(|it| it.extra.clear());
        assert_eq!(code, Code::PermissionDenied);
        assert!(said.contains("on which node"), "{said}");
        let two = vec!["n1".to_owned(), "n2".to_owned()];
        let (code, _) = refusal(|it| drop(it.extra.insert(NODE_OF_POD.to_owned(), two)));
        assert_eq!(code, Code::PermissionDenied);
    }

    #[test]
    fn request_without_a_token_is_told_how_to_get_one() {
        let status = of_request(&Request::new(())).expect_err("refused");
        assert!(status.message().contains("kubectl create token"));
        let mut request = Request::new(());
        let value = "Bearer abc".parse().expect("ASCII");
        request.metadata_mut().insert(AUTHORIZATION, value);
        assert_eq!(of_request(&request).expect("there"), "abc");
    }
}
