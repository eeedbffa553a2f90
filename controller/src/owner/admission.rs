//! What operators decide of a donor: open, cordoned or draining.

use std::time::Duration;

use dynamicswap_crds::MemoryServerSpec;
use dynamicswap_planner::Ledger;
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_types::NodeName;
use tonic::Status;

use super::Owner;
use crate::store::changes_between;

/// What a donor shall take, checked.
struct Wanted {
    node: NodeName,
    /// No new slabs.
    cordoned: bool,
    /// What it holds shall leave, within this time.
    drain: Option<Duration>,
}

impl Wanted {
    fn of(request: &AdmitRequest) -> Result<Self, Status> {
        let node = request.node.parse().map_err(|error| {
            Status::invalid_argument(format!("'{}' is no node name: {error}", request.node))
        })?;
        let (cordoned, drain) = match request.admission() {
            Admission::Open => (false, None),
            Admission::Cordoned => (true, None),
            Admission::Draining => (true, Some(Duration::from_millis(request.within_ms))),
            Admission::Unspecified => {
                return Err(Status::invalid_argument(
                    "the request does not say what the donor shall take",
                ));
            }
        };
        Ok(Self {
            node,
            cordoned,
            drain,
        })
    }

    /// Sends an operator to the object that has the last word.
    fn to_the_object(&self) -> String {
        let Self {
            node,
            cordoned,
            drain,
        } = self;
        let word = match (cordoned, drain) {
            (_, Some(_)) => "drain",
            (true, None) => "cordon",
            (false, None) => "uncordon",
        };
        let spec = MemoryServerSpec::of(*cordoned, *drain);
        format!(
            "{node} stays as it is: the spec of its MemoryServer object says here what it takes; use \
             'kubectl dynamicswap {word} server {node}', or kubectl patch \
             memoryservers.dynamicswap.io {node} --type=merge --patch '{}'",
            spec.merge_patch()
        )
    }
}

impl Owner {
    /// Closes a donor for new slabs, empties it, or opens it again, at an operator's word. In force and
    /// persisted when this returns. Where objects say what donors take, nothing is changed: the object
    /// would take it back within seconds.
    pub(super) fn admit_by_operator(&mut self, request: &AdmitRequest) -> Result<String, Status> {
        let wanted = Wanted::of(request)?;
        if self.store.has_donor_objects() {
            return Err(Status::failed_precondition(wanted.to_the_object()));
        }
        self.admit_donor(wanted)
    }

    /// The same at the word of a `MemoryServer` object. The owner notes what it does; a donor that is
    /// not known yet is told of again.
    pub(super) fn admit_by_object(&mut self, request: &AdmitRequest, generation: Option<i64>) {
        let admitted = Wanted::of(request).and_then(|wanted| self.admit_donor(wanted));
        if let (Ok(_), Some(generation)) = (admitted, generation) {
            self.observe(&request.node, generation);
        }
    }

    fn admit_donor(&mut self, wanted: Wanted) -> Result<String, Status> {
        let Wanted {
            node,
            cordoned,
            drain,
        } = wanted;
        let word = match (cordoned, drain) {
            (_, Some(_)) => "draining",
            (true, None) => "cordoned",
            (false, None) => "uncordoned",
        };
        let known = self.draft.nodes.get(&node).filter(|record| record.donor);
        let Some(record) = known else {
            return Err(Status::not_found(format!(
                "no donor {node} is known: 'dynamicswap get memoryservers' lists them"
            )));
        };
        let name = format!("memoryserver.dynamicswap.io/{node}");
        if (record.cordoned, record.drain) == (cordoned, drain) {
            return Ok(format!("{name} unchanged"));
        }
        // Persisted alone and at once: what the draft holds beside it waits for a plan that is
        // sound, and this must not.
        let failure = format!("{node} stays as it is");
        self.decide(&failure, |ledger| {
            if let Some(record) = ledger.nodes.get_mut(&node) {
                (record.cordoned, record.drain) = (cordoned, drain);
            }
        })?;
        let result = format!("{name} {word}");
        self.events
            .note(node.as_str(), "DonorAdmission", result.clone());
        Ok(result)
    }

    /// What an object says of a donor is in force.
    fn observe(&mut self, node: &str, generation: i64) {
        let node = node.parse::<NodeName>().ok();
        if let Some(memory) = node.and_then(|node| self.memory.get_mut(&node)) {
            memory.generation = Some(generation);
        }
    }

    /// Changes the record by an operator's decision: persisted first, then in force.
    pub(super) fn decide(
        &mut self,
        failure: &str,
        change: impl Fn(&mut Ledger),
    ) -> Result<(), Status> {
        if self.clock.now() < self.store_rests_until {
            let trouble = self.trouble.as_deref().unwrap_or("the store failed");
            return Err(Status::unavailable(format!(
                "{failure}: {trouble}; try again"
            )));
        }
        let mut next = self.kept.clone();
        change(&mut next);
        let changes = changes_between(&self.kept, &next);
        self.commit(&changes).map_err(|error| {
            let error = anyhow::Error::from(error);
            Status::internal(format!("{failure}: {error:#}"))
        })?;
        self.kept = next;
        change(&mut self.draft);
        self.dirty = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dynamicswap_planner::{NodeRecord, Published, Rebalance};
    use tonic::Code;

    use super::*;
    use crate::store::{Change, Kept, Store, StoreError};

    /// Keeps nothing, and knows one donor.
    struct Objects(bool);

    impl Store for Objects {
        fn load(&mut self) -> Result<Kept, StoreError> {
            let donor = NodeRecord {
                domain: "rack".parse().expect("a name"),
                zone: None,
                borrower: false,
                donor: true,
                cordoned: false,
                drain: None,
                foreign: false,
                server: None,
                published: Published::default(),
            };
            let mut kept = Kept::default();
            kept.ledger.nodes.insert(node(), donor);
            Ok(kept)
        }

        fn commit(&mut self, _: &[Change]) -> Result<(), StoreError> {
            Ok(())
        }

        fn has_donor_objects(&self) -> bool {
            self.0
        }
    }

    fn node() -> NodeName {
        "d1".parse().expect("a name")
    }

    fn owner(has_objects: bool) -> Owner {
        let store = Box::new(Objects(has_objects));
        Owner::new(store, Duration::ZERO, Rebalance::Off).expect("loaded")
    }

    fn request(admission: Admission, within_ms: u64) -> AdmitRequest {
        AdmitRequest {
            node: "d1".to_owned(),
            admission: admission.into(),
            within_ms,
        }
    }

    fn is_cordoned(owner: &Owner) -> bool {
        owner.kept.nodes[&node()].cordoned && owner.draft.nodes[&node()].cordoned
    }

    #[test]
    fn operator_is_sent_to_the_object_where_there_is_one() {
        let mut owner = owner(true);
        for (admission, within_ms, command, patch) in [
            (
                Admission::Cordoned,
                0,
                "kubectl dynamicswap cordon server d1",
                r#"'{"spec":{"cordoned":true,"drain":null}}'"#,
            ),
            (
                Admission::Draining,
                90_000,
                "kubectl dynamicswap drain server d1",
                r#"'{"spec":{"cordoned":true,"drain":{"within":"90s"}}}'"#,
            ),
            (
                Admission::Open,
                0,
                "kubectl dynamicswap uncordon server d1",
                r#"'{"spec":{"cordoned":false,"drain":null}}'"#,
            ),
        ] {
            let refused = owner.admit_by_operator(&request(admission, within_ms));
            let refused = refused.expect_err("the object has the last word");
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains(command), "{refused}");
            assert!(refused.message().contains(patch), "{refused}");
        }
        assert!(!is_cordoned(&owner));
    }

    #[test]
    fn object_is_obeyed_where_operators_are_not() {
        let mut owner = owner(true);
        owner.admit_by_object(&request(Admission::Cordoned, 0), Some(3));
        assert!(is_cordoned(&owner));
    }

    #[test]
    fn operator_is_obeyed_where_there_are_no_objects() {
        let mut owner = owner(false);
        let admitted = owner.admit_by_operator(&request(Admission::Cordoned, 0));
        assert_eq!(
            admitted.expect("done"),
            "memoryserver.dynamicswap.io/d1 cordoned"
        );
        assert!(is_cordoned(&owner));
    }
}
