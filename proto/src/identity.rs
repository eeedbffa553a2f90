//! What the parts of a cluster are called in certificates and tokens.
//!
//! A certificate names its holder by a URI: an agent's by its node. The controller's names no host,
//! because its address is the leader's of the moment: clients expect [`CONTROLLER_NAME`] in it.

use dynamicswap_types::NodeName;

/// DNS name in the controller's certificate, whatever its address.
pub const CONTROLLER_NAME: &str = "dynamicswap-controller";
/// The Lease that controllers hold to lead.
pub const LEASE: &str = "dynamicswap-controller";
/// Audience of the service account tokens that the controller takes, and nobody else.
pub const AUDIENCE: &str = "dynamicswap-controller";
/// `ConfigMap` in which the controller says who signs, and what agents mount.
pub const TRUST: &str = "dynamicswap-trust";
/// Its key.
pub const TRUST_KEY: &str = "ca.crt";
/// Metadata key of a token.
pub const AUTHORIZATION: &str = "authorization";

const SCHEME: &str = "dynamicswap://";
const NODE: &str = "node/";
const OPERATOR: &str = "operator";
const BEARER: &str = "Bearer ";

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The agent of a node.
    Node(NodeName),
    /// Somebody who may ask and order what the command line can.
    Operator,
}

impl Named {
    /// Whom a URI of a certificate names; `None` for one of another scheme or form.
    #[must_use]
    pub fn of_uri(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME)?;
        match rest.strip_prefix(NODE) {
            Some(node) => node.parse().ok().map(Self::Node),
            None => (rest == OPERATOR).then_some(Self::Operator),
        }
    }

    /// The URI.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Node(node) => format!("{SCHEME}{NODE}{node}"),
            Self::Operator => format!("{SCHEME}{OPERATOR}"),
        }
    }
}

/// What somebody wants of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To see what the cluster looks like.
    Look,
    /// To change it.
    Order,
}

impl Right {
    /// Its verb in Kubernetes' rules, on the resource `operations` of our group.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Look => "get",
            Self::Order => "update",
        }
    }

    /// The service account of the chart that has it.
    #[must_use]
    pub const fn account(self) -> &'static str {
        match self {
            Self::Look => "dynamicswap-status",
            Self::Order => "dynamicswap-operator",
        }
    }
}

/// Value of [`AUTHORIZATION`] for a token.
#[must_use]
pub fn bearer(token: &str) -> String {
    format!("{BEARER}{}", token.trim())
}

/// The token in a value of [`AUTHORIZATION`].
#[must_use]
pub fn token_of(value: &str) -> Option<&str> {
    let token = value.strip_prefix(BEARER)?.trim();
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_names_who_it_was_made_for() {
        let node = Named::Node("rack1-a.example".parse().expect("a name"));
        assert_eq!(node.uri(), "dynamicswap://node/rack1-a.example");
        for named in [node, Named::Operator] {
            assert_eq!(Named::of_uri(&named.uri()), Some(named));
        }
    }

    #[test]
    fn uri_of_another_form_names_nobody() {
        for uri in [
            "spiffe://cluster/node/a",
            "dynamicswap://node/",
            "dynamicswap://node/A_B",
            "dynamicswap://node/a/b",
            "dynamicswap://operator/x",
            "dynamicswap://",
        ] {
            assert_eq!(Named::of_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn token_is_read_back_without_what_a_file_ends_with() {
        assert_eq!(token_of(&bearer("abc\n")), Some("abc"));
        assert_eq!(token_of("Bearer "), None);
        assert_eq!(token_of("Basic abc"), None);
    }
}
