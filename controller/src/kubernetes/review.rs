//! Whose a token is, and what its owner may: asked of the API server.

use dynamicswap_proto::identity::{AUDIENCE, Right};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tonic::Status;
use tracing::warn;

use super::error::{ApiError, with_cause, within};
use crate::limits::REVIEWS_MAX;
use crate::server::{OPERATIONS, Reviewed, Reviewer};

/// Service account of agents, as the chart has it.
const AGENT_ACCOUNT: &str = "dynamicswap-agent";

/// Asks the API server.
pub struct TokenReviewer {
    tokens: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
    agent_user: String,
    places: Semaphore,
}

impl TokenReviewer {
    /// One for the agents of a namespace.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            tokens: Api::all(client.clone()),
            rights: Api::all(client.clone()),
            agent_user: format!("system:serviceaccount:{namespace}:{AGENT_ACCOUNT}"),
            places: Semaphore::new(REVIEWS_MAX),
        }
    }
}

#[tonic::async_trait]
impl Reviewer for TokenReviewer {
    async fn review(&self, token: &str) -> Result<Reviewed, Status> {
        // It is never closed.
        let _place = self.places.acquire().await;
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let created = self.tokens.create(&params, &review);
        let answer = within("review a token", created).await;
        answer.map(reviewed).map_err(|error| no_answer(&error))
    }

    async fn may(&self, who: &Reviewed, right: Right) -> Result<bool, Status> {
        let _place = self.places.acquire().await;
        let params = PostParams::default();
        let review = question(who, right);
        let created = self.rights.create(&params, &review);
        let answer = within("say what somebody may", created).await;
        let answer = answer.map_err(|error| no_answer(&error))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    fn agent_user(&self) -> &str {
        &self.agent_user
    }
}

/// What the caller is told: to try again.
fn no_answer(error: &ApiError) -> Status {
    warn!("a caller is turned away: {}", with_cause(error));
    Status::unavailable(format!("{error}: try again"))
}

/// What the API server's answer says.
fn reviewed(review: TokenReview) -> Reviewed {
    let status = review.status.unwrap_or_default();
    let UserInfo {
        extra,
        groups,
        uid,
        username,
    } = status.user.unwrap_or_default();
    Reviewed {
        authenticated: status.authenticated.unwrap_or(false),
        error: status.error.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        user: username.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        groups: groups.unwrap_or_default(),
        extra: extra.unwrap_or_default(),
    }
}

/// Whether `who` has a right.
fn question(who: &Reviewed, right: Right) -> SubjectAccessReview {
    let resource = ResourceAttributes {
        group: Some("dynamicswap.io".to_owned()),
        resource: Some(OPERATIONS.to_owned()),
        verb: Some(right.verb().to_owned()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            resource_attributes: Some(resource),
            user: Some(who.user.clone()),
            uid: Some(who.uid.clone()),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answer_without_a_status_authenticates_nobody() {
        assert_eq!(reviewed(TokenReview::default()), Reviewed::default());
    }

    #[test]
    fn whole_owner_of_a_token_is_asked_for() {
        let review: TokenReview = serde_json::from_value(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
            "spec": {},
            "status": {
                "authenticated": true, "audiences": [AUDIENCE],
                "user": {"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}},
            },
        }))
        .expect("a review");
        let who = reviewed(review);
        assert!(who.authenticated);
        let spec = question(&who, Right::Order).spec;
        assert_eq!(spec.user.as_deref(), Some("u"));
        assert_eq!(spec.groups, Some(vec!["g".to_owned()]));
        assert_eq!(spec.extra, Some(who.extra));
        let resource = spec.resource_attributes.expect("a resource");
        assert_eq!(resource.verb.as_deref(), Some("update"));
        assert_eq!(resource.resource.as_deref(), Some("operations"));
    }
}
