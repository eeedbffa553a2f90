//! `cordon` and `uncordon`, and how a donor is told what it takes.
//!
//! On Kubernetes the MemoryServer's `spec` says so, and is changed; elsewhere the controller is told.

use anyhow::Result;
use dynamicswap_crds::{MemoryServerSpec, PolicyDuration};
use dynamicswap_proto::control::v1::{Admission, AdmitRequest};
use dynamicswap_proto::identity::Right;

use crate::args::{ConnectArgs, DonorArgs};
use crate::client::Client;
use crate::connect;
use crate::kubectl::Place;

/// Kind of the object, as kubectl finds it whatever else is installed.
const KIND: &str = "memoryservers.dynamicswap.io";

/// Closes a donor, or opens it.
///
/// # Errors
/// A refusal if there is no such donor.
pub fn set(args: &DonorArgs, admission: Admission) -> Result<()> {
    let order = Order {
        node: &args.object,
        admission,
        within: None,
    };
    print!("{}", order.give(&args.connect)?);
    Ok(())
}

/// What a donor shall take from now on.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The donor's node.
    pub node: &'a str,
    /// What it takes.
    pub admission: Admission,
    /// Time for what it holds to leave, if it is drained.
    pub within: Option<PolicyDuration>,
}

impl Order<'_> {
    /// Gives the order to whoever has the last word, and asks nothing else; returns its line.
    ///
    /// # Errors
    /// A refusal if there is no such donor.
    pub fn give(&self, args: &ConnectArgs) -> Result<String> {
        if args.kubernetes {
            return self.patch(&args.place.place());
        }
        let (mut client, _) = connect(args, Right::Order)?;
        self.tell(&mut client)
    }

    /// Changes the object.
    ///
    /// # Errors
    /// A refusal with kubectl's own words.
    pub fn patch(&self, place: &Place) -> Result<String> {
        let cordoned = self.admission != Admission::Open;
        let within = self.within.map(PolicyDuration::as_duration);
        let patch = MemoryServerSpec::of(cordoned, within).merge_patch();
        place.ask(&["patch", KIND, self.node, "--type=merge", "--patch", &patch])
    }

    /// Tells a controller that has no objects.
    ///
    /// # Errors
    /// A refusal with the controller's own words.
    pub fn tell(&self, client: &mut Client) -> Result<String> {
        let within = self.within.map_or(0, PolicyDuration::as_millis);
        let request = AdmitRequest {
            node: self.node.to_owned(),
            admission: self.admission.into(),
            within_ms: within.into(),
        };
        Ok(client.admit(request)? + "\n")
    }
}
