//! What this node's labels say: its roles, its zone and what fails together with it.
//!
//! The last known word is kept on disk, so that an agent that starts while the API server is away
//! is what it was before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dynamicswap_types::{FailureDomain, NameError, NodeName};
use serde::{Deserialize, Serialize};

/// The node borrows.
const BORROWER: &str = "dynamicswap.io/borrower";
/// The node lends.
const DONOR: &str = "dynamicswap.io/donor";
/// What fails together with the node.
const FAILURE_DOMAIN: &str = "dynamicswap.io/failure-domain";

/// The zone that the node is in, as the cloud or the cluster's owner says.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node's place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// It borrows.
    pub borrower: bool,
    /// It lends.
    pub donor: bool,
    /// What fails together with it.
    pub failure_domain: FailureDomain,
    /// Its zone, if it is in one.
    #[serde(default)]
    pub zone: Option<FailureDomain>,
}

impl Station {
    /// By a node's labels. Without one for the failure domain, the node is one of its own.
    ///
    /// # Errors
    /// A sentence about a label that cannot be used.
    pub fn of(node: &NodeName, labels: &BTreeMap<String, String>) -> Result<Self, String> {
        let is = |name: &str| labels.get(name).is_some_and(|value| value == "true");
        let domain = labels.get(FAILURE_DOMAIN).map_or(node.as_str(), |it| it);
        let failure_domain = named_by(domain).map_err(|error| {
            format!("the label {FAILURE_DOMAIN} of node {node} cannot be used: {error}")
        })?;
        Ok(Self {
            borrower: is(BORROWER),
            donor: is(DONOR),
            failure_domain,
            // What is no name even so is no zone: the label is not ours to refuse.
            zone: labels.get(ZONE).and_then(|value| named_by(value).ok()),
        })
    }

    /// Whether it has any part at all.
    #[must_use]
    pub const fn has_role(&self) -> bool {
        self.borrower || self.donor
    }

    /// What is kept in `state_dir`; none if nothing that can be read is.
    #[must_use]
    pub fn kept(state_dir: &Path) -> Option<Self> {
        let bytes = fs::read(file(state_dir)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps it in `state_dir`.
    ///
    /// # Errors
    /// The host's.
    pub fn keep(&self, state_dir: &Path) -> std::io::Result<()> {
        let (path, new) = (file(state_dir), state_dir.join("node.new"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)
    }
}

impl std::fmt::Display for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roles = match (self.borrower, self.donor) {
            (true, true) => "borrower and donor",
            (true, false) => "borrower",
            (false, true) => "donor",
            (false, false) => "no role",
        };
        write!(f, "{roles}, failure domain {}", self.failure_domain)?;
        match &self.zone {
            Some(zone) => write!(f, ", zone {zone}"),
            None => Ok(()),
        }
    }
}

/// A domain by its label, whose values may be more than names are: upper-case letters and underscores
/// stand for others there. Two labels that become one name so count as one domain, which is the safe side.
fn named_by(value: &str) -> Result<FailureDomain, NameError> {
    value.to_ascii_lowercase().replace('_', "-").parse()
}

/// What to do for a node without a role.
#[must_use]
pub fn how_to_label(node: &NodeName) -> String {
    format!(
        "node {node} has neither the label {BORROWER}=true nor {DONOR}=true, so that there is \
         nothing to do: set one"
    )
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("node.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(labels: &[(&str, &str)]) -> Result<Station, String> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Station::of(&"n1".parse().expect("a name"), &labels)
    }

    #[test]
    fn labels_choose_the_roles_and_the_failure_domain() {
        let none = station(&[]).expect("plain");
        assert!(!none.has_role());
        assert_eq!(none.failure_domain.as_str(), "n1");
        let both = station(&[
            (BORROWER, "true"),
            (DONOR, "true"),
            (FAILURE_DOMAIN, "rack-1"),
        ]);
        let both = both.expect("plain").to_string();
        assert_eq!(both, "borrower and donor, failure domain rack-1");
        let other = station(&[(BORROWER, "false"), (DONOR, "yes")]).expect("plain");
        assert!(!other.has_role());
    }

    #[test]
    fn zone_is_the_cluster_s_own_label() {
        let zone = |value| {
            station(&[(DONOR, "true"), (ZONE, value)])
                .expect("plain")
                .zone
        };
        assert_eq!(
            zone("eu-central-1a").map(String::from).as_deref(),
            Some("eu-central-1a")
        );
        assert_eq!(zone("Zone_B").map(String::from).as_deref(), Some("zone-b"));
        assert_eq!(zone(""), None);
        let placed = station(&[(DONOR, "true"), (ZONE, "a")]).expect("plain");
        assert_eq!(placed.to_string(), "donor, failure domain n1, zone a");
        assert_eq!(station(&[]).expect("plain").zone, None);
    }

    #[test]
    fn failure_domain_that_is_no_name_is_refused_with_the_label() {
        let rack = station(&[(FAILURE_DOMAIN, "Rack_1")]).expect("a label's value");
        assert_eq!(rack.failure_domain.as_str(), "rack-1");
        let sentence = station(&[(FAILURE_DOMAIN, "")]).expect_err("no name");
        assert!(sentence.contains(FAILURE_DOMAIN), "{sentence}");
    }

    #[test]
    fn last_word_outlives_the_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Station::kept(directory.path()), None);
        let donor = station(&[(DONOR, "true")]).expect("plain");
        donor.keep(directory.path()).expect("written");
        assert_eq!(Station::kept(directory.path()), Some(donor));
    }
}
