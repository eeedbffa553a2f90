//! Who may do what: decided for each call, by the certificate of its connection or by its token.

use std::sync::Arc;

use dynamicswap_proto::identity::{Named, Right};
use dynamicswap_types::NodeName;
use tonic::{Request, Status};

use super::token::{self, Reviewer};
use crate::tls::Peer;

/// Whether anybody may do anything, and who decides if not.
#[derive(Clone)]
pub enum Access {
    /// Whoever reaches the address: on a machine's loopback, those who are on it.
    Open,
    /// Those with a certificate of their name; or, if there is somebody to review it, with a token.
    Guarded(Option<Arc<dyn Reviewer>>),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Guarded(None) => "Guarded",
            Self::Guarded(Some(_)) => "Guarded, with tokens",
        })
    }
}

impl Access {
    /// Whether `peer` may open a session as `node`; until when, if it may not for ever.
    ///
    /// # Errors
    /// UNAUTHENTICATED or PERMISSION_DENIED, with what to do.
    pub fn session(&self, peer: &Peer, node: &NodeName) -> Result<Option<u64>, Status> {
        match self {
            Self::Open => Ok(None),
            Self::Guarded(_) => speaks_for(peer, node).map(Some),
        }
    }

    /// Whether whoever sent a request may have it answered.
    ///
    /// # Errors
    /// UNAUTHENTICATED or PERMISSION_DENIED, with what to do.
    pub async fn operator<T: Sync>(
        &self,
        request: &Request<T>,
        right: Right,
    ) -> Result<(), Status> {
        let Self::Guarded(reviewer) = self else {
            return Ok(());
        };
        let peer = Peer::of(request);
        if let Peer::Certified { named, .. } = &peer {
            return operates(named.as_ref());
        }
        let Some(reviewer) = reviewer else {
            return Err(Status::unauthenticated(
                "who calls? Give a certificate that names an operator: --tls-cert and --tls-key",
            ));
        };
        let reviewed = reviewer.review(token::of_request(request)?).await?;
        token::check(&reviewed)?;
        if reviewer.may(&reviewed, right).await? {
            return Ok(());
        }
        let verb = right.verb();
        Err(Status::permission_denied(format!(
            "{} may not {verb} {} in the group dynamicswap.io: bind it to the ClusterRole \
             dynamicswap-operator, or dynamicswap-status to look only",
            reviewed.user,
            token::OPERATIONS
        )))
    }
}

/// Whether an agent's certificate is its node's; until when.
fn speaks_for(peer: &Peer, node: &NodeName) -> Result<u64, Status> {
    match peer {
        Peer::Nobody => Err(Status::unauthenticated(format!(
            "a session for node {node} needs a certificate that names it, and this connection has \
             none: the agent enrolls with --enroll-token, or is given one with --tls-cert"
        ))),
        Peer::Certified {
            named: Some(Named::Node(named)),
            ends,
        } if named == node => Ok(*ends),
        Peer::Certified { named, .. } => {
            let whose = match named {
                Some(Named::Node(other)) => format!("names node {other}"),
                Some(Named::Operator) => "names an operator".to_owned(),
                None => "names no node".to_owned(),
            };
            let uri = Named::Node(node.clone()).uri();
            Err(Status::permission_denied(format!(
                "the certificate {whose}, and this session is for node {node}: an agent speaks for \
                 its own node alone; start it with --node as its certificate says, or give it one \
                 with the URI {uri}"
            )))
        }
    }
}

/// Whether a certificate is an operator's.
fn operates(named: Option<&Named>) -> Result<(), Status> {
    match named {
        Some(Named::Operator) => Ok(()),
        Some(Named::Node(node)) => Err(Status::permission_denied(format!(
            "the agent of node {node} may open its session and nothing else: call with a token, or \
             a certificate that names an operator"
        ))),
        None => Err(Status::permission_denied(format!(
            "the certificate names nobody who may call: it needs the URI {}",
            Named::Operator.uri()
        ))),
    }
}

/// When a session's certificate has run out.
pub fn expired(node: &NodeName) -> Status {
    Status::unauthenticated(format!(
        "the certificate of node {node} has run out: the agent opens a session with a new one"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn certified(named: Option<Named>) -> Peer {
        Peer::Certified { named, ends: 7 }
    }

    #[test]
    fn agent_speaks_for_its_own_node_alone() {
        let access = Access::Guarded(None);
        let own = certified(Some(Named::Node(node("a"))));
        assert_eq!(access.session(&own, &node("a")).expect("may"), Some(7));
        let refused = access.session(&own, &node("b")).expect_err("another's");
        assert_eq!(refused.code(), Code::PermissionDenied);
        for part in ["names node a", "for node b", "dynamicswap://node/b"] {
            assert!(refused.message().contains(part), "{refused}");
        }
        for other in [Some(Named::Operator), None] {
            let refused = access.session(&certified(other), &node("a"));
            let refused = refused.expect_err("no agent's");
            assert_eq!(refused.code(), Code::PermissionDenied);
        }
    }

    #[test]
    fn session_without_a_certificate_is_refused_only_where_access_is_guarded() {
        let refused = Access::Guarded(None).session(&Peer::Nobody, &node("a"));
        assert_eq!(refused.expect_err("nobody").code(), Code::Unauthenticated);
        let open = Access::Open.session(&Peer::Nobody, &node("a"));
        assert_eq!(open.expect("may"), None);
    }

    #[test]
    fn agent_orders_nothing() {
        assert!(operates(Some(&Named::Operator)).is_ok());
        let refused = operates(Some(&Named::Node(node("a")))).expect_err("an agent");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(operates(None).is_err());
    }
}
